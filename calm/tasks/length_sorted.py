"""Batches of labelled texts whose rows are about as long as each other, for training classifiers.

Classifiers are not packed. In each epoch the rows are shuffled, sorted by length within windows of
some batches, cut into batches, and the batches of a window shuffled again, so that padding costs
little and the order of the data is still one of chance. What a batch holds follows from the seed
and its number alone: the place in the stream is that number.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from calm import storage
from calm.tasks.batches import shard
from calm.tasks.tokenization import RaggedArray, pad_rows

# Lengths that rows are padded to, below the longest allowed: each is a program to compile.
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
  """Tokens of texts and their labels, in memory; row i of all belongs together."""

  tokens: RaggedArray  # int32
  token_types: RaggedArray  # int32, as long
  labels: np.ndarray  # int32[n], or float32[n] of a regression

  def __len__(self) -> int:
    return len(self.tokens)

  def rows(self, indices: np.ndarray) -> 'EncodedTexts':
    """Some of them, in the order of `indices`, int[m]."""
    return EncodedTexts(
      RaggedArray.from_rows([self.tokens[i] for i in indices]),
      RaggedArray.from_rows([self.token_types[i] for i in indices]),
      self.labels[indices],
    )

  def batch(self, indices: np.ndarray, num_rows: int, length: int) -> dict[str, np.ndarray]:
    """Rows as a classifier takes them, `num_rows` of them: the last without weight if need be.

    Returns:
      `tokens` and `token_types` int32[B, L], `lengths` int32[B] (tokens of a row, 0 of one that is
      not there), `labels` [B] and `weights` float32[B], 1 or 0.
    """
    spare = num_rows - len(indices)
    return {
      'tokens': pad_rows([self.tokens[i] for i in indices], length, num_rows),
      'token_types': pad_rows([self.token_types[i] for i in indices], length, num_rows),
      'lengths': np.array([len(self.tokens[i]) for i in indices] + [0] * spare, np.int32),
      'labels': np.pad(self.labels[indices], (0, spare)),
      'weights': np.array([1] * len(indices) + [0] * spare, np.float32),
    }


def padded_length(longest: int, limit: int) -> int:
  """The length that rows of `longest` tokens at most are padded to: of few different ones."""
  return next((length for length in LENGTHS if longest <= length < limit), limit)


class LengthSortedBatches:
  """Endless batches of `EncodedTexts`, as its `batch` gives them, and `batch_number` int32[B].

  An epoch ends with a batch that is not full, so that each row is seen once in it. All hosts make
  the same batches and take their own rows of them. `settings` is what batches and states depend on,
  as JSON takes it.
  """

  def __init__(
    self,
    texts: EncodedTexts,
    *,
    batch_size: int,
    limit: int,
    seed: int = 0,
    window: int = 50,
    shard_index: int | None = None,
    num_shards: int | None = None,
  ):
    """Makes the stream.

    Args:
      texts: all that there is.
      batch_size: rows, over all hosts.
      limit: tokens of a row at most.
      seed: of the order.
      window: batches within which rows are sorted; 1 sorts nothing.
      shard_index: which part of the rows to give; by default this JAX process's.
      num_shards: how many parts there are; by default one per JAX process.

    Raises:
      ValueError: there are no rows, or a size is below 1 or does not fit the hosts.
    """
    if not len(texts):
      raise ValueError('There are no rows to train on.')
    if window < 1:
      raise ValueError(f'window must be at least 1, not {window}.')
    self._shard, self._shards = shard(shard_index, num_shards, batch_size)
    self._texts, self._batch_size, self._limit = texts, batch_size, limit
    self._seed, self._window = seed, window
    self._lengths = np.diff(texts.tokens.offsets)
    self._number = 0
    self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
    arrays = (texts.tokens.values, texts.tokens.offsets, texts.token_types.values, texts.labels)
    self.settings: dict[str, Any] = {
      'examples': len(texts),
      'data': storage.checksum(b''.join(one.tobytes() for one in arrays)),
      'seed': seed,
      'window': window,
      'length': limit,
      'batch_size': batch_size,
    }

  @property
  def batches_per_epoch(self) -> int:
    """After how many every row has been given once."""
    return -(-len(self._texts) // self._batch_size)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    epoch, place = divmod(self._number, self.batches_per_epoch)
    if self._epoch[0] != epoch:
      self._epoch = (epoch, self._order(epoch))
    indices = self._epoch[1][place]
    length = padded_length(int(self._lengths[indices].max()), self._limit)
    batch = self._texts.batch(indices, self._batch_size, length)
    batch['batch_number'] = np.full(self._batch_size, self._number, np.int32)
    self._number += 1
    rows = self._batch_size // self._shards
    mine = slice(self._shard * rows, (self._shard + 1) * rows)
    return {name: value[mine] for name, value in batch.items()}

  def get_state(self) -> dict[str, int]:
    """Where the stream stands, as JSON takes it."""
    return {'number': self._number}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Goes on from where `get_state` was called, on a stream of the same settings and data."""
    self._number = int(state['number'])

  def _order(self, epoch: int) -> list[np.ndarray]:
    """The rows of each batch of an epoch."""
    rng = np.random.default_rng((self._seed, epoch))
    order = rng.permutation(len(self._texts))
    size, found = self._batch_size * self._window, []
    for start in range(0, len(order), size):
      window = order[start : start + size]
      if self._window > 1:
        window = window[np.argsort(self._lengths[window], kind='stable')]
      batches = [
        window[at : at + self._batch_size] for at in range(0, len(window), self._batch_size)
      ]
      found += [batches[i] for i in rng.permutation(len(batches))]
    return found
