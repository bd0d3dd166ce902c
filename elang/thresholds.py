"""Where to set the knob: by the crossing of two densities, by a budget, or with a certificate.

All of it is decided from one evaluation of each model on one split (`calm.evaluation.outcomes`'s
`Replay`): no threshold needs another run.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import seqio
from scipy import optimize, stats

from calm.calibration import bounds, certificate, consistency, testing
from calm.evaluation import calibrate
from calm.settings import Count, Level
from elang.recorded import Recorded
from elang.routing import Router

POINTS = 512  # At which densities are compared before a crossing is refined.


@dataclasses.dataclass(frozen=True)
class Crossing:
  """A threshold where densities cross, all crossings that were found, and how it was chosen."""

  threshold: float | None  # None: pass all on.
  crossings: tuple[float, ...]  # From wrong above right to right above wrong, ascending.
  reason: str


def by_crossing(scores: np.ndarray, right: np.ndarray, *, weighted: bool = False) -> Crossing:
  """Where the density of the scores that are right rises above that of those that are wrong.

  The paper takes the crossing point of its Figure 3, whose two groups are the inputs answered by
  the Swift and by the Super model. These groups are made by the threshold that they are to give, so
  that densities cross there whatever it is. Here the groups are what the Swift model gets right and
  wrong, which no threshold enters.

  Of several crossings the one is taken at which most of the right are kept and most of the wrong
  passed on: share of the right above less share of the wrong above. Where densities cannot be
  estimated (a group of fewer than two different scores), the same is asked of the scores
  themselves. All are kept if none is wrong, none if none is right, or if what is wrong scores as
  high as what is right.

  Args:
    scores: float[n] of the Swift model; what is not finite is left out.
    right: bool[n], whether it is right.
    weighted: with each group's density times its share of all, so that they cross where an input
      is as likely right as wrong, and not where its score is as typical of the one as of the other.

  Raises:
    ValueError: no scores, or not as many as answers.
  """
  scores, right = np.asarray(scores, np.float64), np.asarray(right, bool)
  if scores.shape != right.shape or scores.ndim != 1 or not np.isfinite(scores).any():
    raise ValueError(f'Scores {scores.shape} and answers {right.shape}: some, and as many, needed.')
  known = np.isfinite(scores)
  good, bad = scores[known & right], scores[known & ~right]
  if not len(bad):
    return Crossing(-math.inf, (), 'nothing is wrong')
  if not len(good):
    return Crossing(None, (), 'nothing is right')
  if min(len(np.unique(good)), len(np.unique(bad))) < 2:
    candidates = np.unique(scores[known])
    return _best(candidates, (), good, bad, 'too few different scores for a density')
  found = _crossings(good, bad, (float(len(good)), float(len(bad))) if weighted else (1.0, 1.0))
  if not found and weighted:
    above = len(good) > len(bad)
    reason = f'what is {"right" if above else "wrong"} is more frequent at every score'
    return Crossing(-math.inf if above else None, (), reason)
  return _best(np.array(found), tuple(found), good, bad, 'densities cross')


def _crossings(good: np.ndarray, bad: np.ndarray, weights: tuple[float, float]) -> list[float]:
  """Where weights[0] times the density of `good` rises above that of `bad`, ascending."""
  densities = [stats.gaussian_kde(group) for group in (good, bad)]
  margin = max(
    3 * density.factor * group.std() for density, group in zip(densities, (good, bad), strict=True)
  )
  both = np.concatenate([good, bad])
  points = np.linspace(both.min() - margin, both.max() + margin, POINTS)

  def difference(at: Any) -> np.ndarray:
    of_good, of_bad = (density(at) for density in densities)
    return weights[0] * of_good - weights[1] * of_bad

  values = difference(points)
  # Far out both are 0 but for rounding, and cross at random.
  clear = np.abs(values) > 1e-9 * np.abs(values).max()
  points, values = points[clear], values[clear]
  rising = np.flatnonzero((values[:-1] < 0) & (values[1:] > 0))
  return [
    float(optimize.brentq(lambda x: float(difference(x)[0]), points[i], points[i + 1]))
    for i in rising
  ]


def _best(
  candidates: np.ndarray,
  crossings: tuple[float, ...],
  good: np.ndarray,
  bad: np.ndarray,
  reason: str,
) -> Crossing:
  """The candidate that separates best; None if none is better than passing all on."""
  gains = [(good >= t).mean() - (bad >= t).mean() for t in candidates]
  if not len(gains) or max(gains) <= 0:
    return Crossing(None, crossings, 'what is wrong scores as high as what is right')
  return Crossing(float(candidates[int(np.argmax(gains))]), crossings, reason)


def by_budget(
  found: Recorded, cost: str, budget: float, grid: Sequence[float] | None = None
) -> float | None:
  """The highest threshold whose mean cost is within a budget; None if the last model's alone is.

  Args:
    found: of a split like what is to come.
    cost: 'passed_on' (the share of inputs, for two models), or a price that all models have, such
      as 'flops' or 'seconds'. Who passes on is paid for.
    budget: per example.
    grid: descending thresholds to choose from; by default, for two models, all that differ. Several
      models need it, and a path.

  Raises:
    ValueError: no threshold is within the budget; says what the cheapest costs.
  """
  if found.costs_at(cost, None).mean() <= budget:
    return None
  if grid is None:
    if len(found.router.models) > 2:
      raise ValueError('Thresholds of more than two models lie along a path: give its grid.')
    different = np.unique(found.scores[np.isfinite(found.scores)])[::-1].tolist()
    grid = [*different, -math.inf]
  costs = []
  for threshold in grid:
    costs.append(float(found.costs_at(cost, threshold).mean()))
    if costs[-1] <= budget:
      return float(threshold)
  raise ValueError(f'No threshold keeps {cost} at {budget:g}: the least is {min(costs):g}.')


def by_quality(
  *,
  task: seqio.Task,
  split: str,
  router: Router,
  workdir: str,
  deltas: Sequence[Level] = (0.02,),
  grid: Sequence[float] | None = None,
  epsilon: Level = 0.05,
  dissimilarity: consistency.Dissimilarity = consistency.exact_match,
  objective: Literal['textual', 'risk'] = 'risk',
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
  limit: Count | None = None,
) -> list[certificate.Certificate]:
  """Certifies the lowest threshold that keeps the router near its last model.

  What is bounded ('risk') is the expected loss of the router less that of the last model, of which
  only increases count, so that the difference itself is bounded all the more; 'textual' compares
  what the two say. Both from one run of each model. Arguments are `calm.evaluation.calibrate`'s.

  Args:
    task: a `seqio.Task`.
    split: its split, of examples that neither trained a model nor made the path or the grid.
    router: with a path (`QuantilePath`), whose knob is certified, if it has several tiers.
    workdir: folder of the run.
    deltas: tolerances, each certified on its own.
    grid: descending thresholds, as of `quantile_grid`; of a path by default 0.95 to 0.
    epsilon: the probability with which a certificate may be wrong.
    dissimilarity: of predictions and references.
    objective: 'risk' or 'textual'.
    p_value: of losses and delta.
    procedure: which p-values reject.
    limit: examples at most.

  Raises:
    ValueError: there is neither path nor grid, since scores may be any number; or as `calibrate`.
  """
  if grid is None and router.path is None:
    raise ValueError(
      'Scores may be any number: give a grid of thresholds (quantile_grid of the scores of other'
      ' rows), or the router a path (QuantilePath.fit of them).'
    )
  return calibrate.calibrate(
    task=task,
    split=split,
    predictor=router,
    workdir=workdir,
    deltas=deltas,
    epsilon=epsilon,
    objective=objective,
    dissimilarity=dissimilarity,
    grid=grid,
    p_value=p_value,
    procedure=procedure,
    limit=limit,
  )
