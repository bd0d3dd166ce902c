"""Tiny T5s with random weights whose tokens vary, shared by the tests of this folder."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from calm.models import t5

SIZES = {
  't5_1_1': t5.T5Config(37, 12, 3, 5, 17, 2, 3, dropout_rate=0.0),
  't5_1_0': t5.T5Config(37, 12, 3, 5, 17, 2, 3, ('relu',), True, dropout_rate=0.0),
}


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A model, its parameters, and a batch of ragged inputs[32, 11]."""

  model: t5.T5
  params: dict
  inputs: jax.Array


def _scaled(path, value):
  # Fresh weights repeat themselves: a sharper head and attention make the tokens vary.
  name = jax.tree_util.keystr(path)
  if 'relpos' in name:
    return value * 3
  return value * (1 if 'scale' in name else 2.5 if 'embedd' not in name else 2)


@pytest.fixture(scope='session', params=sorted(SIZES))
def tiny(request):
  """A Tiny of each kind of T5."""
  config = SIZES[request.param]
  params = t5.init_params(config, jax.random.key(3))
  params = jax.tree_util.tree_map_with_path(_scaled, params)
  inputs = jax.random.randint(jax.random.key(4), (32, 11), 2, config.vocab_size)
  lengths = jax.random.randint(jax.random.key(5), (32, 1), 1, 12)
  inputs = jnp.where(jnp.arange(11) < lengths, inputs, 0)
  return Tiny(t5.T5(config), params, inputs)
