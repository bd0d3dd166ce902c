"""Walking down the grid: order, laziness, sample sizes, and the guarantee in simulation."""

import functools
import math

import numpy as np
import pytest

from calm.calibration import bounds, testing

GRID = (0.9, 0.7, 0.5, 0.3, 0.1)


def test_fixed_sequence_stops_at_the_first_failure():
  rejected = testing.fixed_sequence([0.01, 0.05, 0.06, 0.0, 0.01], 0.05)
  np.testing.assert_array_equal(rejected, [True, True, False, False, False])


def test_bonferroni_divides_epsilon_and_jumps_failures():
  rejected = testing.bonferroni([0.01, 0.011, 0.06, 0.0, 0.01], 0.05)
  np.testing.assert_array_equal(rejected, [True, False, False, True, True])


@pytest.mark.parametrize('procedure', testing.PROCEDURES.values(), ids=testing.PROCEDURES)
def test_rows_of_p_values_are_separate_families(procedure):
  p_values = np.abs(np.sin(np.arange(35.0))).reshape(7, 5) / 10
  alone = [procedure(row, 0.05) for row in p_values]
  np.testing.assert_array_equal(procedure(p_values, 0.05), alone)


class _Asked:
  """losses_at for means written out by threshold; remembers what it was asked for."""

  def __init__(self, means, num_examples=400):
    self.means, self.num_examples, self.thresholds = means, num_examples, []

  def __call__(self, threshold):
    self.thresholds.append(threshold)
    return np.full(self.num_examples, self.means[GRID.index(threshold)])


def test_the_lowest_certified_threshold_is_chosen_and_nothing_below_the_failure_is_decoded():
  losses_at = _Asked([0.0, 0.01, 0.02, 0.3, 0.0])
  found = testing.calibrate(losses_at, GRID, 0.1, 0.05, num_examples=400)
  assert losses_at.thresholds == [0.9, 0.7, 0.5, 0.3]
  assert found.threshold == 0.5
  assert found.mean_losses == pytest.approx((0.0, 0.01, 0.02, 0.3))
  expected = [float(bounds.hoeffding_bentkus(np.full(400, m), 0.1)) for m in found.mean_losses]
  assert found.p_values == pytest.approx(expected)
  assert (found.bound, found.procedure) == ('hoeffding_bentkus', 'fixed_sequence')
  assert found.grid == GRID
  assert found.num_examples == 400


def test_never_exit_is_the_fallback():
  losses_at = _Asked([0.2, 0.0, 0.0, 0.0, 0.0])
  found = testing.calibrate(losses_at, GRID, 0.1, num_examples=400)
  assert losses_at.thresholds == [0.9]
  assert found.threshold is None


def test_a_grid_certified_to_its_end_gives_its_lowest_threshold():
  losses_at = _Asked([0.0] * 5)
  assert testing.calibrate(losses_at, GRID, 0.1, num_examples=400).threshold == 0.1
  assert losses_at.thresholds == list(GRID)


def test_all_that_is_rejected_is_certified():
  grid = (0.9, 0.7, 0.5, 0.3)
  p_values = (0.01, 0.02, 0.2)
  assert testing.certified(grid, p_values, 0.05) == (0.9, 0.7)
  p_values = (0.001, 0.02, 0.001, 0.9)  # Bonferroni's need not stand together.
  assert testing.certified(grid, p_values, 0.05, testing.bonferroni) == (0.9, 0.5)
  assert testing.certified(grid, (0.06,), 0.05) == ()


def test_bonferroni_tests_the_whole_grid():
  losses_at = _Asked([0.0, 0.3, 0.01, 0.3, 0.3])
  found = testing.calibrate(losses_at, GRID, 0.1, num_examples=400, procedure=testing.bonferroni)
  assert losses_at.thresholds == list(GRID)
  assert found.threshold == 0.5


def test_a_procedure_of_ones_own_is_asked_no_further_than_it_can_reject():
  def first_two(p_values, epsilon):
    return (p_values <= epsilon / 2) & (np.arange(len(p_values)) < 2)

  losses_at = _Asked([0.0] * 5)
  found = testing.calibrate(losses_at, GRID, 0.1, num_examples=400, procedure=first_two)
  assert losses_at.thresholds == [0.9, 0.7]
  assert found.threshold == 0.7
  assert found.procedure.endswith('first_two')


@pytest.mark.parametrize(
  ('grid', 'message'),
  [
    ((0.1, 0.5), '0.5 follows 0.1'),
    ((0.5, 0.5), '0.5 follows 0.5'),
    ((), 'empty'),
    ((0.5, float('nan')), 'finite'),
  ],
)
def test_a_grid_must_descend(grid, message):
  with pytest.raises(ValueError, match=message):
    testing.calibrate(_never, grid, 0.1, num_examples=400)


def _never(threshold):
  raise AssertionError(f'decoded at {threshold}')


def test_the_descending_grid_holds_plain_decimals():
  assert testing.descending_grid(0.9, 0.0, 0.15) == (0.9, 0.75, 0.6, 0.45, 0.3, 0.15, 0.0)
  assert testing.descending_grid() == tuple(round(0.95 - 0.05 * i, 2) for i in range(20))
  assert testing.descending_grid(0.99, 0.9, 0.02) == (0.99, 0.97, 0.95, 0.93, 0.91)
  assert testing.descending_grid(0.5, 0.5) == (0.5,)
  assert testing.descending_grid(0.9, 0.8, 0.1, stricter=(0.99, 0.95)) == (0.99, 0.95, 0.9, 0.8)
  with pytest.raises(ValueError, match=r'0\.9 follows 0\.9'):
    testing.descending_grid(0.9, 0.8, 0.1, stricter=(0.99, 0.9))
  with pytest.raises(ValueError, match=r'lowest must be at most highest, 0\.1, not 0\.5'):
    testing.descending_grid(0.1, 0.5)


def test_too_few_examples_are_told_before_any_decoding():
  with pytest.raises(ValueError, match=r'58 examples can never certify delta = 0.05.* 59 could'):
    testing.calibrate(_never, GRID, 0.05, num_examples=58)
  with pytest.raises(ValueError, match=r'59 examples can never .* bonferroni.* 90 could'):
    testing.calibrate(_never, GRID, 0.05, num_examples=59, procedure=testing.bonferroni)
  with pytest.raises(ValueError, match='0 examples'):
    testing.check_sample_size(0, 0.05)


def test_sample_sizes_by_hand():
  # Hoeffding: exp(-2 n delta^2) <= epsilon; Hoeffding-Bentkus: (1 - delta)^n <= epsilon.
  for delta in (0.25, 0.1, 0.05, 0.02):
    expected = math.ceil(math.log(20) / (2 * delta**2))
    assert testing.smallest_sample_size(delta, 0.05, bounds.hoeffding) == expected
    expected = math.ceil(math.log(0.05) / math.log(1 - delta))
    assert testing.smallest_sample_size(delta, 0.05) == expected
  # With a fifth of epsilon for each threshold.
  by_bonferroni = testing.smallest_sample_size(0.1, 0.05, procedure=testing.bonferroni, grid_size=5)
  assert by_bonferroni == math.ceil(math.log(0.01) / math.log(0.9))
  assert testing.smallest_sample_size(0.99, 0.5) == 1


@pytest.mark.parametrize('bound', bounds.BOUNDS.values(), ids=bounds.BOUNDS)
def test_the_smallest_sample_size_is_enough_and_one_less_is_not(bound):
  for delta in (0.03, 0.2):
    n = testing.smallest_sample_size(delta, 0.05, bound)
    assert bound(np.zeros(n), delta) <= 0.05 < bound(np.zeros(n - 1), delta)
    assert testing.can_certify(n, delta, 0.05, bound)
    assert not testing.can_certify(n - 1, delta, 0.05, bound)


def test_a_bound_that_never_certifies_is_told():
  with pytest.raises(ValueError, match='Not even'):
    testing.smallest_sample_size(0.1, 0.05, lambda losses, delta: np.float64(0.5))


def test_losses_of_another_length_are_refused():
  with pytest.raises(ValueError, match=r'threshold 0.9 have shape \(399,\), not \(400,\)'):
    testing.calibrate(lambda threshold: np.zeros(399), GRID, 0.1, num_examples=400)


def test_losses_out_of_range_are_refused():
  with pytest.raises(ValueError, match='must lie in'):
    testing.calibrate(lambda threshold: np.full(400, 2.0), GRID, 0.1, num_examples=400)


@pytest.mark.parametrize(('delta', 'epsilon'), [(0, 0.05), (1.5, 0.05), (0.1, 0), (0.1, 1)])
def test_levels_lie_between_0_and_1(delta, epsilon):
  with pytest.raises(ValueError, match='between 0 and 1'):
    testing.calibrate(_never, GRID, delta, epsilon, num_examples=400)


def test_names_tell_settings_and_modules():
  assert testing.name_of(bounds.betting) == 'betting'
  partial = functools.partial(bounds.betting, epsilon=0.1)
  assert testing.name_of(partial) == 'betting'
  assert testing.arguments_of(partial) == {'epsilon': 0.1}
  assert testing.name_of(math.exp) == 'math.exp'


def _true_risks(shape, delta):
  """Expected losses at the thresholds of GRID, of which some exceed delta, at times by a hair."""
  return {
    'just_above': delta * np.array([1.0001, 1.001, 1.01, 1.1, 1.2]),
    'crossing': delta * np.array([0.1, 0.6, 1.02, 1.05, 2.0]),
    'not_monotone': delta * np.array([0.2, 1.05, 0.3, 1.05, 0.3]),
  }[shape]


def _simulated(rng, kind, risks, n):
  """Losses [k, n] whose means are `risks`; dependent: all thresholds see the same examples."""
  hardness = rng.random(n)
  if kind == 'graded':
    return (hardness < 2 * risks[:, None]) * rng.random(n)
  return (hardness < risks[:, None]).astype(float)


@pytest.mark.parametrize('kind', ['graded', 'all_or_nothing'])
@pytest.mark.parametrize('shape', ['just_above', 'crossing', 'not_monotone'])
@pytest.mark.parametrize('bound', bounds.BOUNDS.values(), ids=bounds.BOUNDS)
def test_the_true_risk_exceeds_delta_with_probability_at_most_epsilon(bound, shape, kind):
  delta, epsilon, n, num_calibrations = 0.25, 0.1, 73, 2000
  risks = _true_risks(shape, delta)
  rng = np.random.default_rng(23)
  exceeded = 0
  for _ in range(num_calibrations):
    losses = _simulated(rng, kind, risks, n)
    found = testing.calibrate(
      lambda threshold, losses=losses: losses[GRID.index(threshold)],
      GRID,
      delta,
      epsilon,
      num_examples=n,
      p_value=bound,
    )
    exceeded += found.threshold is not None and risks[GRID.index(found.threshold)] > delta
  error = 3 * math.sqrt(epsilon * (1 - epsilon) / num_calibrations)
  assert exceeded / num_calibrations <= epsilon + error


@pytest.mark.parametrize('kind', ['graded', 'all_or_nothing'])
@pytest.mark.parametrize('procedure', testing.PROCEDURES.values(), ids=testing.PROCEDURES)
def test_families_reject_a_true_null_with_probability_at_most_epsilon(procedure, kind):
  delta, epsilon, n, num_families = 0.25, 0.1, 73, 2000
  risks = _true_risks('not_monotone', delta)
  rng = np.random.default_rng(29)
  losses = np.array([_simulated(rng, kind, risks, n) for _ in range(num_families)])
  for bound in bounds.BOUNDS.values():
    rejected = procedure(bound(losses, delta), epsilon)
    wrong = (rejected & (risks > delta)).any(axis=-1).mean()
    assert wrong <= epsilon + 3 * math.sqrt(epsilon * (1 - epsilon) / num_families)


def test_choosing_by_the_mean_alone_breaks_the_promise():
  # What the simulations above would say of a calibration without a test.
  delta, n = 0.25, 73
  risks = _true_risks('just_above', delta)
  rng = np.random.default_rng(31)
  losses = np.array([_simulated(rng, 'graded', risks, n) for _ in range(500)])
  exceeded = (losses.mean(axis=-1) <= delta)[:, 0].mean()
  assert exceeded > 0.3


def test_bounds_certify_when_there_is_room():
  # The guarantee is worth nothing if nothing is ever certified.
  risks = np.array([0.01, 0.02, 0.05, 0.2, 0.3])
  rng = np.random.default_rng(37)
  losses = np.array([_simulated(rng, 'graded', risks, 300) for _ in range(200)])
  power = {
    name: testing.fixed_sequence(bound(losses, 0.1), 0.05)[:, 2].mean()
    for name, bound in bounds.BOUNDS.items()
  }
  assert power['hoeffding'] < power['hoeffding_bentkus'] < power['betting']
  assert power['betting'] > 0.9
