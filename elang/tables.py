"""What routers of one or more tasks cost and give, in the layouts of the paper's tables.

Akbari et al., Tables 1, 2 and 4, https://arxiv.org/abs/2203.00748. A system is taken where the
densities of what the Swift model gets right and wrong cross (`elang.thresholds.by_crossing`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm.reporting.comparison import Way
from elang import paper, thresholds
from elang.study import RouterStudy
from elang.tradeoffs import CHANCE

Row = dict[str, Any]
AVERAGE = 'average'


def record(study: RouterStudy, seconds: tuple[float, float] | None) -> dict[str, Any]:
  """What the tables need of one task, as JSON.

  'task', 'split', 'metric', 'models', 'own' (the name of the router's score), and 'systems' by
  name: 'super', 'swift', each score at its crossing, and 'chance', the expectation of passing on as
  many as the router's score does. Each has 'score', 'kept' (the share that the Swift answers),
  'threshold' (None where there is none), and, where they are known, 'flops' and 'seconds' per
  input.

  Args:
    study: of the task.
    seconds: of the Swift and the Super model for an input, if they were measured.
  """
  metric = next(iter(study.scores(study.full)), 'quality')
  swift = study.static[0]
  systems = {
    'super': _system(study, study.full, metric, seconds, None),
    'swift': _system(study, swift, metric, seconds, None),
  }
  for family, values in study.values.items():
    crossing = thresholds.by_crossing(values, study.found.right)
    passed = ~(values >= (np.inf if crossing.threshold is None else crossing.threshold))
    way = study.way(family, passed)
    systems[family] = _system(study, way, metric, seconds, crossing.threshold)
  share = 1 - systems[study.own]['kept']
  systems[CHANCE] = {
    key: None if key == 'threshold' else _between(systems['swift'], systems['super'], key, share)
    for key in systems['swift']
  }
  return {
    'task': study.split.task.name,
    'split': study.split.name,
    'metric': metric,
    'models': [model.name for model in study.router.models],
    'own': study.own,
    'systems': systems,
  }


def _system(
  study: RouterStudy,
  way: Way,
  metric: str,
  seconds: tuple[float, float] | None,
  threshold: float | None,
) -> Row:
  scores = study.scores(way)
  over = way.costs['passed_on'] > 0
  passed = float(over.mean())
  quality = 100 * (1 - float(np.where(over, study.found.risks[1], study.found.risks[0]).mean()))
  found = {
    'score': float(scores.get(metric, quality)),
    'kept': 1 - passed,
    'threshold': threshold if threshold is None or math.isfinite(threshold) else str(threshold),
  }
  if 'flops' in study.costs:
    found['flops'] = way.cost('flops')
  if seconds is not None:
    small, large = seconds
    found['seconds'] = large if way is study.full else small + passed * large
  return found


def _between(one: Row, other: Row, key: str, share: float) -> float:
  return (1 - share) * one[key] + share * other[key]


def table_1(records: Sequence[Mapping[str, Any]]) -> list[Row]:
  """Table 1: both models and the router, a column for each task."""
  own = [found['systems'][found['own']] for found in records]
  swift, large = ([found['systems'][name] for found in records] for name in ('swift', 'super'))
  lines: dict[str, list[float | None]] = {}
  for name, systems in (('Swift', swift), ('Super', large), ('router', own)):
    lines[f'{name}: score'] = [one['score'] for one in systems]
    lines[f'{name}: FLOPs'] = [one.get('flops') for one in systems]
    lines[f'{name}: time (ms)'] = [_milliseconds(one) for one in systems]
  lines['kept by the Swift, %'] = [100 * one['kept'] for one in own]
  lines['speed-up, FLOPs'] = _ratios(large, own, 'flops')
  lines['speed-up, time'] = _ratios(large, own, 'seconds')
  return _columns(lines, [found['task'] for found in records])


def table_2(records: Sequence[Mapping[str, Any]]) -> list[Row]:
  """Table 2: FLOPs / score of every way of routing, a column for each task.

  Where FLOPs are not known, the share passed on stands in their place.
  """
  every = dict.fromkeys(name for found in records for name in found['systems'])
  first = ('super', 'swift', CHANCE)
  rows = []
  for name in [*first, *(name for name in every if name not in first)]:
    found = [one['systems'].get(name) for one in records]
    cells = [_pair(one) for one in found]
    if len(records) > 1:
      cells.append(_pair(_mean_of(found)) if all(found) else '')
    rows.append({'routed by': name, **dict(zip(_heads(records), cells, strict=True))})
  return rows


def table_4(records: Sequence[Mapping[str, Any]]) -> list[Row]:
  """Table 4: scores by task, and what all tasks take on average."""
  rows = []
  for title, key in (('Swift', 'swift'), ('Super', 'super'), ('router', None)):
    systems = [found['systems'][key or found['own']] for found in records]
    mean = _mean_of(systems)
    scores = [one['score'] for one in systems] + ([mean['score']] if len(records) > 1 else [])
    row: Row = {'system': title, **dict(zip(_heads(records), scores, strict=True))}
    row |= {'FLOPs': _flops(mean.get('flops')), 'time (ms)': _milliseconds(mean)}
    rows.append({**row, 'kept by the Swift, %': 100 * mean['kept']})
  return _without_empty(rows)


def of_the_paper() -> dict[str, list[Row]]:
  """The paper's own tables by caption, as the others are laid out."""
  one = [
    {'': name, **dict(zip(paper.T5_TASKS, map(float, values), strict=True))}
    for name, values in paper.T5.items()
  ]
  two = []
  for name, columns in paper.ABLATION.items():
    shown = [f'{flops:g} / {score:g}' for flops, score in zip(*columns, strict=True)]
    two.append({'routed by': name, **dict(zip(paper.ABLATION_TASKS, shown, strict=True))})
  four = [
    {'system': name, **dict(zip(paper.BERT_TASKS, scores, strict=True)), 'FLOPs': f, 'time (ms)': t}
    for name, (scores, f, t) in paper.BERT.items()
  ]
  return {
    'Table 1 of the paper: T5, FLOPs in 1e11': one,
    'Table 2 of the paper: FLOPs in 1e11 / score': two,
    'Table 4 of the paper: BERT, FLOPs in 1e9': four,
  }


def _heads(records: Sequence[Mapping[str, Any]]) -> list[str]:
  tasks = [found['task'] for found in records]
  return [*tasks, AVERAGE] if len(tasks) > 1 else tasks


def _columns(lines: Mapping[str, Sequence[float | None]], tasks: Sequence[str]) -> list[Row]:
  """A row for each line that has a number, with the average of several tasks."""
  rows = []
  for name, values in lines.items():
    known = [value for value in values if value is not None]
    if not known:
      continue
    shown = _flops if name.endswith(': FLOPs') else _as_it_is
    row: Row = {'': name, **{task: shown(value) for task, value in zip(tasks, values, strict=True)}}
    if len(tasks) > 1:
      row[AVERAGE] = shown(float(np.mean(known))) if len(known) == len(tasks) else None
    rows.append(row)
  return rows


def _ratios(full: Sequence[Row], own: Sequence[Row], key: str) -> list[float | None]:
  return [a[key] / b[key] if key in a else None for a, b in zip(full, own, strict=True)]


def _mean_of(systems: Sequence[Row]) -> Row:
  """Each number's mean, of those that all systems have."""
  keys = ('score', 'kept', 'flops', 'seconds')
  return {
    key: float(np.mean([one[key] for one in systems]))
    for key in keys
    if all(key in one for one in systems)
  }


def _pair(system: Row | None) -> str:
  if system is None:
    return ''
  cost = _flops(system.get('flops')) or f'{1 - system["kept"]:.2f}'
  return f'{cost} / {system["score"]:.1f}'


def _flops(value: float | None) -> str | None:
  return None if value is None else f'{value:.3g}'


def _as_it_is(value: float | None) -> Any:
  return value


def _milliseconds(system: Row) -> float | None:
  return 1000 * system['seconds'] if 'seconds' in system else None


def _without_empty(rows: list[Row]) -> list[Row]:
  empty = {name for name in rows[0] if all(row[name] is None for row in rows)}
  return [{name: value for name, value in row.items() if name not in empty} for row in rows]
