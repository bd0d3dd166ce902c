"""Token batches of a task: an endless, packed, exactly restorable stream, and examples in order.

A split is tokenised once and held in memory as one flat array, so that its examples can be read in
any order: the order of an epoch is a permutation that follows from the seed, and the place in the
stream is a few numbers that are saved with a checkpoint.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
import seqio
import tqdm

from calm.tasks import text

_CHUNK = 1000  # Texts that are tokenised at a time.


class ExampleError(ValueError):
  """An example cannot be used; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Example:
  """One example of a split, in text and tokens."""

  index: int  # within the split, from 0
  inputs: np.ndarray  # int32[n], EOS included
  targets: np.ndarray  # int32[m], EOS included, never cut
  inputs_text: str
  targets_text: str
  raw: Mapping[str, Any]  # all that the task's preprocessors leave, for postprocessing


@dataclasses.dataclass(frozen=True)
class RaggedArray:
  """Rows of different lengths in one flat array; row i is values[offsets[i] : offsets[i + 1]]."""

  values: np.ndarray
  offsets: np.ndarray

  @classmethod
  def from_rows(cls, rows: Sequence[Sequence[int]]) -> 'RaggedArray':
    """Joins rows of int32."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

  def __len__(self):
    return len(self.offsets) - 1

  def __getitem__(self, index):
    return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclasses.dataclass(frozen=True)
class _Pairs:
  """Inputs and targets by number, as grain reads a source."""

  inputs: RaggedArray
  targets: RaggedArray

  def __len__(self):
    return len(self.inputs)

  def __getitem__(self, index):
    return {'inputs': self.inputs[index], 'targets': self.targets[index]}


def train_batches(
  task: seqio.Task,
  *,
  batch_size: int,
  inputs_length: int,
  targets_length: int,
  split: str = 'train',
  pack: bool = True,
  truncate: bool = False,
  seed: int = 0,
  vocab_size: int | None = None,
  shard_index: int | None = None,
  num_shards: int | None = None,
) -> 'BatchIterator':
  """Batches of a split without end, each epoch in an order of its own that follows from `seed`.

  Args:
    task: text in, text out.
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
  shard, shards = _shard(shard_index, num_shards)
  if batch_size < 1 or batch_size % shards:
    raise ValueError(f'BATCH_SIZE must be a multiple of the {shards} hosts, not {batch_size}.')
  pairs = _tokenised(task, split, inputs_length, targets_length, truncate, vocab_size)
  lengths = {'inputs': inputs_length, 'targets': targets_length}
  stream = grain.MapDataset.source(pairs).seed(seed).shuffle().repeat()
  stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=0))
  if pack:
    # Rows are filled side by side and given out together; the more, the fewer gaps.
    stream = grain.experimental.FirstFitPackIterDataset(
      stream, length_struct=lengths, num_packing_bins=max(batch_size, 64)
    )
  else:
    stream = stream.map(lambda pair: _row_of_one(pair, lengths))
  return BatchIterator(stream.batch(batch_size, drop_remainder=True), shard, shards)


def validation_batches(
  task: seqio.Task, *, split: str = 'validation', **options: Any
) -> 'BatchIterator | None':
  """`train_batches` of a split to validate on; None, with a line on stderr, if there is none."""
  if split not in task.splits:
    print(f'Task {task.name!r} has no split {split!r}: training goes unvalidated.', file=sys.stderr)
    return None
  return train_batches(task, split=split, **options)


class BatchIterator:
  """Endless batches: dicts of int32 arrays with the names of seqio's encoder-decoder features.

  `encoder_input_tokens`, `encoder_segment_ids` and `encoder_positions` are [B, S],
  `decoder_target_tokens`, `decoder_input_tokens` (the targets of each example shifted right, 0
  first), `decoder_segment_ids`, `decoder_positions` and `decoder_loss_weights` are [B, T]. Segments
  count from 1; 0 is padding.

  Every host packs the same batches and takes its own rows, so that the state is the same on all and
  fits any number of hosts.
  """

  def __init__(self, dataset: grain.IterDataset, shard_index: int = 0, num_shards: int = 1):
    self._iterator = iter(dataset)
    self._shard_index, self._num_shards = shard_index, num_shards

  def __iter__(self):
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    packed = next(self._iterator)
    rows = len(packed['inputs']) // self._num_shards
    mine = slice(self._shard_index * rows, (self._shard_index + 1) * rows)
    packed = {name: value[mine].astype(np.int32) for name, value in packed.items()}
    targets, positions = packed['targets'], packed['targets_positions']
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return {
      'encoder_input_tokens': packed['inputs'],
      'encoder_segment_ids': packed['inputs_segment_ids'],
      'encoder_positions': packed['inputs_positions'],
      'decoder_input_tokens': np.where(positions > 0, shifted, 0),
      'decoder_target_tokens': targets,
      'decoder_segment_ids': packed['targets_segment_ids'],
      'decoder_positions': positions,
      'decoder_loss_weights': (packed['targets_segment_ids'] > 0).astype(np.int32),
    }

  def get_state(self) -> dict[str, Any]:
    """Where the stream stands, as JSON takes it."""
    return json.loads(json.dumps(self._iterator.get_state()))

  def set_state(self, state: Mapping[str, Any]):
    """Goes on from where `get_state` was called, on a stream of the same settings and data."""
    self._iterator.set_state(dict(state))


def evaluation_examples(
  task: seqio.Task,
  split: str,
  *,
  inputs_length: int,
  truncate: bool = False,
  limit: int | None = None,
  vocab_size: int | None = None,
) -> list[Example]:
  """The examples of a split in order, the first `limit` of them if it is given.

  Raises:
    ExampleError: an input is too long (and not to be cut), has no tokens, or one beyond vocab_size.
    ValueError: no such split, or an empty one, or a limit below 1.
  """
  if limit is not None and limit < 1:
    raise ValueError(f'limit is {limit}: 1 at least, or None for all examples.')
  lengths = {'inputs': inputs_length}
  examples = [
    _checked(example, task, lengths, truncate, vocab_size)
    for example in itertools.islice(_examples(task, split), limit)
  ]
  if not examples:
    raise ValueError(text.has_no('examples', task, split))
  return examples


def pad_rows(sequences: Sequence[np.ndarray], length: int, num_rows: int) -> np.ndarray:
  """Writes sequences into int32[num_rows, length], 0 after each and in rows without one.

  Raises:
    ValueError: there are more sequences than rows, or one is longer than `length`.
  """
  if len(sequences) > num_rows:
    raise ValueError(f'{len(sequences)} sequences do not fit into {num_rows} rows.')
  rows = np.zeros((num_rows, length), np.int32)
  for row, sequence in zip(rows, sequences, strict=False):
    if len(sequence) > length:
      raise ValueError(f'A sequence of {len(sequence)} tokens does not fit into {length}.')
    row[: len(sequence)] = sequence
  return rows


def encode(vocabulary: seqio.Vocabulary, texts: Sequence[str]) -> list[list[int]]:
  """Tokens of each text, without EOS: those of seqio's `tokenize`, many texts at a time."""
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary.tokenizer.EncodeAsIds(list(texts))
  return [list(vocabulary.encode(one)) for one in texts]


def fit(
  tokens: np.ndarray,
  length: int,
  truncate: bool,
  where: str,
  feature: str,
  *,
  ends_in_eos: bool = True,
) -> np.ndarray:
  """`tokens` if they fit into `length`; if that is allowed, cut before EOS.

  Raises:
    ExampleError: they do not fit and are not to be cut.
    ValueError: nothing fits into `length`.
  """
  if length < 1:
    raise ValueError(f'{feature.upper()}_LENGTH must be 1 at least, not {length}.')
  if len(tokens) <= length:
    return tokens
  if truncate:
    kept = int(ends_in_eos)
    return np.concatenate([tokens[: length - kept], tokens[len(tokens) - kept :]])
  raise ExampleError(
    f'{where}: the {feature} have {len(tokens)} tokens, and {feature.upper()}_LENGTH is {length}. '
    'Set it higher, or cut with TRUNCATE = True.'
  )


def _examples(task: seqio.Task, split: str) -> Iterator[Example]:
  """Examples of a split with all their tokens; a bar shows the way on a terminal."""
  features = {name: task.output_features[name] for name in text.FEATURES}
  bar = tqdm.tqdm(desc=f'tokenising {split}', unit=' examples', delay=2, disable=None)
  raws = text.examples(task, split)
  with bar:
    for start in itertools.count(0, _CHUNK):
      chunk = list(itertools.islice(raws, _CHUNK))
      if not chunk:
        return
      columns = {}
      for name, feature in features.items():
        rows = encode(feature.vocabulary, [raw[f'{name}_pretokenized'] for raw in chunk])
        end = [feature.vocabulary.eos_id] if feature.add_eos else []
        columns[name] = [np.array([*row, *end], np.int32) for row in rows]
      for i, raw in enumerate(chunk):
        yield Example(
          index=start + i,
          inputs=columns['inputs'][i],
          targets=columns['targets'][i],
          inputs_text=raw['inputs_pretokenized'],
          targets_text=raw['targets_pretokenized'],
          raw={'where': f'{split} example {start + i}', **raw},
        )
      bar.update(len(chunk))


def _checked(example, task, lengths, truncate, vocab_size):
  """The example with what has a length in `lengths` cut to it; or an ExampleError."""
  where, cut = example.raw['where'], {}
  for name, length in lengths.items():
    ends_in_eos = task.output_features[name].add_eos
    tokens = fit(getattr(example, name), length, truncate, where, name, ends_in_eos=ends_in_eos)
    cut[name] = tokens
    if not len(tokens):  # A row of nothing but padding has nothing to attend to.
      raise ExampleError(
        f'{where}: the {name} have no tokens. Leave the example out, or let the feature end in EOS'
        ' (add_eos = True).'
      )
    if vocab_size is not None and tokens.max() >= vocab_size:
      raise ExampleError(
        f'{where}: the {name} hold token {tokens.max()}, and the model knows {vocab_size} '
        '(VOCAB_SIZE): it was made for another vocabulary.'
      )
  return dataclasses.replace(example, **cut)


def _tokenised(task, split, inputs_length, targets_length, truncate, vocab_size):
  """All pairs of a split, in memory."""
  lengths = {'inputs': inputs_length, 'targets': targets_length}
  inputs, targets = [], []
  for example in _examples(task, split):
    checked = _checked(example, task, lengths, truncate, vocab_size)
    inputs.append(checked.inputs)
    targets.append(checked.targets)
  if not inputs:
    raise ValueError(text.has_no('examples', task, split))
  return _Pairs(RaggedArray.from_rows(inputs), RaggedArray.from_rows(targets))


def _row_of_one(pair, lengths):
  """One example as a row of its own, with the names that packing gives."""
  row = {}
  for name, length in lengths.items():
    present = np.arange(length) < len(pair[name])
    row[name] = pad_rows([pair[name]], length, 1)[0]
    row[f'{name}_segment_ids'] = present.astype(np.int32)
    row[f'{name}_positions'] = np.where(present, np.arange(length), 0)
  return row


def _shard(index, count):
  if index is None or count is None:
    import jax  # Only to ask which process this is.

    return jax.process_index(), jax.process_count()
  return index, count
