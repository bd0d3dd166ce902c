"""When an example stops: ends that hold whatever rounding says, and what each measure counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.exits import confidence, stopping

# Three rows at four exits, two labels: a tie, a gap whose probability is 1 in float32, a usual one.
OUTPUTS = np.array(
  [
    [[0, 0], [0, 0], [0, 0], [0, 0]],
    [[17.5, 0], [90, 0], [-300, 300], [17.5, 0]],
    [[1, 0], [0, 1], [2, 0], [3, 0]],
  ],
  np.float32,
)
SCORES = np.array([[0, 0, 0, 0], [40, 200, -200, 40], [1, -1, 2, 3]], np.float32)
MEASURES = {
  'largest_probability': stopping.Confidence(),
  'entropy': stopping.Confidence(confidence.entropy_confidence),
  'margin': stopping.Confidence(confidence.softmax_margin),
  'energy': stopping.Confidence(confidence.negative_energy),
  'learned': stopping.Confidence(confidence.classifier),
  'patience': stopping.Patience(),
  'fixed': stopping.FixedExit(),
}


def exits(measure, threshold, outputs=OUTPUTS, scores=SCORES):
  """The classifier, from 1, at which each row stops; the last stops whoever is left."""
  found = stopping.confidences(measure, outputs, scores)
  ends = measure.ends(outputs.shape[-1])
  leaves = np.array(stopping.may_exit(found, stopping.as_threshold(threshold), ends))
  leaves[:, -1] = True
  return (leaves.argmax(1) + 1).tolist()


@pytest.mark.parametrize('name', MEASURES)
def test_at_the_loose_end_all_stop_at_once_and_at_the_strict_end_none_does(name):
  measure = MEASURES[name]
  loose, strict = measure.ends(2)
  assert exits(measure, loose) == [1, 1, 1]
  assert exits(measure, strict) == exits(measure, None) == [4, 4, 4]
  assert exits(measure, math.inf) == [4, 4, 4]
  assert exits(measure, -math.inf) == [1, 1, 1]


def test_a_probability_that_is_1_in_float32_does_not_reach_the_strict_end():
  logits = OUTPUTS[1:2, :1]
  assert stopping.confidences(stopping.Confidence(), logits)[0, 0] == 1
  assert exits(stopping.Confidence(), 1.0) == [4, 4, 4]
  assert exits(stopping.Confidence(), np.nextafter(np.float32(1), np.float32(0)))[1] == 1


@pytest.mark.parametrize('num_labels', range(2, 12))
def test_the_loose_end_is_met_by_equal_logits_of_any_number(num_labels):
  # 1 / 11 as a float64 is no float32, and a sum of eleven is not exact.
  equal = np.full((1, 2, num_labels), 0.3, np.float32)
  assert exits(stopping.Confidence(), 1 / num_labels, equal, None) == [1]


@pytest.mark.parametrize('name', MEASURES)
def test_a_lower_threshold_never_stops_later(name):
  measure = MEASURES[name]
  found = np.unique(stopping.confidences(measure, OUTPUTS, SCORES))
  before = [1, 1, 1]
  for threshold in found:
    now = exits(measure, float(threshold))
    assert all(later >= earlier for later, earlier in zip(now, before, strict=True))
    before = now


def test_the_entropy_of_a_probability_that_underflows_is_a_number_and_the_surest():
  # DeeBERT's 0 * log 0 is NaN, which no threshold is below: the surest rows would never leave.
  found = stopping.confidences(MEASURES['entropy'], OUTPUTS)
  assert np.isfinite(found).all()
  np.testing.assert_array_equal(found[1, 1:3], 1)
  assert exits(MEASURES['entropy'], 0.999) == [4, 1, 4]


def test_what_is_no_number_reaches_no_threshold():
  ends = (0.0, 1.0)
  assert not stopping.may_exit(jnp.array([math.nan]), 0.5, ends).any()
  with pytest.raises(ValueError, match='NaN'):
    stopping.as_threshold(math.nan)


def answering(*labels):
  """Outputs[1, M, 3] of classifiers that answer so."""
  return np.eye(3, dtype=np.float32)[list(labels)][None]


@pytest.mark.parametrize(
  ('labels', 'counts'),
  [
    ((1, 1, 1, 1), [0, 1, 2, 3]),
    ((1, 1, 2, 2), [0, 1, 0, 1]),
    ((0, 1, 0, 1), [0, 0, 0, 0]),
  ],
)
def test_patience_counts_agreements_and_starts_again_where_two_disagree(labels, counts):
  found = stopping.confidences(stopping.Patience(), answering(*labels))
  assert found.tolist() == [counts]


@pytest.mark.parametrize(('patience', 'stops_at'), [(1, 2), (2, 3), (3, 4), (4, 4)])
def test_a_patience_of_p_needs_p_plus_1_classifiers(patience, stops_at):
  assert exits(stopping.Patience(), patience, answering(2, 2, 2, 2), None) == [stops_at]


def test_patience_of_a_regression_is_for_answers_closer_than_its_tolerance():
  numbers = np.array([[[1.0], [1.4], [1.9], [1.95]]], np.float32)
  found = stopping.confidences(stopping.Patience(tolerance=0.45), numbers)
  assert found.tolist() == [[0, 1, 0, 1]]
  with pytest.raises(ValueError, match='tolerance'):
    stopping.Patience(tolerance=0.0)


def test_energy_sees_how_large_logits_are_and_has_no_ends():
  measure = MEASURES['energy']
  found = stopping.confidences(measure, OUTPUTS + 5)
  np.testing.assert_allclose(found, stopping.confidences(measure, OUTPUTS) + 5, rtol=1e-6)
  np.testing.assert_allclose(found[0], 5 + math.log(2), rtol=1e-6)
  assert measure.ends(2) == (-math.inf, math.inf)


def test_what_has_learned_to_exit_gives_its_probability():
  found = stopping.confidences(MEASURES['learned'], OUTPUTS, SCORES)
  np.testing.assert_allclose(found, jax.nn.sigmoid(SCORES), rtol=1e-6)
  with pytest.raises(ValueError, match=r'classifier asks for exit_score, .* LEARNING_TO_EXIT'):
    stopping.confidences(MEASURES['learned'], OUTPUTS)


@pytest.mark.parametrize(
  ('measure', 'num_outputs', 'complaint'),
  [
    (stopping.Confidence(), 1, 'largest_probability compares labels'),
    (stopping.Patience(), 1, 'set TOLERANCE'),
    (stopping.Patience(0.5), 2, 'is for a regression'),
  ],
)
def test_a_measure_that_says_nothing_of_such_outputs_is_refused(measure, num_outputs, complaint):
  with pytest.raises(ValueError, match=complaint):
    measure.check(num_outputs)


def test_measures_that_fit_are_taken():
  for measure in MEASURES.values():
    measure.check(3)
  stopping.Patience(0.5).check(1)
  MEASURES['learned'].check(1)


def test_a_threshold_is_traced():
  measure = stopping.Confidence()

  @jax.jit
  def leaves(threshold):
    found = stopping.confidences(measure, OUTPUTS)
    return stopping.may_exit(found, threshold, measure.ends(2))

  for threshold in (0.1, 0.5, 0.9, 1.0, None):
    leaves(stopping.as_threshold(threshold))
  assert leaves._cache_size() == 1
