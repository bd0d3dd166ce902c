"""BERT's layers: what they see, what they leave out, and what decides their results."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import bert, parameters

TINY = bert.BertConfig(37, 12, 3, 17, 2, 11, 3, num_labels=5)
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

  return bert.Bert(config).apply({'params': params}, method=everything)


@pytest.fixture(scope='module')
def params(varied_encoder):
  return varied_encoder(bert.Bert(TINY))


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


def test_token_types_left_out_are_the_first(params):
  model = bert.Bert(TINY)
  run = jax.jit(lambda *args: model.apply({'params': params}, *args)[-1])
  np.testing.assert_array_equal(run(TOKENS, MASK), run(TOKENS, MASK, np.zeros_like(TYPES)))
  assert np.abs(run(TOKENS, MASK) - run(TOKENS, MASK, TYPES)).max() > 0.1


def test_every_parameter_counts(params):
  def loss(params):
    return jnp.sum(jnp.sin(_run(TINY, params, TOKENS, MASK, TYPES)[-1]))

  grads = parameters.flatten(jax.jit(jax.grad(loss))(params))
  untouched = {name for name, grad in grads.items() if not np.abs(grad).max() > 1e-5}
  # A constant added to all scores of a query changes no weight.
  assert untouched == {f'layers_{i}/attention/key/bias' for i in range(2)}


def test_rows_longer_than_the_table_of_positions_are_an_error(params):
  long = np.ones((1, 12), np.int32)
  with pytest.raises(ValueError, match='12 tokens, and the model 11 positions'):
    bert.Bert(TINY).apply({'params': params}, long, long > 0)


def test_what_a_model_lacks_is_an_error(varied_encoder):
  plain = bert.Bert(dataclasses.replace(TINY, pooler=False, num_labels=0))
  variables = {'params': varied_encoder(plain)}
  assert not {'pooler', 'classifier'} & set(variables['params'])
  state = plain.apply(variables, TOKENS, MASK)[-1]
  with pytest.raises(ValueError, match='no pooler'):
    plain.apply(variables, state, method=plain.pool)
  with pytest.raises(ValueError, match='no classifier'):
    plain.apply(variables, state[:, 0], method=plain.classify)


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'num_heads': 5}, 'num_heads'),
    ({'activation': 'gelu_new'}, 'activation'),
    ({'dtype': 'float16'}, 'dtype'),
    ({'num_layers': 0}, 'num_layers'),
    ({'max_length': 0}, 'max_length'),
    ({'pooler': False}, 'num_labels'),
    ({'num_labels': -1}, 'num_labels'),
    ({'attention_dropout_rate': 1.0}, 'attention_dropout_rate'),
    ({'classifier_dropout_rate': -0.1}, 'classifier_dropout_rate'),
  ],
)
def test_configs_that_describe_no_network(changes, named):
  with pytest.raises(ValueError, match=named):
    dataclasses.replace(TINY, **changes)


def test_published_sizes_can_be_changed():
  assert bert.published('minilm', num_layers=2).num_layers == 2
  with pytest.raises(ValueError, match='bert_base, bert_large'):
    bert.published('bert_huge')
