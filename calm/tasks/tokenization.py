"""Texts to tokens that fit a model, and rows of tokens in memory."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import seqio
import tqdm

from calm.tasks import examples, fidelity, text
from calm.tasks.examples import Example

_CHUNK = 1000  # Texts that are tokenised at a time.


class ExampleError(ValueError):
  """An example cannot be used; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class RaggedArray:
  """Rows of different lengths in one flat array; row i is values[offsets[i] : offsets[i + 1]]."""

  values: np.ndarray
  offsets: np.ndarray

  @classmethod
  def from_rows(cls, rows: Sequence[Sequence[int] | np.ndarray]) -> 'RaggedArray':
    """Joins rows of int32."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def __getitem__(self, index: int) -> np.ndarray:
    return self.values[self.offsets[index] : self.offsets[index + 1]]


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


def tokenise(
  task: seqio.Task, split: str, losses: fidelity.Losses | None = None
) -> Iterator[tuple[Example, dict[str, np.ndarray]]]:
  """Yields the examples of a split with all tokens, int32[n], of their `inputs` and `targets`.

  `losses`, if given, counts what the texts lose. A bar shows the way on a terminal.
  """
  features = {name: task.output_features[name] for name in text.FEATURES}
  # Read before the examples are, which may have to be downloaded: a vocabulary may be missing.
  ends = {name: [one.vocabulary.eos_id] if one.add_eos else [] for name, one in features.items()}
  bar = tqdm.tqdm(desc=f'tokenising {split}', unit=' examples', delay=2, disable=None)
  found = examples.read(task, split)
  with bar:
    while chunk := list(itertools.islice(found, _CHUNK)):
      columns = {}
      texts = {'inputs': [one.texts['inputs'] for one in chunk]}
      texts['targets'] = [one.target for one in chunk]
      for name, feature in features.items():
        rows = encode(feature.vocabulary, texts[name])
        if losses is not None:
          places = [one.where for one in chunk]
          losses.look(feature.vocabulary, name, texts[name], rows, places)
        columns[name] = [np.array([*row, *ends[name]], np.int32) for row in rows]
      for i, example in enumerate(chunk):
        yield example, {name: column[i] for name, column in columns.items()}
      bar.update(len(chunk))


def checked(
  tokens: np.ndarray,
  length: int,
  truncate: bool,
  where: str,
  feature: str,
  *,
  ends_in_eos: bool = True,
  vocab_size: int | None = None,
) -> np.ndarray:
  """`fit`, of what a model can take: one token at least, and none beyond its vocabulary.

  Raises:
    ExampleError: it cannot.
    ValueError: nothing fits into `length`.
  """
  tokens = fit(tokens, length, truncate, where, feature, ends_in_eos=ends_in_eos)
  if not len(tokens):  # A row of nothing but padding has nothing to attend to.
    raise ExampleError(
      f'{where}: the {feature} have no tokens. Leave the example out, or let the feature end in EOS'
      ' (add_eos = True).'
    )
  if vocab_size is not None and tokens.max() >= vocab_size:
    raise ExampleError(
      f'{where}: the {feature} hold token {tokens.max()}, and the model knows {vocab_size} '
      '(VOCAB_SIZE): it was made for another vocabulary.'
    )
  return tokens


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
