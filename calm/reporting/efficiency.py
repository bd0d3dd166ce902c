"""CALM's Table 2: what each measure saves at each tolerance, beside static depths and an oracle.

Section 5 of https://arxiv.org/abs/2207.07061: 50 random trials, calibrated on 80 % of the examples
and measured on the rest. What one would then use, the threshold certified on all examples, is
timed and scored, too.
"""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm.calibration import bounds, testing
from calm.calibration.fingerprints import describe, fingerprint
from calm.calibration.trials import mean_and_std, random_trials
from calm.decoding import journal
from calm.decoding.stored import Results
from calm.exits import rules
from calm.reporting.study import Study, layers, num_tokens
from calm.reporting.timing import time_rules

DELTAS = {'textual': (0.1, 0.25), 'risk': (0.02, 0.05)}  # The paper's.
FOLDER = 'report'
NAME = 'efficiency'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How the trials are made and what is timed; see `calm.calibration.trials.random_trials`."""

  deltas: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=lambda: dict(DELTAS))
  epsilon: float = 0.05
  p_value: testing.PValue = bounds.hoeffding_bentkus
  procedure: testing.Procedure = testing.fixed_sequence
  num_trials: int = 50
  calibration_share: float = 0.8
  seed: int = 0
  timed_batch_sizes: Sequence[int] = (1, 32)  # none to time nothing
  num_timed: int = 64  # examples, from the first on
  repeats: int = 5

  def check(self, study: Study) -> None:
    """Raises ValueError where a tolerance can never be certified, before anything is decoded."""
    unknown = sorted(set(self.deltas) - set(study.objectives))
    if unknown:
      raise ValueError(
        f'deltas: {", ".join(unknown)} cannot be had with {testing.name_of(study.dissimilarity)}; '
        f'there are {", ".join(study.objectives)}.'
      )
    number = round(self.calibration_share * len(study.stored.examples))
    for deltas in self.deltas.values():
      for delta in deltas:
        grid = len(study.grid)
        testing.check_sample_size(number, delta, self.epsilon, self.p_value, self.procedure, grid)


def trials(study: Study, protocol: Protocol | None = None) -> list[dict[str, Any]]:
  """Prints, saves and returns the table: a dict per row.

  `workdir`/report gets efficiency.json and efficiency.csv. There is a row for each objective, delta
  and measure ('calibrated'), for each depth below the full one ('static'), the full model ('full')
  and the oracle ('oracle'). `layers`, `flops_reduction` (decoder FLOPs of the full model over
  these), `layer_flops_reduction` (the same without the head) and `loss` are means over trials in
  calibrated rows, with `_std` their standard deviation; elsewhere they are of all examples.
  `textual`, `risk`, the task's metrics and `speedup_batch_*` (full model's seconds per token over
  these, encoder included) are of all examples at `threshold`, which all of them certify, None if
  they certify none and the model never exits early.

  Raises:
    ValueError: too few examples for a tolerance, or settings that do not fit.
  """
  protocol = protocol or Protocol()
  protocol.check(study)
  table = Table(study, protocol)
  rows = table.rows()
  settings = settings_of(study, protocol)
  folder = Path(study.workdir, FOLDER)
  folder.mkdir(parents=True, exist_ok=True)
  journal.write_json(folder / f'{NAME}.json', {'settings': settings, 'rows': rows})
  write_csv(folder / f'{NAME}.csv', rows)
  print(as_text(rows))
  print(f'{folder / NAME}.json, {folder / NAME}.csv')
  return rows


def settings_of(study: Study, protocol: Protocol) -> dict[str, Any]:
  """All that the table depends on, as JSON."""
  return {
    'task': study.task.name,
    'split': study.split,
    'examples': study.stored.data_fingerprint,
    'decoder': study.text_decoder.settings,
    'rules': {sweep.name: describe(sweep.rule_at(0.5)) for sweep in study.sweeps.values()},
    'grid': list(study.grid),
    'dissimilarity': testing.name_of(study.dissimilarity),
    'protocol': fingerprint(describe(protocol)),
  }


def read(study: Study, protocol: Protocol) -> list[dict[str, Any]] | None:
  """The rows that `trials` has saved for the same study and protocol, or None."""
  path = Path(study.workdir, FOLDER, f'{NAME}.json')
  if not path.is_file():
    return None
  saved = json.loads(path.read_text(encoding='utf-8'))
  settings = json.loads(json.dumps(settings_of(study, protocol)))
  return saved['rows'] if saved['settings'] == settings else None


@dataclasses.dataclass(frozen=True)
class Table:
  """Makes the rows."""

  study: Study
  protocol: Protocol

  def rows(self) -> list[dict[str, Any]]:
    """The full model's row first, static depths, the oracle, then what was calibrated."""
    study = self.study
    never = rules.NeverExit()
    rows = [self._plain('full', f'{study.num_layers} layers', study.full, never)]
    for layer, results in study.static.items():
      name = '1 layer' if layer == 1 else f'{layer} layers'
      rows.append(self._plain('static', name, results, rules.FixedLayer(layer)))
    rows.append(self._plain('oracle', 'oracle', study.oracle, rules.Oracle()))
    for name in study.sweeps:
      rows.extend(self._calibrated(name))
    self._time(rows)
    order = ['full', 'static', 'oracle', *self.protocol.deltas]

    def place(row):
      return order.index(row['objective'] or row['kind']), row['delta'] or 0

    return sorted(rows, key=place)

  def _plain(self, kind, name, results, rule):
    """A row of a rule that needs no calibration."""
    full = self._cost_per_token(self.study.full, rules.NeverExit())
    cost = self._cost_per_token(results, rule)
    costs = {
      'layers': cost['layers'],
      'flops_reduction': full['flops'] / cost['flops'],
      'layer_flops_reduction': full['layer_flops'] / cost['layer_flops'],
    }
    return _row(kind, name) | costs | self._of_all(results)

  def _calibrated(self, name):
    """Rows of a measure: one per objective and delta."""
    study, protocol, sweep = self.study, self.protocol, self.study.sweeps[name]
    never = rules.NeverExit()
    full_costs = self._costs(study.full, never)
    found = [sweep.at(threshold) for threshold in study.grid]
    exits = [sweep.rule_at(threshold) for threshold in study.grid]
    costs = [self._costs(*each) for each in zip(found, exits, strict=True)]
    for objective, deltas in protocol.deltas.items():
      losses = np.stack([study.losses(results, objective) for results in found])
      for delta in deltas:
        run = random_trials(
          losses,
          {key: np.stack([cost[key] for cost in costs]) for key in costs[0]},
          full_costs,
          grid=study.grid,
          delta=delta,
          epsilon=protocol.epsilon,
          p_value=protocol.p_value,
          procedure=protocol.procedure,
          weights=np.stack([num_tokens(results) for results in found]),
          full_weights=num_tokens(study.full),
          num_trials=protocol.num_trials,
          calibration_share=protocol.calibration_share,
          seed=protocol.seed,
        )
        threshold = self._certified(losses, delta)
        chosen = study.full if threshold is None else sweep.at(threshold)
        averages = {
          'layers': run.costs['layers'],
          'flops_reduction': run.reduction('flops'),
          'layer_flops_reduction': run.reduction('layer_flops'),
          'loss': run.risks,
        }
        row = _row('calibrated', sweep.name, objective, delta)
        for key, values in averages.items():
          row[key], row[f'{key}_std'] = mean_and_std(values)
        row |= {'never_exits': run.share_never_exiting, 'threshold': threshold}
        row['rule'] = never if threshold is None else sweep.rule_at(threshold)
        yield row | self._of_all(chosen)

  def _certified(self, losses, delta):
    """The threshold that all examples certify, or None."""
    protocol, grid = self.protocol, self.study.grid
    calibration = testing.calibrate(
      lambda threshold: losses[grid.index(threshold)],
      grid,
      delta,
      protocol.epsilon,
      num_examples=losses.shape[1],
      p_value=protocol.p_value,
      procedure=protocol.procedure,
    )
    return calibration.threshold

  def _of_all(self, results: Results):
    """Losses and metrics of all examples."""
    study = self.study
    losses = {name: float(study.losses(results, name).mean()) for name in study.objectives}
    return losses | study.scores(results)

  def _costs(self, results: Results, rule):
    """Per example float64[n], each per token: layers, FLOPs, and FLOPs without the head's."""
    return {
      'layers': layers(results),
      'flops': self.study.flops(results, rule),
      'layer_flops': self.study.flops(results, rule, with_head=False),
    }

  def _cost_per_token(self, results, rule):
    weights = num_tokens(results)
    costs = self._costs(results, rule)
    return {key: float(np.average(values, weights=weights)) for key, values in costs.items()}

  def _time(self, rows):
    """Enters the speed-ups; a rule that several rows share is timed once."""
    study, protocol = self.study, self.protocol
    by_name: dict[str, Any] = {}
    for row in rows:
      rule = row.pop('rule', None)
      if row['kind'] == 'full' or isinstance(rule, rules.NeverExit):
        by_name['full'], row['timed'] = rules.NeverExit(), 'full'
      elif row['kind'] == 'static':
        layer = int(row['measure'].split()[0])
        by_name[row['measure']], row['timed'] = rules.FixedLayer(layer), row['measure']
      elif rule is not None:
        row['timed'] = f'{row["measure"]} {row["threshold"]:g}'
        by_name[row['timed']] = rule
    inputs = [example.inputs for example in study.stored.examples[: protocol.num_timed]]
    for batch_size in protocol.timed_batch_sizes:
      times = time_rules(
        study.decoder,
        study.text_decoder.params,
        inputs,
        by_name,
        batch_size=batch_size,
        repeats=protocol.repeats,
        inputs_length=study.inputs_length,
      )
      for row in rows:
        if 'timed' in row:
          seconds = times[row['timed']].seconds_per_token
          row[f'speedup_batch_{batch_size}'] = times['full'].seconds_per_token / seconds
    for row in rows:
      row.pop('timed', None)


def _row(kind, measure, objective=None, delta=None):
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
    writer.writerows(rows)


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The table for a terminal: columns side by side, means with their deviation."""
  names = [name for name in columns_of(rows) if name != 'kind' and not name.endswith('_std')]
  cells = [names, *[[_cell(row, name) for name in names] for row in rows]]
  widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
  lines = [
    '  '.join(f'{cell:<{w}}' for cell, w in zip(line, widths, strict=True)) for line in cells
  ]
  return '\n'.join(line.rstrip() for line in lines)


def _cell(row, name):
  value = row.get(name)
  if name == 'threshold' and value is None and row['kind'] == 'calibrated':
    return 'never'
  if value is None:
    return '-'
  if not isinstance(value, float):
    return str(value)
  deviation = row.get(f'{name}_std')
  digits = 3 if name in ('loss', 'textual', 'risk') else 2
  text = f'{value:g}' if name in ('threshold', 'delta') else f'{value:.{digits}f}'
  return text if deviation is None else f'{text} ± {deviation:.{digits}f}'
