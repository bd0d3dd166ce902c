"""DeBERTa, its first version, in Flax, layer by layer.

One alphabet of axes: B batch, T length (S for keys), N heads, H head_dim, D emb_dim, F mlp_dim,
L layers, C labels, M max_relative_positions. He et al., https://arxiv.org/abs/2006.03654. Versions
2 and 3 are other networks: they put distances into logarithmic buckets.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm.models import encoder_layers, layers
from calm.models.disentangled_attention import POSITION_TERMS, DisentangledAttention
from calm.models.encoder import PARTITION_RULES, Encoder, EncoderConfig
from calm.models.layers import training_only


@dataclasses.dataclass(frozen=True)
class DebertaConfig(EncoderConfig):
  """Sizes and choices of a DeBERTa; the defaults are those of DeBERTa-base."""

  vocab_size: int = 50265
  num_token_types: int = 0
  norm_epsilon: float = 1e-7
  max_relative_positions: int = 512  # All that are further apart share the last embedding.
  position_terms: tuple[str, ...] = POSITION_TERMS  # Any of them, or none.
  absolute_positions: bool = False  # An embedding of each position is added to its word's.
  pooler_activation: str = 'exact_gelu'
  pooler_dropout_rate: float = training_only(0.0)

  _sizes: ClassVar[tuple[str, ...]] = (*EncoderConfig._sizes, 'max_relative_positions')
  _activations: ClassVar[tuple[str, ...]] = (*EncoderConfig._activations, 'pooler_activation')
  _rates: ClassVar[tuple[str, ...]] = (*EncoderConfig._rates, 'pooler_dropout_rate')

  def __post_init__(self) -> None:
    super().__post_init__()
    object.__setattr__(self, 'position_terms', tuple(sorted(self.position_terms)))
    if self.position_terms not in ((), ('c2p',), ('p2c',), POSITION_TERMS):
      raise ValueError(
        f'position_terms: {self.position_terms} are not some of {POSITION_TERMS}, each once.'
      )


PUBLISHED = {
  'tiny': DebertaConfig(128, 32, 2, 48, 2, 64, max_relative_positions=16),
  'deberta_base': DebertaConfig(),
  'deberta_large': DebertaConfig(emb_dim=1024, num_heads=16, mlp_dim=4096, num_layers=24),
  'deberta_xlarge': DebertaConfig(emb_dim=1024, num_heads=16, mlp_dim=4096, num_layers=48),
}


def published(name: str = 'deberta_base', **changes: Any) -> DebertaConfig:
  """The DebertaConfig of a published size (or 'tiny', for tests), fields replaced by `changes`.

  Raises:
    ValueError: no such size; the message lists them.
  """
  if name not in PUBLISHED:
    raise ValueError(f'No published DeBERTa is called {name!r}; there are {", ".join(PUBLISHED)}.')
  return dataclasses.replace(PUBLISHED[name], **changes)


def _norm(cfg: DebertaConfig) -> encoder_layers.LayerNorm:
  return encoder_layers.LayerNorm(cfg.norm_epsilon, cfg.dtype)


class Embeddings(nn.Module):
  """The embedding of each word, with those of position and token type where the model has them.

  Normed, then 0 at padding.
  """

  config: DebertaConfig

  def setup(self) -> None:
    cfg = self.config

    def table(num_rows: int) -> nn.Embed:
      init = nn.initializers.normal(cfg.init_stddev)
      return nn.Embed(num_rows, cfg.emb_dim, dtype=cfg.dtype, embedding_init=init)

    self.word = table(cfg.vocab_size)
    if cfg.absolute_positions:
      self.position = table(cfg.max_length)
    if cfg.num_token_types:
      self.token_type = table(cfg.num_token_types)
    self.norm = _norm(cfg)
    self.dropout = layers.Dropout(cfg.dropout_rate)

  def __call__(
    self, tokens: jax.Array, mask: jax.Array, token_types: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Maps int32 tokens[B, T] and token_types[B, T] and bool mask[B, T] to [B, T, D]."""
    x = self.word(tokens)
    if self.config.absolute_positions:
      x += layers.repeat_rows(self.position(jnp.arange(tokens.shape[1])), x.shape)
    if self.config.num_token_types:
      x += self.token_type(token_types)
    x = jnp.where(mask[..., None], self.norm(x), 0)
    return self.dropout(x, deterministic)


class Deberta(Encoder):
  """DeBERTa: an `Encoder` whose layers share one table of relative positions."""

  config: DebertaConfig

  partition_rules = (
    (r'(query_key_value|position_key|position_query)/kernel$', PartitionSpec(None, 'model')),
    (r'(position_query/|query_|value_)bias$', PartitionSpec('model')),
    *PARTITION_RULES,
  )

  def setup(self) -> None:
    cfg = self.config
    self.embeddings = Embeddings(cfg)
    if cfg.position_terms:
      shape = (2 * cfg.max_relative_positions, cfg.emb_dim)
      init = nn.initializers.normal(cfg.init_stddev)
      self.rel_embeddings = self.param('rel_embeddings', init, shape, jnp.float32)
    self.layers = encoder_layers.stack(cfg, DisentangledAttention)
    self.setup_heads(cfg.pooler_activation, cfg.pooler_dropout_rate)

  def embed(
    self,
    tokens: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """The state before the first layer, [B, T, D]; arguments and errors are those of a call."""
    if self.config.absolute_positions:
      self.require_positions(tokens)
    types = jnp.zeros_like(tokens) if token_types is None else token_types
    return self.embeddings(tokens, mask, types, deterministic)

  def layer(
    self, index: int, state: jax.Array, mask: jax.Array, *, deterministic: bool = True
  ) -> jax.Array:
    """The state after layer `index` (from 0) of the state before it, both [B, T, D]."""
    rel_embeddings = self.rel_embeddings if self.config.position_terms else None
    return self.layers[index](state, mask, deterministic, rel_embeddings)
