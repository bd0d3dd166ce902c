"""One token through the decoder: the two halves of a layer, and what a step is made of.

`LayerStack` turns a model, its parameters and one batch of sources into functions of arrays:
`write` is the K/V half of a layer, `attend` the other half, which only reads. They know neither
which layers a token visits nor how tokens follow one another. `full_depth` visits all layers,
`calm.decoding.early_exit` as many as are needed; the loop (`calm.decoding.loop`) takes either, or
any other `StepFn`.
"""

import dataclasses
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from calm.decoding import cache as caches
from calm.models import layers

Column = jax.typing.ArrayLike  # int32[]


@flax.struct.dataclass
class StepResult:
  """What one step found for every row."""

  logits: jax.Array  # float32[B, V] for the next token
  exit_layer: jax.Array  # int32[B], layers run, from 1
  confidence: jax.Array  # float32[B] in [0, 1], where the row stopped; 0 if the rule was not asked
  num_logits: jax.Array  # int32[B], computed for the row, at all layers together


class StepFn(Protocol):
  """Reads one token per row and predicts the next.

  Rows that are not `active` have finished: what is returned for them is never read, so they must
  not keep others from stopping. The cache is the step's own affair; the loop only carries it.
  """

  def __call__(
    self, token: jax.Array, column: jax.Array, active: jax.Array, cache: Any
  ) -> tuple[StepResult, Any]:
    """Maps int32 token[B], int32 column[], bool active[B] and a cache to (result, cache)."""


class Start(Protocol):
  """Begins to decode: a StepFn, and the cache it carries."""

  def __call__(
    self, stack: 'LayerStack', self_kv: caches.LayersKeysValues, column: int
  ) -> tuple[StepFn, Any]:
    """Takes over keys and values, one [B, N, H, T] per layer, filled before `column`."""


@dataclasses.dataclass(frozen=True)
class LayerStack:
  """The decoder of a model for one batch of sources, layer by layer.

  Targets stand in columns. A row may begin at a column of its own (rows of different prompts end
  in the same one); relative positions make its numbers the same wherever it begins.
  """

  model: Any  # a T5, or what has its decoding methods and `config.num_decoder_layers`
  params: Any
  source: caches.Source
  first_column: jax.Array  # int32[B], where each row begins
  bias: jax.Array  # float32[1, N, 1, 2 * T - 1], by distance

  @property
  def num_layers(self) -> int:
    """How many decoder layers there are."""
    return self.model.config.num_decoder_layers

  @property
  def vocab_size(self) -> int:
    """How many words the head knows."""
    return self.model.config.vocab_size

  @property
  def emb_dim(self) -> int:
    """D, the size of a state."""
    return self.model.config.emb_dim

  @property
  def dtype(self) -> Any:
    """The type of states."""
    return self.model.config.dtype

  @property
  def length(self) -> int:
    """T, the number of columns of the cache."""
    return (self.bias.shape[-1] + 1) // 2

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Maps int32 tokens[B, C] to hidden[B, C, D]."""
    return self._apply('embed', tokens)

  def keys_values(self, layer: int, hidden: jax.Array) -> layers.KeysValues:
    """K/V half: what `layer` makes of hidden[B, C, D], KeysValues of [B, N, H, C]."""
    return self._apply('keys_values', layer, hidden)

  def write(
    self, layer: int, hidden: jax.Array, column: Column, self_kv: layers.KeysValues
  ) -> layers.KeysValues:
    """Puts the `keys_values` of hidden[B, C, D] into `self_kv` from `column` on."""
    return caches.write(self_kv, self.keys_values(layer, hidden), column)

  def write_where(
    self,
    layer: int,
    hidden: jax.Array,
    column: Column,
    wanted: jax.Array,
    self_kv: layers.KeysValues,
  ) -> layers.KeysValues:
    """`write` of those of the C columns that are wanted[C]; the others stay as they are."""
    new = self.keys_values(layer, hidden)
    old = caches.read(self_kv, column, hidden.shape[1])
    kept = jax.tree.map(lambda after, before: jnp.where(wanted, after, before), new, old)
    return caches.write(self_kv, kept, column)

  def attend(
    self, layer: int, hidden: jax.Array, column: Column, self_kv: layers.KeysValues
  ) -> jax.Array:
    """Other half: maps hidden[B, C, D], in columns from `column` on, to the state after `layer`.

    Every token sees the columns of its own row up to its own, which `self_kv` must hold by now.
    """
    queries = jnp.asarray(column) + jnp.arange(hidden.shape[1])
    keys = jnp.arange(self.length)
    mask = layers.causal_mask(queries, keys)
    mask &= (keys >= self.first_column[:, None])[:, None, None]
    cross = self.source.cross[layer]
    bias = self._bias_rows(queries)
    return self._apply('attend', layer, hidden, self_kv, cross, mask, bias, self.source.mask)

  def head(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden[..., D] of any layer to float32 logits[..., V]."""
    return self._apply('head', hidden)

  def head_of_words(self, hidden: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """Part of `head`: hidden[..., D] to logits[..., count] of the words from number `first` on."""
    return self._apply('head_of_words', hidden, first, count)

  def exit_score(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden[..., D] of any layer to the exit classifier's float32 logit[...]."""
    return self._apply('exit_score', hidden)

  def _bias_rows(self, queries: jax.Array) -> jax.Array:
    # The table runs over distances; a query's row is the window that ends T - 1 after itself.
    def row(query: jax.Array) -> jax.Array:
      start = self.length - 1 - query
      return jax.lax.dynamic_slice_in_dim(self.bias[0, :, 0], start, self.length, axis=-1)

    if queries.shape[0] == 1:
      return row(queries[0])[None, :, None]
    return jax.vmap(row, out_axes=1)(queries)[None]

  def _apply(self, method: str, *arguments: Any) -> Any:
    return self.model.apply({'params': self.params}, *arguments, method=method)


def prepare_source(
  model: Any, params: Any, encoder_input_tokens: jax.Array, encoded: jax.Array | None = None
) -> caches.Source:
  """Encodes int32 tokens[B, S] and projects them for every decoder layer, once per sequence.

  Unless they are `encoded`[B, S, D] already.
  """
  variables = {'params': params}
  if encoded is None:
    encoded = model.apply(variables, encoder_input_tokens, method='encode')
  cross = model.apply(variables, encoded, method='cross_keys_values')
  return caches.Source(cross, (encoder_input_tokens > 0)[:, None, None, :])


def prepare_layers(
  model: Any, params: Any, source: caches.Source, first_column: jax.Array, length: int
) -> LayerStack:
  """LayerStack over a cache of `length` columns; makes the table of position scores."""
  bias = model.apply(
    {'params': params},
    jnp.array([length - 1]),
    jnp.arange(2 * length - 1),
    method='self_attention_bias',
  )
  return LayerStack(model, params, source, first_column, bias)


def prefill(
  stack: LayerStack, inputs: jax.Array, cache: caches.LayersKeysValues
) -> caches.LayersKeysValues:
  """One parallel pass over int32 inputs[B, P]: fills columns [0, P) of every layer's cache."""
  hidden = stack.embed(inputs)
  filled = []
  for layer in range(stack.num_layers):
    self_kv = stack.write(layer, hidden, 0, cache[layer])
    hidden = stack.attend(layer, hidden, 0, self_kv)
    filled.append(self_kv)
  return tuple(filled)


def full_depth(
  stack: LayerStack, self_kv: caches.LayersKeysValues, column: int
) -> tuple[StepFn, caches.LayersKeysValues]:
  """Starts the StepFn that runs every layer for every token; its cache is `self_kv` as it stands.

  Nothing is measured on the way: the confidence is 1 throughout.
  """
  del column  # It is told at each step.

  def step(
    token: jax.Array, column: jax.Array, active: jax.Array, cache: caches.LayersKeysValues
  ) -> tuple[StepResult, caches.LayersKeysValues]:
    del active  # A finished row runs along; nobody reads what it gives.
    hidden = stack.embed(token[:, None])
    written = []
    for layer in range(stack.num_layers):
      self_kv = stack.write(layer, hidden, column, cache[layer])
      hidden = stack.attend(layer, hidden, column, self_kv)
      written.append(self_kv)
    batch_size = token.shape[0]
    result = StepResult(
      logits=stack.head(hidden[:, 0]),
      exit_layer=jnp.full(batch_size, stack.num_layers, jnp.int32),
      confidence=jnp.ones(batch_size, jnp.float32),
      num_logits=jnp.full(batch_size, stack.vocab_size, jnp.int32),
    )
    return result, tuple(written)

  return step, self_kv
