"""Token batches of a task: an endless, packed, exactly restorable stream.

A split is tokenised once and held in memory as one flat array for each column, so that its examples
can be read in any order: the order of an epoch is a permutation that follows from the seed, and the
place in the stream is a few numbers that are saved with a checkpoint.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
import seqio

from calm import notices, storage
from calm.settings import Count, Natural, Seed, check
from calm.tasks import features, fidelity, registered, text
from calm.tasks.tokenization import RaggedArray, checked, pad_rows, tokenise

Columns = Mapping[str, RaggedArray]  # of the same number of rows, by name
MakeFeatures = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def train_batches(
  task: registered.TaskOrMixture,
  *,
  batch_size: Count,
  inputs_length: Count,
  targets_length: Count,
  split: str = 'train',
  pack: bool = True,
  truncate: bool = False,
  seed: Seed = 0,
  vocab_size: Count | None = None,
  shard_index: Natural | None = None,
  num_shards: Count | None = None,
) -> 'BatchIterator':
  """Batches of a split without end, each epoch in an order of its own that follows from `seed`.

  Args:
    task: text in, text out; of a mixture, each task at its rate.
    batch_size: rows of a batch, over all hosts.
    inputs_length: S, tokens of a row of inputs; what is longer is an error, unless `truncate`.
    targets_length: T, likewise.
    split: of the task.
    pack: put several short examples in a row, apart by their segment ids.
    truncate: cut what is too long, keeping EOS.
    seed: of the order.
    vocab_size: the model's; a token beyond it is an error.
    shard_index: which part of the rows to give; by default this JAX process's.
    num_shards: how many parts there are; by default one per JAX process.

  Returns:
    A BatchIterator.

  Raises:
    ExampleError: an example is too long, has no tokens, or one beyond vocab_size.
    ValueError: no such split, an empty one, or batch_size is not a multiple of num_shards.
  """
  check(
    train_batches,
    batch_size=batch_size,
    inputs_length=inputs_length,
    targets_length=targets_length,
    seed=seed,
    vocab_size=vocab_size,
  )
  index, shards = shard(shard_index, num_shards, batch_size)  # Before hours of reading.
  lengths = {'inputs': inputs_length, 'targets': targets_length}
  drawn = [
    (_tokenised(one, split, lengths, truncate, vocab_size), rate)
    for one, rate in registered.rates_of(task, split)
  ]
  return stream(
    drawn,
    lengths,
    features.encoder_decoder,
    batch_size=batch_size,
    pack=pack,
    seed=seed,
    shard_index=index,
    num_shards=shards,
  )


def validation_batches(
  task: registered.TaskOrMixture, *, split: str = 'validation', **options: Any
) -> 'BatchIterator | None':
  """`train_batches` of a split to validate on; None, with a line on stderr, if there is none."""
  if split not in task.splits:
    print(f'Task {task.name!r} has no split {split!r}: training goes unvalidated.', file=sys.stderr)
    return None
  return train_batches(task, split=split, **options)


def stream(
  drawn: Sequence[tuple[Columns, float]],
  lengths: Mapping[str, int],
  make_features: MakeFeatures,
  *,
  batch_size: int,
  pack: bool,
  seed: int = 0,
  shard_index: int | None = None,
  num_shards: int | None = None,
) -> 'BatchIterator':
  """Batches without end of examples that are columns of numbers, as `train_batches` gives them.

  Args:
    drawn: columns, and how often to draw from them beside the others: relative rates, kept to
      within 1 %. Each has epochs of its own.
    lengths: of a row, for every column; nothing in it is longer.
    make_features: what the model is given, of a batch's columns; see `calm.tasks.features`.
    batch_size, pack, seed, shard_index, num_shards: as in `train_batches`.

  Raises:
    ValueError: batch_size is not a multiple of num_shards.
  """
  index, shards = shard(shard_index, num_shards, batch_size)
  epochs = [
    grain.MapDataset.source(_Rows(columns)).seed(seed + i).shuffle().repeat()
    for i, (columns, _) in enumerate(drawn)
  ]
  mixed = grain.MapDataset.mix(epochs, [rate for _, rate in drawn]) if len(drawn) > 1 else epochs[0]
  rows = mixed.to_iter_dataset(grain.ReadOptions(num_threads=0))
  if pack:
    # Rows are filled side by side and given out together; the more, the fewer gaps.
    rows = grain.experimental.FirstFitPackIterDataset(
      rows, length_struct=dict(lengths), num_packing_bins=max(batch_size, 64)
    )
  else:
    rows = rows.map(lambda row: _row_of_one(row, lengths))
  settings = {
    'examples': sum(len(_Rows(columns)) for columns, _ in drawn),
    'data': _digest([columns for columns, _ in drawn]),
    'seed': seed,
    'pack': pack,
    **{f'{name}_length': length for name, length in lengths.items()},
    'batch_size': batch_size,
  }
  if len(drawn) > 1:
    settings['rates'] = [float(rate) for _, rate in drawn]
  batches = rows.batch(batch_size, drop_remainder=True)
  return BatchIterator(batches, make_features, index, shards, settings=settings)


class BatchIterator:
  """Endless batches: dicts of arrays, as `make_features` names them.

  Every host packs the same batches and takes its own rows, so that the state is the same on all and
  fits any number of hosts.

  `settings` is what batches and states depend on, as JSON takes it: a state of other settings does
  not fit.
  """

  def __init__(
    self,
    dataset: grain.IterDataset,
    make_features: MakeFeatures,
    shard_index: int = 0,
    num_shards: int = 1,
    *,
    settings: Mapping[str, Any],
  ):
    self.settings = dict(settings)
    self._iterator = iter(dataset)
    self._make_features = make_features
    self._shard_index, self._num_shards = shard_index, num_shards

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    columns = next(self._iterator)
    rows = len(next(iter(columns.values()))) // self._num_shards
    mine = slice(self._shard_index * rows, (self._shard_index + 1) * rows)
    return self._make_features(
      {name: value[mine].astype(np.int32) for name, value in columns.items()}
    )

  def get_state(self) -> dict[str, Any]:
    """Where the stream stands, as JSON takes it."""
    return json.loads(json.dumps(self._iterator.get_state()))

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on from where `get_state` was called, on a stream of the same settings and data."""
    self._iterator.set_state(dict(state))


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Rows of columns by number, as grain reads a source."""

  columns: Columns

  def __len__(self) -> int:
    return len(next(iter(self.columns.values())))

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {name: column[index] for name, column in self.columns.items()}


def _tokenised(
  task: seqio.Task, split: str, lengths: Mapping[str, int], truncate: bool, vocab_size: int | None
) -> dict[str, RaggedArray]:
  """All examples of a split as columns, in memory; says what their texts lose."""
  what = f'{task.name}, split {split}'
  begun = f'Tokenising {what}.'
  rows: dict[str, list[np.ndarray]] = {name: [] for name in lengths}
  losses = fidelity.Losses(f'{task.name} {split}')
  for example, tokens in tokenise(task, split, losses):
    notices.once(begun, begun)
    for name, length in lengths.items():
      if len(tokens[name]) > length and truncate:
        losses.cut(name, example.where)
      rows[name].append(
        checked(
          tokens[name],
          length,
          truncate,
          example.where,
          name,
          ends_in_eos=task.output_features[name].add_eos,
          vocab_size=vocab_size,
        )
      )
  if not any(rows.values()):
    raise ValueError(text.has_no('examples', task, split))
  columns = {name: RaggedArray.from_rows(column) for name, column in rows.items()}
  count = sum(column.values.size for column in columns.values())
  notices.once(
    f'tokenised {what}', f'{what}: {len(next(iter(rows.values()))):,} examples, {count:,} tokens.'
  )
  losses.say()
  return columns


def _digest(drawn: Sequence[Columns]) -> str:
  """A short hexadecimal digest of all tokens and of where each example ends."""
  parts = (
    storage.checksum(part.tobytes())
    for columns in drawn
    for _, column in sorted(columns.items())
    for part in (column.values, column.offsets)
  )
  return storage.checksum(''.join(parts).encode())


def _row_of_one(
  columns: Mapping[str, np.ndarray], lengths: Mapping[str, int]
) -> dict[str, np.ndarray]:
  """One example as a row of its own, with the names that packing gives."""
  row = {}
  for name, length in lengths.items():
    present = np.arange(length) < len(columns[name])
    row[name] = pad_rows([columns[name]], length, 1)[0]
    row[f'{name}_segment_ids'] = present.astype(np.int32)
    row[f'{name}_positions'] = np.where(present, np.arange(length), 0)
  return row


def shard(index: int | None, count: int | None, batch_size: int) -> tuple[int, int]:
  """(which part, of how many); this JAX process's, if one is not given."""
  if index is None or count is None:
    import jax  # Only to ask which process this is.

    index, count = jax.process_index(), jax.process_count()
  if batch_size < 1 or batch_size % count:
    raise ValueError(f'BATCH_SIZE must be a multiple of the {count} hosts, not {batch_size}.')
  return index, count
