"""Tiny T5s with fixed weights whose tokens vary, shared by the tests of this folder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
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


def tiny_params(config, seed=5):
  """Weights louder than fresh ones, which repeat themselves, and a head that often says EOS."""
  rng = np.random.default_rng(seed)

  def weights(path, leaf):
    name = jax.tree_util.keystr(path)
    if 'scale' in name:
      return np.ones(leaf.shape, np.float32)
    value = rng.normal(size=leaf.shape).astype(np.float32)
    if 'rel_embedding' in name:
      return 3 * value
    if 'token_embedder' in name:
      value[1] *= 2 if config.logits_via_embedding else 1
      return value
    if 'logits_dense' in name:
      value[:, 1] *= 2
    # Queries as T5 has them: scores so large that attention is nearly a choice would turn rounding
    # into other states.
    fan_in = leaf.shape[0] * (config.head_dim if 'query' in name else 1)
    return 2.5 * value / np.sqrt(fan_in).astype(np.float32)

  shapes = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(weights, shapes))


@pytest.fixture(scope='session', params=sorted(SIZES))
def tiny(request):
  """A Tiny of each kind of T5."""
  config = SIZES[request.param]
  rng = np.random.default_rng(4)
  inputs = rng.integers(2, config.vocab_size, (32, 11), dtype=np.int32)
  lengths = rng.integers(1, 12, (32, 1))
  inputs = jnp.asarray(np.where(np.arange(11) < lengths, inputs, 0))
  return Tiny(t5.T5(config), tiny_params(config), inputs)


@pytest.fixture(scope='session')
def byte_model():
  """A model of bytes, tokens 3 to 258, and parameters of which it says various things."""
  config = dataclasses.replace(SIZES['t5_1_1'], vocab_size=259)
  return t5.T5(config), tiny_params(config)
