"""A rule at any value of its threshold, however the rule is made."""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import pytest

from calm.exits import confidence, rules, thresholds
from calm.exits.families import Family, family

MARGIN = rules.Confident(confidence.softmax_margin, thresholds.Constant(0.9), 2)


@flax.struct.dataclass
class LateStart:
  """A rule of one's own around another."""

  rule: Any
  start: int = 3


@dataclasses.dataclass(frozen=True)
class Inner:
  """A threshold of one's own."""

  value: float
  slope: float = 2.0

  def __call__(self, position, layer):
    return jnp.full(jnp.shape(position), self.value)


@dataclasses.dataclass(frozen=True)
class Own:
  """A rule of one's own with another kind of threshold."""

  bar: float = 0.5
  needs = ()

  def at(self, value):
    return dataclasses.replace(self, bar=value)


FAMILIES = {
  'softmax_margin': Family(MARGIN),
  'softmax_margin_number': Family(rules.Confident(confidence.softmax_margin, 0.9, 2)),
  'softmax_margin_tau_4': Family(MARGIN.replace(threshold=thresholds.Decaying(0.9, 4.0, 64))),
  'softmax_margin_own': Family(MARGIN.replace(threshold=Inner(0.9))),
  'LateStart_softmax_margin': Family(LateStart(MARGIN)),
  'Own': Family(Own()),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_only_the_value_varies(name):
  one, other = FAMILIES[name](0.25), FAMILIES[name](0.75)
  assert one != other
  assert FAMILIES[name](0.25) == one
  assert Family(one).identity == Family(other).identity == FAMILIES[name].identity


def test_the_value_is_the_thresholds():
  assert FAMILIES['softmax_margin'](0.25) == MARGIN.replace(threshold=thresholds.Constant(0.25))
  assert FAMILIES['softmax_margin_number'](0.25).threshold == thresholds.Constant(0.25)
  assert FAMILIES['softmax_margin_tau_4'](0.25).threshold == thresholds.Decaying(0.25, 4.0, 64)
  assert FAMILIES['softmax_margin_own'](0.25).threshold == Inner(0.25)
  assert FAMILIES['LateStart_softmax_margin'](0.25).rule.threshold.value == 0.25
  assert FAMILIES['Own'](0.25).bar == 0.25


def test_whatever_else_differs_is_another_family():
  others = [
    MARGIN,
    MARGIN.replace(min_exit=1),
    MARGIN.replace(measure=confidence.state_saturation),
    MARGIN.replace(measure=confidence.Gated()),
    MARGIN.replace(measure=confidence.Gated(gate_threshold=0.8)),
    MARGIN.replace(threshold=thresholds.Decaying(0.9, 4.0, 64)),
    MARGIN.replace(threshold=thresholds.Decaying(0.9, 2.0, 64)),
    LateStart(MARGIN),
    LateStart(MARGIN, 4),
    Own(),
  ]
  found = [repr(Family(rule).identity) for rule in others]
  assert len(set(found)) == len(found)


@pytest.mark.parametrize(
  'name', ['softmax_margin', 'softmax_margin_tau_4', 'LateStart_softmax_margin', 'Own']
)
def test_names_tell_families_apart(name):
  assert FAMILIES[name].name == name


@pytest.mark.parametrize('rule', [rules.NeverExit(), rules.FixedLayer(2), rules.Oracle()])
def test_a_rule_without_a_threshold_is_refused(rule):
  with pytest.raises(ValueError, match=f'{type(rule).__name__} has no threshold to calibrate'):
    Family(rule)(0.5)
  with pytest.raises(ValueError, match='has no threshold to calibrate'):
    _ = Family(rule).identity


def test_thresholds_per_layer_have_no_single_value():
  rule = MARGIN.replace(threshold=thresholds.PerLayer([0.1, 0.2]))
  with pytest.raises(ValueError, match='PerLayer has a value for each layer'):
    Family(rule)(0.5)


def test_the_full_model_gives_way_to_the_default_and_nothing_else_does():
  assert family(rules.NeverExit(), MARGIN) == Family(MARGIN)
  assert family(Own(), MARGIN) == Family(Own())
  assert family(rules.FixedLayer(2), MARGIN) == Family(rules.FixedLayer(2))


def test_a_measure_takes_anothers_place_within_the_same_rule():
  found = FAMILIES['LateStart_softmax_margin'].with_measure(confidence.state_saturation)
  assert found(0.5).rule == MARGIN.replace(
    measure=confidence.state_saturation, threshold=thresholds.Constant(0.5)
  )
  decaying = Family(MARGIN).with_measure(
    confidence.classifier, lambda value: thresholds.Decaying(value, 4.0, 64)
  )
  assert decaying.name == 'classifier_tau_4'
  with pytest.raises(ValueError, match='Own holds no Confident'):
    FAMILIES['Own'].with_measure(confidence.classifier)
