"""What many runs say together: tables of classifiers, curves, and the paper's claims.

Rotem et al., Tables 1, 3 and 4, Figures 4 to 8, https://arxiv.org/abs/2306.02307. Everything is a
mean over seeds; what is averaged over tasks is averaged within each seed first.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sweet import curves, paper
from sweet.records import Methods, Run

Row = dict[str, Any]
ALL = 'all tasks'
METHODS = ('multi_model', 'early_exit', 'sweet', 'alternating')  # in the order of Table 1
NEAR = 1.0  # points within which sweet counts as near multi-model
BEYOND = (13 / 8, 13 / 4)  # ratios above 1 at which the paper reads multi-model's curve


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs of one task, or of several that are averaged, by method and seed."""

  name: str
  methods: Mapping[str, Mapping[int, tuple[Run, ...]]]  # a run for each task

  def mean(self, method: str, seed: int, value: Callable[[Run], float]) -> float:
    """A number of a method and seed, the mean over the tasks."""
    return float(np.mean([value(run) for run in self.methods[method][seed]]))

  def over_seeds(self, method: str, value: Callable[[Run], float]) -> list[float]:
    """The same for every seed."""
    return [self.mean(method, seed, value) for seed in self.methods[method]]

  @property
  def runs(self) -> Iterator[tuple[str, Run]]:
    """All runs with their methods."""
    for method, seeds in self.methods.items():
      for runs in seeds.values():
        yield from ((method, run) for run in runs)


def groups(tasks: Mapping[str, Methods]) -> list[Group]:
  """A group for each task and, where several have the same seeds, one of them all, which is first.

  Tasks that were run with fewer seeds than others are left out of the average, and so is a method
  that not all of its tasks have.
  """
  single = [_of_task(task, methods) for task, methods in tasks.items()]
  seeds_of = [{s for seeds in methods.values() for s in seeds} for methods in tasks.values()]
  most = max(seeds_of, key=len)
  averaged = [one for one, seeds in zip(tasks.values(), seeds_of, strict=True) if seeds == most]
  if len(averaged) < 2:
    return single
  shared = [name for name in METHODS if all(name in methods for methods in averaged)]
  together: dict[str, dict[int, tuple[Run, ...]]] = {}
  for name in shared:
    common = set.intersection(*(set(methods[name]) for methods in averaged))
    together[name] = {s: tuple(methods[name][s] for methods in averaged) for s in sorted(common)}
  return [Group(ALL, {name: seeds for name, seeds in together.items() if seeds}), *single]


def _of_task(task: str, methods: Methods) -> Group:
  order = [*METHODS, *(name for name in methods if name not in METHODS)]
  return Group(
    task,
    {
      name: {seed: (run,) for seed, run in methods[name].items()}
      for name in order
      if name in methods
    },
  )


def classifiers(group: Group) -> list[Row]:
  """Table 1: what each classifier alone scores; mean and standard deviation over seeds.

  Rows of 'method', 'seeds', 'layer <n>' and its '_std' for each exit, and 'not converged': of all
  classifiers of the runs, how many have not. They count like the others.
  """
  rows = []
  for method, seeds in group.methods.items():
    runs = [run for name, run in group.runs if name == method]
    row: Row = {'method': method, 'seeds': len(seeds)}
    for k, exit in enumerate(runs[0].setting.exits):
      values = group.over_seeds(method, functools.partial(_score, k))
      row |= _mean(f'layer {exit}', values)
    lost = sum(not one for run in runs for one in run.converged)
    rows.append({**row, 'not converged': f'{lost} of {sum(len(run.converged) for run in runs)}'})
  return rows


def of_the_paper(scores: Mapping[str, paper.Scores], exits: Sequence[int]) -> list[Row]:
  """The rows of one of `sweet.paper`'s tables, as `classifiers` has them."""
  rows = []
  for method, values in scores.items():
    row: Row = {'method': method, 'seeds': 3}
    for exit, (mean, deviation) in zip(exits, values, strict=True):
      row |= {f'layer {exit}': mean, f'layer {exit}_std': deviation}
    rows.append(row)
  return rows


def ratios(exits: Sequence[int]) -> tuple[float, ...]:
  """Where curves are read: at the first classifier's ratio, at quarters, and beyond 1."""
  return tuple(dict.fromkeys((exits[0] / exits[-1], *curves.RATIOS[1:], *BEYOND)))


def curve_points(group: Group, at: Sequence[float]) -> list[Row]:
  """Figures 4 to 8: the curves, interpolated at ratios, with the interval of 95 % over seeds.

  Rows of 'panel' (the group), 'series' (the method), 'ratio', 'score' and 'score_half', NaN where
  the curve of a run does not reach or there is but one seed.
  """
  rows = []
  for method in group.methods:
    for ratio in at:
      values = group.over_seeds(method, functools.partial(_at, ratio))
      # A mean over some seeds only would be of other runs than its neighbours.
      reached = not np.isnan(values).any()
      mean, half = curves.interval(values) if reached else (float('nan'), float('nan'))
      point = {'ratio': ratio, 'score': mean, 'score_half': half}
      rows.append({'panel': group.name, 'series': method, **point})
  return rows


def curve_table(points: Sequence[Row]) -> list[Row]:
  """Points as a table: a row for each method, a column per ratio that one of them reaches.

  Empty where the others have none.
  """
  rows: dict[str, Row] = {}
  reached = {point['ratio'] for point in points if not np.isnan(point['score'])}
  for point in points:
    row = rows.setdefault(point['series'], {'method': point['series']})
    missing = np.isnan(point['score'])
    if missing and point['ratio'] not in reached:
      continue  # Beyond 1 lie multi-models alone.
    row[f'{point["ratio"]:.2f}'] = None if missing else point['score']
    if not np.isnan(point['score_half']):
      row[f'{point["ratio"]:.2f}_std'] = point['score_half']
  return list(rows.values())


def seconds_table(group: Group, at: Sequence[float]) -> list[Row]:
  """Milliseconds per example at ratios, on the lines between the measured points.

  A row for each method and size of batch that all its runs have measured; means over seeds.
  """
  rows = []
  for method in group.methods:
    runs = [run for name, run in group.runs if name == method]
    sizes = [set(run.record['points'][0].get('seconds', {})) for run in runs]
    for size in sorted(set.intersection(*sizes), key=int):
      row: Row = {'method': method, 'batch': size}
      for ratio in at:
        values = group.over_seeds(method, functools.partial(_milliseconds, size, ratio))
        row[f'{ratio:.2f}'] = None if np.isnan(values).any() else float(np.mean(values))
      rows.append(row)
  return rows


def claims(group: Group) -> list[Row]:
  """The paper's three claims, each a paired difference over seeds with its interval of 95 %.

  Rows of 'claim', 'of' (the group), 'difference' in points, 'low' and 'high', 'seeds', 'answer'
  and 'paper', the difference in the paper's Table 1 for BERT base, which tells none of curves. Of a
  claim that something is ahead the answer is 'yes' if the whole interval is above 0; of one that
  two are near, if it lies within NEAR points of 0. It is 'no' if the interval contradicts, and
  otherwise 'open'.
  """
  first = functools.partial(_score, 0)
  rows = [
    _claim(group, 'multi_model', 'early_exit', 'at classifier 1', first, near=False),
    _claim(group, 'sweet', 'multi_model', 'at classifier 1', first, near=True),
  ]
  for ratio in (3 / 4, 1.0):
    for other in ('multi_model', 'sweet'):
      value = functools.partial(_at, ratio)
      rows.append(_claim(group, 'early_exit', other, f'at ratio {ratio:g}', value, near=False))
  return [row for row in rows if row is not None]


def _claim(
  group: Group, one: str, other: str, where: str, value: Callable[[Run], float], *, near: bool
) -> Row | None:
  """A claim about two methods; None if one of them is not there, or no curve reaches so far."""
  if one not in group.methods or other not in group.methods:
    return None
  common = sorted(set(group.methods[one]) & set(group.methods[other]))
  differences = [group.mean(one, s, value) - group.mean(other, s, value) for s in common]
  mean, half = curves.interval(differences)
  if np.isnan(mean):
    return None
  low, high = mean - half, mean + half
  row: Row = {
    'claim': f'{one} {"near" if near else "above"} {other} {where}',
    'of': group.name,
    'difference': mean,
    'low': None if np.isnan(low) else low,
    'high': None if np.isnan(high) else high,
    'seeds': int(np.isfinite(differences).sum()),
    'answer': _near(low, high) if near else _above(low, high),
  }
  if where == 'at classifier 1':
    table = paper.BERT['base']
    row['paper'] = table[one][0][0] - table[other][0][0]
  return row


def _score(k: int, run: Run) -> float:
  return run.scores[k]


def _at(ratio: float, run: Run) -> float:
  return run.curve.at(ratio)


def _above(low: float, high: float) -> str:
  return 'yes' if low > 0 else 'no' if high < 0 else 'open'


def _near(low: float, high: float) -> str:
  if low > -NEAR and high < NEAR:
    return 'yes'
  return 'no' if high < -NEAR or low > NEAR else 'open'


def _milliseconds(size: str, ratio: float, run: Run) -> float:
  points = run.record['points']
  ratios_of = [point['ratio'] for point in points]
  return 1000 * curves.curve(ratios_of, [point['seconds'][size] for point in points]).at(ratio)


def _mean(name: str, values: Sequence[float]) -> Row:
  row: Row = {name: float(np.mean(values))}
  if len(values) > 1:
    row[f'{name}_std'] = float(np.std(values, ddof=1))
  return row
