"""How well a score routes: what it gains for each share passed on, against chance and an oracle.

Everything is of two models and of what each example gains by being passed on: the Swift model's
risk less the Super model's. No model is run here.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class TradeOff:
  """Mean gain over the Swift model alone by the share of inputs passed on, linear in between."""

  shares: np.ndarray  # float64[k] ascending, from 0 to 1
  gains: np.ndarray  # float64[k], 0 first

  @property
  def area(self) -> float:
    """Under the gains, over shares from 0 to 1: the mean gain over all shares alike."""
    return float(np.trapezoid(self.gains, self.shares))

  def at(self, share: float) -> float:
    """The gain at a share."""
    return float(np.interp(share, self.shares, self.gains))


def trade_off(scores: np.ndarray, gains: np.ndarray) -> TradeOff:
  """Of passing on the least sure first, of scores[n] and gains[n].

  Rows of one score cannot be told apart by a threshold. What lies between passing on none and all
  of them is the line between, which is to pass on some of them by chance.

  Raises:
    ValueError: there are no scores, or not as many as gains.
  """
  scores, gains = np.asarray(scores, np.float64), np.asarray(gains, np.float64)
  if scores.shape != gains.shape or scores.ndim != 1 or not len(scores):
    raise ValueError(f'Scores {scores.shape} and gains {gains.shape}: some, and as many, needed.')
  order = np.argsort(scores, kind='stable')
  ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1) + 1
  total = np.append(0.0, np.cumsum(gains[order]))
  places = np.append(0, ends)
  return TradeOff(places / len(scores), total[places] / len(scores))


def by_chance(gains: np.ndarray) -> TradeOff:
  """The expectation of passing on a random share: a straight line from Swift to Super."""
  return TradeOff(np.array([0.0, 1.0]), np.array([0.0, float(np.mean(gains))]))


def by_oracle(gains: np.ndarray) -> TradeOff:
  """Of passing on exactly the rows where it helps, the most helpful first, and no more than that.

  At shares above theirs it passes on no others: no score reaches it there.
  """
  helpful = np.sort(np.maximum(0, np.asarray(gains, np.float64)))[::-1]
  total = np.append(0.0, np.cumsum(helpful))
  return TradeOff(np.arange(len(total)) / len(helpful), total / len(helpful))


def recovered_gap(scores: np.ndarray, gains: np.ndarray) -> float:
  """The mean over all shares of how much of the gap between Swift and Super is recovered.

  Average performance gap recovered, APGR: Ong et al., https://arxiv.org/abs/2406.18665. By chance
  0.5; NaN where the two are equally good.
  """
  gap = float(np.mean(gains))
  return trade_off(scores, gains).area / gap if gap else float('nan')


def recovered_share(scores: np.ndarray, gains: np.ndarray) -> float:
  """The area above chance as a share of the oracle's: 0 by chance, 1 for the oracle's own order.

  Negative for a score that is worse than chance; NaN where no order is better than another.
  """
  chance, best = by_chance(gains).area, by_oracle(gains).area
  if not best > chance:
    return float('nan')
  return (trade_off(scores, gains).area - chance) / (best - chance)


Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A value, and the ends between which it lies in 95 of 100 samples of as many examples."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Compared:
  """Scores measured on the same resamples of the same examples."""

  intervals: Mapping[str, Interval]  # of each score
  differences: Mapping[tuple[str, str], Interval]  # of the first of a pair less the second

  def differ(self, one: str, other: str) -> bool:
    """Whether the difference is more than its interval allows for chance."""
    found = self.differences[one, other]
    return found.low > 0 or found.high < 0


def compare(
  scores: Mapping[str, np.ndarray],
  gains: np.ndarray,
  measure: Measure = recovered_share,
  *,
  num_resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> Compared:
  """Intervals of a measure of scores[n] by name, and of the differences of each pair of them.

  By the percentiles of a bootstrap over examples, the same for all scores: what they have in common
  does not blur what sets them apart.

  Raises:
    ValueError: no scores or no resample, or a level outside (0, 1).
  """
  if not scores or num_resamples < 1 or not 0 < level < 1:
    raise ValueError(
      f'{len(scores)} scores, {num_resamples} resamples, level {level}: no interval.'
    )
  gains = np.asarray(gains, np.float64)
  rng = np.random.default_rng(seed)
  picks = rng.integers(0, len(gains), (num_resamples, len(gains)))
  values = {name: measure(one, gains) for name, one in scores.items()}
  samples = {
    name: np.array([measure(np.asarray(one)[pick], gains[pick]) for pick in picks])
    for name, one in scores.items()
  }
  ends = ((1 - level) / 2, (1 + level) / 2)

  def interval(value: float, found: np.ndarray) -> Interval:
    known = found[~np.isnan(found)]
    low, high = np.quantile(known, ends) if len(known) else (float('nan'),) * 2
    return Interval(value, float(low), float(high))

  pairs = [(one, other) for one in scores for other in scores if one != other]
  return Compared(
    {name: interval(values[name], samples[name]) for name in scores},
    {
      (one, other): interval(values[one] - values[other], samples[one] - samples[other])
      for one, other in pairs
    },
  )


def shown(scores: Mapping[str, np.ndarray], gains: np.ndarray) -> dict[str, TradeOff]:
  """The curves of a figure by name: each score's, 'chance' and 'oracle'."""
  found = {name: trade_off(one, gains) for name, one in scores.items()}
  return {**found, 'chance': by_chance(gains), 'oracle': by_oracle(gains)}
