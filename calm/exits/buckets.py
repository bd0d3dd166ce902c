"""Sizes of batches: of few different ones, so that little is compiled and little is padded."""

import itertools
from collections.abc import Iterator


def sizes() -> Iterator[int]:
  """1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ...: the powers of two and what lies halfway between them.

  At most a third of a batch is padding, where powers of two alone waste up to a half.
  """
  yield 1
  for power in itertools.count(1):
    yield 1 << power
    yield 3 << (power - 1)


def next_size(count: int) -> int:
  """The smallest of `sizes` that holds `count` rows.

  Raises:
    ValueError: count is below 1.
  """
  if count < 1:
    raise ValueError(f'A batch has at least 1 row, not {count}.')
  return next(size for size in sizes() if size >= count)
