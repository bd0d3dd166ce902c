"""Scores: equations by hand, and which of them say the same in other numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from elang import energy

OF_PROBABILITIES = [
  energy.largest_probability,
  energy.entropy_confidence,
  energy.softmax_margin,
  energy.negative_entropy,
  energy.negative_perplexity,
  energy.log_sum_exp_of_probabilities,
]
MASK = np.array([[True, True, True], [True, False, False], [False, False, False]])
VALUES = np.array([[-3.0, -1.0, -2.0], [-5.0, 9.0, 9.0], [1.0, 1.0, 1.0]])


def ranks(scores):
  return stats.rankdata(np.asarray(scores), method='dense')


@pytest.fixture(scope='module')
def two_classes():
  """10^4 pairs of logits, in steps of 1/64: gaps are equal or well apart."""
  return np.random.default_rng(0).integers(-320, 320, (10_000, 2)).astype(np.float32) / 64


def test_the_energy_by_hand():
  logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]]))
  np.testing.assert_allclose(energy.negative_energy(logits), np.log([8, 9]), rtol=1e-6)
  # At temperature 1/2: log(1 + 4 + 25) / 2 and log(27) / 2.
  expected = np.log([30, 27]) / 2
  np.testing.assert_allclose(energy.negative_energy(logits, 0.5), expected, rtol=1e-6)


def test_what_is_added_to_all_logits_is_added_to_the_energy_and_to_nothing_else(two_classes):
  some = two_classes[:100]
  added = energy.negative_energy(some + 3) - energy.negative_energy(some)
  np.testing.assert_allclose(added, 3, atol=1e-5)
  for score in OF_PROBABILITIES:
    np.testing.assert_allclose(score(some + 3), score(some), atol=1e-6)


@pytest.mark.parametrize('score', OF_PROBABILITIES, ids=lambda score: score.__name__)
def test_of_two_classes_scores_of_probabilities_order_all_inputs_by_the_gap(score, two_classes):
  gap = np.abs(two_classes[:, 0] - two_classes[:, 1])
  np.testing.assert_array_equal(ranks(score(two_classes)), ranks(gap))


def test_of_two_classes_the_energy_orders_otherwise_and_of_three_so_do_the_others(two_classes):
  gap = np.abs(two_classes[:, 0] - two_classes[:, 1])
  assert stats.spearmanr(energy.negative_energy(two_classes), gap).statistic < 0.5
  three = jnp.array([[4.0, 3.0, -9.0], [4.0, 2.6, 2.6]])
  first, second = energy.softmax_margin(three)
  assert first < second
  first, second = energy.negative_entropy(three)
  assert first > second


@pytest.mark.parametrize(('stddev', 'alike'), [(0.0, True), (1.0, False)])
def test_a_head_of_two_classes_from_zero_has_energies_in_the_order_of_its_gaps(stddev, alike):
  rng = np.random.default_rng(1)
  features = jnp.asarray(rng.standard_normal((200, 5)), jnp.float32)
  labels = jnp.asarray(features[:, 0] + rng.standard_normal(200) > 0, jnp.int32)
  weights = jnp.asarray(rng.standard_normal((5, 2)) * stddev, jnp.float32)

  def loss(weights):
    log_probs = jax.nn.log_softmax(features @ weights)
    return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean()

  @jax.jit
  def trained(weights):
    return jax.lax.fori_loop(0, 200, lambda _, w: w - 0.5 * jax.grad(loss)(w), weights)

  after = trained(weights)
  assert loss(after) < loss(weights) - 0.05
  # What cross entropy cannot see has not moved.
  np.testing.assert_allclose(after.sum(1), weights.sum(1), atol=1e-5)
  logits = np.asarray(features @ after)
  by_gap = np.argsort(np.abs(logits[:, 0] - logits[:, 1]))
  steps = np.diff(np.asarray(energy.negative_energy(logits))[by_gap])
  assert bool((steps >= -1e-5).all()) is alike


def test_log_probabilities_are_refused_for_an_energy_with_the_reason(two_classes):
  log_probs = jax.nn.log_softmax(two_classes)
  with pytest.raises(ValueError, match='free energy is 0 whatever the input'):
    energy.negative_energy(log_probs)
  with pytest.raises(ValueError, match='before softmax'):
    energy.mean_negative_energy(log_probs[:6].reshape(2, 3, 2), MASK[:2])
  # One row that happens to sum to 1 is none of them.
  assert energy.negative_energy(log_probs[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('temperature', [0, -1.0, math.nan])
def test_a_temperature_is_above_zero(temperature):
  with pytest.raises(ValueError, match='must be above 0'):
    energy.negative_energy(jnp.ones((2, 3)), temperature)


def test_a_sure_and_an_undecided_row_reach_the_ends_of_each_range():
  sure, undecided = jnp.array([900.0, 0, 0, 0]), jnp.zeros(4)
  ends = {
    energy.negative_entropy: (0, -math.log(4)),
    energy.negative_perplexity: (-1, -4),
    energy.log_sum_exp_of_probabilities: (math.log(3 + math.e), math.log(4) + 1 / 4),
    energy.largest_probability: (1, 1 / 4),
  }
  for score, (highest, lowest) in ends.items():
    np.testing.assert_allclose([score(sure), score(undecided)], [highest, lowest], rtol=1e-6)


def test_positions_count_alike_and_padding_not_at_all():
  logits = jnp.log(jnp.array([[[1.0, 1], [3, 5], [2, 2]], [[6, 3], [9, 9], [7, 7]]]))
  found = energy.mean_negative_energy(logits, MASK[:2])
  np.testing.assert_allclose(found, [np.log(2 * 8 * 4) / 3, np.log(9)], rtol=1e-6)


def test_sequences_are_scored_by_their_own_tokens():
  np.testing.assert_allclose(energy.mean_over(VALUES, MASK), [-2, -5, -math.inf])
  np.testing.assert_allclose(energy.quantile_over(VALUES, MASK, 0.0), [-3, -5, -math.inf])
  np.testing.assert_allclose(energy.quantile_over(VALUES, MASK, 0.25), [-2.5, -5, -math.inf])
  perplexities = energy.negative_perplexity_of_tokens(VALUES, MASK)
  np.testing.assert_allclose(perplexities, [-math.exp(2), -math.exp(5), -math.inf], rtol=1e-6)
  with pytest.raises(ValueError, match='quantile'):
    energy.quantile_over(VALUES, MASK, 1.5)


def test_all_scores_of_logits_by_name(two_classes):
  found = energy.of_logits(two_classes)
  assert list(found) == ['energy', 'softmax', 'entropy', 'margin', 'published', 'random']
  assert {scores.shape for scores in found.values()} == {(10_000,)}
  alike = [ranks(found[name]) for name in ('softmax', 'entropy', 'margin', 'published')]
  assert all((one == alike[0]).all() for one in alike)
  gap = np.abs(two_classes[:, 0] - two_classes[:, 1])
  assert abs(stats.spearmanr(found['random'], gap).statistic) < 0.05


def test_rows_do_not_see_each_other_and_scores_compile(two_classes):
  some = two_classes[:5]
  for score in (*OF_PROBABILITIES, energy.negative_energy):
    alone = jnp.stack([score(row) for row in some])
    np.testing.assert_allclose(jax.jit(score)(some), alone, rtol=1e-6)


def test_the_shorter_text_is_the_easier():
  texts = ['one', 'one two  three', '']
  np.testing.assert_array_equal(energy.negative_length(texts), [-1, -3, 0])
  np.testing.assert_array_equal(energy.negative_length(texts, len), [-3, -14, 0])
