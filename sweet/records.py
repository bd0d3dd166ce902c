"""The runs of an experiment: what they have left on disk, and which belong together."""

import dataclasses
import functools
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import storage
from sweet import curves, search, speed_accuracy, train


@dataclasses.dataclass(frozen=True)
class Setting:
  """What runs have in common that are compared: all but task, method, learning rate and seed."""

  pooling: str
  num_examples: int | None  # asked for; tasks may have fewer
  exits: tuple[int, ...]
  measure: str
  split: str

  @property
  def text(self) -> str:
    """In words."""
    rows = 'all rows' if self.num_examples is None else f'{self.num_examples} rows'
    layers = ', '.join(map(str, self.exits))
    return f'{rows}, {self.pooling} pooling, layers {layers}, {self.measure.replace("_", " ")}'


@dataclasses.dataclass(frozen=True)
class Run:
  """One training and one curve of it."""

  folder: Path
  task: str
  method: str
  seed: int
  learning_rate: float
  setting: Setting
  record: Mapping[str, Any]  # of `sweet.speed_accuracy.measure_curve`

  @property
  def scores(self) -> tuple[float, ...]:
    """What each classifier alone scores on the whole split."""
    return tuple(float(one['score']) for one in self.record['classifiers'])

  @functools.cached_property
  def curve(self) -> curves.Curve:
    """Scores by ratio."""
    points = self.record['points']
    return curves.curve([one['ratio'] for one in points], [one['score'] for one in points])

  @property
  def converged(self) -> tuple[bool, ...]:
    """Whether each classifier has learned anything.

    One has not that gives the same answer to every example, or does not score above what the
    commonest label scores if it is given to all (of a regression: not above 0).
    """
    bar = self.record.get('majority', {}).get(self.record['metric'], -float('inf'))
    return tuple(
      one.get('labels_given', 2) > 1 and one['score'] > bar for one in self.record['classifiers']
    )


@dataclasses.dataclass(frozen=True)
class Found:
  """All runs of an experiment."""

  runs: tuple[Run, ...]
  without_curve: tuple[Path, ...]  # begun, but not finished, or ended by losses that are not finite


def read(folders: str | Sequence[str], split: str = 'validation') -> Found:
  """The runs in folders and below, a Run for each curve of a split.

  Args:
    folders: one or more, or patterns of them, as in 'runs/sst2_*'.
    split: of the curves.

  Raises:
    FileNotFoundError: a pattern leads nowhere, or there is no run.
    DamagedError: a record is damaged.
  """
  patterns = [folders] if isinstance(folders, str) else list(folders)
  places: dict[Path, None] = {}
  for pattern in patterns:
    found = sorted(glob.glob(pattern))
    if not found:
      raise FileNotFoundError(f'{pattern} (RUNS) leads to no folder.')
    for place in found:
      places |= dict.fromkeys(path.parent for path in sorted(Path(place).rglob(train.RECORD)))
  runs, without = [], []
  for folder in places:
    paths = sorted((folder / speed_accuracy.FOLDER).glob(f'{split}_*.json'))
    runs += [_run(folder, path, split) for path in paths]
    if not paths:
      without.append(folder)
  if not runs:
    raise FileNotFoundError(
      f'No run in {", ".join(patterns)} (RUNS) has a curve of split {split}: `sweet curve` makes'
      ' it.'
    )
  return Found(tuple(runs), tuple(without))


def at_best_rates(runs: Sequence[Run]) -> list[Run]:
  """Those of the learning rate that a search would choose, of each task, method and setting.

  Of several rates that is the one of the largest area on the lowest seed that all have; if they
  have none in common, on the lowest seed of each.
  """
  groups: dict[tuple, dict[float, dict[int, Run]]] = {}
  for run in runs:
    of_rates = groups.setdefault((run.setting, run.task, run.method), {})
    of_rates.setdefault(run.learning_rate, {})[run.seed] = run
  chosen: list[Run] = []
  for of_rates in groups.values():
    common = set.intersection(*(set(of_seeds) for of_seeds in of_rates.values()))
    areas = {
      rate: of_seeds[min(common or of_seeds)].record['area'] for rate, of_seeds in of_rates.items()
    }
    rate = search.best(areas).learning_rate if len(areas) > 1 else next(iter(areas))
    chosen += [of_rates[rate][seed] for seed in sorted(of_rates[rate])]
  return chosen


Methods = Mapping[str, Mapping[int, Run]]  # of one task: runs by method and seed


def by_setting(runs: Sequence[Run]) -> Mapping[Setting, Mapping[str, Methods]]:
  """Runs by setting, task, method and seed."""
  found: dict[Setting, dict[str, dict[str, dict[int, Run]]]] = {}
  for run in runs:
    of_method = found.setdefault(run.setting, {}).setdefault(run.task, {})
    of_method.setdefault(run.method, {})[run.seed] = run
  return found


def _run(folder: Path, path: Path, split: str) -> Run:
  trained, curve = storage.read_record(folder / train.RECORD), storage.read_record(path)
  try:
    setting = Setting(
      trained['pooling'], trained['num_examples'], tuple(curve['exits']), curve['measure'], split
    )
    fields = (trained['task'], trained['method'], trained['seed'], trained['learning_rate'])
    return Run(folder, *fields, setting, curve)
  except KeyError as error:
    raise storage.DamagedError(
      f'{path} and {folder / train.RECORD} do not say {error}: another version of this project'
      ' wrote them. Train and measure again.'
    ) from None
