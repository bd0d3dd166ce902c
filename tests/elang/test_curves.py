"""What scores recover of the gap between two models: by hand, and against chance and an oracle."""

import math

import numpy as np
import pytest

from elang import curves

# Passing on helps rows 0 and 2, hurts row 3, and changes nothing for row 1.
GAINS = np.array([1.0, 0.0, 1.0, -1.0])


def test_the_least_sure_are_passed_on_first():
  curve = curves.trade_off(np.array([0.1, 0.2, 0.3, 0.4]), GAINS)
  np.testing.assert_array_equal(curve.shares, [0, 0.25, 0.5, 0.75, 1])
  np.testing.assert_array_equal(curve.gains, [0, 0.25, 0.25, 0.5, 0.25])
  assert curve.at(0.125) == 0.125
  assert curve.area == pytest.approx((0.125 + 0.25 + 0.375 + 0.375) / 4)


def test_rows_of_one_score_are_passed_on_by_chance():
  curve = curves.trade_off(np.array([7.0, 7.0, 7.0, 7.0]), GAINS)
  chance = curves.by_chance(GAINS)
  np.testing.assert_array_equal(curve.shares, chance.shares)
  np.testing.assert_array_equal(curve.gains, chance.gains)
  assert curves.recovered_share(np.zeros(4), GAINS) == 0
  assert curves.recovered_gap(np.zeros(4), GAINS) == 0.5
  # An order of the mean of all orders.
  orders = [curves.trade_off(np.random.default_rng(i).random(4), GAINS).area for i in range(2000)]
  assert np.mean(orders) == pytest.approx(chance.area, abs=0.01)


def test_the_oracle_passes_on_what_it_helps_and_no_more():
  best = curves.by_oracle(GAINS)
  np.testing.assert_array_equal(best.gains, [0, 0.25, 0.5, 0.5, 0.5])
  rng = np.random.default_rng(0)
  for _ in range(50):
    gains, scores = rng.integers(-1, 2, 30), rng.random(30)
    curve, best = curves.trade_off(scores, gains), curves.by_oracle(gains)
    assert all(curve.at(x) <= best.at(x) + 1e-12 for x in np.linspace(0, 1, 31))


def test_the_oracles_own_order_recovers_all_where_nothing_is_hurt():
  gains = np.array([1.0, 0.0, 0.5, 0.0, 1.0])
  assert curves.recovered_share(-gains, gains) == pytest.approx(1)
  assert curves.recovered_share(gains, gains) < 0


def test_scores_count_by_their_order_alone():
  rng = np.random.default_rng(1)
  scores, gains = rng.standard_normal(200), rng.integers(-1, 2, 200)
  for other in (np.exp(scores), 5 * scores - 3, np.arctan(scores)):
    found = curves.recovered_share(other, gains)
    assert found == curves.recovered_share(scores, gains)


def test_where_no_order_is_better_there_is_nothing_to_recover():
  for gains in (np.zeros(5), np.full(5, 0.0)):
    assert math.isnan(curves.recovered_share(np.arange(5.0), gains))
    assert math.isnan(curves.recovered_gap(np.arange(5.0), gains))


def test_intervals_tell_a_score_that_routes_from_one_that_does_not():
  rng = np.random.default_rng(2)
  gains = (rng.random(300) < 0.3).astype(float)
  scores = {'good': -gains + rng.standard_normal(300), 'none': rng.standard_normal(300)}
  scores['same'] = 2 * scores['good'] + 1
  found = curves.compare(scores, gains, num_resamples=200)
  assert found.intervals['good'].low < found.intervals['good'].value < found.intervals['good'].high
  assert found.intervals['none'].low < 0.1
  assert found.differ('good', 'none')
  assert found.differ('none', 'good')
  same = found.differences['good', 'same']
  assert (same.low, same.value, same.high) == (0, 0, 0)
  assert not found.differ('good', 'same')
  assert curves.compare(scores, gains, num_resamples=200) == found


def test_a_figure_shows_scores_chance_and_the_oracle():
  found = curves.shown({'energy': np.arange(4.0)}, GAINS)
  assert list(found) == ['energy', 'chance', 'oracle']
  assert {curve.at(0) for curve in found.values()} == {0}


def test_what_has_no_curve_is_refused():
  with pytest.raises(ValueError, match='as many, needed'):
    curves.trade_off(np.zeros(3), GAINS)
  with pytest.raises(ValueError, match='no interval'):
    curves.compare({}, GAINS)
