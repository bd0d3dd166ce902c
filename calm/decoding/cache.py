"""What the decoder reads while it generates: its own past, and the encoded source.

Every array is [B, N, H, T] (rows, heads, head_dim, length; S for the source): a step writes one
column per layer and reads whole rows of columns, which no other order of axes allows without
transposing both caches of every layer at every step.
"""

from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from calm.models.layers import KeysValues

LayersKeysValues = tuple[KeysValues, ...]  # one per decoder layer, [B, N, H, T]
Tree = TypeVar('Tree')  # nested containers of arrays


@flax.struct.dataclass
class Source:
  """Keys and values of the encoded inputs, made once per sequence and never written again."""

  cross: tuple[KeysValues, ...]  # one per decoder layer, [B, N, H, S]
  mask: jax.Array  # bool[B, 1, 1, S], False on padding


def empty_cache(config: Any, batch_size: int, length: int) -> LayersKeysValues:
  """A cache of zeros: one KeysValues of [B, N, H, length] per decoder layer, in config.dtype."""
  shape = (batch_size, config.num_heads, config.head_dim, length)
  return tuple(
    KeysValues(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
    for _ in range(config.num_decoder_layers)
  )


def write(self_kv: KeysValues, new: KeysValues, column: jax.typing.ArrayLike) -> KeysValues:
  """Puts new[B, N, H, C] into columns [column, column + C) of own[B, N, H, T], in place."""
  return jax.tree.map(
    lambda old, update: jax.lax.dynamic_update_slice(old, update, (0, 0, 0, column)), self_kv, new
  )


def read(self_kv: KeysValues, column: jax.typing.ArrayLike, count: int) -> KeysValues:
  """Columns [column, column + count) of own[B, N, H, T]."""
  return jax.tree.map(
    lambda array: jax.lax.dynamic_slice_in_dim(array, column, count, axis=-1), self_kv
  )


def repeat_rows(tree: Tree, times: int) -> Tree:
  """Repeats each row of every array[B, ...] in `tree`: [B * times, ...], copies side by side."""
  if times == 1:
    return tree
  return jax.tree.map(lambda array: jnp.repeat(array, times, axis=0), tree)


def cache_bytes(config: Any, batch_size: int, length: int, source_length: int) -> int:
  """Memory that decoding holds beside the parameters, in bytes.

  Keys and values of every decoder layer, for `length` targets (prompt and decode steps) and
  `source_length` inputs: 2 * L * B * N * H * (T + S) numbers. T5 1.1 small in float32 with 64 and
  64 takes 3 MB per row, T5 1.1 XXL in bfloat16 with 512 and 512 takes 400 MB per row.
  """
  per_column = 2 * config.num_decoder_layers * config.num_heads * config.head_dim
  columns = batch_size * (length + source_length)
  return per_column * columns * jnp.dtype(config.dtype).itemsize
