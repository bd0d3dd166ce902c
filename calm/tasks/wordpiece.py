"""Texts and pairs of texts as an encoder takes them, by its checkpoint's own tokenizer."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from calm import fingerprints
from calm.tasks import tokenizer_files
from calm.tasks.tokenization import ExampleError

_CHUNK = 1000  # Rows that are tokenised at a time.
# Parts of tokenizer.json that change no tokens of a text.
_OF_NO_ACCOUNT = ('version', 'decoder')


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A text or a pair as tokens, those that mark beginning and end among them."""

  tokens: np.ndarray  # int32[n]
  token_types: np.ndarray  # int32[n], 1 for the second text and its end
  num_cut: int  # tokens that did not fit
  num_unknown: int  # tokens that stand for what the vocabulary lacks


class Tokenizer:
  """A checkpoint's tokenizer; the same files give an equal `identity`, wherever they lie.

  Attributes:
    vocab_size: one more than the largest token: a model needs as many embeddings.
    pad_id: the token that pads; a mask is needed beside it.
  """

  def __init__(self, files: tokenizer_files.Files):
    self._tokenizer: tokenizers.Tokenizer = files.tokenizer
    self._token_types = files.token_types
    self.vocab_size: int = 1 + max(files.tokenizer.get_vocab(with_added_tokens=True).values())
    self.pad_id: int = files.tokenizer.token_to_id(files.special['pad_token']) or 0
    # None in no row: byte-level BPE knows all texts.
    self._unknown = files.tokenizer.token_to_id(files.special['unk_token'])

  @functools.cached_property
  def identity(self) -> Mapping[str, Any]:
    """What decides the tokens of a text, by content, in words where there are any."""
    whole = json.loads(self._tokenizer.to_str())
    content = {name: value for name, value in whole.items() if name not in _OF_NO_ACCOUNT}
    return {
      'type': whole['model']['type'],
      'vocab_size': self.vocab_size,
      'normalizer': whole['normalizer'],
      'token_types': self._token_types,
      'content': fingerprints.fingerprint(content),
    }

  def encode(
    self,
    rows: Sequence[Sequence[str]],
    max_length: int,
    *,
    truncate: bool = False,
    where: Sequence[str] | None = None,
  ) -> Iterator[Encoded]:
    """Yields the tokens of each row, in order.

    Args:
      rows: of one text or two each.
      max_length: of a row, in tokens.
      truncate: whether what is longer is cut: a single text at its end, of a pair the longer text
        until both are of equal length, then both.
      where: what names each row in errors; 'row 0' and so on by default.

    Raises:
      ExampleError: a row is longer than `max_length` and not to be cut, or is none of texts.
      ValueError: no text fits into `max_length`.
    """
    for start in range(0, len(rows), _CHUNK):
      chunk = rows[start : start + _CHUNK]
      for i, row in enumerate(chunk, start):
        if problem := _problem(row):
          raise ExampleError(f'{_name(where, i)}: {problem}')
      inputs = [tuple(row) if len(row) == 2 else row[0] for row in chunk]
      for i, encoding in enumerate(self._tokenizer.encode_batch(inputs), start):
        length = len(encoding.ids)
        if length > max_length and not truncate:
          raise ExampleError(
            f'{_name(where, i)} has {length} tokens, and the length is {max_length}: set it higher,'
            ' or let longer texts be cut (truncate).'
          )
        if length > max_length:
          encoding = self._cut(rows[i], max_length)
        yield self._encoded(encoding, length)

  def _cut(self, row: Sequence[str], max_length: int) -> tokenizers.Encoding:
    """The encoding of a row whose texts are cut to `max_length` tokens in all."""
    budget = max_length - self._tokenizer.num_special_tokens_to_add(len(row) == 2)
    if budget < len(row):
      raise ValueError(
        f'A length of {max_length} holds no token of {len(row)} texts: set it higher.'
      )
    first, *second = (self._tokenizer.encode(text, add_special_tokens=False) for text in row)
    parts = [first, *second]
    lengths = lengths_of_parts([len(part.ids) for part in parts], budget)
    for part, length in zip(parts, lengths, strict=True):
      part.truncate(length)
    return self._tokenizer.post_process(first, second[0] if second else None)

  def _encoded(self, encoding: tokenizers.Encoding, length: int) -> Encoded:
    tokens = np.array(encoding.ids, np.int32)
    types = np.array(encoding.type_ids, np.int32)
    unknown = 0 if self._unknown is None else int((tokens == self._unknown).sum())
    types = types if self._token_types else np.zeros_like(types)
    return Encoded(tokens, types, length - len(tokens), unknown)


def lost(encoded: Iterable[Encoded], max_length: int) -> list[str]:
  """What texts lose in becoming tokens, as ['3 of 9 texts are cut to 16 tokens']."""
  total = cut = unknown = 0
  for one in encoded:
    total, cut, unknown = total + 1, cut + (one.num_cut > 0), unknown + (one.num_unknown > 0)
  found = {f'are cut to {max_length} tokens': cut, 'have unknown tokens': unknown}
  return [f'{count} of {total} texts {what}' for what, count in found.items() if count]


def lengths_of_parts(lengths: Sequence[int], budget: int) -> list[int]:
  """To how many tokens one text or two are cut, so that they are `budget` together.

  The longer gives way until both are equal; of an odd budget the longer keeps one more (the second,
  if they are equal).
  """
  if len(lengths) == 1:
    return [budget]
  shorter = int(lengths[1] < lengths[0])
  kept = min(lengths[shorter], budget // 2)
  return [kept, budget - kept] if shorter == 0 else [budget - kept, kept]


def load(directory: str | os.PathLike) -> Tokenizer:
  """The tokenizer in a checkpoint's directory.

  Raises:
    FileNotFoundError, ValueError: as `tokenizer_files.read`.
  """
  return Tokenizer(tokenizer_files.read(directory))


def _problem(row: Any) -> str | None:
  """What keeps a row from being encoded, as the end of a sentence; None if nothing does."""
  if isinstance(row, str):
    return 'it is a text, not a tuple of one or two.'
  if len(row) not in (1, 2):
    return f'there are {len(row)} texts, not one or two.'
  for text in row:
    if not isinstance(text, str):
      return f'{text!r} is no text.'
    if not text.isascii():
      try:
        text.encode('utf-8')
      except UnicodeEncodeError:
        return 'a text holds half a character (a lone surrogate): mend the file.'
  return None


def _name(where: Sequence[str] | None, index: int) -> str:
  return f'row {index}' if where is None else where[index]
