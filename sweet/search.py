"""The learning rate, found as the paper found it: by the area under the speed-accuracy curve.

Rotem et al., appendix A, https://arxiv.org/abs/2306.02307. The paper does not say what curve, from
where to where, on which rows: here it is `sweet.curves.Curve.area` from the first classifier's
ratio to 1, of one seed, on a split that is named, the validation split by default, as the paper
has no other.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import fingerprints, storage
from calm.models import parameters
from calm.settings import Count, Natural, Positive, Seed
from calm.tasks.classification import Form
from calm.training import checkpoints
from calm.training.guards import NonFiniteError
from sweet import checkpoint as begin
from sweet import speed_accuracy, temperature, train
from sweet.data import Rows, train_batches
from sweet.objectives import Classifiers
from sweet.predictor import ExitsPredictor

FOLDER = 'search'
RESULT = 'result.json'
LEARNING_RATES = (1e-5, 2e-5, 3e-5, 4e-5, 5e-5)  # the paper's


@dataclasses.dataclass(frozen=True)
class Best:
  """The best of a grid of learning rates."""

  learning_rate: float
  at_edge: bool  # Whether a rate beyond the grid may be better.


def best(areas: Mapping[float, float | None]) -> Best:
  """The learning rate of the largest area; of equal ones the smallest rate.

  Args:
    areas: by rate; None where training did not converge.

  Raises:
    ValueError: there is no area.
  """
  known = {rate: area for rate, area in areas.items() if area is not None}
  if not known:
    raise ValueError(
      f'No learning rate of {", ".join(f"{rate:g}" for rate in areas)} gave finite losses: try'
      ' smaller ones (LEARNING_RATES).'
    )
  found = min(known, key=lambda rate: (-known[rate], rate))
  return Best(found, found in (min(areas), max(areas)) and len(areas) > 1)


def search(
  *,
  model: Classifiers,
  rows: Rows,
  labels: Form,
  workdir: str,
  measure: Any,
  checkpoint: str | None,
  split: str = 'validation',
  metric: str | None = None,
  thresholds: Sequence[float] | None = None,
  learning_rates: Sequence[Positive] = LEARNING_RATES,
  seed: Seed = 0,
  num_examples: Count | None = None,
  num_held_out: Natural = 500,
  batch_size: Count = 16,
  keep_checkpoints: bool = False,
  **settings: Any,
) -> dict[str, Any]:
  """Trains at each learning rate and says which has the largest area under its curve.

  Each rate has a folder below `workdir`/search, named after all that its result depends on; what is
  finished is looked up, and what was interrupted goes on. `workdir`/search/table.json keeps all.

  Args:
    model, rows, checkpoint, num_examples, num_held_out, batch_size, settings: as
      `sweet.train.train` takes them.
    labels: of the task.
    workdir: of the search.
    measure: by which examples stop, as `ExitsPredictor` takes it.
    split: whose curve counts. The paper's is the validation split, which its tables are of, too;
      another one keeps the choice apart from what is reported.
    metric, thresholds: of the curve, as `sweet.speed_accuracy.measure_curve` takes them.
    learning_rates: the grid.
    seed: of all its runs.
    keep_checkpoints: whether those of finished runs stay.

  Returns:
    'learning_rate', 'at_edge' and 'rows': rate, area, each classifier's score, folder.

  Raises:
    ValueError: there are no rates, or one occurs twice; no rate gave finite losses.
    Exception: as `sweet.train.train` and `sweet.speed_accuracy.measure_curve`.
  """
  if not learning_rates or len(set(learning_rates)) < len(learning_rates):
    raise ValueError(
      f'learning_rates (LEARNING_RATES) are {learning_rates!r}: give different ones.'
    )
  drawn: dict[str, Any] = {'num_examples': num_examples, 'num_held_out': num_held_out, 'seed': seed}
  training = {**drawn, 'batch_size': batch_size, **settings}
  # Without a checkpoint all is fresh, by the seed.
  begun = checkpoint and begin.initial_params(checkpoint, model, seed=seed)
  common = fingerprints.identity(
    {
      'model': model,
      'begun': begun and parameters.fingerprint(begun),
      'data': train_batches(rows, batch_size=batch_size, **drawn).settings,
      'training': training,
      'curve': {'split': split, 'metric': metric, 'thresholds': thresholds, 'measure': measure},
    }
  )

  def run(rate: float, folder: Path) -> dict[str, Any]:
    params, _ = train.train(
      model=model,
      rows=rows,
      workdir=str(folder),
      checkpoint=checkpoint,
      learning_rate=rate,
      **training,
    )
    asked = ExitsPredictor(
      model,
      params,
      rows.tokenizer,
      labels,
      length=rows.length,
      truncate=rows.truncate,
      measure=measure,
      temperatures=temperature.of_run(str(folder)),
    )
    return speed_accuracy.measure_curve(
      task=rows.task,
      split=split,
      predictor=asked,
      workdir=str(folder),
      thresholds=thresholds,
      metric=metric,
      quiet=True,
    )

  folder = Path(workdir, FOLDER)
  found = [
    _result(folder, {**common, 'learning_rate': rate}, run, keep_checkpoints)
    for rate in learning_rates
  ]
  return _told(folder, found, split, seed)


def _result(
  folder: Path,
  settings: Mapping[str, Any],
  run: Callable[[float, Path], Mapping[str, Any]],
  keep_checkpoints: bool,
) -> dict[str, Any]:
  """What a rate gave: looked up, or run now."""
  rate = settings['learning_rate']
  digits = fingerprints.fingerprint(settings).removeprefix(fingerprints.FINGERPRINT)[:8]
  own = folder / f'{rate:g}_{digits}'
  if (own / RESULT).is_file():
    return storage.read_record(own / RESULT)
  result: dict[str, Any] = {'learning_rate': rate, 'area': None, 'folder': own.name}
  try:
    curve = run(rate, own)
    result |= {'area': curve['area'], 'metric': curve['metric'], 'exits': curve['exits']}
    result['scores'] = [one['score'] for one in curve['classifiers']]
  except NonFiniteError as error:
    result['failed'] = str(error)
  storage.write_record(own / RESULT, result)
  if not keep_checkpoints:
    shutil.rmtree(own / checkpoints.FOLDER, ignore_errors=True)
  return result


def _told(folder: Path, found: Sequence[dict[str, Any]], split: str, seed: int) -> dict[str, Any]:
  """Prints the table, keeps it and returns it."""
  chosen = best({one['learning_rate']: one['area'] for one in found})
  record = {**dataclasses.asdict(chosen), 'split': split, 'seed': seed, 'rows': list(found)}
  storage.write_record(folder / 'table.json', record)
  exits = next(one['exits'] for one in found if one['area'] is not None)
  print('| learning rate | area |' + ''.join(f' layer {exit} |' for exit in exits))
  print('| ---: |' + ' ---: |' * (1 + len(exits)))
  for one in found:
    scores = one.get('scores', [None] * len(exits))
    cells = ['-' if value is None else f'{value:.2f}' for value in (one['area'], *scores)]
    mark = ' (best)' if one['learning_rate'] == chosen.learning_rate else ''
    print(f'| {one["learning_rate"]:g}{mark} | ' + ' | '.join(cells) + ' |')
  print(f'Area under the curve on split {split}, seed {seed}.')
  if chosen.at_edge:
    print(f'The best, {chosen.learning_rate:g}, is at the edge of the grid: add rates beyond it.')
  return record
