"""CALM's Table 2: what each family saves at each tolerance, beside static systems and an oracle.

Section 5 of https://arxiv.org/abs/2207.07061: 50 random trials, calibrated on 80 % of the examples
and measured on the rest. What one would then use, the threshold certified on all examples, is
timed and scored, too.
"""

import contextlib
import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from calm import fingerprints, storage
from calm.calibration import bounds, testing
from calm.calibration.trials import mean_and_std, random_trials
from calm.reporting import provenance
from calm.reporting.comparison import Comparison, Way
from calm.settings import Count, Level, NotEmpty, Seed, check_fields

DELTAS = {'textual': (0.1, 0.25), 'risk': (0.02, 0.05)}  # The paper's.
FOLDER = 'report'
NAME = 'efficiency'
CODE = ('calm.calibration', 'calm.evaluation', 'calm.reporting')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialSettings:
  """How the trials are made and what is timed; see `calm.calibration.trials.random_trials`."""

  deltas: Annotated[Mapping[str, Sequence[Level]], NotEmpty()] = dataclasses.field(
    default_factory=lambda: dict(DELTAS)
  )
  epsilon: Level = 0.05
  p_value: testing.PValue = bounds.hoeffding_bentkus
  procedure: testing.Procedure = testing.fixed_sequence
  num_trials: Count = 50
  calibration_share: Level = 0.8
  seed: Seed = 0
  timed_batch_sizes: Sequence[Count] = (1, 32)  # none to time nothing
  num_timed: Count = 64  # examples, from the first on
  repeats: Count = 5

  def __post_init__(self) -> None:
    check_fields(self)

  def check(self, compared: Comparison) -> None:
    """Raises ValueError where a tolerance can never be certified, before anything is predicted."""
    unknown = sorted(set(self.deltas) - set(compared.objectives))
    if unknown:
      raise ValueError(
        f'deltas: {", ".join(unknown)} cannot be had with '
        f'{testing.name_of(compared.dissimilarity)}; there are {", ".join(compared.objectives)}.'
      )
    whole = len(compared.split.examples)
    number = round(self.calibration_share * whole)
    for deltas in self.deltas.values():
      for delta in deltas:
        testing.check_sample_size(
          number,
          delta,
          self.epsilon,
          self.p_value,
          self.procedure,
          len(compared.grid),
          'TRIAL_DELTAS',
          whole,
        )


def trials(study: Comparison, settings: TrialSettings | None = None) -> list[dict[str, Any]]:
  """Prints, saves and returns the table: a dict per row.

  `folder`/report gets efficiency.json and efficiency.csv. There is a row for each objective, delta
  and family ('calibrated'), for each static system ('static'), the full one ('full') and the oracle
  ('oracle'). The first cost stands as it is (as `layers`), of each other its reduction, the full
  system's over this one's (as `flops_reduction`); these and `loss` are means over trials in
  calibrated rows, with `_std` their standard deviation; elsewhere they are of all examples.
  `exceeds` is the share of trials whose loss on the rest is above delta, `never_exits` that of
  those that certified nothing.
  `textual`, `risk`, the task's metrics and `speedup_batch_*` (full system's seconds per unit over
  these) are of all examples at `threshold`, the lowest of those that all of them certify
  (`certified`, descending), None if they certify none and nothing is answered early.

  Raises:
    ValueError: too few examples for a tolerance, or settings that do not fit.
    storage.BusyError: another process writes there.
  """
  settings = settings or TrialSettings()
  settings.check(study)
  with lock(study):
    return make(study, settings)


def lock(study: Comparison) -> contextlib.AbstractContextManager[Any]:
  """Keeps others from the folder of the report while the block runs."""
  folder = Path(study.folder, FOLDER)
  return storage.lock(folder / '.lock', str(folder))


def make(study: Comparison, settings: TrialSettings) -> list[dict[str, Any]]:
  """`trials` for those who hold the lock and have checked the settings."""
  rows = Table(study, settings).rows()
  folder = Path(study.folder, FOLDER)
  keep_earlier(folder, settings_of(study, settings))
  made = provenance.provenance(study.folder)
  record = {'settings': settings_of(study, settings), 'made': made, 'rows': rows}
  storage.write_record(folder / f'{NAME}.json', record)
  write_csv(folder / f'{NAME}.csv', rows)
  print(as_text(rows))
  print(f'{folder / NAME}.json, {folder / NAME}.csv')
  return rows


def settings_of(study: Comparison, settings: TrialSettings) -> dict[str, Any]:
  """All that the table depends on, as JSON."""
  code = {'code': fingerprints.code(*CODE)}
  return {**study.identity, 'trials': fingerprints.identity(settings), **code}


def read(study: Comparison, settings: TrialSettings) -> list[dict[str, Any]] | None:
  """The rows that `trials` has saved for the same comparison and settings, or None."""
  try:
    saved = storage.read_record(Path(study.folder, FOLDER, f'{NAME}.json'))
  except FileNotFoundError:
    return None
  except storage.DamagedError as error:
    storage.warn(f'{error} It is made again.')
    return None
  same = not fingerprints.differences(saved['settings'], settings_of(study, settings))
  return saved['rows'] if same else None


def read_made(study: Comparison) -> dict[str, str]:
  """When, of what and on what the saved rows were made, as `provenance` says it."""
  return storage.read_record(Path(study.folder, FOLDER, f'{NAME}.json'))['made']


def keep_earlier(folder: Path, settings: Mapping[str, Any]) -> None:
  """Moves what was made with other settings into a folder of its own; says what has changed."""
  table = folder / f'{NAME}.json'
  try:
    saved = storage.read_record(table)['settings']
  except (FileNotFoundError, storage.DamagedError, KeyError):
    return
  differences = fingerprints.differences(saved, settings)
  if not differences:
    return
  digits = fingerprints.fingerprint(saved).removeprefix(fingerprints.FINGERPRINT)[:8]
  earlier = folder / f'earlier-{digits}'
  earlier.mkdir(exist_ok=True)
  for path in folder.iterdir():
    if path.is_file() and path.name != '.lock':
      path.replace(earlier / path.name)
  storage.warn(
    f'{folder}: made anew, since {fingerprints.in_words(differences)} ({earlier} stays).'
  )


@dataclasses.dataclass(frozen=True)
class Table:
  """Makes the rows."""

  study: Comparison
  settings: TrialSettings

  def rows(self) -> list[dict[str, Any]]:
    """The full system's row first, static ones, the oracle, then what was calibrated."""
    study = self.study
    rows = [self._plain('full', study.full)]
    rows += [self._plain('static', way) for way in study.static]
    if study.oracle is not None:
      rows.append(self._plain('oracle', study.oracle))
    for family in study.families:
      rows.extend(self._calibrated(family))
    self._time(rows)
    order = ['full', 'static', 'oracle', *self.settings.deltas]

    def place(row: Mapping[str, Any]) -> tuple[int, float]:
      return order.index(row['objective'] or row['kind']), row['delta'] or 0

    return sorted(rows, key=place)

  def _plain(self, kind: str, way: Way) -> dict[str, Any]:
    """A row of what needs no calibration."""
    first, *others = self.study.costs
    costs = {first: way.cost(first)}
    costs |= {f'{name}_reduction': self.study.full.cost(name) / way.cost(name) for name in others}
    timed = {'way': None if kind == 'oracle' else way}
    return _row(kind, way.label) | costs | self._of_all(way) | timed

  def _calibrated(self, family: str) -> Iterator[dict[str, Any]]:
    """Rows of a family: one per objective and delta."""
    study, settings = self.study, self.settings
    ways = [study.at(family, threshold) for threshold in study.grid]
    first, *others = study.costs
    for objective, deltas in settings.deltas.items():
      losses = np.stack([study.losses(way, objective) for way in ways])
      for delta in deltas:
        run = random_trials(
          losses,
          {name: np.stack([way.costs[name] for way in ways]) for name in study.costs},
          {name: study.full.costs[name] for name in study.costs},
          grid=study.grid,
          delta=delta,
          epsilon=settings.epsilon,
          p_value=settings.p_value,
          procedure=settings.procedure,
          weights=np.stack([way.units for way in ways]),
          full_weights=study.full.units,
          num_trials=settings.num_trials,
          calibration_share=settings.calibration_share,
          seed=settings.seed,
        )
        certified = self._certified(losses, delta)
        threshold = certified[-1] if certified else None
        chosen = study.full if threshold is None else ways[study.grid.index(threshold)]
        averages = {first: run.costs[first]}
        averages |= {f'{name}_reduction': run.reduction(name) for name in others}
        row = _row('calibrated', family, objective, delta)
        for key, values in (averages | {'loss': run.risks}).items():
          row[key], row[f'{key}_std'] = mean_and_std(values)
        row |= {'exceeds': run.share_exceeding, 'never_exits': run.share_never_exiting}
        row |= {'threshold': threshold}
        row |= {'certified': certified, 'way': chosen}
        yield row | self._of_all(chosen)

  def _certified(self, losses: np.ndarray, delta: float) -> list[float]:
    """The thresholds that all examples certify, descending."""
    settings, grid = self.settings, self.study.grid
    calibration = testing.calibrate(
      lambda threshold: losses[grid.index(threshold)],
      grid,
      delta,
      settings.epsilon,
      num_examples=losses.shape[1],
      p_value=settings.p_value,
      procedure=settings.procedure,
    )
    return list(testing.certified(grid, calibration.p_values, settings.epsilon, settings.procedure))

  def _of_all(self, way: Way) -> dict[str, float]:
    """Losses and metrics of all examples."""
    study = self.study
    losses = {name: float(study.losses(way, name).mean()) for name in study.objectives}
    return losses | study.scores(way)

  def _time(self, rows: list[dict[str, Any]]) -> None:
    """Enters the speed-ups; what several rows share is timed once."""
    ways, names = {'full': self.study.full}, {}
    for number, row in enumerate(rows):
      way = row.pop('way')
      if way is not None:
        at = row.get('threshold')
        name = (
          'full'
          if way is self.study.full
          else row['measure'] + (f' {at:g}' if at is not None else '')
        )
        ways[name], names[number] = way, name
    for batch_size in self.settings.timed_batch_sizes:
      seconds = self.study.seconds(
        ways,
        batch_size=batch_size,
        num_examples=self.settings.num_timed,
        repeats=self.settings.repeats,
      )
      for number, name in names.items():
        rows[number][f'speedup_batch_{batch_size}'] = seconds['full'] / seconds[name]


def _row(
  kind: str, measure: str, objective: str | None = None, delta: float | None = None
) -> dict[str, Any]:
  return {'kind': kind, 'objective': objective, 'delta': delta, 'measure': measure}


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """All names of the rows, each once: calibrated rows have most, and go first."""
  ordered = sorted(rows, key=lambda row: -len(row))
  return list(dict.fromkeys(name for row in ordered for name in row))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes rows with a header; what a row lacks is empty."""
  with open(path, 'w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, columns_of(rows))
    writer.writeheader()
    writer.writerows({name: _in_csv(value) for name, value in row.items()} for row in rows)


def _in_csv(value: Any) -> Any:
  return ' '.join(f'{item:g}' for item in value) if isinstance(value, list) else value


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The table for a terminal: columns side by side, means with their deviation."""
  hidden = ('kind', 'certified')
  names = [name for name in columns_of(rows) if name not in hidden and not name.endswith('_std')]
  cells = [names, *[[_cell(row, name) for name in names] for row in rows]]
  widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
  lines = [
    '  '.join(f'{cell:<{w}}' for cell, w in zip(line, widths, strict=True)) for line in cells
  ]
  return '\n'.join(line.rstrip() for line in lines)


def decimals(value: float, least: int) -> int:
  """How many decimals show a value: `least`, or two digits of one that would look like zero."""
  small = 0 < abs(value) < 10**-least
  return 1 - math.floor(math.log10(abs(value))) if small else least


def _cell(row: Mapping[str, Any], name: str) -> str:
  value = row.get(name)
  if name == 'threshold' and value is None and row['kind'] == 'calibrated':
    return 'never'
  if value is None:
    return '-'
  if not isinstance(value, float):
    return str(value)
  deviation = row.get(f'{name}_std')
  digits = decimals(value, 3 if name in ('loss', 'textual', 'risk') else 2)
  text = f'{value:g}' if name in ('threshold', 'delta') else f'{value:.{digits}f}'
  return text if deviation is None else f'{text} ± {deviation:.{digits}f}'
