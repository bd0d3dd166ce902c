"""T5 1.0 and 1.1 in Flax, layer by layer.

One alphabet of axes: B batch, T target length, S source length, N heads, H head_dim, D emb_dim,
F mlp_dim, V vocab, L decoder layers.

Raffel et al., https://arxiv.org/abs/1910.10683; Shazeer (gated activations),
https://arxiv.org/abs/2002.05202. Parameter names are T5X's (`T5.init` gives the tree of a T5X
checkpoint's `target`).
"""

import dataclasses
import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm import settings
from calm.models import layers
from calm.models.layers import KeysValues, training_only


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and choices of a T5; the defaults are T5 1.1's, small."""

  vocab_size: settings.Count = 32128
  emb_dim: settings.Count = 512
  num_heads: settings.Count = 6
  head_dim: settings.Count = 64
  mlp_dim: settings.Count = 1024
  num_encoder_layers: settings.Count = 8
  num_decoder_layers: settings.Count = 8
  mlp_activations: Annotated[tuple[str, ...], settings.NotEmpty()] = ('gelu', 'linear')
  logits_via_embedding: bool = False  # T5 1.0: the embedding is the head, scaled by 1/sqrt(D).
  # Half of them hold one distance each, and an encoder has as many for each direction.
  relpos_num_buckets: Annotated[int, settings.Range(4)] = 32
  relpos_max_distance: settings.Count = 128
  norm_epsilon: settings.NonNegative = 1e-6
  dropout_rate: Annotated[float, settings.Range(0, 1, below=True)] = training_only(0.1)
  # As in T5, one draw serves all positions of a row; False draws for each position.
  dropout_broadcast: bool = training_only(True)
  # Of activations; parameters, norms, softmax and logits are float32. A name, as in 'bfloat16',
  # or a type.
  dtype: Any = jnp.float32
  exit_classifier: bool = False  # D + 1 parameters more: may a token stop after this layer?
  # Recompute a layer's activations in the backward pass, to save memory.
  remat: bool = training_only(False)

  def __post_init__(self) -> None:
    settings.check_fields(self)
    # Lists and names arrive from gin and JSON; keep the config hashable and comparable.
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    object.__setattr__(self, 'dtype', layers.dtype_of_activations(self.dtype))
    for name in self.mlp_activations:
      if name not in layers.ACTIVATIONS:
        wanted = f'one or more of {", ".join(layers.ACTIVATIONS)}'
        raise settings.SettingError('mlp_activations', self.mlp_activations, wanted)
    if self.relpos_num_buckets // 2 >= self.relpos_max_distance:
      wanted = f'below {2 * self.relpos_max_distance}, twice relpos_max_distance'
      raise settings.SettingError('relpos_num_buckets', self.relpos_num_buckets, wanted)


_T5_1_0 = T5Config(mlp_activations=('relu',), logits_via_embedding=True)


def _sized(
  config: T5Config, emb_dim: int, num_heads: int, mlp_dim: int, num_layers: int, **other: Any
) -> T5Config:
  return dataclasses.replace(
    config,
    emb_dim=emb_dim,
    num_heads=num_heads,
    mlp_dim=mlp_dim,
    num_encoder_layers=num_layers,
    num_decoder_layers=num_layers,
    **other,
  )


PUBLISHED = {
  'tiny': _sized(T5Config(), 32, 2, 48, 2, head_dim=8, vocab_size=128),
  't5_1_1_small': T5Config(),
  't5_1_1_base': _sized(T5Config(), 768, 12, 2048, 12),
  't5_1_1_large': _sized(T5Config(), 1024, 16, 2816, 24),
  't5_1_1_xl': _sized(T5Config(), 2048, 32, 5120, 24),
  't5_1_1_xxl': _sized(T5Config(), 4096, 64, 10240, 24),
  't5_1_0_small': _sized(_T5_1_0, 512, 8, 2048, 6),
  't5_1_0_base': _sized(_T5_1_0, 768, 12, 3072, 12),
  't5_1_0_large': _sized(_T5_1_0, 1024, 16, 4096, 24),
  't5_1_0_3b': _sized(_T5_1_0, 1024, 32, 16384, 24, head_dim=128),
  't5_1_0_11b': _sized(_T5_1_0, 1024, 128, 65536, 24, head_dim=128),
}


def published(name: str = 't5_1_1_small', **changes: Any) -> T5Config:
  """The T5Config of a published size (or 'tiny', for tests), with fields replaced by `changes`.

  Raises:
    ValueError: no such size; the message lists them.
  """
  if name not in PUBLISHED:
    raise settings.SettingError('name', name, f'one of {", ".join(PUBLISHED)}')
  return dataclasses.replace(PUBLISHED[name], **changes)


def _norm(cfg: T5Config) -> layers.RMSNorm:
  return layers.RMSNorm(cfg.norm_epsilon, cfg.dtype)


def _dropout(cfg: T5Config) -> layers.Dropout:
  # Over activations [B, T, D] and over attention weights [B, N, T, S] alike, -2 is the axis of
  # target positions.
  return layers.Dropout(cfg.dropout_rate, (-2,) if cfg.dropout_broadcast else ())


def _attention(cfg: T5Config) -> layers.Attention:
  return layers.Attention(cfg.num_heads, cfg.head_dim, cfg.emb_dim, _dropout(cfg), cfg.dtype)


def _feed_forward(cfg: T5Config) -> layers.FeedForward:
  return layers.FeedForward(cfg.mlp_dim, cfg.emb_dim, cfg.mlp_activations, _dropout(cfg), cfg.dtype)


def _relpos_bias(cfg: T5Config, bidirectional: bool) -> layers.RelativePositionBias:
  return layers.RelativePositionBias(
    cfg.num_heads, bidirectional, cfg.relpos_num_buckets, cfg.relpos_max_distance
  )


class EncoderLayer(nn.Module):
  """Self-attention, then feed-forward, each on normed input and added to it."""

  config: T5Config

  def setup(self) -> None:
    cfg = self.config
    self.pre_attention_layer_norm = _norm(cfg)
    self.attention = _attention(cfg)
    self.pre_mlp_layer_norm = _norm(cfg)
    self.mlp = _feed_forward(cfg)
    self.dropout = _dropout(cfg)

  def __call__(
    self, x: jax.Array, mask: jax.Array, bias: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Maps x[B, S, D] to [B, S, D]; mask[B, 1, S, S], bias[1, N, S, S]."""
    normed = self.pre_attention_layer_norm(x)
    y = self.attention.attend(
      normed, *self.attention.keys_values(normed), mask, bias, deterministic=deterministic
    )
    x = x + self.dropout(y, deterministic)
    y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
    return x + self.dropout(y, deterministic)


class Encoder(nn.Module):
  """All encoder layers and the final norm."""

  config: T5Config

  def setup(self) -> None:
    cfg = self.config
    layer = nn.remat(EncoderLayer, static_argnums=(4,)) if cfg.remat else EncoderLayer
    self.layers = [layer(cfg) for _ in range(cfg.num_encoder_layers)]
    self.relpos_bias = _relpos_bias(cfg, bidirectional=True)
    self.encoder_norm = _norm(cfg)
    self.dropout = _dropout(cfg)

  def __call__(self, x: jax.Array, mask: jax.Array, deterministic: bool = True) -> jax.Array:
    """Maps embedded tokens x[B, S, D] and mask[B, 1, S, S] to encoded[B, S, D]."""
    positions = jnp.arange(x.shape[1])
    bias = self.relpos_bias(positions, positions)
    x = self.dropout(x, deterministic)
    for layer in self.layers:
      x = layer(x, mask, bias, deterministic)
    return self.dropout(self.encoder_norm(x), deterministic)


class DecoderLayer(nn.Module):
  """A decoder layer in two halves: the keys and values it offers, and all the rest.

  The first half is all that a later token needs of a layer. Run with another layer's state, it is
  CALM's state propagation (section 3.2).
  """

  config: T5Config

  def setup(self) -> None:
    cfg = self.config
    self.pre_self_attention_layer_norm = _norm(cfg)
    self.self_attention = _attention(cfg)
    self.pre_cross_attention_layer_norm = _norm(cfg)
    self.encoder_decoder_attention = _attention(cfg)
    self.pre_mlp_layer_norm = _norm(cfg)
    self.mlp = _feed_forward(cfg)
    self.dropout = _dropout(cfg)

  def keys_values(self, hidden: jax.Array) -> KeysValues:
    """The K/V half: maps hidden[B, T, D] to KeysValues of [B, N, H, T]."""
    return KeysValues(*self.self_attention.keys_values(self.pre_self_attention_layer_norm(hidden)))

  def cross_keys_values(self, encoded: jax.Array) -> KeysValues:
    """Maps encoded[B, S, D] to KeysValues of [B, N, H, S]; once per sequence."""
    return KeysValues(*self.encoder_decoder_attention.keys_values(encoded))

  def attend(
    self,
    hidden: jax.Array,
    self_kv: KeysValues,
    cross: KeysValues,
    mask: jax.Array,
    bias: jax.Array,
    cross_mask: jax.Array,
    deterministic: bool = True,
  ) -> jax.Array:
    """The other half: maps hidden[B, T, D] to the state after this layer, [B, T, D].

    `self_kv` holds keys and values of the targets seen so far, `cross` those of the source. `mask`
    and `bias` broadcast against [B, N, T, T'], `cross_mask` against [B, N, T, S].
    """
    normed = self.pre_self_attention_layer_norm(hidden)
    y = self.self_attention.attend(
      normed, self_kv.keys, self_kv.values, mask, bias, deterministic=deterministic
    )
    hidden = hidden + self.dropout(y, deterministic)
    y = self.encoder_decoder_attention.attend(
      self.pre_cross_attention_layer_norm(hidden),
      cross.keys,
      cross.values,
      cross_mask,
      deterministic=deterministic,
    )
    hidden = hidden + self.dropout(y, deterministic)
    y = self.mlp(self.pre_mlp_layer_norm(hidden), deterministic=deterministic)
    return hidden + self.dropout(y, deterministic)

  def __call__(
    self,
    hidden: jax.Array,
    encoded: jax.Array,
    mask: jax.Array,
    bias: jax.Array,
    cross_mask: jax.Array,
    deterministic: bool = True,
  ) -> jax.Array:
    """Both halves at once, over whole targets hidden[B, T, D]."""
    return self.attend(
      hidden,
      self.keys_values(hidden),
      self.cross_keys_values(encoded),
      mask,
      bias,
      cross_mask,
      deterministic,
    )


class Decoder(nn.Module):
  """Decoder layers, the final norm and, unless the embedding serves, the output projection."""

  config: T5Config

  def setup(self) -> None:
    cfg = self.config
    layer = nn.remat(DecoderLayer, static_argnums=(6,)) if cfg.remat else DecoderLayer
    self.layers = [layer(cfg) for _ in range(cfg.num_decoder_layers)]
    self.relpos_bias = _relpos_bias(cfg, bidirectional=False)
    self.decoder_norm = _norm(cfg)
    self.dropout = _dropout(cfg)
    if cfg.exit_classifier:
      # From 0: before it is trained, every layer is as likely as not to be right.
      self.exit_classifier = nn.Dense(1, kernel_init=nn.initializers.zeros)
    if not cfg.logits_via_embedding:
      self.logits_dense = layers.dense(
        cfg.vocab_size,
        dtype=cfg.dtype,
        # The product accumulates and ends in float32, whatever its operands are.
        dot_general=functools.partial(layers.rows_dot_general, preferred_element_type=jnp.float32),
        kernel_init=nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal'),
      )

  def __call__(
    self,
    x: jax.Array,
    encoded: jax.Array,
    mask: jax.Array,
    cross_mask: jax.Array,
    deterministic: bool = True,
  ) -> tuple[jax.Array, ...]:
    """Maps embedded targets x[B, T, D] to the states after each layer, L times [B, T, D]."""
    positions = jnp.arange(x.shape[1])
    bias = self.relpos_bias(positions, positions)
    x = self.dropout(x, deterministic)
    states = []
    for layer in self.layers:
      x = layer(x, encoded, mask, bias, cross_mask, deterministic)
      states.append(x)
    return tuple(states)


class T5(nn.Module):
  """An encoder-decoder whose every decoder layer can be read, run and exited on its own.

  Training: `__call__` gives the states after all decoder layers, `head` the logits of any of them.
  Decoding: `encode`, `cross_keys_values` and `self_attention_bias` once per sequence; then, for
  each token, `embed`, and for each layer `keys_values` and `attend`; and `head`.
  """

  config: T5Config

  # How parameters are split over a ('data', 'model') mesh: the first pattern found in the
  # '/'-joined path decides; what none fits is replicated. T5X's logical axes, written out.
  partition_rules = (
    (r'token_embedder/embedding$', PartitionSpec('model', None)),
    (r'rel_embedding$', PartitionSpec('model', None)),
    (r'(query|key|value)/kernel$', PartitionSpec(None, 'model')),
    (r'out/kernel$', PartitionSpec('model', None)),
    (r'mlp/wi(_\d+)?/kernel$', PartitionSpec(None, 'model')),
    (r'mlp/wo/kernel$', PartitionSpec('model', None)),
    (r'logits_dense/kernel$', PartitionSpec(None, 'model')),
  )

  def setup(self) -> None:
    cfg = self.config
    self.token_embedder = nn.Embed(
      cfg.vocab_size,
      cfg.emb_dim,
      dtype=cfg.dtype,
      embedding_init=nn.initializers.normal(stddev=1.0),
    )
    self.encoder = Encoder(cfg)
    self.decoder = Decoder(cfg)

  def __call__(
    self,
    encoder_input_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None = None,
    decoder_segment_ids: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> tuple[jax.Array, ...]:
    """Teacher-forced states after every decoder layer: a tuple of L arrays [B, T, D].

    Tokens are int32, encoder_input_tokens[B, S] and decoder_*_tokens[B, T], with 0 as padding
    (the first decoder input is 0 too: padding is recognised by the targets). Segment ids tell the
    examples of packed rows apart. With `deterministic=False` dropout draws from rng 'dropout'.
    """
    encoded = self.encode(encoder_input_tokens, encoder_segment_ids, deterministic=deterministic)
    targets = decoder_target_tokens > 0
    positions = jnp.arange(targets.shape[1])
    mask = layers.attention_mask(targets, targets, decoder_segment_ids, decoder_segment_ids)
    mask &= layers.causal_mask(positions, positions)
    cross_mask = layers.attention_mask(
      targets, encoder_input_tokens > 0, decoder_segment_ids, encoder_segment_ids
    )
    x = self.embed(decoder_input_tokens)
    return self.decoder(x, encoded, mask, cross_mask, deterministic)

  def encode(
    self,
    encoder_input_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """Maps int32 encoder_input_tokens[B, S] to encoded[B, S, D]."""
    valid = encoder_input_tokens > 0
    mask = layers.attention_mask(valid, valid, encoder_segment_ids, encoder_segment_ids)
    return self.encoder(self.embed(encoder_input_tokens), mask, deterministic)

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Maps int32 tokens[B, T] to their embeddings [B, T, D]."""
    return self.token_embedder(tokens)

  def head(self, hidden: jax.Array, *, deterministic: bool = True) -> jax.Array:
    """Final norm and output projection: hidden[..., D] of any layer to float32 logits[..., V]."""
    x = self.decoder.dropout(self.decoder.decoder_norm(hidden), deterministic)
    if not self.config.logits_via_embedding:
      return self.decoder.logits_dense(x)
    return self._product_with_embedding(x, self.token_embedder.embedding)

  def head_of_words(self, hidden: jax.Array, first: jax.typing.ArrayLike, count: int) -> jax.Array:
    """Part of `head`: hidden[..., D] to logits[..., count] of the words from number `first` on."""
    x = self.decoder.decoder_norm(hidden)
    if self.config.logits_via_embedding:
      table = self.token_embedder.embedding
      return self._product_with_embedding(x, jax.lax.dynamic_slice_in_dim(table, first, count, 0))
    kernel = self.decoder.logits_dense.variables['params']['kernel']
    words = jax.lax.dynamic_slice_in_dim(kernel, first, count, 1).astype(self.config.dtype)
    return jnp.dot(x, words, preferred_element_type=jnp.float32)

  def _product_with_embedding(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
    cfg = self.config
    # Scaled before the product, as T5X and transformers do: D entries instead of V.
    x = x * jnp.asarray(cfg.emb_dim**-0.5, cfg.dtype)
    return jnp.einsum(
      '...D,VD->...V', x, embedding.astype(cfg.dtype), preferred_element_type=jnp.float32
    )

  def exit_score(self, hidden: jax.Array) -> jax.Array:
    """Logit of the exit classifier: hidden[..., D] of any layer to float32[...].

    Shared by all layers, linear in the state (CALM, section 3.5); needs `config.exit_classifier`.
    """
    return self.decoder.exit_classifier(hidden.astype(jnp.float32))[..., 0]

  def cross_keys_values(self, encoded: jax.Array) -> tuple[KeysValues, ...]:
    """Keys and values of encoded[B, S, D] for each decoder layer: L KeysValues of [B, N, H, S]."""
    return tuple(layer.cross_keys_values(encoded) for layer in self.decoder.layers)

  def self_attention_bias(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
    """Relative position scores of the decoder: float32[1, N, T, S] for positions [T], [S]."""
    return self.decoder.relpos_bias(query_positions, key_positions)

  def keys_values(self, layer: int, hidden: jax.Array) -> KeysValues:
    """K/V half of decoder layer `layer` (from 0): hidden[B, T, D] to KeysValues of [B, N, H, T]."""
    return self.decoder.layers[layer].keys_values(hidden)

  def attend(
    self,
    layer: int,
    hidden: jax.Array,
    self_kv: KeysValues,
    cross: KeysValues,
    mask: jax.Array,
    bias: jax.Array,
    cross_mask: jax.Array,
  ) -> jax.Array:
    """Other half of decoder layer `layer` (from 0); see `DecoderLayer.attend`."""
    return self.decoder.layers[layer].attend(hidden, self_kv, cross, mask, bias, cross_mask)

  @staticmethod
  def head_params(params: Any) -> Any:
    """The part of a tree of parameters that `head` reads."""
    decoder = params['decoder']
    norm = {'decoder_norm': decoder['decoder_norm']}
    if 'logits_dense' in decoder:
      return {'decoder': {**norm, 'logits_dense': decoder['logits_dense']}}
    return {'decoder': norm, 'token_embedder': params['token_embedder']}

  @nn.nowrap
  def init_params(self, key: jax.Array) -> Any:
    """Fresh float32 parameters, the tree of a T5X checkpoint's `target`."""
    tokens = jnp.ones((1, 2), jnp.int32)

    def everything(module: Any, tokens: jax.Array) -> jax.Array:
      last = module(tokens, tokens, tokens)[-1]
      if module.config.exit_classifier:
        module.exit_score(last)
      return module.head(last)

    return self.init(key, tokens, method=everything)['params']
