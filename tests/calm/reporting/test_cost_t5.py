"""FLOPs: by hand for a few sizes, and against what XLA counts in the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.decoding import cache as caches
from calm.decoding import step as steps
from calm.exits import confidence, rules
from calm.models import t5
from calm.reporting.cost_t5 import DecoderCost, SourceCost, num_filled

# D = 2, N H = 3, F = 5: keys and values 2 * 2 * 2 * 3 = 24; queries and outputs of both attentions
# 4 * 2 * 2 * 3 = 48, over k keys 4 * 3 * k, feed-forward 3 * 2 * 2 * 5 = 60; head 2 * 2 * 7 = 28.
TINY = t5.T5Config(7, 2, 1, 3, 5, 1, 3)
NEVER = rules.NeverExit()
KINDS = {
  't5_1_1': t5.T5Config(2048, 128, 4, 32, 256, 2, 4),
  't5_1_0': t5.T5Config(2048, 128, 4, 32, 256, 2, 4, ('relu',), True),
}


def xla_flops(function, *shapes):
  """What XLA says of the compiled function."""
  return jax.jit(function).lower(*shapes).compile().cost_analysis()['flops']


def full_step_flops(config, length, source_length):
  """XLA's FLOPs of one step of all layers for one row, over a cache of `length` columns."""
  model = t5.T5(config)
  shape = jax.ShapeDtypeStruct

  def step(params, token, own, cross, bias):
    source = caches.Source(cross, jnp.ones((1, 1, 1, source_length), bool))
    generator = steps.LayerStack(model, params, source, jnp.zeros(1, jnp.int32), bias)
    run, cache = steps.full_depth(generator, own, 0)
    return run(token, jnp.int32(length - 1), jnp.ones(1, bool), cache)

  return xla_flops(
    step,
    jax.eval_shape(t5.T5(config).init_params, jax.random.key(0)),
    shape((1,), jnp.int32),
    jax.eval_shape(lambda: caches.empty_cache(config, 1, length)),
    jax.eval_shape(lambda: caches.empty_cache(config, 1, source_length)),
    shape((1, config.num_heads, 1, 2 * length - 1), jnp.float32),
  )


@pytest.mark.parametrize('num_layers', [1, 3])
@pytest.mark.parametrize('kind', sorted(KINDS))
def test_a_step_costs_what_xla_counts(kind, num_layers):
  config = dataclasses.replace(KINDS[kind], num_decoder_layers=num_layers)
  counted = DecoderCost(config).steps([num_layers] * 32, 24, NEVER)[31]
  # The step reads all 32 columns of its cache: so does, of right, the last token.
  assert counted == pytest.approx(full_step_flops(config, 32, 24), rel=0.05)


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_the_parts_cost_what_xla_counts(kind):
  config = KINDS[kind]
  model, cost = t5.T5(config), DecoderCost(config)
  params = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  hidden = jax.ShapeDtypeStruct((1, 1, config.emb_dim), jnp.float32)

  def filled(params, hidden):
    return model.apply({'params': params}, 1, hidden, method='keys_values')

  def words(params, hidden):
    return model.apply({'params': params}, hidden, 64, 512, method='head_of_words')

  assert cost.keys_values == pytest.approx(xla_flops(filled, params, hidden), rel=0.05)
  assert cost.head(512) == pytest.approx(xla_flops(words, params, hidden), rel=0.05)


@pytest.mark.parametrize('length', [16, 48, 128])
@pytest.mark.parametrize('kind', sorted(KINDS))
def test_a_source_costs_what_xla_counts(kind, length):
  sizes = {'emb_dim': 512, 'num_heads': 8, 'head_dim': 64, 'mlp_dim': 2048}
  model = t5.T5(dataclasses.replace(KINDS[kind], **sizes))
  params = jax.eval_shape(model.init_params, jax.random.key(0))

  def flops(method, *shape):
    kind = jnp.int32 if method == 'encode' else jnp.float32
    given = jax.ShapeDtypeStruct(shape, kind)
    run = jax.jit(lambda params, x: model.apply({'params': params}, x, method=method))
    return run.lower(params, given).cost_analysis()['flops']

  cost = SourceCost(model.config)
  assert cost.encoder(length) == pytest.approx(flops('encode', 1, length), rel=0.05)
  keys_values = flops('cross_keys_values', 1, length, 512)
  assert cost.cross_keys_values(length) == pytest.approx(keys_values, rel=0.05)


def test_a_source_pays_for_its_length_and_its_square():
  # TINY has one encoder layer: of 4 tokens 4 * 2 * 4 * 6 + 3 * 2 * 4 * 10 and 4 * 16 * 3.
  cost = SourceCost(TINY)
  assert cost.encoder(4, attention_products=False) == 192 + 240
  assert cost.encoder(4) == 192 + 240 + 192
  assert cost.cross_keys_values(4) == 3 * 4 * 24


def test_tokens_pay_for_their_layers_keys_and_head():
  cost = DecoderCost(TINY)
  # A source of 4: at position 0 five keys, at position 1 six.
  first, second = 24 + 48 + 12 * 5 + 60, 24 + 48 + 12 * 6 + 60
  np.testing.assert_array_equal(cost.steps([3, 1], 4, NEVER), [3 * first + 28, second + 28])
  np.testing.assert_array_equal(cost.steps([3, 1], 4, NEVER, [0, 0]), [3 * first, second])
  # 21 and 9 logits, each two multiplications and additions.
  expected = [3 * first + 21 * 4, second + 9 * 4]
  np.testing.assert_array_equal(cost.steps([3, 1], 4, NEVER, [21, 9]), expected)


@pytest.mark.parametrize(
  ('exit_layers', 'filled'),
  [([1, 3, 2, 1], 2), ([1, 1, 1], 0), ([1, 2, 1, 3], 2 + 1 + 2), ([3, 3], 0), ([], 0), ([2], 0)],
)
def test_skipped_layers_are_filled_when_a_later_token_runs_them(exit_layers, filled):
  assert num_filled(exit_layers) == filled


def test_filling_costs_keys_and_values():
  cost = DecoderCost(TINY)
  steps_alone = cost.steps([1, 3, 1], 4, NEVER).sum()
  assert cost.sequence([1, 3, 1], 4, NEVER) == steps_alone + 2 * 24


@pytest.mark.parametrize(
  ('rule', 'extra'),
  [
    (rules.NeverExit(), 0),
    (rules.FixedLayer(3), 0),
    (rules.Oracle(), 0),
    (rules.Confident(confidence.softmax_margin, 0.5), 0),
    # A cosine of two states, 3 products of D, and a classifier, one, at each layer.
    (rules.Confident(confidence.state_saturation, 0.5), 3 * 3 * 2 * 2),
    (rules.Confident(confidence.classifier, 0.5), 3 * 2 * 2),
    (rules.Confident(confidence.Gated(), 0.5), 3 * 3 * 2 * 2),
  ],
)
def test_rules_pay_for_what_they_look_at_beside_logits(rule, extra):
  cost = DecoderCost(TINY)
  assert cost.steps([3], 4, rule) - cost.steps([3], 4, NEVER) == extra
