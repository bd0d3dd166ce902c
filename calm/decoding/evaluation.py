"""Decodes a split of a task and says how good the predictions are, and what they cost."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calm.calibration import certificate as certificates
from calm.calibration.fingerprints import describe, fingerprint
from calm.decoding import journal
from calm.decoding.stored import Results, StoredSplit
from calm.decoding.text_decoder import TextDecoder
from calm.exits.rules import ExitRule, NeverExit

PREDICTIONS = 'predictions.jsonl'
METRICS = 'metrics.json'

# The rule of each threshold: `calm.exits.rules.confident`, its measure bound.
RuleAt = Callable[[float], ExitRule]


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
  certificate: str | None = None,
  rule_at: RuleAt | None = None,
) -> dict[str, Any]:
  """Decodes a split, prints the task's metrics as JSON, and returns them.

  `workdir`/evaluations/`name` gets `predictions.jsonl`, as `calm.decoding.corpus.decode` writes it
  and with the tokens and their exit layers, and `metrics.json`. An interrupted call is continued by
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
    name: of the folder, as in 'test_threshold_0.9'; the split by default, with the certificate's
      name if there is one.
    certificate: path of what `calm calibrate` wrote; its threshold takes the place of the
      decoder's rule.
    rule_at: the rule of each threshold, needed with a certificate.

  Returns:
    The metrics of `task.metric_fns` and `num_examples`, `layers_per_token` (over all generated
    tokens) and `seconds_per_example` (of decoding, compilation included).

  Raises:
    ValueError: there are no examples, or an input is too long (the message names it), or the
      certificate was made for another model, task, or rule.
  """
  vocabulary = task.output_features['targets'].vocabulary
  text_decoder = TextDecoder(
    decoder, params, vocabulary, inputs_length, batch_size, truncate, seed, per_token=True
  )
  name = name or split
  if certificate:
    text_decoder = certified(text_decoder, task, certificates.load(certificate), rule_at)
    name = f'{name}_{Path(certificate).stem}' if name == split else name
  stored = read_split(task, split, inputs_length=inputs_length, truncate=truncate, limit=limit)
  folder = Path(workdir, 'evaluations', name)
  results = stored.decode(folder / PREDICTIONS, text_decoder)
  metrics = {
    **score(stored, results.predictions),
    'num_examples': len(stored.examples),
    'layers_per_token': results.layers_per_token,
    'seconds_per_example': _seconds_per_example(folder / METRICS, results),
  }
  journal.write_json(folder / METRICS, metrics)
  print(json.dumps(metrics, indent=2, ensure_ascii=False))
  return metrics


def read_split(task, split: str, **options) -> StoredSplit:
  """The examples of a split; `options` are those of `calm.tasks.batches.evaluation_examples`."""
  from calm.tasks.batches import evaluation_examples

  return StoredSplit(task, split, evaluation_examples(task, split, **options))


def score(stored: StoredSplit, predictions) -> dict[str, Any]:
  """The task's metrics of decoded predictions (str), one for each example.

  Both sides go through the task's postprocessing first, as in seqio.
  """
  targets, outputs = stored.targets(), stored.postprocessed(predictions)
  metrics: dict[str, Any] = {}
  for metric_fn in stored.task.predict_metric_fns:
    for key, value in metric_fn(targets, outputs).items():
      metrics[key] = float(getattr(value, 'value', value))
  return metrics


def identity(text_decoder: TextDecoder, task, rule_at: RuleAt) -> dict[str, str]:
  """Fingerprints of what a certificate holds for: 'model', 'task' and 'rule'."""
  settings = text_decoder.settings
  decoder = dataclasses.replace(text_decoder.decoder, rule=rule_at(0.5))
  return {
    'model': settings['params'],
    'task': fingerprint([task.name, settings['vocabulary'], settings['inputs_length']]),
    'rule': fingerprint(describe(decoder)),
  }


def certified(text_decoder, task, certificate, rule_at: RuleAt | None) -> TextDecoder:
  """The decoder with the certificate's threshold, or never exiting if it certifies none.

  Raises:
    ValueError: it was made for another model, task or rule.
  """
  if rule_at is None:
    raise ValueError('A certificate needs rule_at, the measure and threshold it was made for.')
  certificate.check(identity(text_decoder, task, rule_at))
  threshold = certificate.threshold
  rule = NeverExit() if threshold is None else rule_at(threshold)
  return with_rule(text_decoder, rule)


def with_rule(text_decoder: TextDecoder, rule: ExitRule) -> TextDecoder:
  """The same but for the rule."""
  decoder = dataclasses.replace(text_decoder.decoder, rule=rule)
  return dataclasses.replace(text_decoder, decoder=decoder)


def _seconds_per_example(path, results: Results):
  """Of the examples decoded now; an earlier run's if all were there; else None."""
  if results.num_decoded:
    return results.seconds / results.num_decoded
  if path.is_file():
    return json.loads(path.read_text(encoding='utf-8')).get('seconds_per_example')
  return None
