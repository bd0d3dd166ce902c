"""What has been found of pairs of models, as tables in Markdown, JSON and figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from elang_pairs import (
  EPSILON,
  OWN,
  SCORES,
  Group,
  Recovered,
  Rows,
  Settings,
  accuracies,
  can_certify,
  certified,
  oracle_gap,
  points,
  recovered,
)

from calm import storage
from calm.reporting import figures_routing
from calm.reporting.markdown import markdown
from elang import compared, curves, tables

UNKNOWN = '-'
MARKDOWN, RECORD = 'tables.md', 'pairs.json'
SHOWN = ('share', 'passed on', 'accuracy', 'below the Super', 'loss', 'FLOPs saved')


Certified = Mapping[str, Mapping[str, np.ndarray]]  # by score and name, of each seed


class Report:
  """All tables of some groups; what takes long is computed once."""

  def __init__(self, groups: Sequence[Group], settings: Settings):
    self.groups, self.settings = groups, settings
    self.recovered = [recovered(one.pairs, settings.num_resamples) for one in groups]
    self.certified = list(map(self._certified, groups, self.recovered))

  def _certified(self, group: Group, found: Recovered) -> Certified | None:
    """Of each family of scores all numbers float64[seeds]; None where there are too few rows."""
    if not all(can_certify(pair, self.settings.delta) for pair in group.pairs):
      return None
    scores = {found.names[score]: score for score in reversed(SCORES) if score != compared.LENGTH}
    numbers = {
      family: [certified(pair, score, self.settings) for pair in group.pairs]
      for family, score in reversed(scores.items())
    }
    return {
      family: {name: np.array([one[name] for one in seeds]) for name in seeds[0]}
      for family, seeds in numbers.items()
    }

  def recovered_rows(self, key: str = 'recovered') -> Rows:
    """A row for each group: what each score recovers, with its interval, and what chance does."""
    rows = []
    for group, found in zip(self.groups, self.recovered, strict=True):
      by_name = {row['series']: row for row in found.rows}
      row = group.head
      for score in SCORES:
        one = by_name[found.names[score]]
        ends = f' ({one["low"]:.3f} to {one["high"]:.3f})' if key == 'recovered' else ''
        row[score] = UNKNOWN if np.isnan(one[key]) else f'{one[key]:.3f}{ends}'
      if key == 'recovered':
        row['energy less softmax'] = _difference(found.beyond_plain)
        rows.append({**row, 'chance': '0', 'oracle': '1'})
      else:
        best = oracle_gap(group.pairs)
        best = UNKNOWN if np.isnan(best) else f'{best:.3f}'
        rows.append({**row, 'chance': '0.500', 'oracle': best})
    return rows

  def certified_rows(self) -> Rows:
    """A row for each group and score: what the certified threshold gives."""
    rows: Rows = []
    for group, found in zip(self.groups, self.certified, strict=True):
      for score, numbers in (found or {}).items():
        row: dict[str, Any] = {**group.head, 'score': score}
        for name in SHOWN:
          row[name], row[f'{name}_std'] = _mean_and_std(numbers[name])
        for name in ('violations', 'never exits'):
          row[f'{name}, %'] = float(numbers[name].mean())
        rows.append(row)
    return rows

  def seconds_rows(self) -> Rows:
    """A row for each group that was timed, and each batch size; of the first seed."""
    return [
      {
        **{name: value for name, value in group.head.items() if name != 'seeds'},
        'batch': str(size),
        'passed on, %': 100 * one['passed_on'],
        **{f'{name}, ms': 1000 * one[key] for name, key in _TIMES},
        'router by Swift + share x Super': one['ratio'],
      }
      for group in self.groups
      for size, one in (group.timed or {}).items()
    ]

  def tables_4(self) -> dict[str, Rows]:
    """The layout of Table 4 for each kind of Swift model: at the threshold certified for energy."""
    kinds = dict.fromkeys((group.swift, group.start) for group in self.groups)
    found = {}
    for swift, start in kinds:
      records = [
        _systems(group, numbers[one.names[OWN]])
        for group, one, numbers in zip(self.groups, self.recovered, self.certified, strict=True)
        if (group.swift, group.start) == (swift, start) and numbers
      ]
      if records:
        found[f'{swift}, started from {_START[start]}'] = tables.table_4(records)
    return found

  def sentences(self) -> list[str]:
    """For each task and start of the classifier which score wins, and whether by the interval."""
    found = []
    for task in dict.fromkeys(group.task for group in self.groups):
      for start in dict.fromkeys(one.start for one in self.groups if one.task == task):
        groups = [one for one in self.groups if (one.task, one.start) == (task, start)]
        found.append(f'**{task}, started from {_START[start]}**: {self._sentence(groups)}')
    return found

  def _sentence(self, groups: Sequence[Group]) -> str:
    apart = [group for group in groups if group.apart]
    if not apart:
      return 'no Super model is far enough from its Swift, so that nothing is said of scores.'
    pairs = [pair for group in apart for pair in group.pairs]
    one: Recovered = recovered(pairs, self.settings.num_resamples)
    names = '; '.join(group.swift for group in apart)
    ends = _difference(one.beyond_plain)
    return f'{one.verdict} Energy less softmax: {ends}. Means over {len(pairs)} pairs ({names}).'


_START = {'zero': 'zero', 'normal': 'a normal draw'}
_TIMES = (
  ('Swift', 'swift'),
  ('Super', 'super'),
  ('router', 'router'),
  ('router, p95', 'router_p95'),
)


def _difference(interval: curves.Interval | None) -> str:
  if interval is None:
    return 'the same order'
  if np.isnan(interval.value):
    return UNKNOWN
  return f'{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})'


def _mean_and_std(values: np.ndarray) -> tuple[float, float | None]:
  return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def _systems(group: Group, numbers: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """What `elang.tables.table_4` takes of a task: means over seeds, seconds of the first."""
  seconds = (group.timed or {}).get(max(group.timed or {'': 0}, key=_as_number), {})
  systems: dict[str, dict[str, float]] = {}
  for name, which, key, kept in (
    ('swift', 'swift', 'swift', 1.0),
    ('super', 'large', 'super', 0.0),
  ):
    flops = np.mean([getattr(pair, which)['evaluation'].flops.mean() for pair in group.pairs])
    score = float(group.accuracies(which).mean())
    systems[name] = {'score': score, 'kept': kept, 'flops': float(flops), **_of(seconds, key)}
  systems[OWN] = {
    'score': float(numbers['accuracy'].mean()),
    'kept': 1 - float(numbers['passed on'].mean()) / 100,
    'flops': float(numbers['FLOPs'].mean()),
    **_of(seconds, 'router'),
  }
  return {'task': group.task, 'own': OWN, 'systems': systems}


def _of(seconds: Mapping[str, float], key: str) -> dict[str, float]:
  return {'seconds': seconds[key]} if key in seconds else {}


def _as_number(size: str) -> int:
  return int(size or 0)


def as_markdown(report: Report) -> str:
  """All tables and sentences, each below what it is."""
  settings = report.settings
  parts = [
    '## Swift and Super models',
    'Means over seeds and their deviations; a pair is plotted, and counted in what follows on which'
    ' score wins, if the Super model is better by 3 points beyond the spread over seeds.',
    markdown(accuracies(report.groups)),
    '## Which score routes best',
    *report.sentences(),
    "What each score recovers of the oracle's area above chance, with intervals of 95 % by a"
    f' bootstrap of {settings.num_resamples} over rows:',
    markdown(report.recovered_rows()),
    'The mean over all shares of how much of the gap is recovered (APGR):',
    markdown(report.recovered_rows('APGR')),
    f'## Certified at {settings.delta:g}',
    "The lowest threshold at which the joint loss exceeds the Super model's by at most"
    f' {100 * settings.delta:g} %, wrong in at most {100 * EPSILON:g} % of all calibrations: the'
    ' share of other rows that it passes on, and what it gives on rows that it has not seen, in'
    f' percent and points. Violations are of {settings.num_trials} random calibrations on as many'
    ' rows.',
    markdown(rows) if (rows := report.certified_rows()) else 'Too few rows to certify it.',
    f'## Layout of Table 4, certified at {settings.delta:g}',
    'By energy; means over seeds, and seconds of the first, in the largest batch that was timed.',
  ]
  for caption, rows in report.tables_4().items():
    parts += [f'{caption[0].upper()}{caption[1:]}:', markdown(rows)]
  if seconds := report.seconds_rows():
    parts += ['## Seconds', 'Medians for a row, of the first seed.', markdown(seconds)]
  return '\n\n'.join(parts) + '\n'


def as_record(report: Report) -> dict[str, Any]:
  """The same numbers as JSON, with those that tables leave out."""
  groups = zip(report.groups, report.recovered, report.certified, strict=True)
  record = {
    'settings': dataclasses.asdict(report.settings),
    'sentences': report.sentences(),
    'groups': [
      {
        **group.head,
        'apart': group.apart,
        **{which: group.accuracies(which).tolist() for which in ('swift', 'large')},
        'recovered': found.rows,
        'energy less softmax': found.beyond_plain and dataclasses.asdict(found.beyond_plain),
        'certified': numbers
        and {
          score: {name: values.tolist() for name, values in one.items()}
          for score, one in numbers.items()
        },
        'timed': group.timed,
      }
      for group, found, numbers in groups
    ],
  }
  return _without_nan(record)


def _without_nan(value: Any) -> Any:
  """The same with None for what is no number, which JSON has no word for."""
  if isinstance(value, Mapping):
    return {name: _without_nan(one) for name, one in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(one) for one in value]
  return None if isinstance(value, float) and not np.isfinite(value) else value


def write(groups: Sequence[Group], folder: Path, settings: Settings) -> Path:
  """Writes tables.md, pairs.json and a figure of each group that is far enough apart."""
  report = Report(groups, settings)
  folder.mkdir(parents=True, exist_ok=True)
  storage.write_text(folder / MARKDOWN, as_markdown(report))
  storage.write_record(folder / RECORD, as_record(report))
  for group in groups:
    name = f'{group.task}_{group.swift}_{group.start}'.replace(',', '').replace(' ', '_')
    path = folder / f'{name}.png'
    path.unlink(missing_ok=True)
    if group.apart:
      rows, ends = points(group)
      figures_routing.tradeoff(rows, 'flops', 'FLOPs per row', 'accuracy, %', ends).savefig(path)
  return folder / MARKDOWN
