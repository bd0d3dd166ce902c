"""Logits on the way up: the whole vocabulary's, or only those of a shortlist of words.

A measure over `logits` pays for the whole head at every layer where it is asked. A measure over
`shortlist_logits` pays for it once per token, at the first such layer. There the vocabulary, cut
into blocks of neighbouring words, is searched for the blocks that hold the largest logits; the
NUM_BLOCKS best of them surely hold the NUM_BLOCKS likeliest words, and many others. From then on
only this shortlist is looked at, and the token is chosen from it. Where not even the last layer
was sure of one of them, the whole head is asked once more: such a token is the last layer's own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from calm.decoding.sampling import argmax
from calm.decoding.step import LayerStack
from calm.exits.rules import Evidence

BLOCK = 64  # Neighbouring words of the vocabulary.
NUM_BLOCKS = 8
# From so many rows on, their blocks together cost as much as the whole head, read once for all.
_MANY_ROWS = 6


@flax.struct.dataclass
class Logits:
  """Over the whole vocabulary, where a row stopped."""

  logits: jax.Array  # float32[B, V]
  num_logits: jax.Array  # int32[B], made so far for the row


@flax.struct.dataclass
class Shortlist:
  """Over a shortlist; before a row is first asked, nothing."""

  blocks: jax.Array  # int32[B, M]; -1 before they are known
  block_logits: jax.Array  # float32[B, M, BLOCK], where a row stopped
  num_logits: jax.Array  # int32[B], made so far for the row
  vocab_size: int = flax.struct.field(pytree_node=False)

  @property
  def num_words(self) -> int:
    """K, words of the shortlist, no more than there are."""
    return min(self.blocks.shape[1] * BLOCK, self.vocab_size)

  @property
  def logits(self) -> jax.Array:
    """float32[B, V] with -inf for all other words."""
    rows = jnp.arange(self.blocks.shape[0])[:, None]
    size = -(-self.vocab_size // BLOCK)
    empty = jnp.full((self.blocks.shape[0], size, BLOCK), -jnp.inf, jnp.float32)
    whole = empty.at[rows, self.blocks].set(self.block_logits)
    return whole.reshape(len(empty), -1)[:, : self.vocab_size]


Prediction = Logits | Shortlist


def init(stack: LayerStack, needs: Sequence[str], batch_size: int) -> Prediction | None:
  """What a step begins with: empty Logits or Shortlist, or None if `needs` names neither."""
  none = jnp.zeros(batch_size, jnp.int32)
  if 'logits' in needs:
    return Logits(jnp.zeros((batch_size, stack.vocab_size), jnp.float32), none)
  if 'shortlist_logits' in needs:
    num_blocks = min(NUM_BLOCKS, -(-stack.vocab_size // BLOCK))
    return Shortlist(
      blocks=jnp.full((batch_size, num_blocks), -1, jnp.int32),
      block_logits=jnp.zeros((batch_size, num_blocks, BLOCK), jnp.float32),
      num_logits=none,
      vocab_size=stack.vocab_size,
    )
  return None


def logits_for_rule(
  stack: LayerStack,
  needs: Sequence[str],
  evidence: Evidence,
  rows: jax.Array,
  prediction: Any,
) -> tuple[Evidence, Prediction | None]:
  """Evidence with the logits that `needs` names, and this layer's Logits or Shortlist (else None).

  They are those of rows[B]; other rows' are not to be read.
  """
  if 'logits' in needs:
    made = prediction.num_logits + jnp.where(rows, stack.vocab_size, 0)
    prediction = Logits(stack.head(evidence.hidden), made)
    return dataclasses.replace(evidence, logits=prediction.logits), prediction
  if 'shortlist_logits' in needs:
    new = rows & (prediction.blocks[:, 0] < 0)
    prediction = jax.lax.cond(
      new.any(),
      lambda: _choose(stack.head(evidence.hidden), new, prediction),
      lambda: prediction.replace(block_logits=_of_blocks(stack, evidence.hidden, prediction)),
    )
    made = jnp.where(new, stack.vocab_size, jnp.where(rows, prediction.num_words, 0))
    prediction = prediction.replace(num_logits=prediction.num_logits + made)
    logits = prediction.block_logits.reshape(len(rows), -1)
    return dataclasses.replace(evidence, shortlist_logits=logits), prediction
  return evidence, None


def merge(before: Any, now: Any, newly: jax.Array) -> Prediction | None:
  """`now` for the rows newly[B] that stop here, `before` for the others."""
  if now is None:
    return None
  if isinstance(now, Logits):
    return Logits(jnp.where(newly[:, None], now.logits, before.logits), now.num_logits)
  kept = jnp.where(newly[:, None, None], now.block_logits, before.block_logits)
  return dataclasses.replace(now, block_logits=kept)


def predict(
  stack: LayerStack, hidden: jax.Array, undecided: jax.Array, prediction: Prediction | None
) -> tuple[jax.Array, jax.Array]:
  """Logits float32[B, V] for the next token, and int32[B], how many were made for it in all.

  For rows that are still undecided[B], and all if nothing was predicted on the way, they are the
  head's of hidden[B, D].
  """
  if prediction is None:
    logits = stack.head(hidden)
    return logits, jnp.full(len(hidden), stack.vocab_size, jnp.int32)
  logits = prediction.logits
  logits = jax.lax.switch(
    undecided.any().astype(jnp.int32),
    [lambda: logits, lambda: jnp.where(undecided[:, None], stack.head(hidden), logits)],
  )
  return logits, prediction.num_logits + jnp.where(undecided, stack.vocab_size, 0)


def _choose(logits: jax.Array, new: jax.Array, prediction: Shortlist) -> Shortlist:
  """Logits of each row's blocks; for the rows new[B] those of the largest of logits[B, V]."""
  blocked = _blocked(logits)
  best = best_of(blocked.max(-1), prediction.blocks.shape[1])
  blocks = jnp.where(new[:, None], best, prediction.blocks)
  chosen = jnp.take_along_axis(blocked, blocks[:, :, None], axis=1)
  return dataclasses.replace(prediction, blocks=blocks, block_logits=chosen)


def _of_blocks(stack: LayerStack, hidden: jax.Array, prediction: Shortlist) -> jax.Array:
  """Logits float32[B, M, BLOCK] of the words in each row's blocks."""
  if len(hidden) >= _MANY_ROWS:
    blocked = _blocked(stack.head(hidden))
    return jnp.take_along_axis(blocked, prediction.blocks[:, :, None], axis=1)
  count = min(BLOCK, prediction.vocab_size)

  def of_block(row: jax.Array, block: jax.Array) -> jax.Array:
    # The last block may reach beyond the vocabulary: read the last words, and move them up.
    first = jnp.minimum(block * BLOCK, prediction.vocab_size - count)
    logits = stack.head_of_words(row, first, count)
    index = jnp.arange(BLOCK) + block * BLOCK - first
    return jnp.where(index < count, logits[jnp.minimum(index, count - 1)], -jnp.inf)

  return jnp.stack(
    [
      jnp.stack([of_block(row, block) for block in blocks])
      for row, blocks in zip(hidden, prediction.blocks, strict=True)
    ]
  )


def _blocked(logits: jax.Array) -> jax.Array:
  """logits[B, V] as [B, blocks, BLOCK], with -inf after the last word."""
  padding = -logits.shape[-1] % BLOCK
  padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
  return padded.reshape(len(logits), -1, BLOCK)


def best_of(values: jax.Array, count: int) -> jax.Array:
  """Indices int32[B, count] of the largest of values[B, n], largest first.

  One maximum after the other: for few of some hundreds that is less than XLA's sort on CPU.
  """

  def pick(values: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
    best = argmax(values)
    return jnp.where(jnp.arange(values.shape[-1]) == best[:, None], -jnp.inf, values), best

  # A block of -inf only may be picked again; what it holds is never chosen.
  return jax.lax.scan(pick, values, length=count)[1].T
