"""Predicts a split of a task and says how good the predictions are, and what they cost."""

import json
from pathlib import Path

import seqio

from calm import settings, storage
from calm.calibration import bounds, testing
from calm.evaluation import certified
from calm.evaluation.outcomes import Results, predict_split
from calm.evaluation.predictor import Predictor, Row
from calm.evaluation.split import read_split
from calm.tasks.registered import tasks_of

METRICS = 'metrics.json'
FOLDER = 'evaluations'


def evaluate(
  *,
  task: seqio.Task | seqio.Mixture,
  split: str,
  predictor: Predictor,
  workdir: str,
  limit: settings.Count | None = None,
  name: str | None = None,
  certificate: str | None = None,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
) -> Row:
  """Predicts a split, prints the task's metrics as JSON, and returns them.

  `workdir`/evaluations/`name`/<8 hexadecimal digits of all that predictions depend on> gets
  `predictions.jsonl` and `metrics.json`, of which `workdir`/evaluations/`name`.json is a copy. An
  interrupted call is continued by the same call; what other parameters, settings or code have
  predicted stays beside.

  Args:
    task: a `seqio.Task`; its postprocessing and metrics are called as seqio does. Of a
      `seqio.Mixture` each task that has the split is evaluated, in a folder of its own below
      `name`.
    split: its split.
    predictor: answers.
    workdir: folder of the run.
    limit: examples at most, from the first on.
    name: of the folder, as in 'test_threshold_0.9'; the split by default, with the certificate's
      name if there is one.
    certificate: path of what a calibration wrote; its threshold is used.
    p_value: the bound of the certificate, if it is one of the user's.
    procedure: likewise.

  Returns:
    The metrics of `task.metric_fns` and `num_examples`, each cost per unit (as `layers_per_token`,
    over all generated tokens) and `seconds_per_example` (compilation included), in eight digits
    at most; of a mixture these by the name of each task.

  Raises:
    ValueError: there are no examples, or one cannot be read (the message names it), or the
      certificate was made for another system or task.
  """
  name = name or (f'{split}_{Path(certificate).stem}' if certificate else split)
  names = {task: name}
  if isinstance(task, seqio.Mixture):
    several = [one for one in tasks_of(task) if split in one.splits]
    names = {one: f'{name}/{one.name}' for one in several}
    if not several:
      raise ValueError(f'No task of mixture {task.name!r} has a split {split!r}.')
  with storage.lock(Path(workdir, FOLDER, f'.{name}.lock'), f'{workdir}/{FOLDER}/{name}'):
    found = {}
    for one, its_name in names.items():
      at = predictor
      if certificate:
        at = certified.at_certificate(
          predictor, certificate, one, p_value=p_value, procedure=procedure
        )
      found[one.name] = _evaluate(one, split, at, Path(workdir, FOLDER, its_name), limit)
  metrics = found if isinstance(task, seqio.Mixture) else found[task.name]
  print(json.dumps(metrics, indent=2, ensure_ascii=False))
  return metrics


def _evaluate(
  task: seqio.Task, split: str, predictor: Predictor, folder: Path, limit: int | None
) -> Row:
  """The metrics of one task, written beside its predictions and as `folder`.json."""
  read = read_split(task, split, limit=limit)
  results = predict_split(read, predictor, folder)
  metrics = {
    **read.score(results.predictions),
    'num_examples': len(read.examples),
    **{f'{cost}_per_{predictor.unit}': results.cost_per_unit(cost) for cost in results.costs},
    'seconds_per_example': _seconds_per_example(results),
  }
  metrics = {
    name: float(f'{value:.8g}') if isinstance(value, float) else value
    for name, value in metrics.items()
  }
  for path in (results.folder / METRICS, folder.parent / f'{folder.name}.json'):
    storage.write_json(path, metrics)
  return metrics


def _seconds_per_example(results: Results) -> float | None:
  """Of the examples predicted now; an earlier run's if all were there; else None."""
  if results.num_predicted:
    return results.seconds / results.num_predicted
  try:
    value = storage.read_json(results.folder / METRICS).get('seconds_per_example')
  except (FileNotFoundError, storage.DamagedError):
    return None
  return value if isinstance(value, float) else None
