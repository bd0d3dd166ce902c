"""From one knob to the thresholds of several models, whatever the range of their scores."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from calm.calibration import testing


@dataclasses.dataclass(frozen=True)
class QuantilePath:
  """From a share in [0, 1] to the thresholds below which that share of each model's scores lay.

  `quantiles[m]` of each model but the last are those at 0, 1 / (m - 1), ..., 1, made by `fit` of
  rows that calibrate nothing. In between they are interpolated; at 0 each model keeps all, at 1
  nothing: so scores of any range are calibrated along one grid of shares.

  Raises:
    ValueError: fewer than two quantiles, or some that fall.
  """

  quantiles: Sequence[Sequence[float]]

  def __post_init__(self) -> None:
    values = tuple(tuple(map(float, one)) for one in self.quantiles)
    object.__setattr__(self, 'quantiles', values)
    for one in values:
      if len(one) < 2 or not np.isfinite(one).all() or (np.diff(one) < 0).any():
        raise ValueError('quantiles must be two or more numbers for each model, none falling.')

  def __call__(self, share: float) -> tuple[float, ...]:
    """A threshold for each model but the last."""
    if share <= 0 or share >= 1:
      return (-math.inf if share <= 0 else math.inf,) * len(self.quantiles)
    return tuple(
      float(np.interp(share, np.linspace(0, 1, len(one)), one)) for one in self.quantiles
    )

  @classmethod
  def fit(cls, scores: np.ndarray, num_quantiles: int = 101) -> 'QuantilePath':
    """The path of scores[K - 1, m], of rows that are not those to be calibrated on.

    Raises:
      ValueError: a model has no scores that are finite.
    """
    shares = np.linspace(0, 1, num_quantiles)
    known = [one[np.isfinite(one)] for one in np.atleast_2d(np.asarray(scores, np.float64))]
    if any(not len(one) for one in known):
      raise ValueError('A model has no finite scores: there is nothing to make thresholds of.')
    return cls([np.quantile(one, shares).tolist() for one in known])


def quantile_grid(scores: np.ndarray, num: int = 20) -> tuple[float, ...]:
  """At most `num` descending thresholds, evenly spread over scores[m] of one model.

  Of rows that calibrate nothing: a grid must not depend on the losses that are tested along it.

  Raises:
    ValueError: there are no finite scores.
  """
  scores = np.asarray(scores, np.float64)
  known = scores[np.isfinite(scores)]
  if not len(known):
    raise ValueError('There are no finite scores to make thresholds of.')
  return testing.check_grid(np.unique(np.quantile(known, np.linspace(0, 1, num)))[::-1].tolist())
