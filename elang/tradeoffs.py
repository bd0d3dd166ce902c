"""The numbers behind the chapter of a router: quality by cost, and what each score recovers."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from elang import curves

CHANCE, ORACLE = 'chance', 'oracle'
SHARES = tuple(np.linspace(0, 1, 41).tolist())
Rows = list[dict]


@dataclasses.dataclass(frozen=True)
class Costs:
  """What each input costs, float64[n], by one name."""

  kept: np.ndarray  # answered by the Swift model
  asking: np.ndarray  # asked of the Swift model alone
  large: np.ndarray  # answered by the Super model

  @property
  def ends(self) -> tuple[float, float]:
    """Of the Swift and of the Super model alone, per input."""
    return float(self.kept.mean()), float(self.large.mean())

  def times(self, factor: float) -> 'Costs':
    """The same in another unit."""
    return Costs(factor * self.kept, factor * self.asking, factor * self.large)


def points(
  scores: Mapping[str, np.ndarray],
  risks: np.ndarray,
  costs: Costs,
  name: str,
  shares: Sequence[float] = SHARES,
) -> Rows:
  """Quality by a cost: of every score, of chance and of the oracle.

  Rows of 'series', 'share' passed on, the cost by its name, and 'quality', 100 (1 - risk).

  - A score passes on the least sure first; who passes on pays for being asked and for the Super's
    answer.
  - 'chance' is the expectation of passing on at random, the straight line from the Swift to the
    Super model: who decides by lot asks nobody first.
  - 'oracle' passes on exactly the inputs where it helps, those first where it helps most for its
    cost, and asks nobody either. Beyond the last of them it stays where it is.

  Args:
    scores: float64[n] by name.
    risks: float64[2, n] of the Swift and the Super model.
    costs: of each input.
    name: of the cost.
    shares: at which scores are shown.
  """
  gains = risks[0] - risks[1]
  quality = 100 * (1 - float(risks[0].mean()))
  rows: Rows = []

  def add(series: str, share: float, cost: float, gain: float) -> None:
    rows.append({'series': series, 'share': share, name: cost, 'quality': quality + 100 * gain})

  low, high = costs.ends
  for series, values in scores.items():
    gained = curves.trade_off(values, gains)
    paid = curves.trade_off(values, costs.asking + costs.large - costs.kept)
    for share in shares:
      add(series, share, low + paid.at(share), gained.at(share))
  for share in (0.0, 1.0):
    add(CHANCE, share, low + share * (high - low), share * float(gains.mean()))
  for share, cost, gain in _oracle(gains, costs.large - costs.kept, len(shares)):
    add(ORACLE, share, low + cost, gain)
  farthest = max(row[name] for row in rows)
  last = rows[-1]
  if last[name] < farthest:
    rows.append({**last, name: farthest})
  return rows


def _oracle(gains: np.ndarray, extra: np.ndarray, most: int) -> list[tuple[float, float, float]]:
  """(share, mean extra cost, mean gain) of passing on what helps, at `most` + 1 places at most."""
  helpful = np.flatnonzero(gains > 0)
  worth = gains[helpful] / np.maximum(extra[helpful], np.finfo(float).tiny)
  order = helpful[np.argsort(-worth, kind='stable')]
  places = np.unique(np.linspace(0, len(order), most + 1).round().astype(int))
  paid, gained = (np.append(0.0, np.cumsum(one[order])) / len(gains) for one in (extra, gains))
  return [(float(k / len(gains)), float(paid[k]), float(gained[k])) for k in places]


def recovered(
  scores: Mapping[str, np.ndarray], gains: np.ndarray, num_resamples: int = 1000
) -> tuple[Rows, curves.Compared]:
  """What each score recovers, the best first, with intervals of 95 % by a bootstrap over inputs.

  Rows of 'series', 'recovered' (the area above chance as a share of the oracle's, 0 by chance and 1
  of the oracle), 'low' and 'high', its interval, and 'APGR', the mean over all shares of
  how much of the gap between the models is recovered (APGR of Ong et al., 0.5 by chance).
  """
  found = curves.compare(scores, gains, num_resamples=num_resamples)
  rows: Rows = [
    {
      'series': name,
      'recovered': one.value,
      'low': one.low,
      'high': one.high,
      'APGR': curves.recovered_gap(scores[name], gains),
    }
    for name, one in found.intervals.items()
  ]
  rows.sort(key=lambda row: -np.nan_to_num(row['recovered'], nan=-np.inf))
  gap = float(gains.mean())
  best = curves.by_oracle(gains).area / gap if gap else float('nan')
  return [
    {'series': ORACLE, 'recovered': 1.0, 'low': None, 'high': None, 'APGR': best},
    *rows,
    {'series': CHANCE, 'recovered': 0.0, 'low': None, 'high': None, 'APGR': 0.5},
  ], found


def verdict(rows: Rows, found: curves.Compared) -> str:
  """Which score routes best, and whether by more than its interval."""
  names = [row['series'] for row in rows if row['series'] not in (CHANCE, ORACLE)]
  best, others = names[0], names[1:]
  interval = found.intervals[best]
  if np.isnan(interval.value):
    return 'no order of them is better than another.'
  said = f'most is recovered by {best}, {interval.value:.2f} of the area above chance'
  if not interval.low > 0:
    return f'{said}, which its interval allows for chance alone.'
  beaten = [name for name in others if found.differ(best, name)]
  equal = [name for name in others if name not in beaten]
  parts = [f'{said}, and not by chance']
  if beaten:
    parts.append(f'clearly less by {_listed(beaten)}')
  if equal:
    parts.append(f'not told apart from {_listed(equal)}')
  return '; '.join(parts) + '.'


def _listed(names: Sequence[str]) -> str:
  return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} and {names[-1]}'
