"""The numbers behind the figures: rows of names and values, as they are written to CSV files.

Figures of https://arxiv.org/abs/2207.07061: quality against layers per token for each measure
(Fig. 3), and what a threshold that decays changes (Fig. 2b, 2c).
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm.decoding.stored import Results
from calm.exits import confidence, rules, thresholds
from calm.reporting.study import Study

Rows = list[dict[str, Any]]


def tradeoff(study: Study) -> Rows:
  """Quality and cost of every measure at each threshold, of each fixed depth and of the oracle.

  Rows of 'kind' ('measure', 'static' with the full model as its last, 'oracle'), 'series',
  'threshold' (None where there is none), 'layers' per token, 'flops' per token, 'similarity' to the
  full model's text, and the task's metrics.
  """
  rows = []
  for name, sweep in study.sweeps.items():
    for threshold in study.grid:
      found, rule = sweep.at(threshold), sweep.rule_at(threshold)
      rows.append(_row(study, 'measure', name, threshold, found, rule))
  for layer, found in study.static.items():
    rows.append(_row(study, 'static', 'static', None, found, rules.FixedLayer(layer)))
  rows.append(_row(study, 'static', 'static', None, study.full, rules.NeverExit()))
  rows.append(_row(study, 'oracle', 'oracle', None, study.oracle, rules.Oracle()))
  return rows


def decay_shapes(value: float, taus: Sequence[float], max_length: int) -> Rows:
  """Eq. 5 by position, for one lambda: rows of 'series', 'position' and 'threshold'."""
  positions = np.arange(max_length)
  rows = [
    {'series': 'constant', 'position': int(position), 'threshold': value} for position in positions
  ]
  for tau in taus:
    shape = np.asarray(thresholds.Decaying(value, tau, max_length)(positions, 1), np.float64)
    for position, threshold in zip(positions, shape, strict=True):
      rows.append(
        {'series': _named(tau), 'position': int(position), 'threshold': round(float(threshold), 6)}
      )
  return rows


def decay_tradeoff(study: Study, measure: confidence.Measure, taus: Sequence[float]) -> Rows:
  """One measure with a constant threshold and with thresholds that decay: rows as in `tradeoff`."""
  families: dict[str, Any] = {'constant': thresholds.Constant}
  max_length = study.decoder.max_decode_steps
  for tau in taus:
    families[_named(tau)] = functools.partial(thresholds.Decaying, tau=tau, max_length=max_length)
  rows = []
  for name, threshold_of in families.items():
    sweep = study.sweep(measure, threshold_of)
    for threshold in study.grid:
      found, rule = sweep.at(threshold), sweep.rule_at(threshold)
      rows.append(_row(study, 'measure', name, threshold, found, rule))
  return rows


def _named(tau):
  return f'tau = {tau:g}'


def _row(study, kind, series, threshold, found: Results, rule):
  weights = [row['num_tokens'] for row in found.rows]
  return {
    'kind': kind,
    'series': series,
    'threshold': threshold,
    'layers': found.layers_per_token,
    'flops': float(np.average(study.flops(found, rule), weights=weights)),
    'similarity': 1 - float(study.losses(found, 'textual').mean()),
    **study.scores(found),
  }
