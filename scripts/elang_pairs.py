"""What pairs of a Swift and a Super model give when routed, of what each has said of the same rows.

No model is run here. Rows are those of `SETS`; of models of several seeds what is reported is the
mean over the seeds, with its interval by a bootstrap over rows, the same for all seeds and scores.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm.calibration import bounds, consistency, testing
from calm.calibration.trials import random_trials
from elang import compared, curves, energy, tradeoffs
from elang.paths import QuantilePath

# Scored; calibrated on; more of the same kind, for other parts to calibrate on; and those whose
# scores make thresholds. None was trained on, and none is in two, but that 'trial' may be scored.
SETS = ('evaluation', 'calibration', 'trial', 'path')
OWN, PLAIN = 'energy', 'softmax'
SCORES = (OWN, PLAIN, 'entropy', 'margin', 'published', compared.LENGTH)
MODELS = ('swift', 'large')
LEAST_GAP = 3.0  # points, beyond the spread over seeds
EPSILON = 0.05
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Said:
  """What a model says of a set of rows, and what it should."""

  logits: np.ndarray  # float32[n, C]
  labels: np.ndarray  # int[n]
  flops: np.ndarray  # float64[n]
  num_words: np.ndarray  # int[n], of the texts

  @property
  def risks(self) -> np.ndarray:
    """1 where the answer is wrong, float64[n]."""
    return (self.logits.argmax(-1) != self.labels).astype(np.float64)

  @functools.cached_property
  def scores(self) -> dict[str, np.ndarray]:
    """All of SCORES by name, float64[n], higher for surer."""
    found = {**energy.of_logits(self.logits), compared.LENGTH: -self.num_words.astype(np.float64)}
    return {name: found[name] for name in SCORES}

  def with_rows(self, other: 'Said') -> 'Said':
    """The same model's of these rows and others."""
    mine, its = dataclasses.asdict(self), dataclasses.asdict(other)
    return Said(**{name: np.concatenate([mine[name], its[name]]) for name in mine})


@dataclasses.dataclass(frozen=True)
class Settings:
  """How pairs are judged."""

  delta: float = 0.02  # by how much the joint loss may exceed the Super model's
  num_trials: int = 100
  num_resamples: int = 500


@dataclasses.dataclass(frozen=True)
class Pair:
  """A Swift and a Super model of one seed, by what they say of each of SETS."""

  swift: Mapping[str, Said]
  large: Mapping[str, Said]

  @property
  def gains(self) -> np.ndarray:
    """What passing on gains, float64[n] in -1, 0 and 1."""
    return self.swift['evaluation'].risks - self.large['evaluation'].risks

  @property
  def scores(self) -> dict[str, np.ndarray]:
    """Those of the rows that are scored."""
    return self.swift['evaluation'].scores


@dataclasses.dataclass(frozen=True)
class Group:
  """Pairs that differ in their seed alone."""

  task: str
  swift: str  # what the Swift model is
  start: str  # of its classifier
  pairs: Sequence[Pair]
  timed: Mapping[str, Any] | None = None  # by batch size

  @property
  def head(self) -> dict[str, Any]:
    """What a row of a table begins with."""
    return {'task': self.task, 'Swift': self.swift, 'start': self.start, 'seeds': len(self.pairs)}

  def accuracies(self, which: str) -> np.ndarray:
    """In percent, float64[seeds]; `which` is 'swift' or 'large'."""
    risks = (getattr(pair, which)['evaluation'].risks for pair in self.pairs)
    return np.array([100 * (1 - one.mean()) for one in risks])

  @property
  def gaps(self) -> np.ndarray:
    """Points by which the Super model is better, float64[seeds]."""
    return self.accuracies('large') - self.accuracies('swift')

  @property
  def apart(self) -> bool:
    """Whether it is better by LEAST_GAP beyond the spread over seeds; of one seed nobody knows."""
    return len(self.pairs) > 1 and float(self.gaps.mean() - self.gaps.std(ddof=1)) >= LEAST_GAP


def accuracies(groups: Sequence[Group]) -> Rows:
  """A row for each group: both accuracies, their difference, and whether they are far enough apart.

  Deviations are those over seeds.
  """
  rows = []
  for group in groups:
    row = group.head
    for name, values in (
      ('Swift, %', group.accuracies('swift')),
      ('Super, %', group.accuracies('large')),
      ('Super less Swift', group.gaps),
    ):
      row[name] = float(values.mean())
      row[f'{name}_std'] = float(values.std(ddof=1)) if len(values) > 1 else None
    why = 'one seed' if len(group.pairs) < 2 else f'not {LEAST_GAP:g} points beyond the spread'
    rows.append({**row, 'plotted': 'yes' if group.apart else f'no: {why}'})
  return rows


@dataclasses.dataclass(frozen=True)
class Recovered:
  """What each score recovers of the area between chance and the oracle, the mean over pairs."""

  rows: Rows  # as `elang.tradeoffs.recovered` gives them
  found: curves.Compared
  names: Mapping[str, str]  # from a score to that of its family, which orders rows alike

  @property
  def verdict(self) -> str:
    """Which score routes best, and whether by more than its interval."""
    return tradeoffs.verdict(self.rows, self.found)

  @property
  def beyond_plain(self) -> curves.Interval | None:
    """The energy's less that of softmax; None where they order all rows alike."""
    return self.found.differences.get((self.names[OWN], self.names[PLAIN]))


def recovered(pairs: Sequence[Pair], num_resamples: int) -> Recovered:
  """Of pairs over the same rows."""
  scores = [pair.scores for pair in pairs]
  joined = {name: np.concatenate([one[name] for one in scores]) for name in SCORES}
  families = compared.families(joined, OWN)
  stacked = {
    family.name: np.stack([one[family.stands_for] for one in scores], -1) for family in families
  }
  gains = np.stack([pair.gains for pair in pairs], -1)
  found = curves.compare(
    stacked, gains, functools.partial(_mean, curves.recovered_share), num_resamples=num_resamples
  )
  rows: Rows = [
    {
      'series': name,
      'recovered': one.value,
      'low': one.low,
      'high': one.high,
      'APGR': _mean(curves.recovered_gap, stacked[name], gains),
    }
    for name, one in found.intervals.items()
  ]
  rows.sort(key=lambda row: -np.nan_to_num(row['recovered'], nan=-np.inf))
  names = {member: family.name for family in families for member in family.members}
  return Recovered(rows, found, names)


def oracle_gap(pairs: Sequence[Pair]) -> float:
  """The oracle's APGR, the mean over pairs; NaN where no Super model is better or worse."""
  found = [
    curves.by_oracle(pair.gains).area / pair.gains.mean() for pair in pairs if pair.gains.mean()
  ]
  return float(np.mean(found)) if found else float('nan')


def _mean(measure: curves.Measure, scores: np.ndarray, gains: np.ndarray) -> float:
  """Of a measure of each pair of columns of scores[n, k] and gains[n, k] that has one."""
  values = [measure(one, gain) for one, gain in zip(scores.T, gains.T, strict=True)]
  known = [value for value in values if not np.isnan(value)]
  return float(np.mean(known)) if known else float('nan')


@dataclasses.dataclass(frozen=True)
class Certified:
  """The lowest threshold of a score that keeps the tolerance, certified on calibration rows."""

  share: float | None  # of other rows that it passes on; None passes all on
  threshold: float | None


GRID = testing.descending_grid()


def certify(pair: Pair, score: str, delta: float) -> Certified:
  """By the Swift model's and the Super model's answers to the rows that are calibrated on.

  Raises:
    ValueError: they are too few to certify the tolerance.
  """
  losses = _losses(pair, score, 'calibration')
  found = testing.calibrate(
    lambda share: losses[GRID.index(share)], GRID, delta, EPSILON, num_examples=losses.shape[1]
  )
  share = found.threshold
  return Certified(share, None if share is None else _path(pair, score)(share)[0])


def can_certify(pair: Pair, delta: float) -> bool:
  """Whether there are rows enough to certify a tolerance."""
  return testing.can_certify(len(pair.swift['calibration'].labels), delta, EPSILON)


def certified(pair: Pair, score: str, settings: Settings) -> dict[str, float]:
  """What a certified threshold gives on the rows that are scored, and over other calibrations.

  'share' and 'passed on' in percent, 'accuracy' in percent, 'below the Super' in points, 'loss',
  the increase that is bounded, in percent, 'FLOPs', 'FLOPs saved' as the Super's over these, and
  'violations' and 'never exits', percent of `num_trials` random calibrations on as many rows.
  """
  delta = settings.delta
  chosen = certify(pair, score, delta)
  swift, large = pair.swift['evaluation'], pair.large['evaluation']
  passed = _passed(swift.scores[score], chosen.threshold)
  risks = np.where(passed, large.risks, swift.risks)
  flops = _flops(swift, large, passed, asks=chosen.threshold is not None)
  trials = _trials(pair, score, settings)
  return {
    'share': 100 * (1.0 if chosen.share is None else chosen.share),
    'passed on': 100 * float(passed.mean()),
    'accuracy': 100 * (1 - float(risks.mean())),
    'below the Super': 100 * float((risks - large.risks).mean()),
    'loss': 100 * float(consistency.risk_increase(risks, large.risks).mean()),
    'FLOPs': float(flops.mean()),
    'FLOPs saved': float(large.flops.mean() / flops.mean()),
    'violations': 100 * float((trials.risks > delta).mean()),
    'never exits': 100 * trials.share_never_exiting,
  }


def _trials(pair: Pair, score: str, settings: Settings) -> Any:
  swift, large = (one['calibration'].with_rows(one['trial']) for one in (pair.swift, pair.large))
  both = Pair({**pair.swift, 'all': swift}, {**pair.large, 'all': large})
  thresholds = [_path(pair, score)(share)[0] for share in GRID]
  flops = [_flops(swift, large, _passed(swift.scores[score], one)) for one in thresholds]
  return random_trials(
    _losses(both, score, 'all'),
    {'flops': np.stack(flops)},
    {'flops': large.flops},
    grid=GRID,
    delta=settings.delta,
    epsilon=EPSILON,
    p_value=bounds.hoeffding_bentkus,
    num_trials=settings.num_trials,
    calibration_share=len(pair.swift['calibration'].labels) / len(swift.labels),
  )


def _path(pair: Pair, score: str) -> QuantilePath:
  return QuantilePath.fit(pair.swift['path'].scores[score][None])


def _losses(pair: Pair, score: str, rows: str) -> np.ndarray:
  """By how much the joint risk exceeds the Super's at each share of GRID, float64[k, n]."""
  swift, large = pair.swift[rows], pair.large[rows]
  thresholds = (_path(pair, score)(share)[0] for share in GRID)
  passed = np.stack([_passed(swift.scores[score], one) for one in thresholds])
  joint = np.where(passed, large.risks, swift.risks)
  return np.stack([consistency.risk_increase(one, large.risks) for one in joint])


def _passed(scores: np.ndarray, threshold: float | None) -> np.ndarray:
  return ~(scores >= (np.inf if threshold is None else threshold))


def _flops(swift: Said, large: Said, passed: np.ndarray, *, asks: bool = True) -> np.ndarray:
  """Of each row; who passes on pays for both models, unless the first is not asked."""
  return np.where(passed, large.flops + (swift.flops if asks else 0), swift.flops)


def points(group: Group) -> tuple[Rows, dict[str, tuple[float, float]]]:
  """Quality by FLOPs as `elang.tradeoffs.points` gives it, of all seeds together, and both ends.

  Scores of different seeds have different ranges: each is replaced by its rank within its seed.
  """
  families = compared.families(
    {name: np.concatenate([pair.scores[name] for pair in group.pairs]) for name in SCORES}, OWN
  )
  values = {
    family.name: np.concatenate([_ranks(pair.scores[family.stands_for]) for pair in group.pairs])
    for family in families
  }
  models = [[getattr(pair, which)['evaluation'] for pair in group.pairs] for which in MODELS]
  risks = np.array([np.concatenate([one.risks for one in said]) for said in models])
  swift, large = (np.concatenate([one.flops for one in said]) for said in models)
  costs = tradeoffs.Costs(swift, swift, large)
  quality = 100 * (1 - risks.mean(-1))
  ends = dict(zip(('Swift', 'Super'), zip(costs.ends, quality.tolist(), strict=True), strict=True))
  return tradeoffs.points(values, risks, costs, 'flops'), ends


def _ranks(values: np.ndarray) -> np.ndarray:
  return np.searchsorted(np.sort(values), values) / len(values)
