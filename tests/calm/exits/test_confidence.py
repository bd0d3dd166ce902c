"""Measures of confidence: values by hand, the last axis only, ranges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from calm.exits import confidence

OVER_LOGITS = [
  confidence.softmax_margin,
  confidence.shortlist_margin,
  confidence.largest_probability,
  confidence.entropy_confidence,
]
ROWS = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 3


@pytest.mark.parametrize('measure', OVER_LOGITS)
def test_rows_of_a_batch_do_not_see_each_other(measure):
  alone = jnp.stack([measure(row) for row in ROWS])
  np.testing.assert_allclose(measure(ROWS), alone, rtol=1e-6)
  assert ((alone >= 0) & (alone <= 1)).all()


def test_states_of_a_batch_do_not_see_each_other():
  hidden, previous = ROWS, ROWS[::-1]
  pairs = zip(hidden, previous, strict=True)
  alone = jnp.stack([confidence.state_saturation(*pair) for pair in pairs])
  np.testing.assert_allclose(confidence.state_saturation(hidden, previous), alone, rtol=1e-6)


def test_softmax_margin_is_the_gap_of_the_two_largest_probabilities():
  best = np.sort(scipy.special.softmax(ROWS, -1), -1)
  np.testing.assert_allclose(confidence.softmax_margin(ROWS), best[:, -1] - best[:, -2], atol=1e-6)
  assert confidence.softmax_margin(jnp.log(jnp.array([0.7, 0.2, 0.1]))) == pytest.approx(0.5)
  assert confidence.softmax_margin(jnp.array([2.0, 2.0, -1.0])) == 0


def test_a_margin_may_reach_1_so_that_a_threshold_of_1_is_not_never():
  assert confidence.softmax_margin(jnp.array([25.0, 0.0, 0.0])) == 1


def test_largest_probability_and_certainty_are_scipys():
  probabilities = scipy.special.softmax(ROWS.astype(np.float64), -1)
  np.testing.assert_allclose(confidence.largest_probability(ROWS), probabilities.max(-1), rtol=1e-5)
  expected = 1 - scipy.stats.entropy(probabilities, axis=-1) / np.log(7)
  np.testing.assert_allclose(confidence.entropy_confidence(ROWS), expected, atol=1e-6)


def test_certainty_runs_from_0_to_1_and_bears_words_that_are_ruled_out():
  assert confidence.entropy_confidence(jnp.zeros(9)) == pytest.approx(0, abs=1e-6)
  assert confidence.entropy_confidence(jnp.array([0.0, -jnp.inf, -jnp.inf])) == 1


def test_state_saturation_is_the_cosine():
  assert confidence.state_saturation(jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])) == (
    pytest.approx(24 / 25)
  )
  assert confidence.state_saturation(jnp.array([1.0, 0.0]), jnp.array([-1.0, 0.0])) == 0
  assert confidence.state_saturation(jnp.zeros(3), jnp.ones(3)) == 0
  huge = jnp.full(4, 1e18)
  assert confidence.state_saturation(huge, huge) == pytest.approx(1)


def test_the_classifier_gives_a_probability():
  np.testing.assert_allclose(confidence.classifier(jnp.array([0.0, np.log(3)])), [0.5, 0.75])


@pytest.mark.parametrize('measure', OVER_LOGITS)
def test_half_precision_is_measured_in_single(measure):
  assert measure(jnp.asarray(ROWS, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize('measure', OVER_LOGITS[:3])
def test_no_measure_sorts_the_vocabulary(measure):
  assert 'sort' not in str(jax.make_jaxpr(measure)(ROWS))
  assert 'top_k' not in str(jax.make_jaxpr(measure)(ROWS))


def test_a_measure_names_what_it_looks_at():
  assert confidence.needs(confidence.state_saturation) == ('hidden', 'previous')
  assert confidence.needs(lambda logits, exit_score, scale=2: 0) == ('logits', 'exit_score')
  with pytest.raises(ValueError, match='asks for logit: a measure names'):
    confidence.needs(lambda logit: 0)


def test_a_gated_measure_needs_what_its_gate_does_and_is_0_where_that_is_closed():
  gated = confidence.Gated(confidence.softmax_margin, confidence.classifier, gate_threshold=0.5)
  assert confidence.needs(gated) == ('exit_score', 'logits')
  assert gated.__name__ == 'gated_softmax_margin'
  scores = jnp.array([-0.1, 0.0, 3.0, -3.0, 1.0])
  assert gated.gate_open(exit_score=scores).tolist() == [False, True, True, False, True]
  expected = np.where(scores >= 0, confidence.softmax_margin(ROWS), 0)
  np.testing.assert_allclose(gated(exit_score=scores, logits=ROWS), expected)


def test_a_gate_that_looks_at_logits_saves_nothing_and_is_refused():
  with pytest.raises(ValueError, match='entropy_confidence asks for logits'):
    confidence.Gated(confidence.softmax_margin, confidence.entropy_confidence)


def scaled(logits, factor):
  """A measure with a setting of its own, which is bound before it is used."""
  return confidence.softmax_margin(logits) * factor


def test_a_partial_is_a_measure_and_is_called_by_what_it_was_given():
  half, third = (functools.partial(scaled, factor=factor) for factor in (0.5, 0.25))
  assert confidence.needs(half) == ('logits',)
  assert [confidence.name_of(one) for one in (scaled, half, third)] == [
    'scaled',
    'scaled_factor_0.5',
    'scaled_factor_0.25',
  ]
  assert confidence.Gated(half).__name__ == 'gated_scaled_factor_0.5'
  odd = functools.partial(scaled, factor='a/b \n')
  assert confidence.name_of(odd) == 'scaled_factor_a_b_'  # It becomes a part of paths.
