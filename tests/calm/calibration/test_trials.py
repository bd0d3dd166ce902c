"""The paper's protocol over losses and costs written out."""

import math

import numpy as np
import pytest

from calm.calibration import bounds, testing, trials

GRID = (0.9, 0.5, 0.1)
N = 250


def _constant_losses(*means):
  return np.repeat(np.array(means)[:, None], N, axis=1)


def _layers(*per_threshold):
  return {'layers': np.repeat(np.array(per_threshold, float)[:, None], N, axis=1)}


FULL = {'layers': np.full(N, 8.0)}


def _trials(losses, costs=None, full_costs=None, **other):
  costs = _layers(6, 4, 2) if costs is None else costs
  full_costs = FULL if full_costs is None else full_costs
  return trials.random_trials(losses, costs, full_costs, grid=GRID, delta=0.1, **other)


def test_every_trial_finds_the_threshold_of_equal_examples():
  found = _trials(_constant_losses(0.0, 0.02, 0.3))
  np.testing.assert_array_equal(found.thresholds, np.full(50, 0.5))
  assert found.summary()['risk'] == pytest.approx((0.02, 0))
  assert found.summary()['layers'] == (4, 0)
  np.testing.assert_array_equal(found.full_costs['layers'], np.full(50, 8.0))
  np.testing.assert_array_equal(found.reduction('layers'), np.full(50, 2.0))
  assert found.share_never_exiting == 0


def test_never_exiting_costs_what_the_full_model_costs_and_loses_nothing():
  found = _trials(_constant_losses(0.3, 0.0, 0.0), num_trials=3)
  assert np.isnan(found.thresholds).all()
  assert found.summary() == {'risk': (0, 0), 'layers': (8, 0)}
  assert found.share_never_exiting == 1


def test_parts_are_disjoint_complete_and_random():
  parts, tests = trials.random_parts(53, 0.8, 50, seed=3)
  assert (parts.shape, tests.shape) == ((50, 42), (50, 11))
  for part, test in zip(parts, tests, strict=True):
    assert sorted([*part, *test]) == list(range(53))
  assert len({tuple(sorted(test)) for test in tests}) == 50


def test_the_same_seed_gives_the_same_trials_and_another_does_not():
  rng = np.random.default_rng(5)
  losses = np.minimum(1, rng.random((3, N)) * np.array([[0.05], [0.1], [0.19]]))
  costs = {'layers': rng.random((3, N))}
  one, same, other = (_trials(losses, costs, seed=seed) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one.risks, same.risks)
  np.testing.assert_array_equal(one.costs['layers'], same.costs['layers'])
  assert (one.risks != other.risks).any()


def test_risk_and_costs_are_those_of_the_examples_left_out():
  # The example's number is its cost: the means tell which examples were averaged.
  costs = {'number': np.tile(np.arange(N, dtype=float), (3, 1))}
  found = _trials(_constant_losses(0, 0, 0), costs, {'number': np.zeros(N)}, num_trials=5, seed=7)
  _, tests = trials.random_parts(N, 0.8, 5, seed=7)
  np.testing.assert_allclose(found.costs['number'], tests.mean(axis=1))


def test_calibration_is_that_of_the_package_on_the_part_alone():
  rng = np.random.default_rng(11)
  losses = (rng.random((3, N)) < np.array([[0.02], [0.05], [0.09]])).astype(float)
  for bound in bounds.BOUNDS.values():
    found = _trials(losses, num_trials=10, seed=2, p_value=bound)
    parts, tests = trials.random_parts(N, 0.8, 10, seed=2)
    for i, (part, test) in enumerate(zip(parts, tests, strict=True)):
      p_values = bound(losses[:, part], 0.1)
      threshold = testing.lowest_certified(GRID, p_values, 0.05)
      risk = 0 if threshold is None else losses[GRID.index(threshold), test].mean()
      np.testing.assert_equal(found.thresholds[i], np.nan if threshold is None else threshold)
      assert found.risks[i] == pytest.approx(risk)


def test_weights_average_over_tokens():
  tokens = np.tile(np.where(np.arange(N) % 2, 1.0, 3.0), (3, 1))
  costs = {'layers': np.tile(np.where(np.arange(N) % 2, 5.0, 1.0), (3, 1))}
  found = _trials(
    _constant_losses(0, 0, 0),
    costs,
    FULL,
    weights=tokens,
    full_weights=tokens[0],
    num_trials=4,
    seed=1,
  )
  _, tests = trials.random_parts(N, 0.8, 4, seed=1)
  odd = (tests % 2).sum(axis=1)
  even = tests.shape[1] - odd
  np.testing.assert_allclose(found.costs['layers'], (5 * odd + 3 * even) / (odd + 3 * even))
  np.testing.assert_allclose(found.full_costs['layers'], 8)


def test_the_standard_deviation_is_the_samples():
  assert trials.mean_and_std([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
  assert trials.mean_and_std([5.0]) == (5, 0)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'losses': np.zeros((2, N))}, r'losses have shape \(2, 250\), not \(3, 250\)'),
    ({'losses': np.zeros(N)}, 'losses have shape'),
    ({'losses': np.full((3, N), 2.0)}, 'must lie in'),
    ({'losses': np.full((3, N), np.nan)}, 'losses are not all finite'),
    ({'costs': {'layers': np.zeros((3, 7))}}, r'layers have shape \(3, 7\)'),
    ({'full_costs': {'layers': np.zeros(7)}}, r'full layers have shape \(7,\)'),
    ({'full_costs': {}}, 'costs name'),
    ({'weights': np.ones((3, N))}, 'both weights and full_weights'),
    ({'weights': -np.ones((3, N)), 'full_weights': np.ones(N)}, 'weights must be positive'),
    ({'calibration_share': 1.0}, 'leaves 250 to calibrate on and 0 to test on'),
    ({'calibration_share': 0.1}, '25 examples can never certify'),
    ({'num_trials': 0}, 'num_trials'),
  ],
)
def test_bad_input_is_told(changes, message):
  with pytest.raises(ValueError, match=message):
    _trials(**{'losses': _constant_losses(0, 0, 0), **changes})


def test_what_exceeds_delta_is_counted_by_trial():
  found = trials.Trials(0.1, *map(np.array, ([0.5] * 4, [0.0, 0.1, 0.11, 0.3])), {}, {})
  assert found.share_exceeding == 0.5
