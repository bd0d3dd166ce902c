"""Dataclasses of the same fields are different rules, and no program of one runs for another."""

from typing import Any

import flax.struct
import jax.numpy as jnp

from calm.decoding import compiled
from calm.exits import confidence, rules, thresholds

# So many that some would be taken for others: each is with a chance of about one in 128.
KINDS = [
  flax.struct.dataclass(type(f'Kind{number}', (), {'__annotations__': {'value': Any}}))
  for number in range(120)
]


def number_of(rule):
  """The number in the name of a rule's class, or of the one in its threshold."""
  rule = getattr(rule, 'threshold', rule)
  return int(type(rule).__name__.removeprefix('Kind'))


def test_each_class_has_a_program_of_its_own():
  run = compiled.jit(lambda rule, x: x + number_of(rule))
  for number, kind in enumerate(KINDS):
    assert run(kind(0.5), 0) == number


def test_a_class_within_another_counts_too():
  run = compiled.jit(lambda rule: number_of(rule))
  for number, kind in enumerate(KINDS[:60]):
    assert run(rules.Confident(confidence.softmax_margin, kind(0.5))) == number


def test_a_program_serves_all_numbers():
  traced = []

  def run(rule):
    traced.append(rule)
    return rule.value * 2

  doubled = compiled.jit(run)
  for value in (0.25, 0.5, 0.75):
    assert doubled(thresholds.Constant(value)) == 2 * value
  assert len(traced) == 1


def test_rules_without_numbers_differ():
  kinds = [rules.NeverExit(), rules.Oracle(), rules.FixedLayer(1), rules.FixedLayer(2)]
  found = list(map(compiled.classes_of, kinds))
  assert found[0] != found[1]
  assert found[2] == found[3]
  assert hash(found[0])


def test_static_arguments_stay_static():
  run = compiled.jit(lambda times, x: jnp.stack([x] * times), static_argnames=('times',))
  assert run(x=jnp.ones(3), times=2).shape == (2, 3)
  assert run(2, jnp.ones(3)).shape == (2, 3)
