"""Decodes a split of a task and says how good the predictions are, and what they cost."""

import json
import time
from pathlib import Path
from typing import Any

from calm.decoding import corpus, fingerprints, journal
from calm.decoding.items import of_examples
from calm.decoding.text_decoder import TextDecoder, likeliest

PREDICTIONS = 'predictions.jsonl'
METRICS = 'metrics.json'


def evaluate(
  *,
  task,
  split: str,
  decoder,
  params,
  workdir: str,
  inputs_length: int,
  batch_size: int = 32,
  truncate: bool = False,
  limit: int | None = None,
  seed: int = 0,
  name: str | None = None,
) -> dict[str, Any]:
  """Decodes a split, prints the task's metrics as JSON, and returns them.

  `workdir`/evaluations/`name` (the split if None) gets `predictions.jsonl`, as
  `calm.decoding.corpus.decode` writes it, and `metrics.json`. An interrupted call is continued by
  the same call; predictions of other parameters, settings or examples are replaced.

  Args:
    task: a `seqio.Task`; its postprocessing and metrics are called as seqio does.
    split: its split.
    decoder: a `calm.decoding.decoder.Decoder`. Of several samples the likeliest counts.
    params: the parameters of its model.
    workdir: folder of the run.
    inputs_length: tokens of an input at most, EOS among them.
    batch_size: inputs decoded at once.
    truncate: cut longer inputs instead of raising an error.
    limit: examples at most, from the first on.
    seed: of the draws.
    name: of the folder, as in 'test' or 'test_threshold_0.9'.

  Returns:
    The metrics of `task.metric_fns` and `num_examples`, `layers_per_token` (over all generated
    tokens) and `seconds_per_example` (of decoding, compilation included).

  Raises:
    ValueError: there are no examples, or an input is too long; the message names it.
  """
  from calm.tasks.batches import evaluation_examples

  vocabulary = task.output_features['targets'].vocabulary
  text_decoder = TextDecoder(decoder, params, vocabulary, inputs_length, batch_size, truncate, seed)
  examples = evaluation_examples(
    task, split, inputs_length=inputs_length, truncate=truncate, limit=limit
  )
  folder = Path(workdir, 'evaluations', name or split)
  seconds_per_example = _decode(folder, task, split, examples, text_decoder)
  results = _read_results(folder / PREDICTIONS)
  metrics = {
    **score(task, examples, [result['prediction'] for result in results]),
    'num_examples': len(examples),
    'layers_per_token': _layers_per_token(results),
    'seconds_per_example': seconds_per_example,
  }
  journal.write_json(folder / METRICS, metrics)
  print(json.dumps(metrics, indent=2, ensure_ascii=False))
  return metrics


def score(task, examples, predictions) -> dict[str, Any]:
  """The task's metrics of decoded predictions (str), one for each example.

  Both sides go through the task's postprocessing first, as in seqio.
  """
  targets = [
    task.postprocess_fn(example.targets_text, example=example.raw, is_target=True)
    for example in examples
  ]
  outputs = [
    task.postprocess_fn(prediction, example=example.raw, is_target=False)
    for example, prediction in zip(examples, predictions, strict=True)
  ]
  metrics: dict[str, Any] = {}
  for metric_fn in task.predict_metric_fns:
    for key, value in metric_fn(targets, outputs).items():
      metrics[key] = float(getattr(value, 'value', value))
  return metrics


def _decode(folder, task, split, examples, text_decoder):
  """Completes the predictions; returns seconds per example, an earlier run's if none was left."""
  settings = {
    'task': task.name,
    'split': split,
    'examples': fingerprints.of_texts(
      text for example in examples for text in (example.inputs_text, example.targets_text)
    ),
    **text_decoder.settings,
  }
  anew = not _can_continue(folder / PREDICTIONS, settings)
  if anew:
    (folder / METRICS).unlink(missing_ok=True)
  start = time.perf_counter()
  with journal.Journal(folder / PREDICTIONS, settings, overwrite=anew) as output:
    corpus.run(of_examples(examples), text_decoder, output, len(examples))
  decoded = len(examples) - output.count
  if decoded:
    return (time.perf_counter() - start) / decoded
  if (folder / METRICS).is_file():
    return json.loads((folder / METRICS).read_text(encoding='utf-8')).get('seconds_per_example')
  return None


def _can_continue(path, settings):
  try:
    return not journal.differing_settings(path, settings)
  except FileExistsError:
    return False


def _read_results(path):
  """The result of every line; of several samples, the likeliest's."""
  with open(path, encoding='utf-8') as file:
    return [likeliest(json.loads(line)) for line in file]


def _layers_per_token(results):
  tokens = sum(result['num_tokens'] for result in results)
  layers = sum(result['num_tokens'] * result['layers_per_token'] for result in results)
  return round(layers / max(1, tokens), 6)
