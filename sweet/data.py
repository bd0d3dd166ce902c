"""The rows that classifiers are trained on: drawn per seed, and some held out.

The paper limits training data to 6000 rows, drawn anew for each seed and shared by all methods of
that seed (section 3.2). Temperatures and learning rates need rows that are neither trained on nor
scored: they are drawn beside them.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio

from calm import storage
from calm.settings import Count, Natural, Positive, Seed
from calm.tasks import labelled, text, wordpiece
from calm.tasks.classification import Regression, why_unlabelled
from calm.tasks.length_sorted import EncodedTexts, LengthSortedBatches
from calm.tasks.tokenization import ExampleError, RaggedArray


@dataclasses.dataclass(frozen=True)
class Rows:
  """The labelled rows of a task's split, as a tokenizer encodes them.

  Raises:
    ValueError: on reading, the split has no rows, or one has no label or cannot be encoded; names
      it.
  """

  task: seqio.Task
  tokenizer: Any  # of calm.tasks.wordpiece
  length: Count = 256  # tokens of a row at most
  truncate: bool = True

  @property
  def regression(self) -> bool:
    """Whether labels are numbers."""
    return isinstance(labelled.labels_of(self.task), Regression)

  @property
  def num_outputs(self) -> int:
    """What classifiers of the task give."""
    return labelled.labels_of(self.task).num_outputs

  def encoded(self, split: str) -> EncodedTexts:
    """All rows of a split; says on stderr what they lose. Read once."""
    return _encoded(self, split)

  def _read(self, split: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    text.check_split(self.task, split)
    source = labelled.source_of(self.task)
    for where, texts, label, record in source.labelled(split):
      if label is None:
        why = why_unlabelled(source.labels, record)
        raise ExampleError(f'{where}: {why}. To train, give all records one, or leave it out.')
      yield where, tuple(texts.values()), label


@functools.lru_cache(maxsize=8)
def _encoded(rows: Rows, split: str) -> EncodedTexts:
  read = list(rows._read(split))
  if not read:
    raise ValueError(text.has_no('rows', rows.task, split))
  where, texts, labels = zip(*read, strict=True)
  encoded = list(
    rows.tokenizer.encode(texts, rows.length, truncate=rows.truncate, where=list(where))
  )
  for line in wordpiece.lost(encoded, rows.length):
    storage.warn(f'{rows.task.name} {split}: {line}.')
  return EncodedTexts(
    RaggedArray.from_rows([one.tokens for one in encoded]),
    RaggedArray.from_rows([one.token_types for one in encoded]),
    np.array(labels, np.float32 if rows.regression else np.int32),
  )


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Which rows of a training split a seed trains on, and which it holds out."""

  trained: np.ndarray  # int[n], ascending
  held_out: np.ndarray  # int[m], ascending, none of them trained on


def draw(
  num_rows: int, *, num_examples: Count | None = None, num_held_out: Natural = 500, seed: Seed = 0
) -> Drawn:
  """Draws rows without replacement: the same for all methods of a seed.

  Args:
    num_rows: that there are.
    num_examples: to train on; None, or more than are left, is all that are not held out.
    num_held_out: first drawn; a tenth of the rows at most.
    seed: of the draw.

  Raises:
    ValueError: a number that cannot be, or nothing would be left to train on.
  """
  if num_examples is not None and num_examples < 1:
    raise ValueError(f'num_examples (NUM_EXAMPLES) must be at least 1, not {num_examples}.')
  if num_held_out < 0:
    raise ValueError(f'num_held_out (NUM_HELD_OUT) must be at least 0, not {num_held_out}.')
  held = min(num_held_out, num_rows // 10)
  if num_rows - held < 1:
    raise ValueError(f'{num_rows} rows are too few to train on.')
  order = np.random.default_rng(seed).permutation(num_rows)
  last = None if num_examples is None else held + num_examples
  return Drawn(np.sort(order[held:last]), np.sort(order[:held]))


def train_batches(
  rows: Rows,
  *,
  batch_size: Count = 16,
  split: str = 'train',
  num_examples: Count | None = None,
  num_held_out: Natural = 500,
  seed: Seed = 0,
  window: Count = 50,
) -> LengthSortedBatches:
  """Batches without end of the rows that a seed trains on, those of about one length together.

  Args:
    rows: of the task.
    batch_size: rows of a batch, over all hosts.
    split: of the task.
    num_examples, num_held_out, seed: as `draw` takes them.
    window: batches within which rows are sorted by length.
  """
  encoded = rows.encoded(split)
  drawn = draw(len(encoded), num_examples=num_examples, num_held_out=num_held_out, seed=seed)
  return LengthSortedBatches(
    encoded.rows(drawn.trained),
    batch_size=batch_size,
    limit=rows.length,
    seed=seed,
    window=window,
  )


def num_steps(batches: LengthSortedBatches, num_epochs: Positive = 2) -> int:
  """Steps in which every row is seen so many times.

  Raises:
    ValueError: that are none.
  """
  steps = round(num_epochs * batches.batches_per_epoch)
  if steps < 1:
    raise ValueError(f'num_epochs (NUM_EPOCHS) is {num_epochs}: nothing would be trained.')
  return steps
