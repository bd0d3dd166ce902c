"""What a threshold that decays changes: CALM's Fig. 2b and 2c, https://arxiv.org/abs/2207.07061."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm.exits import confidence, thresholds
from calm.reporting import curves
from calm.reporting.curves import Rows
from calm.reporting.study import Study


def shapes(value: float, taus: Sequence[float], max_length: int) -> Rows:
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


def tradeoff(study: Study, measure: confidence.Measure, taus: Sequence[float]) -> Rows:
  """One measure with a constant threshold and with decaying ones: rows as of `curves.tradeoff`."""
  families: dict[str, Any] = {'constant': thresholds.Constant}
  max_length = study.predictor.generator.max_decode_steps
  for tau in taus:
    families[_named(tau)] = functools.partial(thresholds.Decaying, tau=tau, max_length=max_length)
  rows = []
  for name, threshold_of in families.items():
    outcomes = study.outcomes_of(measure, threshold_of)
    for threshold in study.grid:
      rows.append(curves.row(study, 'measure', name, threshold, study.way_of(outcomes, threshold)))
  return rows


def _named(tau: float) -> str:
  return f'tau = {tau:g}'
