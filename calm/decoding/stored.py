"""A split of a task, decoded in one way or many, each of which is kept on disk.

Decoding is journaled (`calm.decoding.journal`): what was interrupted goes on, and what was made of
other parameters, settings or examples is made anew.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calm.calibration.fingerprints import fingerprint
from calm.decoding import corpus, journal
from calm.decoding.items import of_examples
from calm.decoding.text_decoder import TextDecoder, likeliest


@dataclasses.dataclass(frozen=True)
class Results:
  """What one way of decoding gave: for each example a dict named as in `text_decoder.RESULTS`."""

  rows: list[dict[str, Any]]
  num_decoded: int  # examples that were decoded now, not found on disk
  seconds: float  # that this took, compilation included

  @property
  def predictions(self) -> list[str]:
    """The texts, one for each example."""
    return [row['prediction'] for row in self.rows]

  @property
  def layers_per_token(self) -> float:
    """Decoder layers run per generated token, over all examples."""
    tokens = sum(row['num_tokens'] for row in self.rows)
    layers = sum(row['num_tokens'] * row['layers_per_token'] for row in self.rows)
    return round(layers / max(1, tokens), 6)


@dataclasses.dataclass(frozen=True)
class StoredSplit:
  """Examples of a split, as `calm.tasks.batches.evaluation_examples` gives them."""

  task: Any  # a seqio.Task
  name: str
  examples: Sequence[Any]

  @property
  def data_fingerprint(self) -> str:
    """Changes with any text of the examples."""
    return fingerprint([[example.inputs_text, example.targets_text] for example in self.examples])

  def targets(self) -> list[Any]:
    """What the task's metrics compare predictions with, by its own postprocessing."""
    return [
      self.task.postprocess_fn(example.targets_text, example=example.raw, is_target=True)
      for example in self.examples
    ]

  def postprocessed(self, predictions: Sequence[str]) -> list[Any]:
    """Predictions as the task's metrics take them."""
    return [
      self.task.postprocess_fn(prediction, example=example.raw, is_target=False)
      for example, prediction in zip(self.examples, predictions, strict=True)
    ]

  def decode(self, path: Path, text_decoder: TextDecoder) -> Results:
    """Decodes what `path`, a file of JSON Lines, does not hold yet; of samples the likeliest."""
    settings = {
      'task': self.task.name,
      'split': self.name,
      'examples': self.data_fingerprint,
      **text_decoder.settings,
    }
    start = time.perf_counter()
    with journal.Journal(path, settings, overwrite=not _fits(path, settings)) as output:
      corpus.run(of_examples(self.examples), text_decoder, output, len(self.examples))
    seconds = time.perf_counter() - start
    with open(path, encoding='utf-8') as file:
      rows = [likeliest(json.loads(line)) for line in file]
    return Results(rows, len(self.examples) - output.count, seconds)


def _fits(path, settings):
  """Whether the file was made with these settings, or there is none."""
  try:
    return not journal.differing_settings(path, settings)
  except FileExistsError:
    return False
