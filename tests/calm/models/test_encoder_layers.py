"""The parts of encoders against Flax's own and their formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calm.models import encoder_layers

X = np.sin(np.arange(2 * 3 * 5, dtype=np.float32)).reshape(2, 3, 5)


def test_dense_and_its_gradient_are_flaxs():
  ours, theirs = encoder_layers.Dense(7), nn.Dense(7)
  params = {'kernel': jnp.cos(jnp.arange(35.0)).reshape(5, 7), 'bias': jnp.arange(7.0)}

  def loss(params, module):
    return jnp.sum(jnp.sin(module.apply({'params': params}, X)))

  np.testing.assert_allclose(
    ours.apply({'params': params}, X), theirs.apply({'params': params}, X), rtol=1e-6
  )
  for name, grad in jax.grad(loss)(params, ours).items():
    np.testing.assert_allclose(grad, jax.grad(loss)(params, theirs)[name], rtol=1e-5, atol=1e-6)


def test_layer_norm_is_its_formula_however_far_from_0():
  scale, bias = np.arange(1.0, 6), np.arange(5.0)
  norm = encoder_layers.LayerNorm(1e-12)
  variables = {'params': {'scale': jnp.float32(scale), 'bias': jnp.float32(bias)}}
  for offset in (0, 1024):
    x = np.float64(np.float32(X + offset))
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + bias
    np.testing.assert_allclose(norm.apply(variables, jnp.float32(x)), expected, atol=1e-3)


def test_layer_norm_computes_in_float32_and_answers_in_its_type():
  norm = encoder_layers.LayerNorm(1e-7, jnp.bfloat16)
  variables = norm.init(jax.random.key(0), X)
  out = norm.apply(variables, jnp.bfloat16(X))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(out).mean(-1), 0, atol=0.01)


def test_biases_begin_at_0_and_kernels_with_their_deviation():
  module = encoder_layers.FeedForward(400, 'relu', init_stddev=0.5)
  params = module.init(jax.random.key(3), X)['params']
  assert params['wi']['kernel'].shape == (5, 400)
  assert params['wo']['kernel'].shape == (400, 5)
  assert not params['wi']['bias'].any()
  assert not params['wo']['bias'].any()
  np.testing.assert_allclose(np.std(params['wi']['kernel']), 0.5, rtol=0.1)


def test_a_pooler_takes_states_of_any_leading_axes():
  pooler = encoder_layers.Pooler(5, 'tanh')
  params = {'dense': {'kernel': jnp.eye(5), 'bias': jnp.zeros(5)}}
  for x in (X, X[:, 0], X[0, 0]):
    np.testing.assert_allclose(pooler.apply({'params': params}, x), np.tanh(x), rtol=1e-6)
