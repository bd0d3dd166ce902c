"""p-values: written-out values, and super-uniformity under the null, exact and simulated."""

import math

import numpy as np
import pytest
from scipy import stats

from calm.calibration import bounds

ALL = pytest.mark.parametrize('bound', bounds.BOUNDS.values(), ids=bounds.BOUNDS)


def _ones(count, n):
  """n losses, of which the first `count` are 1."""
  return (np.arange(n) < count).astype(float)


def test_hoeffding_is_equation_9():
  losses = [0.0, 0.1, 0.2, 0.1, 0.0]  # Mean 0.08.
  assert bounds.hoeffding(losses, 0.25) == pytest.approx(math.exp(-2 * 5 * 0.17**2))


@pytest.mark.parametrize('n', [1, 7, 60, 1000])
def test_zero_loss_gives_the_power_of_one_minus_delta(n):
  assert bounds.hoeffding_bentkus(np.zeros(n), 0.05) == pytest.approx(0.95**n)


def test_sixty_examples_without_loss_certify_five_percent():
  # Learn then Test's public code gives 0.125 here: 0 log 0 is NaN there, and Bentkus is left.
  assert bounds.hoeffding_bentkus(np.zeros(60), 0.05) == pytest.approx(0.0460698, abs=1e-7)


def _binomial_cdf(k, n, p):
  return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(
  ('count', 'n', 'delta'), [(0, 5, 0.3), (1, 60, 0.1), (3, 100, 0.1), (40, 500, 0.1), (7, 7, 0.9)]
)
def test_hoeffding_bentkus_is_the_smaller_of_two_written_out(count, n, delta):
  a = min(count / n, delta)
  kl = (a * math.log(a / delta) if a else 0) + (1 - a) * math.log((1 - a) / (1 - delta))
  bentkus = math.e * _binomial_cdf(count, n, delta)
  assert bentkus == pytest.approx(math.e * stats.binom.cdf(count, n, delta))
  expected = min(math.exp(-n * kl), bentkus)
  assert bounds.hoeffding_bentkus(_ones(count, n), delta) == pytest.approx(expected)


def test_bentkus_decides_where_it_is_the_smaller():
  # Mean 0.08 of 500: Hoeffding's KL form gives 0.31, e times the binomial tail 0.20.
  p = bounds.hoeffding_bentkus(_ones(40, 500), 0.1)
  assert p == pytest.approx(math.e * stats.binom.cdf(40, 500, 0.1))


@pytest.mark.parametrize(
  'losses', [[0.1] * 10 + [0.0] * 20, [0.1, 0.2, 0.7] + [0.0] * 27, [1 / 3] * 3 + [0.0] * 27]
)
def test_a_total_of_one_counts_as_one_in_spite_of_float_noise(losses):
  expected = bounds.hoeffding_bentkus(_ones(1, 30), 0.1)
  for order in (losses, losses[::-1]):
    assert bounds.hoeffding_bentkus(order, 0.1) == pytest.approx(expected, rel=1e-12)


def test_counts_are_exact_for_every_total():
  # 0.29 * 100 is 28.999999999999996 and 0.07 * 100 is 7.000000000000001.
  for count in range(101):
    exact = bounds.hoeffding_bentkus(_ones(count, 100), 0.4)
    assert bounds.hoeffding_bentkus_of_mean(count / 100, 100, 0.4) == exact
    assert exact <= math.e * stats.binom.cdf(count, 100, 0.4) * (1 + 1e-9)


def test_the_capital_of_betting_by_hand():
  # delta 0.5, cap 1/2: bets at most 1, so at first min(sqrt(2 log 20 / (2 / 4)), 1) = 1, and again.
  # Capital 1 + 0.5 = 1.5 after the loss of 0, then 1.5 * (1 - 0.5) = 0.75 after the loss of 1.
  assert bounds.betting([0.0, 1.0], 0.5, cap=0.5) == pytest.approx(1 / 1.5)
  # The other way round: 0.5, then 0.75: never above the 1 it started with.
  assert bounds.betting([1.0, 0.0], 0.5, cap=0.5) == 1


def test_the_bets_of_betting_follow_the_variance_seen_before():
  losses, delta, n = [0.2, 0.0, 0.6], 0.3, 3
  # Means (1/2 + sum) / (t + 1): 0.35, then 0.7 / 3; variances (1/4 + sum of squares) / (t + 1).
  variances = [0.25, (0.25 + 0.15**2) / 2, (0.25 + 0.15**2 + (0.7 / 3) ** 2) / 3]
  capital = [1.0]
  for loss, variance in zip(losses, variances, strict=True):
    bet = min(math.sqrt(2 * math.log(1 / 0.9) / (n * variance)), 0.9 / 0.7)
    capital.append(capital[-1] * (1 + bet * (0.3 - loss)))
  assert 0 < bet < 0.9 / 0.7
  assert bounds.betting(losses, delta, epsilon=0.9) == pytest.approx(1 / max(capital))


def test_betting_everything_can_ruin_but_keeps_the_best_capital():
  p = bounds.betting([0.0] * 20 + [1.0] + [0.0] * 20, 0.25, cap=1.0)
  assert p == pytest.approx(bounds.betting([0.0] * 20 + [1.0] * 21, 0.25, cap=1.0))
  assert 0 < p < 1


def test_betting_is_the_stronger_for_graded_losses():
  losses = np.tile([0.0, 0.02, 0.05, 0.09], 25)  # Mean 0.04.
  assert bounds.betting(losses, 0.1) < 0.01 < 0.05 < bounds.hoeffding_bentkus(losses, 0.1)


@ALL
def test_rows_are_separate_samples(bound):
  losses = np.abs(np.sin(np.arange(2 * 3 * 7.0))).reshape(2, 3, 7) ** 4
  alone = [[bound(row, 0.6) for row in rows] for rows in losses]
  np.testing.assert_allclose(bound(losses, 0.6), alone)
  assert bound(losses, 0.6).shape == (2, 3)


@ALL
def test_p_values_stay_in_the_unit_interval(bound):
  for losses in (np.zeros(3), np.ones(3), np.full(3, 0.5), np.zeros(100_000), [0, 1, True]):
    for delta in (1e-9, 0.5, 1 - 1e-9):
      assert 0 <= bound(losses, delta) <= 1


@ALL
def test_no_evidence_in_losses_at_the_tolerance(bound):
  assert bound(np.full(50, 0.25), 0.25) == 1
  assert bound(np.full(50, 0.9), 0.25) == 1


@ALL
def test_more_loss_never_makes_p_smaller(bound):
  p = [bound(_ones(count, 50)[::-1], 0.3) for count in range(51)]
  assert np.all(np.diff(p) >= 0)


@ALL
@pytest.mark.parametrize(
  ('losses', 'message'),
  [
    ([0.1, float('nan')], r'1 of 2 do not; the first is nan'),
    ([0.1, 1.5, -0.5], r'2 of 3 do not; the first is 1.5'),
    ([], 'at least one loss'),
    (0.5, 'at least one loss'),
  ],
)
def test_bad_losses_are_refused(bound, losses, message):
  with pytest.raises(ValueError, match=message):
    bound(losses, 0.1)


@ALL
@pytest.mark.parametrize('delta', [0, 1, -0.1, float('nan')])
def test_bad_tolerances_are_refused(bound, delta):
  with pytest.raises(ValueError, match='delta must lie between'):
    bound([0.1], delta)


def test_bad_settings_of_betting_are_refused():
  with pytest.raises(ValueError, match='epsilon'):
    bounds.betting([0.1], 0.1, epsilon=0)
  with pytest.raises(ValueError, match='cap'):
    bounds.betting([0.1], 0.1, cap=1.1)


@pytest.mark.parametrize('n', [1, 7, 60, 500])
@pytest.mark.parametrize('delta', [0.02, 0.1, 0.25, 0.6])
@pytest.mark.parametrize('bound', [bounds.hoeffding_of_mean, bounds.hoeffding_bentkus_of_mean])
def test_super_uniform_exactly_for_bernoulli_losses(bound, delta, n):
  # p rises with the count, so P(p <= p(k)) is the binomial's distribution function at the last
  # count with that p; it must not exceed p(k).
  counts = np.arange(n + 1)
  p = bound(counts / n, n, delta)
  assert np.all(np.diff(p) >= 0)
  last = np.searchsorted(p, p, side='right') - 1
  assert np.all(stats.binom.cdf(last, n, delta) <= p * (1 + 1e-9))


def _two_point(rng, mean, size):
  return np.where(rng.random(size) < 0.5, 0.0, 2 * mean)


def _uniform_or_nothing(rng, mean, size):
  return np.where(rng.random(size) < 2 * mean, rng.random(size), 0.0)


# Losses of a given mean, at most 1/2.
DISTRIBUTIONS = {
  'bernoulli': lambda rng, mean, size: (rng.random(size) < mean).astype(float),
  'beta': lambda rng, mean, size: rng.beta(2 * mean, 2 * (1 - mean), size),
  'two_point': _two_point,
  'uniform_or_nothing': _uniform_or_nothing,
  'narrow': lambda rng, mean, size: mean * (0.9 + 0.2 * rng.random(size)),
}


@pytest.mark.parametrize('draw', DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@pytest.mark.parametrize('n', [5, 60, 211])
@pytest.mark.parametrize('delta', [0.02, 0.1, 0.4])
def test_super_uniform_under_the_null(draw, delta, n):
  rng = np.random.default_rng(17)
  num_samples = 2000
  # The hardest of the null: a mean of exactly delta.
  losses = draw(rng, delta, (num_samples, n))
  for bound in bounds.BOUNDS.values():
    p = bound(losses, delta)
    for level in (0.01, 0.05, 0.1, 0.3, 0.6, 0.9):
      # Four standard errors: some 800 comparisons are made.
      error = 4 * math.sqrt(level * (1 - level) / num_samples)
      assert np.mean(p <= level) <= level + error, (bound.__name__, level)


def test_the_simulation_tells_an_invalid_p_value():
  # The normal approximation takes a sample without loss for certainty.
  rng = np.random.default_rng(17)
  losses = DISTRIBUTIONS['bernoulli'](rng, 0.02, (2000, 60))
  errors = np.maximum(losses.std(axis=-1), 1e-9) / math.sqrt(60)
  p = stats.norm.cdf((losses.mean(axis=-1) - 0.02) / errors)
  assert np.mean(p <= 0.05) > 0.2
