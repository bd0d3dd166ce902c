"""BERT in Flax, layer by layer.

One alphabet of axes: B batch, T length (S for keys), N heads, H head_dim, D emb_dim, F mlp_dim,
L layers, C labels. Devlin et al., https://arxiv.org/abs/1810.04805.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm import settings
from calm.models import encoder_layers, layers
from calm.models.encoder import PARTITION_RULES, Encoder, EncoderConfig


@dataclasses.dataclass(frozen=True)
class BertConfig(EncoderConfig):
  """Sizes and choices of a BERT; the defaults are those of BERT-base, uncased."""

  # Of a head; None is emb_dim / num_heads. In a sub-network fewer heads keep the size they had.
  head_size: settings.Count | None = None

  _sizes: ClassVar[tuple[str, ...]] = (*EncoderConfig._sizes, 'num_token_types')

  def __post_init__(self) -> None:
    if self.head_size is not None and self.head_size * self.num_heads == self.emb_dim:
      object.__setattr__(self, 'head_size', None)
    super().__post_init__()

  @property
  def head_dim(self) -> int:
    """H."""
    return self.head_size or super().head_dim

  def _check_heads(self) -> None:
    if self.head_size is None:
      super()._check_heads()
    elif self.head_size < 1:
      raise ValueError(f'head_size must be positive, not {self.head_size}.')


PUBLISHED = {
  'tiny': BertConfig(128, 32, 2, 48, 2, 64),
  'bert_base': BertConfig(),
  'bert_large': BertConfig(emb_dim=1024, num_heads=16, mlp_dim=4096, num_layers=24),
  'minilm': BertConfig(emb_dim=384, mlp_dim=1536, num_layers=6),
}


def published(name: str = 'bert_base', **changes: Any) -> BertConfig:
  """The BertConfig of a published size (or 'tiny', for tests), fields replaced by `changes`.

  Raises:
    ValueError: no such size; the message lists them.
  """
  if name not in PUBLISHED:
    raise ValueError(f'No published BERT is called {name!r}; there are {", ".join(PUBLISHED)}.')
  return dataclasses.replace(PUBLISHED[name], **changes)


def _dense(cfg: BertConfig, features: int) -> encoder_layers.Dense:
  return encoder_layers.Dense(features, cfg.init_stddev, cfg.dtype)


def _norm(cfg: BertConfig) -> encoder_layers.LayerNorm:
  return encoder_layers.LayerNorm(cfg.norm_epsilon, cfg.dtype)


class Embeddings(nn.Module):
  """The sum of the embeddings of word, position and token type, normed."""

  config: BertConfig

  def setup(self) -> None:
    cfg = self.config

    def table(num_rows: int) -> nn.Embed:
      init = nn.initializers.normal(cfg.init_stddev)
      return nn.Embed(num_rows, cfg.emb_dim, dtype=cfg.dtype, embedding_init=init)

    self.word = table(cfg.vocab_size)
    self.position = table(cfg.max_length)
    self.token_type = table(cfg.num_token_types)
    self.norm = _norm(cfg)
    self.dropout = layers.Dropout(cfg.dropout_rate)

  def __call__(
    self, tokens: jax.Array, token_types: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Maps int32 tokens[B, T] and token_types[B, T] to [B, T, D]."""
    x = self.word(tokens) + self.token_type(token_types)
    positions = self.position(jnp.arange(tokens.shape[1]))
    return self.dropout(self.norm(x + layers.repeat_rows(positions, x.shape)), deterministic)


class SelfAttention(nn.Module):
  """Multi-head attention of each token to all, with biases, scores scaled by 1/sqrt(H)."""

  config: BertConfig

  def setup(self) -> None:
    cfg = self.config
    self.query = _dense(cfg, cfg.joined_dim)
    self.key = _dense(cfg, cfg.joined_dim)
    self.value = _dense(cfg, cfg.joined_dim)
    self.out = _dense(cfg, cfg.emb_dim)
    self.dropout = layers.Dropout(cfg.attention_dropout_rate)

  def __call__(self, x: jax.Array, mask: jax.Array, deterministic: bool = True) -> jax.Array:
    """Maps x[B, T, D] to [B, T, D]; bool mask[B, S] says which keys are there."""
    cfg = self.config
    to_heads = (*x.shape[:2], cfg.num_heads, cfg.head_dim)
    query, key, value = (make(x).reshape(to_heads) for make in (self.query, self.key, self.value))
    scores = jnp.einsum('BTNH,BSNH->BNTS', query, key).astype(jnp.float32) * cfg.head_dim**-0.5
    scores = jnp.where(mask[:, None, None, :], scores, layers.NEG_INF)
    weights = self.dropout(jax.nn.softmax(scores, axis=-1).astype(cfg.dtype), deterministic)
    mixed = jnp.einsum('BNTS,BSNH->BTNH', weights, value)
    return self.out(mixed.reshape(*x.shape[:2], cfg.joined_dim))


class Bert(Encoder):
  """BERT: an `Encoder` in which each position is embedded."""

  config: BertConfig

  partition_rules = (
    (r'(query|key|value)/kernel$', PartitionSpec(None, 'model')),
    (r'(query|key|value)/bias$', PartitionSpec('model')),
    *PARTITION_RULES,
  )

  def setup(self) -> None:
    cfg = self.config
    self.embeddings = Embeddings(cfg)
    self.layers = encoder_layers.stack(cfg, SelfAttention)
    self.setup_heads('tanh')

  def embed(
    self,
    tokens: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """The state before the first layer, [B, T, D]; arguments and errors are those of a call."""
    del mask  # Other encoders need it here.
    self.require_positions(tokens)
    types = jnp.zeros_like(tokens) if token_types is None else token_types
    return self.embeddings(tokens, types, deterministic)

  def layer(
    self, index: int, state: jax.Array, mask: jax.Array, *, deterministic: bool = True
  ) -> jax.Array:
    """The state after layer `index` (from 0) of the state before it, both [B, T, D]."""
    return self.layers[index](state, mask, deterministic)
