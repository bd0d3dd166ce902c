"""DeBERTa's attention against its formulas, each score of each query and key on its own."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import deberta, parameters
from calm.models.disentangled_attention import POSITION_TERMS, skew

ERF = np.vectorize(math.erf)
TINY = deberta.DebertaConfig(37, 12, 3, 17, 2, 20)
LENGTHS = np.array([11, 1, 6])


def gelu(x):
  return x * (1 + ERF(x / math.sqrt(2))) / 2


def norm(x, scale, bias):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-7) * scale + bias


def attention_scores(query, key, position_key, position_query):
  """Of one head, [T, S]: content to content, and what the two tables [2M, H] add, if any.

  Row clip(q - k + M) of a table is that of a query at q and a key at k: equation 3 of the paper.
  """
  scores = np.zeros((len(query), len(key)))
  for q, k in np.ndindex(scores.shape):
    scores[q, k] = query[q] @ key[k]
    for content, table in ((query[q], position_key), (key[k], position_query)):
      if table is not None:
        half = len(table) // 2
        scores[q, k] += content @ table[min(max(q - k + half, 0), 2 * half - 1)]
  terms = (position_key is not None) + (position_query is not None)
  return scores / math.sqrt(query.shape[1] * (1 + terms))


def attention(x, mask, rel_embeddings, num_heads, params):
  """Of one text x[T, D], by the flat parameters of an attention."""
  head_dim = x.shape[1] // num_heads
  packed = (x @ params['query_key_value/kernel']).reshape(len(x), num_heads, 3, head_dim)
  tables = {'position_key': None, 'position_query': None}
  for name in tables:
    if f'{name}/kernel' in params:
      table = rel_embeddings @ params[f'{name}/kernel'] + params.get(f'{name}/bias', 0)
      tables[name] = table.reshape(-1, num_heads, head_dim)
  mixed = []
  for head in range(num_heads):
    part = slice(head * head_dim, (head + 1) * head_dim)
    query = packed[:, head, 0] + params['query_bias'][part]
    value = packed[:, head, 2] + params['value_bias'][part]
    own = [table if table is None else table[:, head] for table in tables.values()]
    weights = np.exp(attention_scores(query, packed[:, head, 1], *own)) * mask
    mixed.append(weights / weights.sum(-1, keepdims=True) @ value)
  return np.concatenate(mixed, -1) @ params['out/kernel'] + params['out/bias']


def under(flat, prefix):
  """The part of a flat dict whose names begin with `prefix`, without it."""
  return {name.removeprefix(prefix): v for name, v in flat.items() if name.startswith(prefix)}


def forward(flat, num_heads, num_layers, tokens, mask, token_types):
  """Embedded state of one text, those after all layers, and the pooled state after the last."""
  flat = {name: np.asarray(value, np.float64) for name, value in flat.items()}
  x = flat['embeddings/word/embedding'][tokens]
  if 'embeddings/position/embedding' in flat:
    x = x + flat['embeddings/position/embedding'][: len(x)]
  if 'embeddings/token_type/embedding' in flat:
    x = x + flat['embeddings/token_type/embedding'][token_types]
  x = norm(x, flat['embeddings/norm/scale'], flat['embeddings/norm/bias']) * mask[:, None]
  states = [x]
  for i in range(num_layers):
    layer = under(flat, f'layers_{i}/')
    y = attention(x, mask, flat.get('rel_embeddings'), num_heads, under(layer, 'attention/'))
    x = norm(x + y, layer['attention_norm/scale'], layer['attention_norm/bias'])
    y = gelu(x @ layer['mlp/wi/kernel'] + layer['mlp/wi/bias'])
    y = y @ layer['mlp/wo/kernel'] + layer['mlp/wo/bias']
    x = norm(x + y, layer['mlp_norm/scale'], layer['mlp_norm/bias'])
    states.append(x)
  return states, gelu(x[0] @ flat['pooler/dense/kernel'] + flat['pooler/dense/bias'])


@pytest.mark.parametrize('first', [4, 5])
def test_skew_moves_each_row_one_further(first):
  x = jnp.arange(2 * 5 * 10).reshape(2, 5, 10)
  for i, j in np.ndindex(5, 5):
    np.testing.assert_array_equal(skew(x, first)[:, i, j], x[:, i, first - i + j])


def test_skew_of_one_token_is_that_of_many():
  x = jnp.arange(6).reshape(3, 1, 2)
  np.testing.assert_array_equal(skew(x, 1), x[..., 1:])
  np.testing.assert_array_equal(skew(x, 0), x[..., :1])


def assert_close(ours, theirs):
  assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()


@pytest.mark.parametrize('most', [5, 11, 40], ids='clipped_at_{}'.format)
@pytest.mark.parametrize(
  'terms', [(), ('c2p',), ('p2c',), POSITION_TERMS], ids=lambda terms: '_'.join(terms) or 'none'
)
def test_states_are_those_of_the_formulas(varied_encoder, terms, most):
  config = dataclasses.replace(TINY, position_terms=terms, max_relative_positions=most)
  if most == 5:
    config = dataclasses.replace(config, absolute_positions=True, num_token_types=3)
  model = deberta.Deberta(config)
  params = varied_encoder(model)
  mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]
  tokens = np.where(mask, np.arange(mask.size).reshape(mask.shape) * 5 % 36 + 1, 0)

  @jax.jit
  def run(params):
    def everything(module):
      states = module(tokens, mask, tokens % 3)
      return [module.embed(tokens, mask, tokens % 3), *states], module.pool(states[-1])

    return model.apply({'params': params}, method=everything)

  flat = parameters.flatten(params)
  rows = [forward(flat, 3, 2, tokens[i], mask[i], tokens[i] % 3) for i in range(len(mask))]
  states, pooled = run(params)
  for layer, state in enumerate(states):
    assert_close(np.asarray(state)[mask], np.stack([row[0][layer] for row in rows])[mask])
  assert_close(pooled, np.stack([row[1] for row in rows]))
