"""Speed against accuracy: what a system scores at every threshold, and what that costs.

Rotem et al., section 3.3 and appendix A, https://arxiv.org/abs/2306.02307. The paper calls the
share of the full model's layers that are run the speedup ratio: a small one is fast.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats

NUM_THRESHOLDS = 11
RATIOS = (1 / 12, 1 / 4, 1 / 2, 3 / 4, 1.0)  # where the paper reads its curves
LARGE_RATIOS = (1 / 24, *RATIOS[1:])


def thresholds(num_labels: int, count: int = NUM_THRESHOLDS) -> tuple[float, ...]:
  """Evenly spaced from 1 / num_labels, where all leave at once, to 1, where none does."""
  return tuple(np.linspace(1 / num_labels, 1, count).tolist())


def speedup_ratio(layers: np.ndarray, num_layers: int) -> float:
  """Eq. 1: layers[n] run for each example, as a share of the full model's.

  Of an early-exit model 1 at most; of a multi-model, whose models add up, it may be more.
  """
  return float(np.sum(layers) / (num_layers * len(layers)))


@dataclasses.dataclass(frozen=True)
class Curve:
  """Scores at ratios, of one system and one seed; ratios ascend, each occurs once."""

  ratios: np.ndarray  # float64[p]
  scores: np.ndarray  # float64[p]

  def at(self, ratio: float) -> float:
    """The score at a ratio, between two points on the line; NaN beyond both ends."""
    # Sums of thirds and twelfths meet an end but for rounding.
    low, high = self.ratios[0] - 1e-9, self.ratios[-1] + 1e-9
    if not low <= ratio <= high:
      return float('nan')
    return float(np.interp(ratio, self.ratios, self.scores))

  def area(self, low: float, high: float = 1.0) -> float:
    """The mean score over the ratios from `low` to `high`, on the lines between the points.

    The area under the curve over its width, so that systems of other ends compare. The learning
    rate is chosen by it; the paper does not say between which ends it takes the area.
    NaN if the curve does not reach that far.
    """
    inside = self.ratios[(self.ratios > low) & (self.ratios < high)]
    xs = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid([self.at(x) for x in xs], xs) / (high - low))


def curve(ratios: Sequence[float], scores: Sequence[float]) -> Curve:
  """The curve through points in any order; of those at one ratio, the mean.

  Raises:
    ValueError: there are no points, or not as many of both.
  """
  if not len(ratios) or len(ratios) != len(scores):
    raise ValueError(f'{len(ratios)} ratios and {len(scores)} scores make no curve.')
  xs, where = np.unique(np.round(ratios, 12), return_inverse=True)
  return Curve(xs, np.bincount(where, scores) / np.bincount(where))


def of_outcomes(
  at: Callable[[float], tuple[np.ndarray, float]], values: Sequence[float], num_layers: int
) -> Curve:
  """The curve of a system that gives (layers[n], score) at a threshold."""
  points = [at(value) for value in values]
  return curve([speedup_ratio(layers, num_layers) for layers, _ in points], [s for _, s in points])


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
  """(mean, half the width of its interval) of values over seeds, by Student's t.

  NaN among them are left out; the half width of fewer than two is NaN.
  """
  held = np.array([value for value in values if not np.isnan(value)], np.float64)
  if not len(held):
    return float('nan'), float('nan')
  if len(held) < 2:
    return float(held[0]), float('nan')
  quantile = scipy.stats.t.ppf((1 + level) / 2, len(held) - 1)
  return float(held.mean()), float(quantile * held.std(ddof=1) / np.sqrt(len(held)))
