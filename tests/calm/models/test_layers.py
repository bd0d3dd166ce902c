import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import layers

# First distance of each bucket beyond those of one distance each, by pencil: bidirectional
# buckets grow by sqrt(2) from 8 on, causal ones by 8 ** (1 / 16) from 16 on.
BIDIRECTIONAL_EDGES = (8, 12, 16, 23, 32, 46, 64, 91)
CAUSAL_EDGES = (16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)


def test_bidirectional_buckets():
  distances = jnp.arange(300)
  buckets = np.where(
    distances < 8,
    distances,
    7 + (np.arange(300)[:, None] >= np.array(BIDIRECTIONAL_EDGES)).sum(-1),
  )
  bucket = functools.partial(layers.relative_position_bucket, bidirectional=True)
  np.testing.assert_array_equal(bucket(-distances), buckets)
  np.testing.assert_array_equal(bucket(distances[1:]), 16 + buckets[1:])


def test_causal_buckets():
  distances = jnp.arange(300)
  buckets = np.where(
    distances < 16, distances, 15 + (np.arange(300)[:, None] >= np.array(CAUSAL_EDGES)).sum(-1)
  )
  bucket = functools.partial(layers.relative_position_bucket, bidirectional=False)
  np.testing.assert_array_equal(bucket(-distances), buckets)
  np.testing.assert_array_equal(bucket(distances), jnp.zeros(300))


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize(('num_buckets', 'max_distance'), [(32, 128), (16, 64), (20, 200)])
def test_buckets_are_those_of_transformers(bidirectional, num_buckets, max_distance):
  torch = pytest.importorskip('torch')
  modeling = pytest.importorskip('transformers.models.t5.modeling_t5')
  distances = np.arange(-1000, 1000)
  expected = modeling.T5Attention._relative_position_bucket(
    torch.tensor(distances), bidirectional, num_buckets, max_distance
  )
  ours = layers.relative_position_bucket(
    jnp.array(distances),
    bidirectional=bidirectional,
    num_buckets=num_buckets,
    max_distance=max_distance,
  )
  np.testing.assert_array_equal(ours, expected.numpy())


def t5x_buckets(distance, bidirectional, num_buckets, max_distance):
  """The formula of T5X (t5x/examples/t5/layers.py) in NumPy's float32, one step a line."""
  bucket = np.zeros_like(distance)
  behind = -distance
  if bidirectional:
    num_buckets //= 2
    bucket += (behind < 0) * num_buckets
    behind = np.abs(behind)
  else:
    behind = np.maximum(behind, 0)
  num_exact = num_buckets // 2
  large = np.log(behind.astype(np.float32) / np.float32(num_exact) + np.finfo(np.float32).eps)
  large /= np.float32(np.log(max_distance / num_exact))
  large *= np.float32(num_buckets - num_exact)
  large = np.minimum(num_exact + large.astype(np.int32), num_buckets - 1)
  return bucket + np.where(behind < num_exact, behind, large)


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('max_distance', [40, 64, 100, 128, 200, 256, 512, 1000])
def test_buckets_are_those_of_t5x_for_all_settings(bidirectional, max_distance):
  distances = np.arange(-1100, 1100, dtype=np.int32)
  for num_buckets in range(4, 65):
    ours = layers.relative_position_bucket(
      distances,
      bidirectional=bidirectional,
      num_buckets=num_buckets,
      max_distance=max_distance,
    )
    expected = t5x_buckets(distances, bidirectional, num_buckets, max_distance)
    np.testing.assert_array_equal(ours, expected, err_msg=str(num_buckets))


def test_a_distance_on_an_edge_belongs_to_the_bucket_that_begins_there():
  # Two buckets from distance 2 to 200; half of the way, in logarithms, is 20.
  bucket = functools.partial(
    layers.relative_position_bucket, bidirectional=False, num_buckets=4, max_distance=200
  )
  np.testing.assert_array_equal(
    bucket(-jnp.array([0, 1, 2, 19, 20, 21, 999])), [0, 1, 2, 2, 3, 3, 3]
  )
  np.testing.assert_array_equal(jax.jit(bucket)(-jnp.array([19, 20])), [2, 3])


@pytest.mark.parametrize('sizes', [(1, 128), (0, 128), (-4, 128), (32, 16), (32, 0)])
def test_buckets_that_cannot_be(sizes):
  num_buckets, max_distance = sizes
  with pytest.raises(ValueError, match='No buckets of relative positions'):
    layers.relative_position_bucket(
      jnp.arange(3), bidirectional=False, num_buckets=num_buckets, max_distance=max_distance
    )


def test_relative_position_bias_reads_one_table_row_per_head():
  module = layers.RelativePositionBias(num_heads=3, bidirectional=False)
  table = jnp.arange(3 * 32.0).reshape(3, 32)
  bias = module.apply({'params': {'rel_embedding': table}}, jnp.array([5]), jnp.array([5, 4, 2]))
  np.testing.assert_array_equal(bias, [[[[0, 1, 3]], [[32, 33, 35]], [[64, 65, 67]]]])


def test_a_product_of_rows_and_its_gradients_are_those_of_a_plain_product():
  x, kernel = jnp.sin(jnp.arange(2 * 3 * 5.0)).reshape(2, 3, 5), jnp.cos(jnp.arange(35.0))
  kernel = kernel.reshape(5, 7)
  out, gradients = jax.vjp(lambda x, k: layers.rows_dot_general(x, k, None), x, kernel)
  np.testing.assert_allclose(out, x @ kernel, rtol=1e-5, atol=1e-6)
  to_x, to_kernel = gradients(jnp.ones((2, 3, 7)))
  np.testing.assert_allclose(to_x, np.broadcast_to(kernel.sum(1), x.shape), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    to_kernel, np.broadcast_to(x.sum((0, 1))[:, None], (5, 7)), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('shape', [(3,), (1, 3), (2, 3), (1, 2, 3), (5, 2, 3)])
def test_the_gradient_of_repeated_rows_is_their_sum(shape):
  x = jnp.arange(float(np.prod(shape))).reshape(shape)
  factors = jnp.sin(jnp.arange(30.0)).reshape(5, 2, 3)
  repeated, gradients = jax.vjp(lambda x: layers.repeat_rows(x, (5, 2, 3)), x)
  np.testing.assert_array_equal(repeated, np.broadcast_to(x, (5, 2, 3)))
  expected = jax.grad(lambda x: (jnp.broadcast_to(x, (5, 2, 3)) * factors).sum())(x)
  np.testing.assert_allclose(gradients(factors)[0], expected, rtol=1e-5, atol=1e-6)


def test_rms_norm_takes_no_mean_away():
  norm = layers.RMSNorm()
  variables = {'params': {'scale': jnp.array([1.0, 2.0, -3.0, 0.0])}}
  out = norm.apply(variables, jnp.array([[5.0, 5.0, 5.0, 5.0], [2.0, -2.0, 2.0, -2.0]]))
  np.testing.assert_allclose(out, [[1, 2, -3, 0], [1, -2, -3, 0]], rtol=1e-6, atol=1e-6)


def test_rms_norm_ignores_the_size_of_its_input():
  x = jnp.sin(jnp.arange(21.0)).reshape(3, 7)
  norm = layers.RMSNorm(epsilon=0.0)
  variables = {'params': {'scale': jnp.ones(7)}}
  out = norm.apply(variables, x)
  np.testing.assert_allclose(jnp.mean(out**2, -1), jnp.ones(3), rtol=1e-6)
  np.testing.assert_allclose(norm.apply(variables, 1e4 * x), out, rtol=1e-5)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
  # A sum of 1024 squares in bfloat16 would stop growing at 256.
  x = jnp.ones((1, 1024), jnp.bfloat16)
  variables = {'params': {'scale': jnp.ones(1024)}}
  np.testing.assert_array_equal(layers.RMSNorm(dtype=jnp.bfloat16).apply(variables, x), x)


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate):
  x = jnp.full((211, 199), 3.0)
  out = np.asarray(layers.Dropout(rate).apply({}, x, False, rngs={'dropout': jax.random.key(1)}))
  dropped = (out == 0).mean()
  np.testing.assert_allclose(out[out != 0], 3 / (1 - rate), rtol=1e-6)
  assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / out.size)
  assert abs(out.mean() / 3 - 1) < 5 * np.sqrt(rate / (1 - rate) / out.size)


def test_dropout_shares_a_draw_along_broadcast_axes():
  x = jnp.ones((5, 7, 311))
  dropout = layers.Dropout(0.3, (-2,))
  out = np.asarray(dropout.apply({}, x, False, rngs={'dropout': jax.random.key(1)}))
  np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1], out.shape))
  assert (out[0, 0] != out[1, 0]).any()


def test_dropout_leaves_a_deterministic_pass_alone():
  x = jnp.arange(12.0).reshape(3, 4)
  np.testing.assert_array_equal(layers.Dropout(0.9).apply({}, x, True), x)
  np.testing.assert_array_equal(layers.Dropout(0.0).apply({}, x, False), x)


def test_attention_mask_keeps_padding_and_segments_apart():
  valid = jnp.array([[True, True, True, False]])
  segments = jnp.array([[1, 1, 2, 0]])
  mask = layers.attention_mask(valid, valid, segments, segments)
  expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(mask, np.array(expected, bool)[None, None])


def test_causal_mask_hides_later_keys():
  mask = layers.causal_mask(jnp.array([2, 3]), jnp.arange(5))
  np.testing.assert_array_equal(mask[0, 0], np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool))


def _attention():
  module = layers.Attention(num_heads=3, head_dim=5, emb_dim=7, dropout=layers.Dropout(0.0))
  x = jnp.cos(jnp.arange(2 * 4 * 7.0)).reshape(2, 4, 7)
  variables = module.init(
    jax.random.key(0), x, method=lambda m, x: m.attend(x, *m.keys_values(x), True)
  )
  return module, variables, x


def test_attention_equals_its_formula():
  module, variables, x = _attention()
  mask = layers.causal_mask(jnp.arange(4), jnp.arange(4))
  bias = jnp.sin(jnp.arange(3 * 4 * 4.0)).reshape(1, 3, 4, 4)
  keys, values = module.apply(variables, x, method='keys_values')
  out = module.apply(variables, x, keys, values, mask, bias, method='attend')

  kernels = {name: np.asarray(k['kernel'], np.float64) for name, k in variables['params'].items()}
  expected = np.zeros((2, 4, 7))
  for row in range(2):
    for head in range(3):
      part = slice(5 * head, 5 * head + 5)
      q, k, v = (np.asarray(x[row]) @ kernels[n][:, part] for n in ('query', 'key', 'value'))
      for t in range(4):
        weights = np.exp(k[: t + 1] @ q[t] + np.asarray(bias)[0, head, t, : t + 1])
        expected[row, t] += (weights / weights.sum()) @ v[: t + 1] @ kernels['out'][part]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_attention_without_any_key_is_finite():
  module, variables, x = _attention()
  keys, values = module.apply(variables, x, method='keys_values')
  mask = jnp.zeros((2, 1, 4, 4), bool)
  out = module.apply(variables, x, keys, values, mask, method='attend')
  assert jnp.isfinite(out).all()


def test_gated_feed_forward_multiplies_its_branches():
  module = layers.FeedForward(2, 1, ('relu', 'linear'), layers.Dropout(0.0))
  kernels = {'wi_0': [[1.0, -1.0]], 'wi_1': [[2.0, 5.0]], 'wo': [[3.0], [7.0]]}
  params = {name: {'kernel': jnp.array(kernel)} for name, kernel in kernels.items()}
  # x = 2: relu gives (2, 0), linear (4, 10). x = -1: (0, 1) and (-2, -5).
  out = module.apply({'params': params}, jnp.array([[[2.0]], [[-1.0]]]))
  np.testing.assert_allclose(out, [[[24.0]], [[-35.0]]])
