"""What encoders have in common: sizes and choices, and a network that can be left at any layer.

One alphabet of axes: B batch, T length, D emb_dim, L layers, C labels. Each kind adds its settings,
its embeddings and its layers: `calm.models.bert`, `calm.models.deberta`.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm import settings
from calm.models import encoder_layers, layers
from calm.models.layers import training_only

# How parameters are split over a ('data', 'model') mesh, whatever the attention: the first pattern
# found in the '/'-joined path decides; what none fits is replicated.
PARTITION_RULES = (
  (r'word/embedding$', PartitionSpec('model', None)),
  (r'out/kernel$', PartitionSpec('model', None)),
  (r'mlp/wi/kernel$', PartitionSpec(None, 'model')),
  (r'mlp/wi/bias$', PartitionSpec('model')),
  (r'mlp/wo/kernel$', PartitionSpec('model', None)),
)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes and choices of any encoder; the defaults are those of BERT-base, uncased."""

  vocab_size: settings.Count = 30522
  emb_dim: settings.Count = 768
  num_heads: settings.Count = 12
  mlp_dim: settings.Count = 3072
  num_layers: settings.Count = 12
  max_length: settings.Count = (
    512  # Of the texts it was trained on; a limit where each position is embedded.
  )
  num_token_types: settings.Natural = 2
  activation: str = 'exact_gelu'
  norm_epsilon: settings.Positive = 1e-12
  pooler: bool = True
  num_labels: settings.Natural = 0  # Of a classifier over the pooled state; 0 for none.
  dropout_rate: settings.ShareBelow1 = training_only(0.1)
  attention_dropout_rate: settings.ShareBelow1 = training_only(0.1)
  classifier_dropout_rate: settings.ShareBelow1 | None = training_only(
    None
  )  # None for `dropout_rate`.
  init_stddev: settings.Positive = training_only(0.02)
  # Of activations; parameters, norms, softmax and logits are float32. A name, as in 'bfloat16',
  # or a type.
  dtype: Any = jnp.float32
  # Recompute a layer's activations in the backward pass, to save memory.
  remat: bool = training_only(False)

  # What must be positive, what is the name of an activation, and what is a rate.
  _sizes: ClassVar[tuple[str, ...]] = (
    'vocab_size', 'emb_dim', 'num_heads', 'mlp_dim', 'num_layers', 'max_length',
  )  # fmt: skip
  _activations: ClassVar[tuple[str, ...]] = ('activation',)
  _rates: ClassVar[tuple[str, ...]] = (
    'dropout_rate',
    'attention_dropout_rate',
    'classifier_dropout_rate',
  )

  def __post_init__(self) -> None:
    # Names arrive from gin and JSON; keep the config hashable and comparable.
    object.__setattr__(self, 'dtype', layers.dtype_of_activations(self.dtype))
    for field in self._activations:
      if getattr(self, field) not in layers.ACTIVATIONS:
        known = sorted(layers.ACTIVATIONS)
        raise ValueError(f'{field}: {getattr(self, field)!r} is not one of {known}.')
    for field in self._sizes:
      if getattr(self, field) < 1:
        raise ValueError(f'{field} must be positive, not {getattr(self, field)}.')
    self._check_heads()
    if self.num_token_types < 0:
      raise ValueError(f'num_token_types must be 0 or positive, not {self.num_token_types}.')
    if self.num_labels < 0 or (self.num_labels and not self.pooler):
      raise ValueError(f'num_labels is {self.num_labels}: 0, or positive and with a pooler.')
    for field in self._rates:
      if not 0 <= (getattr(self, field) or 0.0) < 1:
        raise ValueError(f'{field} must be in [0, 1), not {getattr(self, field)}.')

  @property
  def head_dim(self) -> int:
    """D / N."""
    return self.emb_dim // self.num_heads

  @property
  def joined_dim(self) -> int:
    """N H, of all heads of a layer together."""
    return self.num_heads * self.head_dim

  def _check_heads(self) -> None:
    if self.emb_dim % self.num_heads:
      raise ValueError(f'emb_dim {self.emb_dim} is no multiple of num_heads {self.num_heads}.')


class Encoder(nn.Module):
  """An encoder whose every layer can be read, run and exited on its own.

  Training: `__call__` gives the states after all layers. Inference: `embed` once, then `layer` as
  far as it is needed. `pool` and `classify` take the state after any layer.
  """

  config: Any

  def setup_heads(self, pooler_activation: str, pooler_dropout_rate: float = 0.0) -> None:
    """Makes the pooler and the classifier, where `config` has them; for `setup`."""
    cfg = self.config
    if cfg.pooler:
      self.pooler_dropout = layers.Dropout(pooler_dropout_rate)
      self.pooler = encoder_layers.Pooler(
        cfg.emb_dim, pooler_activation, cfg.init_stddev, cfg.dtype
      )
    if cfg.num_labels:
      rate = cfg.classifier_dropout_rate
      self.classifier_dropout = layers.Dropout(cfg.dropout_rate if rate is None else rate)
      self.classifier = encoder_layers.Dense(cfg.num_labels, cfg.init_stddev)

  def __call__(
    self,
    tokens: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> tuple[jax.Array, ...]:
    """The states after each layer, L times [B, T, D].

    Args:
      tokens: int32[B, T].
      mask: bool[B, T], False at padding. No other token attends to padding; its own states mean
        nothing.
      token_types: int32[B, T], 0 for the first text and 1 for the second; None is 0 throughout.
        Without effect where the model has none.
      deterministic: without dropout.

    Raises:
      ValueError: each position is embedded, and T is above `config.max_length`.
    """
    x = self.embed(tokens, mask, token_types, deterministic=deterministic)
    states = []
    for i in range(self.config.num_layers):
      x = self.layer(i, x, mask, deterministic=deterministic)
      states.append(x)
    return tuple(states)

  def embed(
    self,
    tokens: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """The state before the first layer, [B, T, D]; arguments and errors are those of a call."""
    raise NotImplementedError

  def layer(
    self, index: int, state: jax.Array, mask: jax.Array, *, deterministic: bool = True
  ) -> jax.Array:
    """The state after layer `index` (from 0) of the state before it, both [B, T, D]."""
    raise NotImplementedError

  def pool(self, state: jax.Array, *, deterministic: bool = True) -> jax.Array:
    """The pooler over the first token of the state after any layer: [B, T, D] to [B, D].

    Raises:
      ValueError: the model has no pooler.
    """
    if not self.config.pooler:
      raise ValueError(f'This {type(self).__name__} has no pooler (config.pooler is False).')
    return self.pooler(self.pooler_dropout(state[:, 0], deterministic))

  def classify(self, pooled: jax.Array, *, deterministic: bool = True) -> jax.Array:
    """Float32 logits[B, C] of pooled[B, D].

    Raises:
      ValueError: the model has no classifier.
    """
    if not self.config.num_labels:
      raise ValueError(f'This {type(self).__name__} has no classifier (config.num_labels is 0).')
    pooled = self.classifier_dropout(pooled, deterministic)
    return self.classifier(pooled.astype(jnp.float32))

  @nn.nowrap
  def require_positions(self, tokens: jax.Array) -> None:
    """Checks that there is an embedding for each position of tokens[B, T].

    Raises:
      ValueError: there is none.
    """
    length, most = tokens.shape[1], self.config.max_length
    if length > most:
      raise ValueError(f'Rows have {length} tokens, and the model {most} positions: cut the texts.')

  @nn.nowrap
  def init_params(self, key: jax.Array) -> Any:
    """Fresh float32 parameters: normal kernels and embeddings, biases of 0."""
    tokens = jnp.ones((1, 2), jnp.int32)

    def everything(module: Any, tokens: jax.Array) -> jax.Array:
      last = module(tokens, tokens > 0)[-1]
      if module.config.pooler:
        pooled = module.pool(last)
        if module.config.num_labels:
          module.classify(pooled)
      return last

    return self.init(key, tokens, method=everything)['params']
