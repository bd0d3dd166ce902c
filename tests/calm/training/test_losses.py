import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from calm.models import t5
from calm.training import losses

LOGITS = np.sin(np.arange(2 * 3 * 7.0)).reshape(2, 3, 7) * 4
TARGETS = np.array([[1, 6, 0], [3, 3, 2]])
LOG_P = scipy.special.log_softmax(LOGITS, axis=-1)


def test_cross_entropy_is_minus_the_log_probability_of_the_target():
  expected = -np.take_along_axis(LOG_P, TARGETS[..., None], -1)[..., 0]
  np.testing.assert_allclose(losses.cross_entropy(LOGITS, TARGETS), expected, rtol=1e-5)


def test_label_smoothing_is_the_divergence_from_the_smoothed_target():
  smoothed = np.full((2, 3, 7), 0.3 / 6)
  np.put_along_axis(smoothed, TARGETS[..., None], 0.7, -1)
  expected = (smoothed * (np.log(smoothed) - LOG_P)).sum(-1)
  actual = losses.cross_entropy(LOGITS, TARGETS, label_smoothing=0.3)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_z_loss_adds_the_squared_log_normaliser():
  plain = losses.cross_entropy(LOGITS, TARGETS)
  expected = plain + 0.5 * scipy.special.logsumexp(LOGITS, axis=-1) ** 2
  np.testing.assert_allclose(losses.cross_entropy(LOGITS, TARGETS, z_loss=0.5), expected, rtol=1e-5)


def test_gradient_of_cross_entropy_is_softmax_minus_one_hot():
  gradient = jax.grad(lambda x: losses.cross_entropy(x, TARGETS).sum())(jnp.asarray(LOGITS))
  expected = scipy.special.softmax(LOGITS, axis=-1) - np.eye(7)[TARGETS]
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('weights', 'expected'),
  [
    ('linear', [1 / 6, 2 / 6, 3 / 6]),
    ('uniform', [1 / 3, 1 / 3, 1 / 3]),
    ('last', [0, 0, 1]),
    ((2, 0, 6), [0.25, 0, 0.75]),
  ],
)
def test_exit_weights_sum_to_one(weights, expected):
  np.testing.assert_allclose(losses.exit_weights(weights, 3), expected)


@pytest.mark.parametrize('weights', ['quadratic', (1, 2), (1, -1, 2), (0, 0, 0), (1, 2, np.nan)])
def test_unusable_exit_weights_are_refused(weights):
  with pytest.raises(ValueError, match='exit_weights'):
    losses.exit_weights(weights, 3)


def _batch(stream):
  return jax.tree.map(jnp.asarray, next(stream))


def test_loss_is_eq_6_of_the_losses_of_each_layer(objective, params, stream):
  batch = _batch(stream)
  model = objective.model

  @jax.jit
  def logits_of_each_layer(params):
    names = ('encoder_input', 'decoder_input', 'decoder_target')
    states = model.apply({'params': params}, *(batch[f'{name}_tokens'] for name in names))
    return model.apply({'params': params}, jnp.stack(states), method='head')

  expected = 0.0
  for layer, logits in enumerate(logits_of_each_layer(params), 1):
    log_p = jax.nn.log_softmax(logits)
    target = batch['decoder_target_tokens'][..., None]
    nll = -jnp.take_along_axis(log_p, target, -1)[..., 0] * batch['decoder_loss_weights']
    expected += layer / (1 + 2 + 3) * nll.sum()
  exact = losses.EncoderDecoderObjective(model, z_loss=0.0)
  total, sums = jax.jit(exact)(params, batch)
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  np.testing.assert_allclose(sums['loss_last_layer'], nll.sum(), rtol=1e-5)
  predicted = (log_p.argmax(-1) == batch['decoder_target_tokens']) * batch['decoder_loss_weights']
  assert float(sums['accuracy']) == predicted.sum()
  assert float(sums['weight']) == batch['decoder_loss_weights'].sum()


@pytest.mark.parametrize('tied', [False, True])
def test_gradient_is_that_of_eq_6_written_out(tied, made_up, stream):
  config = t5.T5Config(19, 8, 2, 3, 11, 1, 2, dropout_rate=0.0, logits_via_embedding=tied)
  model = t5.T5(config)
  objective = losses.EncoderDecoderObjective(model, label_smoothing=0.1, z_loss=0.01)
  batch = _batch(stream)

  def eq_6(params):
    total = 0.0
    for layer, hidden in enumerate(losses.decoder_states(model, params, batch), 1):
      logits = model.apply({'params': params}, hidden, method='head')
      log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
      smoothed = jnp.where(jax.nn.one_hot(batch['decoder_target_tokens'], 19) > 0, 0.9, 0.1 / 18)
      loss = (smoothed * (log_z - logits)).sum(-1) + 0.01 * log_z[..., 0] ** 2
      total += layer / 3 * (loss * batch['decoder_loss_weights']).sum()
    return total

  params = made_up(config)
  actual = jax.jit(jax.grad(lambda p: 3 * objective(p, batch)[0]))(params)
  expected = jax.jit(jax.grad(lambda p: 3 * eq_6(p)))(params)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4 * abs(e).max()),
    actual,
    expected,
  )


def test_gradients_of_a_bfloat16_model_are_float32(objective, stream):
  config = t5.dataclasses.replace(objective.model.config, dtype='bfloat16')
  objective = losses.EncoderDecoderObjective(t5.T5(config))
  shapes = jax.eval_shape(objective.init, jax.random.key(0))
  gradients, _ = jax.eval_shape(
    jax.grad(objective, has_aux=True), shapes, _batch(stream), jax.random.key(1)
  )
  assert gradients == shapes


def test_a_step_multiplies_by_the_head_three_times_for_each_exit(objective, stream):
  """Logits, the states' gradient and the kernel's; the logits are not made again."""
  params = jax.eval_shape(objective.init, jax.random.key(0))
  gradient = jax.grad(objective, has_aux=True)
  jaxpr = str(jax.make_jaxpr(gradient)(params, _batch(stream), jax.random.key(1)))
  products = [line for line in jaxpr.splitlines() if '= dot_general' in line]
  # Of width 19, the vocabulary: the logits [40, 19] and the kernel's gradient [19, 8].
  of_vocabulary = [line for line in products if re.search(r':f32\[(40,19|19,8)\] =', line)]
  assert len(of_vocabulary) == 2 * objective.model.config.num_decoder_layers


def test_the_last_weight_alone_is_the_plain_loss(objective, params, stream):
  batch = _batch(stream)
  plain = losses.EncoderDecoderObjective(objective.model, exit_weights='last', z_loss=0.0)
  total, sums = jax.jit(plain)(params, batch)
  np.testing.assert_allclose(total, sums['loss_last_layer'], rtol=1e-6)


def test_sampled_exits_are_unbiased_and_keep_the_last():
  """Over all draws of 2 of 4 earlier layers, the mean of the weights is Eq. 6's."""
  config = t5.T5Config(19, 8, 2, 3, 11, 1, 5, dropout_rate=0.0)
  objective = losses.EncoderDecoderObjective(t5.T5(config), num_sampled_exits=3)
  states = [jnp.full((1, 1, 1), float(layer)) for layer in range(1, 6)]
  seen = {}
  for seed in range(60):
    drawn = objective._exits(states, jax.random.key(seed))
    assert float(drawn[-1][0].item()) == 5
    assert float(drawn[-1][1]) == pytest.approx(5 / 15)
    pairs = {round(float(state.item())): float(weight) for state, weight in drawn[:-1]}
    seen[tuple(sorted(pairs))] = pairs
  assert sorted(seen) == list(itertools.combinations(range(1, 5), 2))
  for layer in range(1, 5):
    mean = np.mean([pairs.get(layer, 0.0) for pairs in seen.values()])
    assert mean == pytest.approx(layer / 15)


def test_evaluation_computes_all_exits_and_no_dropout(objective, params, stream):
  batch = _batch(stream)
  sampled = losses.EncoderDecoderObjective(objective.model, num_sampled_exits=2)
  expected = jax.jit(objective)(params, batch)[0]
  np.testing.assert_allclose(jax.jit(sampled)(params, batch)[0], expected, rtol=1e-6)


def test_packed_rows_cost_what_their_examples_cost_alone(made_up):
  config = t5.T5Config(19, 8, 2, 3, 11, 1, 2, dropout_rate=0.0)
  objective = losses.EncoderDecoderObjective(t5.T5(config))
  params = made_up(config)
  first, second = ([5, 6, 1], [7, 1]), ([8, 1], [9, 10, 1])

  def rows(*rows_of_examples):
    columns = {name: np.zeros((len(rows_of_examples), 8), np.int32) for name in (
      'encoder_input_tokens', 'encoder_segment_ids', 'decoder_input_tokens',
      'decoder_target_tokens', 'decoder_segment_ids', 'decoder_loss_weights')}  # fmt: skip
    for row, examples in enumerate(rows_of_examples):
      s = t = 0
      for number, (source, target) in enumerate(examples, 1):
        columns['encoder_input_tokens'][row, s : s + len(source)] = source
        columns['encoder_segment_ids'][row, s : s + len(source)] = number
        columns['decoder_target_tokens'][row, t : t + len(target)] = target
        columns['decoder_input_tokens'][row, t + 1 : t + len(target)] = target[:-1]
        columns['decoder_segment_ids'][row, t : t + len(target)] = number
        columns['decoder_loss_weights'][row, t : t + len(target)] = 1
        s, t = s + len(source), t + len(target)
    return columns

  packed, _ = jax.jit(objective)(params, rows([first, second], []))
  apart, _ = jax.jit(objective)(params, rows([first], [second]))
  np.testing.assert_allclose(packed, apart, rtol=1e-6)


@pytest.mark.parametrize('settings', [{'num_sampled_exits': 1}, {'label_smoothing': 1.0}])
def test_settings_out_of_range_are_refused(objective, settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    losses.EncoderDecoderObjective(objective.model, **settings)
