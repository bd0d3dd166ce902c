"""Dataclasses of the same fields are different rules, and no program of one runs for another."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from calm.decoding import compiled, generator, sampling
from calm.exits import confidence, rules

# So many that some would be taken for others: each is with a chance of about one in 128.
KINDS = [
  flax.struct.dataclass(type(f'Kind{number}', (), {'__annotations__': {'value': Any}}))
  for number in range(120)
]


def number_of(rule):
  """The number in the name of a rule's class, or of the one in its threshold."""
  rule = getattr(rule, 'threshold', rule)
  return int(type(rule).__name__.removeprefix('Kind'))


@functools.partial(jax.jit, static_argnames='classes')
def compiled_number(rule, classes):
  """`number_of` by the program that JAX finds for a rule."""
  return number_of(rule) + 0 * jnp.asarray(jax.tree.leaves(rule)[0])


def test_each_class_has_a_program_of_its_own():
  for number, kind in enumerate(KINDS):
    assert compiled_number(kind(0.5), compiled.classes_of(kind(0.5))) == number


def test_a_class_within_another_counts_too():
  for number, kind in enumerate(KINDS[:60]):
    rule = rules.Confident(confidence.softmax_margin, kind(0.5))
    assert compiled_number(rule, compiled.classes_of(rule)) == number


def test_numbers_do_not_count():
  one, other = (rules.Confident(confidence.softmax_margin, value) for value in (0.25, 0.5))
  assert compiled.classes_of(one) == compiled.classes_of(other)
  assert compiled.classes_of({'a': [one]}) == compiled.classes_of({'a': [other]})


def test_rules_without_numbers_differ():
  kinds = [rules.NeverExit(), rules.Oracle(), rules.FixedLayer(1), rules.FixedLayer(2)]
  found = list(map(compiled.classes_of, kinds))
  assert found[0] != found[1]
  assert found[2] == found[3]
  assert hash(found[0])


def test_a_generator_says_which_classes_it_has(byte_model, monkeypatch):
  given = []
  monkeypatch.setattr(generator, '_decode', lambda *_, classes, **__: given.append(classes))
  tokens = jnp.ones((1, 3), jnp.int32)
  choices = [sampling.Greedy(), sampling.Sampling(0.0), sampling.Sampling(0.5, 3, 0.9)]
  for rule in (rules.NeverExit(), rules.Oracle(), rules.FixedLayer(1)):
    for choose in choices:
      one = generator.Generator(byte_model[0], 4, choose, rule=rule)
      one(byte_model[1], tokens, key=jax.random.key(0))
  # At temperature 0 a draw is greedy.
  assert len(set(given)) == 3 * 2
