"""Rules: which rows stop, what they need to see, settings that cannot be."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm import settings
from calm.exits import confidence, rules, thresholds

LOGITS = jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1]]))


def evidence(layer=2, **seen):
  """Three rows at positions 0, 5 and 9."""
  states = jnp.eye(3)
  return rules.Evidence(
    layer=layer,
    num_layers=4,
    position=jnp.array([0, 5, 9]),
    hidden=states,
    previous=jnp.array([[1.0, 0, 0], [1, 1, 0], [1, 0, 0]]),
    **seen,
  )


def test_never_exit_never_stops():
  stops, sure = rules.NeverExit()(evidence(4))
  assert not stops.any()
  np.testing.assert_array_equal(sure, 1)


@pytest.mark.parametrize('layer', [1, 2, 3, 4])
def test_a_fixed_layer_stops_there_and_not_before(layer):
  assert rules.FixedLayer(3)(evidence(layer))[0].tolist() == [layer >= 3] * 3


def test_confident_rows_stop_where_they_reach_the_threshold():
  rule = rules.Confident(confidence.softmax_margin, 0.5)
  stops, sure = rule(evidence(logits=LOGITS))
  np.testing.assert_allclose(sure, [0.7, 0.05, 0.5], atol=1e-6)
  assert stops[:2].tolist() == [True, False]
  assert rules.Confident(confidence.softmax_margin, sure)(evidence(logits=LOGITS))[0].all()
  assert rule.needs == ('logits',)


def test_a_threshold_sees_each_rows_own_position():
  rule = rules.Confident(confidence.classifier, thresholds.Decaying(0.5, 10.0, 10))
  # Needed are 0.55, 0.4507 and 0.45001.
  stops, _ = rule(
    evidence(exit_score=jnp.log(jnp.array([0.5, 0.4506, 0.46]) / jnp.array([0.5, 0.5494, 0.54])))
  )
  assert stops.tolist() == [False, False, True]


def test_no_row_stops_before_min_exit():
  rule = rules.Confident(confidence.state_saturation, 0.0, min_exit=3)
  assert not rule(evidence(2))[0].any()
  assert rule(evidence(3))[0].all()


def test_what_a_rule_does_not_admit_it_does_not_stop():
  state = rules.Confident(confidence.state_saturation, 0.0, min_exit=3)
  assert state.may_exit(evidence(2)).tolist() == [False] * 3
  assert state.may_exit(evidence(3)).tolist() == [True] * 3
  assert rules.FixedLayer(2).may_exit(evidence(2)).all()
  assert not rules.FixedLayer(2).may_exit(evidence(1)).any()
  assert rules.Oracle().may_exit(evidence(1)).all()
  assert not rules.NeverExit().may_exit(evidence(4)).any()


def test_only_rows_whose_gate_is_open_may_stop():
  # Cosines of the rows' states: 1, 0.71, 0.
  gated = confidence.Gated(confidence.softmax_margin, gate_threshold=0.7)
  rule = rules.Confident(gated, 0.0)
  assert rule.needs == ('logits',)
  assert rule.may_exit(evidence(2)).tolist() == [True, True, False]
  stops, sure = rule(evidence(2, logits=LOGITS))
  assert stops.tolist() == [True, True, False]
  np.testing.assert_allclose(sure, [0.7, 0.05, 0], atol=1e-6)
  # Nor does any after layer 1, whose state has none to be compared with.
  assert not rule.may_exit(evidence(1)).any()
  assert not rule(evidence(1, logits=LOGITS))[0].any()


def test_saturation_is_0_after_layer_1_where_there_is_nothing_to_compare():
  rule = rules.Confident(confidence.state_saturation, 0.01)
  stops, sure = rule(evidence(1))
  assert not stops.any()
  np.testing.assert_array_equal(sure, 0)
  assert rules.Confident(confidence.state_saturation, 0.0)(evidence(1))[0].all()
  np.testing.assert_allclose(rule(evidence(2))[1], [1, 0.5**0.5, 0], atol=1e-6)
  assert rule.needs == ()


def test_the_oracle_stops_where_the_last_layer_is_foretold():
  stops, _ = rules.Oracle()(evidence(logits=LOGITS, full_token=jnp.array([0, 1, 1])))
  assert stops.tolist() == [True, False, True]


def test_a_family_of_rules_has_one_number():
  rule = rules.confident(
    0.4, confidence.entropy_confidence, lambda value: thresholds.Decaying(value, 4.0, 9), min_exit=2
  )
  assert rule == rules.Confident(confidence.entropy_confidence, thresholds.Decaying(0.4, 4.0, 9), 2)


def test_a_measure_of_ones_own_needs_no_other_code():
  def close_call(logits, hidden):
    return 1 - logits.max(-1) + 0 * hidden[..., 0]

  stops, _ = rules.Confident(close_call, 1.5)(evidence(logits=LOGITS))
  assert stops.tolist() == [False, True, False]


def test_impossible_rules_are_named():
  with pytest.raises(ValueError, match='needs an exit classifier'):
    rules.check(rules.Confident(confidence.classifier, 0.5), 4, has_classifier=False)
  with pytest.raises(ValueError, match='layer must be a layer of the model, from 1 to 4, not 5'):
    rules.check(rules.FixedLayer(5), 4, has_classifier=True)
  rule = rules.Confident(confidence.entropy_confidence, thresholds.PerLayer([0.1, 0.2]))
  with pytest.raises(ValueError, match='2 thresholds for 4'):
    rules.check(rule, 4, has_classifier=True)


@pytest.mark.parametrize('one', [1, 1.0, np.float32(1), np.float64(1), jnp.float32(1), np.int64(1)])
def test_arrays_are_of_one_type_however_they_were_written(one):
  rule = rules.as_arrays(
    rules.Confident(confidence.softmax_margin, thresholds.PerLayer([one]), min_exit=int(one))
  )
  assert (rule.threshold.values.dtype, rule.threshold.values.shape) == (jnp.float32, (1,))
  assert rule.min_exit.dtype == jnp.int32
  fixed = rules.as_arrays(rules.FixedLayer(int(one))).layer
  assert (fixed.dtype, fixed.weak_type) == (jnp.int32, False)
  constant = rules.as_arrays(rules.Confident(confidence.softmax_margin, one)).threshold.value
  assert (constant.dtype, constant.weak_type, float(constant)) == (jnp.float32, False, 1.0)


def test_numbers_of_a_rule_inside_another_become_arrays_and_traced_ones_stay():
  @flax.struct.dataclass
  class Late:
    rule: rules.ExitRule
    start: int = 3
    name: str = flax.struct.field(pytree_node=False, default='late')

  late = rules.as_arrays(Late(rules.Confident(confidence.softmax_margin, 1)))
  assert late.start.dtype == jnp.int32
  assert late.rule.threshold.value.dtype == jnp.float32
  assert late.name == 'late'
  traced = []
  jax.eval_shape(lambda x: traced.append((x, rules.as_arrays(rules.FixedLayer(x)).layer)), 2)
  assert traced[0][0] is traced[0][1]


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    (rules.Confident(confidence.softmax_margin, 0.5, 99), r'min_exit .* from 1 to 4, not 99\.'),
    (rules.Confident(confidence.softmax_margin, 0.5, 0), 'min_exit must be .*, not 0'),
    (rules.Confident(confidence.softmax_margin, 0.5, 1.5), 'min_exit must be a whole number'),
    (rules.Confident(confidence.softmax_margin, float('nan')), 'threshold must be .*, not nan'),
    (rules.Confident(confidence.softmax_margin, thresholds.Constant('a')), "value .* not 'a'"),
    (
      rules.Confident(confidence.softmax_margin, thresholds.Decaying(0.5, -1, 3)),
      'tau must be a number of at least 0, not -1',
    ),
    (
      rules.Confident(confidence.softmax_margin, thresholds.Decaying(0.5, 1, 0)),
      'max_length must be a number of at least 1, not 0',
    ),
    (rules.FixedLayer(0), 'layer must be .*, not 0'),
  ],
)
def test_a_number_that_cannot_be_is_named_with_its_range(rule, message):
  with pytest.raises(settings.SettingError, match=message):
    rules.check(rule, 4, has_classifier=True)
