"""The numbers behind the figures: rows of names and values, as they are written to CSV files.

Figures of https://arxiv.org/abs/2207.07061: quality against cost for each family (Fig. 3), and what
a threshold that decays changes (Fig. 2b, 2c).
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm.exits import confidence, thresholds
from calm.reporting.comparison import Comparison, Way
from calm.reporting.study import Study

Rows = list[dict[str, Any]]


def tradeoff(study: Comparison) -> Rows:
  """Quality and cost of every family at each threshold, of each static system and the oracle.

  Rows of 'kind' ('measure', 'static' with the full system as its last, 'oracle'), 'series',
  'threshold' (None where there is none), each cost per unit (as 'layers'), 'similarity' to the full
  system's text, and the task's metrics.
  """
  rows = []
  for name in study.families:
    for threshold in study.grid:
      rows.append(_row(study, 'measure', name, threshold, study.at(name, threshold)))
  rows += [_row(study, 'static', 'static', None, way) for way in (*study.static, study.full)]
  if study.oracle is not None:
    rows.append(_row(study, 'oracle', 'oracle', None, study.oracle))
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
  max_length = study.predictor.generator.max_decode_steps
  for tau in taus:
    families[_named(tau)] = functools.partial(thresholds.Decaying, tau=tau, max_length=max_length)
  rows = []
  for name, threshold_of in families.items():
    outcomes = study.outcomes_of(measure, threshold_of)
    for threshold in study.grid:
      rows.append(_row(study, 'measure', name, threshold, study.way_of(outcomes, threshold)))
  return rows


def _named(tau):
  return f'tau = {tau:g}'


def _row(study: Comparison, kind, series, threshold, way: Way):
  return {
    'kind': kind,
    'series': series,
    'threshold': threshold,
    **{name: way.cost(name) for name in study.costs},
    'similarity': 1 - float(study.losses(way, 'textual').mean()),
    **study.scores(way),
  }
