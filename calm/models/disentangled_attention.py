"""DeBERTa's attention, by content and by relative position.

He et al., https://arxiv.org/abs/2006.03654, section 3.1. B batch, T length (S for keys), N heads,
H head_dim, D emb_dim, M max_relative_positions, R distances.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from calm.models import encoder_layers, layers

# Beside content to content: content of the query to position of the key, and the reverse.
POSITION_TERMS = ('c2p', 'p2c')


def skew(x: jax.Array, first: int) -> jax.Array:
  """Row i of x[..., T, 2T] from column `first` - i on, T entries: [..., T, T].

  `first` is T - 1 or T. Where the columns of x are distances this picks for each query and key the
  distance between them, as slices of one long row: no index is computed, and the gradient needs no
  scatter. Huang et al., https://arxiv.org/abs/1809.04281.
  """
  length = x.shape[-2]
  x = x.reshape(*x.shape[:-2], -1)[..., first : first + length * (2 * length - 1)]
  return x.reshape(*x.shape[:-1], length, 2 * length - 1)[..., :length]


def _dense(cfg: Any, features: int) -> encoder_layers.Dense:
  return encoder_layers.Dense(features, cfg.init_stddev, cfg.dtype)


def _product(cfg: Any, features: int) -> nn.Dense:
  init = nn.initializers.normal(cfg.init_stddev)
  return layers.dense(features, dtype=cfg.dtype, kernel_init=init)


class DisentangledAttention(nn.Module):
  """Attention by content and by relative position, each with vectors of its own (section 3.1).

  Heads come before rows here: then every product is one of matrices for each head.
  """

  config: Any  # A DebertaConfig.

  def setup(self) -> None:
    cfg = self.config
    # For each head its query, key and value.
    self.query_key_value = _product(cfg, 3 * cfg.emb_dim)
    self.query_bias = self.param('query_bias', nn.initializers.zeros, (cfg.emb_dim,), jnp.float32)
    self.value_bias = self.param('value_bias', nn.initializers.zeros, (cfg.emb_dim,), jnp.float32)
    if 'c2p' in cfg.position_terms:
      self.position_key = _product(cfg, cfg.emb_dim)
    if 'p2c' in cfg.position_terms:
      self.position_query = _dense(cfg, cfg.emb_dim)
    self.out = _dense(cfg, cfg.emb_dim)
    self.dropout = layers.Dropout(cfg.attention_dropout_rate)
    self.position_dropout = layers.Dropout(cfg.dropout_rate)

  def __call__(
    self, x: jax.Array, mask: jax.Array, rel_embeddings: Any, deterministic: bool = True
  ) -> jax.Array:
    """Maps x[B, T, D] to [B, T, D].

    bool mask[B, S] says which keys are there; rel_embeddings[2M, D] are None without position
    terms.
    """
    cfg = self.config
    query, key, value = self._by_head(x)
    scores = jnp.einsum('NBTH,NBSH->NBTS', query, key).astype(jnp.float32)
    if cfg.position_terms:
      scores += self._position_scores(query, key, rel_embeddings, deterministic)
    scores *= (cfg.head_dim * (1 + len(cfg.position_terms))) ** -0.5
    scores = jnp.where(mask[None, :, None, :], scores, layers.NEG_INF)
    weights = self.dropout(jax.nn.softmax(scores, axis=-1).astype(cfg.dtype), deterministic)
    return self.out(jnp.einsum('NBTS,NBSH->BTNH', weights, value).reshape(x.shape))

  def _by_head(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value of x[B, T, D], each [N, B, T, H]."""
    cfg = self.config
    packed = self.query_key_value(x).reshape(*x.shape[:2], cfg.num_heads, 3, cfg.head_dim)
    query, key, value = packed.transpose(3, 2, 0, 1, 4)

    def biased(heads: jax.Array, bias: jax.Array) -> jax.Array:
      bias = jnp.asarray(bias, cfg.dtype).reshape(cfg.num_heads, 1, 1, cfg.head_dim)
      return heads + bias

    return biased(query, self.query_bias), key, biased(value, self.value_bias)

  def _position_scores(
    self, query: jax.Array, key: jax.Array, rel_embeddings: jax.Array, deterministic: bool
  ) -> jax.Array:
    """What relative positions add to the scores: float32[N, B, T, S], not yet scaled."""
    cfg = self.config
    length = query.shape[2]
    span = min(length, cfg.max_relative_positions)
    near = rel_embeddings[cfg.max_relative_positions - span :][: 2 * span]
    near = self.position_dropout(near, deterministic)
    scores = jnp.float32(0)
    if 'c2p' in cfg.position_terms:
      # The later the key, the smaller the distance: here distances fall from T - 1 to -T.
      positions = jnp.flip(_at_distances(self.position_key(near), cfg.num_heads, length), 1)
      scores += skew(_products(query, positions), length - 1).astype(jnp.float32)
    if 'p2c' in cfg.position_terms:
      positions = _at_distances(self.position_query(near), cfg.num_heads, length)
      by_key = skew(_products(key, positions), length).astype(jnp.float32)
      scores += by_key.swapaxes(-1, -2)
    return scores


def _at_distances(rows: jax.Array, num_heads: int, length: int) -> jax.Array:
  """rows[2 * span, D] of the nearest distances as [N, 2T, H] of the distances -T to T - 1.

  A distance is a query's position minus a key's; beyond the span the outermost rows repeat.
  """
  heads = rows.reshape(len(rows), num_heads, -1).transpose(1, 0, 2)
  beyond = length - len(rows) // 2
  return jnp.pad(heads, ((0, 0), (beyond, beyond), (0, 0)), mode='edge')


def _products(content: jax.Array, positions: jax.Array) -> jax.Array:
  """Of content[N, B, T, H] with positions[N, R, H]: [N, B, T, R]."""
  heads, rows, length, size = content.shape
  # One product of matrices for each head; XLA's own choice takes three times as long on CPU.
  content = content.reshape(heads, rows * length, size)
  return jnp.einsum('NXH,NRH->NXR', content, positions).reshape(heads, rows, length, -1)
