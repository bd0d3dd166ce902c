"""The parts T5 is made of: norm, dropout, attention, feed-forward, relative positions.

Shapes use one alphabet, as everywhere in `calm.models`: B batch, T target length, S source (or
key) length, N heads, H head_dim, D emb_dim, F mlp_dim, V vocab. Parameter names, initializers and
the two-dimensional attention kernels are those of T5X's minimal T5
(https://github.com/google-research/t5x, t5x/examples/t5), so its checkpoints fit as they are.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calm import settings

NEG_INF = -1e10  # T5X's masked score: finite, so that a fully masked row stays free of NaN.

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'linear': lambda x: x,
  'relu': nn.relu,
  'gelu': functools.partial(nn.gelu, approximate=True),  # T5 1.1 uses the tanh form.
  'exact_gelu': functools.partial(nn.gelu, approximate=False),  # BERT uses the error function.
  'silu': nn.silu,
  'tanh': nn.tanh,
}


def training_only(default: Any) -> Any:
  """A field that changes nothing of what is computed without dropout: no result depends on it."""
  return dataclasses.field(default=default, metadata={'identity': False})


def dtype_of_activations(value: Any) -> np.dtype:
  """A type of activations, from its name or as it is.

  Raises:
    SettingError: it is neither float32 nor bfloat16.
  """
  try:
    dtype = jnp.dtype(value)
  except TypeError:
    dtype = None
  if dtype not in (jnp.float32, jnp.bfloat16):
    raise settings.SettingError('dtype', value, "'float32' or 'bfloat16'")
  return dtype


def scaled_normal(divisor: float = 1.0) -> nn.initializers.Initializer:
  """Normal initializer of standard deviation 1 / (sqrt(fan_in) * divisor)."""
  return nn.initializers.variance_scaling(1.0 / divisor**2, 'fan_in', 'normal')


def rows_dot_general(
  x: jax.Array,
  kernel: jax.Array,
  dimension_numbers: Any = None,
  precision: Any = None,
  preferred_element_type: Any = None,
) -> jax.Array:
  """`lax.dot_general` of x[..., D] and a kernel[D, F] as one product of matrices: [..., F].

  The kernel's gradient then contracts one axis, not two; for two XLA first writes out a transpose
  of the output's gradient. The signature is what `nn.Dense` asks for; x and kernel say the axes.
  """
  del dimension_numbers
  rows = x.reshape(-1, x.shape[-1])
  product = jax.lax.dot_general(
    rows, kernel, (((1,), (0,)), ((), ())), precision, preferred_element_type
  )
  return product.reshape(*x.shape[:-1], -1)


dense = functools.partial(nn.Dense, use_bias=False, dot_general=rows_dot_general)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeat_rows(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`jnp.broadcast_to` along leading axes, its gradient summed by a product with ones.

  XLA's own sum over leading axes takes twenty times as long on CPU.
  """
  return jnp.broadcast_to(x, shape)


def _sum_rows(shape: tuple[int, ...], like: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
  rows = grad.reshape(-1, like.size)
  summed = jnp.dot(jnp.ones(len(rows), grad.dtype), rows, precision='highest')
  return (summed.reshape(like.shape),)


repeat_rows.defvjp(lambda x, shape: (jnp.broadcast_to(x, shape), x), _sum_rows)


class RMSNorm(nn.Module):
  """Divides by the root mean square over the last axis; no mean is taken, no bias added."""

  epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x[..., D] to the same shape, computed in float32."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    x = x.astype(jnp.float32)
    inverse_rms = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
    return (x * inverse_rms * repeat_rows(scale, x.shape)).astype(self.dtype)


class Dropout(nn.Module):
  """Zeroes a share `rate` of the entries and scales up the rest, outside of `deterministic`.

  One draw serves all positions along each of `broadcast_dims`. Raw 32-bit draws are compared with
  an integer: on CPU a fourth of the time of `jax.random.bernoulli`.
  """

  rate: float
  broadcast_dims: Sequence[int] = ()

  @nn.compact
  def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
    """Maps x of any shape to the same shape; draws from the stream 'dropout'."""
    if deterministic or self.rate == 0.0:
      return x
    shape = list(x.shape)
    for axis in self.broadcast_dims:
      shape[axis] = 1
    draws = jax.random.bits(self.make_rng('dropout'), tuple(shape), jnp.uint32)
    keep = draws >= jnp.uint32(round(self.rate * 2**32))
    scale = jnp.where(keep, 1.0 / (1.0 - self.rate), 0.0).astype(x.dtype)
    return x * scale


class Attention(nn.Module):
  """Multi-head attention whose keys and values are made by a method of their own.

  T5 has no 1/sqrt(head_dim) on the scores: the query's initializer carries it.
  """

  num_heads: int
  head_dim: int
  emb_dim: int
  dropout: Dropout
  dtype: Any = jnp.float32

  def setup(self) -> None:
    project = functools.partial(dense, dtype=self.dtype)
    joined = self.num_heads * self.head_dim
    self.query = project(joined, kernel_init=scaled_normal(math.sqrt(self.head_dim)))
    self.key = project(joined, kernel_init=scaled_normal())
    self.value = project(joined, kernel_init=scaled_normal())
    self.out = project(self.emb_dim, kernel_init=scaled_normal())

  def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps x[B, S, D] to keys and values, each [B, N, H, S], the layout of the decoding cache."""
    return self._to_heads_last_length(self.key(x)), self._to_heads_last_length(self.value(x))

  def attend(
    self,
    x: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    bias: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """Queries of x[B, T, D] over keys and values[B, N, H, S]; returns [B, T, D].

    `mask` is boolean and broadcast against the scores[B, N, T, S]; `bias` is float32
    [1, N, T, S] or [B, N, T, S].
    """
    batch, length = x.shape[:2]
    query = self.query(x).reshape(batch, length, self.num_heads, self.head_dim)
    scores = jnp.einsum('BTNH,BNHS->BNTS', query, keys).astype(jnp.float32)
    if bias is not None:
      scores += repeat_rows(bias, scores.shape)
    weights = jax.nn.softmax(jnp.where(mask, scores, NEG_INF), axis=-1).astype(self.dtype)
    weights = self.dropout(weights, deterministic)
    mixed = jnp.einsum('BNTS,BNHS->BTNH', weights, values)
    return self.out(mixed.reshape(batch, length, -1))

  def _to_heads_last_length(self, x: jax.Array) -> jax.Array:
    batch, length = x.shape[:2]
    return x.reshape(batch, length, self.num_heads, self.head_dim).transpose(0, 2, 3, 1)


class FeedForward(nn.Module):
  """T5's feed-forward block: one activation (1.0), or the product of several branches (1.1)."""

  mlp_dim: int
  emb_dim: int
  activations: Sequence[str]
  dropout: Dropout
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
    """Maps x[B, T, D] to [B, T, D] by way of [B, T, F]."""
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
    project = functools.partial(dense, dtype=self.dtype, kernel_init=init)
    branches = []
    for i, activation in enumerate(self.activations):
      name = 'wi' if len(self.activations) == 1 else f'wi_{i}'
      branches.append(ACTIVATIONS[activation](project(self.mlp_dim, name=name)(x)))
    x = self.dropout(functools.reduce(jnp.multiply, branches), deterministic)
    return project(self.emb_dim, name='wo')(x)


def relative_position_bucket(
  distance: jax.Array, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
) -> jax.Array:
  """Bucket numbers of `distance` = key position - query position (int32, any shape).

  Half of the buckets hold one distance each, the rest grow logarithmically up to `max_distance`;
  beyond it all share the last. Causal attention gives every later key bucket 0; bidirectional
  attention spends half of the buckets on each direction. Raffel et al., section 2.1,
  https://arxiv.org/abs/1910.10683.

  Raises:
    ValueError: there is no bucket for single distances, or no distance for the others.
  """
  offset = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance > 0, num_buckets, offset)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  buckets = jnp.asarray(_distance_buckets(num_buckets, max_distance))
  return offset + buckets[jnp.minimum(distance, max_distance)]


@functools.lru_cache(maxsize=16)
def _distance_buckets(num_buckets: int, max_distance: int) -> np.ndarray:
  """The bucket of each distance in [0, max_distance] in one direction, as T5X rounds: int32."""
  num_exact = num_buckets // 2
  if not 1 <= num_exact < max_distance:
    raise ValueError(
      f'No buckets of relative positions: {num_buckets} in a direction, up to distance '
      f'{max_distance}; there must be 2 or more, and half of them below that distance.'
    )
  distances = np.arange(max_distance + 1, dtype=np.int32)
  # In NumPy, and with T5X's epsilon: where the logarithm is a whole number, the last bit decides,
  # which XLA's has otherwise.
  ratio = distances.astype(np.float32) / np.float32(num_exact) + np.finfo(np.float32).eps
  growth = np.log(ratio) / np.float32(np.log(max_distance / num_exact))
  large = num_exact + (growth * np.float32(num_buckets - num_exact)).astype(np.int32)
  return np.where(distances < num_exact, distances, np.minimum(large, num_buckets - 1))


class RelativePositionBias(nn.Module):
  """A learned score per head and distance bucket, shared by all layers of a stack."""

  num_heads: int
  bidirectional: bool
  num_buckets: int = 32
  max_distance: int = 128

  @nn.compact
  def __call__(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
    """Maps int32 positions [T] and [S] to float32 bias[1, N, T, S]."""
    init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
    table = self.param('rel_embedding', init, (self.num_heads, self.num_buckets), jnp.float32)
    buckets = relative_position_bucket(
      key_positions[None, :] - query_positions[:, None],
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return jnp.asarray(table)[:, buckets][None]


def attention_mask(
  query_valid: jax.Array,
  key_valid: jax.Array,
  query_segments: jax.Array | None = None,
  key_segments: jax.Array | None = None,
) -> jax.Array:
  """Which key each query may see: bool[B, 1, T, S] from valid[B, T], [B, S] and segments.

  Packed rows hold several examples; a query sees keys of its own segment only.
  """
  mask = query_valid[:, None, :, None] & key_valid[:, None, None, :]
  if query_segments is not None and key_segments is not None:
    mask &= query_segments[:, None, :, None] == key_segments[:, None, None, :]
  return mask


def causal_mask(query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
  """Whether a key is not later than the query: bool[1, 1, T, S] from positions [T] and [S]."""
  return (key_positions[None, :] <= query_positions[:, None])[None, None]


@dataclasses.dataclass(frozen=True)
class KeysValues:
  """Keys and values of one attention, each [B, N, H, S]."""

  keys: jax.Array
  values: jax.Array


jax.tree_util.register_dataclass(KeysValues, ['keys', 'values'], [])
