"""The parts encoders such as BERT are made of: biased products, norm, feed-forward, layer, pooler.

Normed after each block ("post-norm"), unlike T5. B batch, T length, D emb_dim, F mlp_dim.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from calm.models import layers
from calm.models.layers import repeat_rows


class Dense(nn.Module):
  """x @ kernel + bias over the last axis; the gradient of the bias is cheap on CPU, too."""

  features: int
  init_stddev: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x[..., D] to [..., features]."""
    init = nn.initializers.normal(self.init_stddev)
    kernel = self.param('kernel', init, (x.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    x, kernel, bias = (jnp.asarray(value, self.dtype) for value in (x, kernel, bias))
    y = layers.rows_dot_general(x, kernel)
    return y + repeat_rows(bias, y.shape)


class LayerNorm(nn.Module):
  """Takes the mean and divides by the deviation over the last axis, then scales and shifts.

  Ba et al., https://arxiv.org/abs/1607.06450.
  """

  epsilon: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x[..., D] to the same shape, computed in float32."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    x = x.astype(jnp.float32)
    x = x - x.mean(axis=-1, keepdims=True)
    inverse_deviation = jax.lax.rsqrt(
      jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon
    )
    x = x * inverse_deviation * repeat_rows(scale, x.shape) + repeat_rows(bias, x.shape)
    return x.astype(self.dtype)


class FeedForward(nn.Module):
  """One hidden layer with biases."""

  mlp_dim: int
  activation: str
  init_stddev: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x[B, T, D] to [B, T, D] by way of [B, T, F]."""
    hidden = Dense(self.mlp_dim, self.init_stddev, self.dtype, name='wi')(x)
    hidden = layers.ACTIVATIONS[self.activation](hidden)
    return Dense(x.shape[-1], self.init_stddev, self.dtype, name='wo')(hidden)


class Pooler(nn.Module):
  """What a classifier is given of a text: one more layer over the state of its first token."""

  emb_dim: int
  activation: str
  init_stddev: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps states x[..., D] to [..., D]."""
    x = Dense(self.emb_dim, self.init_stddev, self.dtype, name='dense')(x)
    return layers.ACTIVATIONS[self.activation](x)


class EncoderLayer(nn.Module):
  """Self-attention, then feed-forward, each added to its input and the sum normed."""

  config: Any
  attention_kind: Any  # a module of (x, mask, what else it looks at, deterministic)

  def setup(self) -> None:
    cfg = self.config
    self.attention = self.attention_kind(cfg)
    self.attention_norm = LayerNorm(cfg.norm_epsilon, cfg.dtype)
    self.mlp = FeedForward(cfg.mlp_dim, cfg.activation, cfg.init_stddev, cfg.dtype)
    self.mlp_norm = LayerNorm(cfg.norm_epsilon, cfg.dtype)
    self.dropout = layers.Dropout(cfg.dropout_rate)

  def __call__(
    self, x: jax.Array, mask: jax.Array, deterministic: bool = True, *more: Any
  ) -> jax.Array:
    """Maps x[B, T, D] to [B, T, D]; bool mask[B, T] is False at padding, `more` the attention's."""
    y = self.attention(x, mask, *more, deterministic)
    x = self.attention_norm(x + self.dropout(y, deterministic))
    return self.mlp_norm(x + self.dropout(self.mlp(x), deterministic))


def stack(config: Any, attention_kind: Any) -> list[EncoderLayer]:
  """The layers of an encoder, for `setup`; with config.remat, activations are computed again."""
  layer = nn.remat(EncoderLayer, static_argnums=(3,)) if config.remat else EncoderLayer
  return [layer(config, attention_kind) for _ in range(config.num_layers)]
