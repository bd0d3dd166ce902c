"""DeBERTa's layers: what they see, what they leave out, and what decides their results."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import bert, deberta, parameters

TINY = deberta.DebertaConfig(37, 12, 3, 17, 2, 11, 3, max_relative_positions=5, num_labels=5)
ABSOLUTE = dataclasses.replace(TINY, absolute_positions=True)
LENGTHS = np.array([7, 1, 4])
MASK = np.arange(7) < LENGTHS[:, None]
TOKENS = np.where(MASK, np.arange(21).reshape(3, 7) * 5 % 36 + 1, 0).astype(np.int32)
TYPES = np.where(MASK, np.arange(7) % 3, 0).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _run(config, params, tokens, mask, types):
  """States after all layers, the pooled state after each, and logits of the last."""

  def everything(module):
    states = module(tokens, mask, types)
    pooled = [module.pool(state) for state in states]
    return states, pooled, module.classify(pooled[-1])

  return deberta.Deberta(config).apply({'params': params}, method=everything)


@pytest.fixture(scope='module')
def params(varied_encoder):
  return varied_encoder(deberta.Deberta(TINY))


@pytest.mark.parametrize('name', ['__call__', 'embed', 'layer', 'pool', 'classify'])
def test_the_interface_is_that_of_bert(name):
  ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (deberta.Deberta, bert.Bert))
  assert ours == theirs


def test_neither_padding_nor_other_rows_change_a_row(params):
  expected, pooled, _ = _run(TINY, params, TOKENS, MASK, TYPES)
  other = np.where(MASK, TOKENS, 9).astype(np.int32)
  states, _, _ = _run(TINY, params, other, MASK, np.where(MASK, TYPES, 2).astype(np.int32))
  for ours, theirs in zip(states, expected, strict=True):
    np.testing.assert_array_equal(np.asarray(ours)[MASK], np.asarray(theirs)[MASK])
  row, length = 2, LENGTHS[2]
  alone = (slice(row, row + 1), slice(0, length))
  states, alone_pooled, _ = _run(TINY, params, TOKENS[alone], MASK[alone], TYPES[alone])
  for ours, theirs in zip(states, expected, strict=True):
    np.testing.assert_allclose(ours[0], theirs[row, :length], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(alone_pooled[-1][0], pooled[-1][row], rtol=1e-5, atol=1e-5)


def test_rows_of_nothing_but_padding_give_numbers(params):
  states, _, logits = _run(TINY, params, TOKENS, np.zeros_like(MASK), TYPES)
  assert np.isfinite(states[-1]).all()
  assert np.isfinite(logits).all()


@pytest.mark.parametrize('terms', [(), ('c2p',), ('p2c',)])
def test_without_absolute_positions_only_distances_tell_the_order(varied_encoder, terms):
  config = dataclasses.replace(TINY, position_terms=terms, num_token_types=0)
  params = varied_encoder(deberta.Deberta(config))
  reverse = TOKENS[:, ::-1]
  states, _, _ = _run(config, params, TOKENS, np.ones_like(MASK), TYPES)
  others, _, _ = _run(config, params, reverse, np.ones_like(MASK), TYPES)
  error = np.abs(states[-1] - others[-1][:, ::-1]).max()
  assert error > 0.1 if terms else error < 1e-4


def test_token_types_left_out_are_the_first(params):
  model = deberta.Deberta(TINY)
  run = jax.jit(lambda *args: model.apply({'params': params}, *args)[-1])
  np.testing.assert_array_equal(run(TOKENS, MASK), run(TOKENS, MASK, np.zeros_like(TYPES)))
  assert np.abs(run(TOKENS, MASK) - run(TOKENS, MASK, TYPES)).max() > 0.1


def test_every_parameter_counts(varied_encoder):
  def loss(params):
    return jnp.sum(jnp.sin(_run(ABSOLUTE, params, TOKENS, MASK, TYPES)[-1]))

  params = varied_encoder(deberta.Deberta(ABSOLUTE))
  grads = parameters.flatten(jax.jit(jax.grad(loss))(params))
  assert all(np.abs(grad).max() > 1e-5 for grad in grads.values())
  # Distances from -4 to 4 and beyond have one of ten rows, of which the first is for -5 and less.
  assert (np.abs(grads['rel_embeddings']).max(-1) > 0).all()


def test_rows_longer_than_the_table_of_positions_are_an_error():
  def state(config):
    long = jnp.ones((1, 12), jnp.int32)
    model = deberta.Deberta(config)
    return model.apply({'params': model.init_params(jax.random.key(0))}, long, long > 0)[-1]

  with pytest.raises(ValueError, match='12 tokens, and the model 11 positions'):
    jax.eval_shape(lambda: state(ABSOLUTE))
  assert jax.eval_shape(lambda: state(TINY)).shape == (1, 12, 12)


def test_what_a_model_lacks_is_an_error(varied_encoder):
  plain = deberta.Deberta(dataclasses.replace(TINY, pooler=False, num_labels=0, position_terms=()))
  variables = {'params': varied_encoder(plain)}
  assert variables['params'].keys() == {'embeddings', 'layers_0', 'layers_1'}
  state = jnp.ones((3, 7, 12))
  with pytest.raises(ValueError, match='no pooler'):
    plain.apply(variables, state, method=plain.pool)
  with pytest.raises(ValueError, match='no classifier'):
    plain.apply(variables, state[:, 0], method=plain.classify)


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'num_heads': 5}, 'num_heads'),
    ({'activation': 'gelu_new'}, 'activation'),
    ({'pooler_activation': 'gelu_new'}, 'pooler_activation'),
    ({'dtype': 'float16'}, 'dtype'),
    ({'num_layers': 0}, 'num_layers'),
    ({'max_relative_positions': -1}, 'max_relative_positions'),
    ({'num_token_types': -1}, 'num_token_types'),
    ({'position_terms': ('p2p',)}, 'position_terms'),
    ({'position_terms': ('c2p', 'c2p')}, 'position_terms'),
    ({'position_terms': 'c2p'}, 'position_terms'),
    ({'pooler': False}, 'num_labels'),
    ({'pooler_dropout_rate': 1.0}, 'pooler_dropout_rate'),
  ],
)
def test_configs_that_describe_no_network(changes, named):
  with pytest.raises(ValueError, match=named):
    dataclasses.replace(TINY, **changes)


def test_the_order_of_position_terms_is_no_matter():
  assert dataclasses.replace(TINY, position_terms=['p2c', 'c2p']) == TINY


def test_published_sizes_can_be_changed():
  assert deberta.published('deberta_base', num_layers=2).num_layers == 2
  with pytest.raises(ValueError, match='deberta_base, deberta_large'):
    deberta.published('deberta_huge')
