"""A split decoded in every way that is compared, each way once, kept beside the calibration's."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm.calibration import consistency, testing
from calm.decoding import evaluation
from calm.decoding.calibrating import Sweep, losses_of_results, measure_name
from calm.decoding.stored import Results
from calm.decoding.text_decoder import TextDecoder
from calm.exits import confidence, rules, thresholds
from calm.reporting.cost import DecoderCost


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
  """A split of a task, a model, and the measures that are compared on them.

  What is decoded is kept in `workdir`/calibration, where `calm calibrate` finds and leaves its own;
  interrupted, it goes on.

  Args:
    task: a `seqio.Task`.
    split: its split, of examples that were not trained on.
    decoder: a `calm.decoding.decoder.Decoder`; its rule is not used.
    params: the parameters of its model.
    workdir: folder of the run.
    inputs_length: tokens of an input at most, EOS among them.
    measures: functions as in `calm.exits.confidence`; those over the exit classifier are left out
      if the model has none.
    threshold: makes a threshold of a number: `thresholds.Constant`, or `thresholds.Decaying` with
      its other numbers bound.
    thresholds: the same by a measure's name, for measures that have one of their own.
    grid: descending thresholds; 0.95 to 0 in steps of 0.05 by default.
    dissimilarity: of texts, from which losses are made.
    min_exit: the first layer after which a token may stop.
    batch_size: inputs decoded at once.
    truncate: cut longer inputs instead of raising an error.
    limit: examples at most, from the first on.

  Raises:
    ValueError: no measure, two of the same name, or thresholds of a measure that is not there.
  """

  task: Any
  split: str
  decoder: Any
  params: Any
  workdir: str
  inputs_length: int
  measures: Sequence[confidence.Measure] = (
    confidence.softmax_margin,
    confidence.Gated(),
    confidence.state_saturation,
    confidence.classifier,
  )
  threshold: Callable = thresholds.Constant
  thresholds: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
  grid: Sequence[float] = dataclasses.field(default_factory=testing.descending_grid)
  dissimilarity: consistency.Dissimilarity = consistency.rouge_l
  min_exit: int = 1
  batch_size: int = 32
  truncate: bool = False
  limit: int | None = None

  def __post_init__(self):
    object.__setattr__(self, 'grid', testing.check_grid(self.grid))
    names = [measure.__name__ for measure in self.measures]
    unknown = sorted(set(self.thresholds) - set(names))
    if not names or len(set(names)) < len(names) or unknown:
      raise ValueError(
        f'Measures are {", ".join(names) or "missing"}: name at least one, each once, and no '
        f'thresholds of others ({", ".join(unknown) or "there are none"}).'
      )

  @property
  def config(self):
    """The T5Config of the model."""
    return self.decoder.model.config

  @property
  def num_layers(self) -> int:
    """L, the decoder layers of the model."""
    return self.config.num_decoder_layers

  @functools.cached_property
  def stored(self):
    """The examples, a `calm.decoding.stored.StoredSplit`."""
    options = {'inputs_length': self.inputs_length, 'truncate': self.truncate, 'limit': self.limit}
    return evaluation.read_split(self.task, self.split, **options)

  @functools.cached_property
  def text_decoder(self) -> TextDecoder:
    """Decodes with the model, and says of each token after which layer it stopped."""
    vocabulary = self.task.output_features['targets'].vocabulary
    options = (self.inputs_length, self.batch_size, self.truncate)
    return TextDecoder(self.decoder, self.params, vocabulary, *options, per_token=True)

  @functools.cached_property
  def sweeps(self) -> dict[str, Sweep]:
    """A Sweep for each measure that the model can follow, by the measure's name."""
    found = {}
    for measure in self.measures:
      if 'exit_score' in confidence.needs(measure) and not self.config.exit_classifier:
        print(f'{measure.__name__}: left out, the model has no exit classifier.', file=sys.stderr)
        continue
      threshold = self.thresholds.get(measure.__name__, self.threshold)
      found[measure.__name__] = self.sweep(measure, threshold)
    return found

  def sweep(self, measure: confidence.Measure, threshold: Callable) -> Sweep:
    """A Sweep of any measure and family of thresholds."""
    rule_at = functools.partial(
      rules.confident, measure=measure, threshold=threshold, min_exit=self.min_exit
    )
    folder = Path(self.workdir, 'calibration')
    return Sweep(self.stored, self.text_decoder, rule_at, folder, measure_name(rule_at))

  @functools.cached_property
  def full(self) -> Results:
    """What the full model gives."""
    return self._any_sweep.full()

  @functools.cached_property
  def static(self) -> dict[int, Results]:
    """What the model gives that always stops after layer d, for each d but the last."""
    return {
      layer: self._any_sweep.decode(f'fixed_layer/{layer}', rules.FixedLayer(layer))
      for layer in range(1, self.num_layers)
    }

  @functools.cached_property
  def oracle(self) -> Results:
    """What is given if each token stops at the first layer that predicts what the last does."""
    return self._any_sweep.decode('oracle', rules.Oracle())

  def losses(self, results: Results, objective: str) -> np.ndarray:
    """Losses float64[n] of results, by an objective of `objectives`."""
    return self._losses[objective](results)

  @functools.cached_property
  def _losses(self):
    return {
      objective: losses_of_results(self.stored, self.full, objective, self.dissimilarity)
      for objective in self.objectives
    }

  @property
  def objectives(self) -> tuple[str, ...]:
    """What the dissimilarity can say something of: of tokens there are no references."""
    compares_tokens = inspect.unwrap(self.dissimilarity) is consistency.token_disagreement
    return ('textual',) if compares_tokens else ('textual', 'risk')

  def flops(self, results: Results, rule, *, with_head: bool = True) -> np.ndarray:
    """Decoder FLOPs float64[n] of each example, per token it generated."""
    cost = DecoderCost(self.config)
    return np.array(
      [
        cost.sequence(
          row['exit_layers'],
          len(example.inputs),
          rule,
          row['num_logits'] if with_head else 0,
        )
        / max(1, row['num_tokens'])
        for row, example in zip(results.rows, self.stored.examples, strict=True)
      ]
    )

  def scores(self, results: Results) -> dict[str, float]:
    """The task's metrics of results."""
    return evaluation.score(self.stored, results.predictions)

  @property
  def _any_sweep(self):
    return next(iter(self.sweeps.values()))


def num_tokens(results: Results) -> np.ndarray:
  """Tokens float64[n] generated for each example."""
  return np.array([row['num_tokens'] for row in results.rows], np.float64)


def layers(results: Results) -> np.ndarray:
  """Layers per token float64[n] of each example."""
  return np.array([row['layers_per_token'] for row in results.rows], np.float64)
