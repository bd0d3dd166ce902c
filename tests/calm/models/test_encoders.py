"""What holds of every encoder: it runs layer by layer, and only what counts decides its results."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import bert, deberta, parameters

LENGTHS = np.array([7, 1, 4])
MASK = np.arange(7) < LENGTHS[:, None]
TOKENS = np.where(MASK, np.arange(21).reshape(3, 7) * 5 % 36 + 1, 0).astype(np.int32)
TYPES = np.where(MASK, np.arange(7) % 3, 0).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Kind:
  """An encoder with a tiny config and the names of its dropout rates."""

  network: Any
  tiny: Any
  rates: tuple[str, ...]


KINDS = {
  'bert': Kind(
    bert.Bert,
    bert.BertConfig(37, 12, 3, 17, 2, 11, 3, num_labels=5),
    ('dropout_rate', 'attention_dropout_rate', 'classifier_dropout_rate'),
  ),
  'deberta': Kind(
    deberta.Deberta,
    deberta.DebertaConfig(37, 12, 3, 17, 2, 11, 3, max_relative_positions=5, num_labels=5),
    ('dropout_rate', 'attention_dropout_rate', 'pooler_dropout_rate', 'classifier_dropout_rate'),
  ),
}
PUBLISHED_COUNTS = {
  (bert, 'bert_base'): 109_482_240,
  (bert, 'bert_large'): 335_141_888,
  (bert, 'minilm'): 22_713_216,
  # Of the encoders of microsoft/deberta-base and -large, and a pooler.
  (deberta, 'deberta_base'): 139_192_320,
  (deberta, 'deberta_large'): 406_212_608,
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(network, config, params, tokens, mask, types):
  """States after all layers, the pooled state after each, and logits of the last."""

  def everything(module):
    states = module(tokens, mask, types)
    pooled = [module.pool(state) for state in states]
    return states, pooled, module.classify(pooled[-1])

  return network(config).apply({'params': params}, method=everything)


@pytest.fixture(scope='module', params=KINDS)
def kind(request):
  """Each encoder in turn."""
  return KINDS[request.param]


@pytest.fixture(scope='module')
def params(kind, varied_encoder):
  return varied_encoder(kind.network(kind.tiny))


@pytest.fixture(scope='module')
def usual(kind, params):
  """What the tiny encoder says of the rows."""
  return _run(kind.network, kind.tiny, params, TOKENS, MASK, TYPES)


def test_a_layer_at_a_time_is_the_whole(kind, params, usual):
  states, pooled, logits = usual
  assert [state.shape for state in states] == [(3, 7, 12)] * 2
  assert pooled[0].shape == (3, 12)
  assert logits.shape == (3, 5)
  bound = kind.network(kind.tiny).bind({'params': params})
  layer = jax.jit(bound.layer, static_argnums=0)
  state = jax.jit(bound.embed)(TOKENS, MASK, TYPES)
  for index, expected in enumerate(states):
    state = layer(index, state, MASK)
    np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-5)


def test_fields_that_count_for_no_result_change_none(kind, params, usual):
  values = (0.7, 0.6, 0.5, 0.4)
  others = {**dict(zip(kind.rates, values, strict=False)), 'init_stddev': 3.0, 'remat': True}
  fields = dataclasses.fields(kind.tiny)
  assert {field.name for field in fields if not field.metadata.get('identity', True)} == set(others)
  config = dataclasses.replace(kind.tiny, **others)
  changed = _run(kind.network, config, params, TOKENS, MASK, TYPES)
  jax.tree.map(np.testing.assert_array_equal, usual, changed)


def test_each_dropout_rate_is_of_use(kind, params, usual):
  none = dict.fromkeys(kind.rates, 0.0)

  def logits(rates, seed):
    model = kind.network(dataclasses.replace(kind.tiny, **rates))

    def run(module):
      last = module(TOKENS, MASK, TYPES, deterministic=False)[-1]
      return module.classify(module.pool(last, deterministic=False), deterministic=False)

    return model.apply({'params': params}, method=run, rngs={'dropout': jax.random.key(seed)})

  expected = usual[-1]
  np.testing.assert_allclose(logits(none, 0), expected, rtol=1e-5, atol=1e-5)
  for field in kind.rates:
    drawn = [logits({**none, field: 0.5}, seed) for seed in range(2)]
    assert np.abs(drawn[0] - expected).max() > 1e-3, field
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3, field


def test_bfloat16_is_near_float32(kind, params, usual):
  low = dataclasses.replace(kind.tiny, dtype='bfloat16')
  states, _, logits = _run(kind.network, low, params, TOKENS, MASK, TYPES)
  exact, _, exact_logits = usual
  assert states[-1].dtype == jnp.bfloat16
  assert logits.dtype == jnp.float32
  error = np.abs(states[-1].astype(np.float32) - exact[-1])[MASK].max()
  assert 1e-4 < error / np.abs(exact[-1]).max() < 0.05
  assert np.abs(logits - exact_logits).max() < 0.1 * np.abs(exact_logits).max()


@pytest.mark.parametrize(('module', 'name'), PUBLISHED_COUNTS)
def test_published_sizes_have_the_published_number_of_parameters(module, name):
  config = module.published(name)
  network = next(kind.network for kind in KINDS.values() if type(kind.tiny) is type(config))
  shapes = parameters.shapes(network(config))
  assert sum(math.prod(shape) for shape in shapes.values()) == PUBLISHED_COUNTS[module, name]


def test_matrices_of_layers_and_words_are_split_once(kind):
  used = set()
  for name, shape in parameters.shapes(kind.network(kind.tiny)).items():
    specs = {p: spec for p, spec in kind.network.partition_rules if re.search(p, name)}
    used |= set(specs)
    matrix = 'layers' in name and name.endswith('kernel')
    assert len(specs) == 1 if matrix or 'word' in name else len(specs) <= 1, name
    assert all(len(spec) == len(shape) for spec in specs.values())
  assert used == {pattern for pattern, _ in kind.network.partition_rules}


def test_lowers_for_tpu_and_gpu(kind):
  params = jax.eval_shape(kind.network(kind.tiny).init_params, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)
  mask = jax.ShapeDtypeStruct((2, 7), bool)
  run = jax.jit(functools.partial(_run, kind.network, kind.tiny))
  exported = jax.export.export(run, platforms=['tpu', 'cuda'])(params, tokens, mask, tokens)
  assert exported.platforms == ('tpu', 'cuda')


@pytest.mark.parametrize('value', ['float16', 'foo', 3, None])
def test_types_of_activations_that_there_are_not_are_named(kind, value):
  with pytest.raises(ValueError, match="dtype must be 'float32' or 'bfloat16', not"):
    dataclasses.replace(kind.tiny, dtype=value)
