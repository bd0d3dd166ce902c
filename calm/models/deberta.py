"""DeBERTa, its first version, in Flax, layer by layer.

One alphabet of axes: B batch, T length (S for keys), N heads, H head_dim, D emb_dim, F mlp_dim,
L layers, C labels, M max_relative_positions. He et al., https://arxiv.org/abs/2006.03654. Versions
2 and 3 are other networks: they put distances into logarithmic buckets.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm.models import encoder_layers, layers
from calm.models.disentangled_attention import POSITION_TERMS, DisentangledAttention


def _training_only(default):
  """A field that changes nothing of what is computed without dropout: no result depends on it."""
  return dataclasses.field(default=default, metadata={'identity': False})


@dataclasses.dataclass(frozen=True)
class DebertaConfig:
  """Sizes and choices of a DeBERTa; the defaults are those of DeBERTa-base."""

  vocab_size: int = 50265
  emb_dim: int = 768
  num_heads: int = 12
  mlp_dim: int = 3072
  num_layers: int = 12
  max_length: int = 512  # No limit of the network, unless it has absolute positions.
  max_relative_positions: int = 512  # All that are further apart share the last embedding.
  position_terms: tuple[str, ...] = POSITION_TERMS  # Any of them, or none.
  absolute_positions: bool = False  # An embedding of each position is added to its word's.
  num_token_types: int = 0
  activation: str = 'exact_gelu'
  pooler_activation: str = 'exact_gelu'
  norm_epsilon: float = 1e-7
  pooler: bool = True
  num_labels: int = 0  # Of a classifier over the pooled state; 0 for none.
  dropout_rate: float = _training_only(0.1)
  attention_dropout_rate: float = _training_only(0.1)
  pooler_dropout_rate: float = _training_only(0.0)
  classifier_dropout_rate: float | None = _training_only(None)  # None for `dropout_rate`.
  init_stddev: float = _training_only(0.02)
  # Of activations; parameters, norms, softmax and logits are float32. A name, as in 'bfloat16',
  # or a type.
  dtype: Any = jnp.float32
  # Recompute a layer's activations in the backward pass, to save memory.
  remat: bool = _training_only(False)

  def __post_init__(self):
    # Lists and names arrive from gin and JSON; keep the config hashable and comparable.
    object.__setattr__(self, 'dtype', jnp.dtype(self.dtype))
    object.__setattr__(self, 'position_terms', tuple(sorted(self.position_terms)))
    for field in ('activation', 'pooler_activation'):
      if getattr(self, field) not in layers.ACTIVATIONS:
        known = sorted(layers.ACTIVATIONS)
        raise ValueError(f'{field}: {getattr(self, field)!r} is not one of {known}.')
    if self.dtype not in (jnp.float32, jnp.bfloat16):
      raise ValueError(f'dtype: {self.dtype} is neither float32 nor bfloat16.')
    if self.position_terms not in ((), ('c2p',), ('p2c',), POSITION_TERMS):
      raise ValueError(
        f'position_terms: {self.position_terms} are not some of {POSITION_TERMS}, each once.'
      )
    sizes = ('vocab_size', 'emb_dim', 'num_heads', 'mlp_dim', 'num_layers', 'max_length')
    for field in (*sizes, 'max_relative_positions'):
      if getattr(self, field) < 1:
        raise ValueError(f'{field} must be positive, not {getattr(self, field)}.')
    if self.emb_dim % self.num_heads:
      raise ValueError(f'emb_dim {self.emb_dim} is no multiple of num_heads {self.num_heads}.')
    if self.num_token_types < 0:
      raise ValueError(f'num_token_types must be 0 or positive, not {self.num_token_types}.')
    if self.num_labels < 0 or (self.num_labels and not self.pooler):
      raise ValueError(f'num_labels is {self.num_labels}: 0, or positive and with a pooler.')
    rates = ('dropout_rate', 'attention_dropout_rate', 'pooler_dropout_rate')
    for field in (*rates, 'classifier_dropout_rate'):
      if not 0 <= (getattr(self, field) or 0.0) < 1:
        raise ValueError(f'{field} must be in [0, 1), not {getattr(self, field)}.')

  @property
  def head_dim(self):
    """D / N."""
    return self.emb_dim // self.num_heads


PUBLISHED = {
  'tiny': DebertaConfig(128, 32, 2, 48, 2, 64, 16),
  'deberta_base': DebertaConfig(),
  'deberta_large': DebertaConfig(emb_dim=1024, num_heads=16, mlp_dim=4096, num_layers=24),
  'deberta_xlarge': DebertaConfig(emb_dim=1024, num_heads=16, mlp_dim=4096, num_layers=48),
}


def published(name='deberta_base', **changes):
  """The DebertaConfig of a published size (or 'tiny', for tests), fields replaced by `changes`.

  Raises:
    ValueError: no such size; the message lists them.
  """
  if name not in PUBLISHED:
    raise ValueError(f'No published DeBERTa is called {name!r}; there are {", ".join(PUBLISHED)}.')
  return dataclasses.replace(PUBLISHED[name], **changes)


def _norm(cfg):
  return encoder_layers.LayerNorm(cfg.norm_epsilon, cfg.dtype)


class Embeddings(nn.Module):
  """The embedding of each word, with those of position and token type where the model has them.

  Normed, then 0 at padding.
  """

  config: DebertaConfig

  def setup(self):
    cfg = self.config

    def table(num_rows):
      init = nn.initializers.normal(cfg.init_stddev)
      return nn.Embed(num_rows, cfg.emb_dim, dtype=cfg.dtype, embedding_init=init)

    self.word = table(cfg.vocab_size)
    if cfg.absolute_positions:
      self.position = table(cfg.max_length)
    if cfg.num_token_types:
      self.token_type = table(cfg.num_token_types)
    self.norm = _norm(cfg)
    self.dropout = layers.Dropout(cfg.dropout_rate)

  def __call__(self, tokens, mask, token_types, deterministic=True):
    """Maps int32 tokens[B, T] and token_types[B, T] and bool mask[B, T] to [B, T, D]."""
    x = self.word(tokens)
    if self.config.absolute_positions:
      x += layers.repeat_rows(self.position(jnp.arange(tokens.shape[1])), x.shape)
    if self.config.num_token_types:
      x += self.token_type(token_types)
    x = jnp.where(mask[..., None], self.norm(x), 0)
    return self.dropout(x, deterministic)


class EncoderLayer(nn.Module):
  """Self-attention, then feed-forward, each added to its input and the sum normed."""

  config: DebertaConfig

  def setup(self):
    cfg = self.config
    self.attention = DisentangledAttention(cfg)
    self.attention_norm = _norm(cfg)
    self.mlp = encoder_layers.FeedForward(cfg.mlp_dim, cfg.activation, cfg.init_stddev, cfg.dtype)
    self.mlp_norm = _norm(cfg)
    self.dropout = layers.Dropout(cfg.dropout_rate)

  def __call__(self, x, mask, rel_embeddings, deterministic=True):
    """Maps x[B, T, D] to [B, T, D]; see `DisentangledAttention`."""
    y = self.attention(x, mask, rel_embeddings, deterministic)
    x = self.attention_norm(x + self.dropout(y, deterministic))
    return self.mlp_norm(x + self.dropout(self.mlp(x), deterministic))


class Deberta(nn.Module):
  """An encoder whose every layer can be read, run and exited on its own.

  Training: `__call__` gives the states after all layers. Inference: `embed` once, then `layer` as
  far as it is needed. `pool` and `classify` take the state after any layer. The interface is that
  of `calm.models.bert.Bert`.
  """

  config: DebertaConfig

  # How parameters are split over a ('data', 'model') mesh: the first pattern found in the
  # '/'-joined path decides; what none fits is replicated.
  partition_rules = (
    (r'word/embedding$', PartitionSpec('model', None)),
    (r'(query_key_value|position_key|position_query)/kernel$', PartitionSpec(None, 'model')),
    (r'(position_query/|query_|value_)bias$', PartitionSpec('model')),
    (r'out/kernel$', PartitionSpec('model', None)),
    (r'mlp/wi/kernel$', PartitionSpec(None, 'model')),
    (r'mlp/wi/bias$', PartitionSpec('model')),
    (r'mlp/wo/kernel$', PartitionSpec('model', None)),
  )

  def setup(self):
    cfg = self.config
    layer = nn.remat(EncoderLayer, static_argnums=(4,)) if cfg.remat else EncoderLayer
    self.embeddings = Embeddings(cfg)
    if cfg.position_terms:
      shape = (2 * cfg.max_relative_positions, cfg.emb_dim)
      init = nn.initializers.normal(cfg.init_stddev)
      self.rel_embeddings = self.param('rel_embeddings', init, shape, jnp.float32)
    self.layers = [layer(cfg) for _ in range(cfg.num_layers)]
    if cfg.pooler:
      self.pooler_dropout = layers.Dropout(cfg.pooler_dropout_rate)
      self.pooler = encoder_layers.Pooler(
        cfg.emb_dim, cfg.pooler_activation, cfg.init_stddev, cfg.dtype
      )
    if cfg.num_labels:
      rate = cfg.classifier_dropout_rate
      self.classifier_dropout = layers.Dropout(cfg.dropout_rate if rate is None else rate)
      self.classifier = encoder_layers.Dense(cfg.num_labels, cfg.init_stddev)

  def __call__(self, tokens, mask, token_types=None, *, deterministic=True):
    """The states after each layer, L times [B, T, D].

    Args:
      tokens: int32[B, T].
      mask: bool[B, T], False at padding. No other token attends to padding; its own states mean
        nothing.
      token_types: int32[B, T], 0 for the first text and 1 for the second; None is 0 throughout.
        Without effect where the model has none.
      deterministic: without dropout.

    Raises:
      ValueError: the model has absolute positions, and T is above `config.max_length`.
    """
    x = self.embed(tokens, mask, token_types, deterministic=deterministic)
    states = []
    for i in range(self.config.num_layers):
      x = self.layer(i, x, mask, deterministic=deterministic)
      states.append(x)
    return tuple(states)

  def embed(self, tokens, mask, token_types=None, *, deterministic=True):
    """The state before the first layer, [B, T, D]; arguments and errors are those of a call."""
    if self.config.absolute_positions and tokens.shape[1] > self.config.max_length:
      raise ValueError(
        f'Rows have {tokens.shape[1]} tokens, and the model {self.config.max_length} positions: '
        'cut the texts.'
      )
    types = jnp.zeros_like(tokens) if token_types is None else token_types
    return self.embeddings(tokens, mask, types, deterministic)

  def layer(self, index, state, mask, *, deterministic=True):
    """The state after layer `index` (from 0) of the state before it, both [B, T, D]."""
    rel_embeddings = self.rel_embeddings if self.config.position_terms else None
    return self.layers[index](state, mask, rel_embeddings, deterministic)

  def pool(self, state, *, deterministic=True):
    """The pooler over the first token of the state after any layer: [B, T, D] to [B, D].

    Raises:
      ValueError: the model has no pooler.
    """
    if not self.config.pooler:
      raise ValueError('This DeBERTa has no pooler (config.pooler is False).')
    return self.pooler(self.pooler_dropout(state[:, 0], deterministic))

  def classify(self, pooled, *, deterministic=True):
    """Float32 logits[B, C] of pooled[B, D].

    Raises:
      ValueError: the model has no classifier.
    """
    if not self.config.num_labels:
      raise ValueError('This DeBERTa has no classifier (config.num_labels is 0).')
    pooled = self.classifier_dropout(pooled, deterministic)
    return self.classifier(pooled.astype(jnp.float32))

  @nn.nowrap
  def init_params(self, key):
    """Fresh float32 parameters: normal kernels and embeddings, biases of 0."""
    tokens = jnp.ones((1, 2), jnp.int32)

    def everything(module, tokens):
      last = module(tokens, tokens > 0)[-1]
      if module.config.pooler:
        pooled = module.pool(last)
        if module.config.num_labels:
          module.classify(pooled)
      return last

    return self.init(key, tokens, method=everything)['params']
