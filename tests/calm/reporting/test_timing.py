"""Timing: tokens are counted, turns are taken."""

import dataclasses

import jax
import numpy as np
import pytest

from calm.decoding import generator
from calm.exits import rules
from calm.models import t5
from calm.reporting import timing

CONFIG = t5.T5Config(37, 12, 3, 5, 17, 1, 2, dropout_rate=0.0)
INPUTS = [np.array([5, 6, 1], np.int32), np.array([9, 1], np.int32), np.array([1], np.int32)]


@dataclasses.dataclass(frozen=True)
class Clock:
  """Counts up by one at each look."""

  looks: list

  def __call__(self):
    self.looks.append(None)
    return float(len(self.looks))


@pytest.fixture(scope='module')
def params():
  shapes = jax.eval_shape(t5.T5(CONFIG).init_params, jax.random.key(0))
  return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), shapes)


def test_seconds_are_those_between_two_looks_at_the_clock(params, monkeypatch):
  monkeypatch.setattr(timing.time, 'perf_counter', Clock([]))
  one = generator.Generator(t5.T5(CONFIG), 4, eos_id=36)
  compared = {'full': rules.NeverExit(), 'one': rules.FixedLayer(1)}
  found = timing.time_rules(one, params, INPUTS, compared, batch_size=2, repeats=3)
  assert found['full'].seconds == found['one'].seconds == (2.0, 2.0, 2.0)  # of two batches
  decoded = np.asarray(one(params, np.array([[5, 6, 1], [9, 1, 0], [1, 0, 0]])).exit_layer)
  assert found['full'].num_tokens == (decoded > 0).sum()
  assert found['full'].seconds_per_token == 2 / found['full'].num_tokens


def test_rules_take_turns(params, monkeypatch):
  turns = []
  original = timing._run

  def run(one, *rest):
    turns.append(one.rule.layer)
    return original(one, *rest)

  monkeypatch.setattr(timing, '_run', run)
  one = generator.Generator(t5.T5(CONFIG), 4, eos_id=36)
  compared = {str(layer): rules.FixedLayer(layer) for layer in (1, 2)}
  timing.time_rules(one, params, INPUTS, compared, batch_size=2, repeats=2)
  # Two batches each to warm up, then batch by batch, the first of each repeat another.
  assert turns[4:] == [1, 2, 2, 1, 2, 1, 1, 2]


def test_lengths_do_not_count():
  assert timing.Timing((3.0, 90.0, 6.0), 12).seconds_per_token == 0.5


def test_nothing_to_measure_is_an_error(params):
  one = generator.Generator(t5.T5(CONFIG), 4)
  with pytest.raises(ValueError, match='nothing to measure'):
    timing.time_rules(one, params, [], {'full': rules.NeverExit()}, batch_size=2)
