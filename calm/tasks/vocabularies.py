"""Vocabularies: made of a task's own text, T5's, or bytes. Pad is 0, EOS 1, unknown 2."""

import functools
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sentencepiece as sentencepiece_library
import seqio
import tensorflow as tf
import tqdm

from calm import configuration, settings, storage
from calm.tasks import examples, fidelity, lines
from calm.tasks import text as text_tasks

T5_VOCABULARY = 'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'

NORMALIZATIONS = ('nmt_nfkc', 'nfkc', 'nmt_nfkc_cf', 'nfkc_cf', 'identity')

# SentencePiece skips longer sentences without a word (its max_sentence_length), so longer texts
# are cut between words; likewise sentences with characters that it keeps for itself.
_MAX_SENTENCE_BYTES = 4000
_RESERVED = dict.fromkeys(map(ord, '\0\u2585'), ' ')
_WHITESPACE = ('\n', '\t', '\r')


class MissingVocabularyError(FileNotFoundError):
  """There is no vocabulary where the configuration looks for it."""


class VocabularyError(ValueError):
  """A file is no vocabulary, or one whose special tokens are others."""


def byte_vocabulary() -> seqio.Vocabulary:
  """The 256 bytes of UTF-8, from id 3, as in ByT5 (https://arxiv.org/abs/2105.13626)."""
  return seqio.ByteVocabulary(extra_ids=0)


def t5(path: str = T5_VOCABULARY) -> seqio.Vocabulary:
  """The 32000 pieces and 100 sentinels of T5's checkpoints.

  They are read from Google's public bucket, or from a copy, such as the `spiece.model` of a T5 in
  Hugging Face's form.
  """
  return sentencepiece(path, extra_ids=100)


def sentencepiece(path: str, extra_ids: settings.Natural = 0) -> seqio.Vocabulary:
  """The SentencePiece model at `path`, with `extra_ids` sentinels after its own pieces.

  The file is read when first needed: text can be read, and a vocabulary made of it, before.

  Raises:
    ValueError: there is no path.
    MissingVocabularyError: on first use, if there is no such file.
    VocabularyError: on first use, if it is none, or pad, EOS and unknown are not 0, 1 and 2.
  """
  if not path:
    raise ValueError('A SentencePiece vocabulary needs a file: set VOCABULARY_PATH.')
  return _SentencePieceVocabulary(os.fspath(path), extra_ids=extra_ids)


def in_workdir(workdir: str, base_workdir: str | None = None) -> str:
  """Where a run keeps a vocabulary of its own: `vocabulary.model` in its workdir.

  A run that begins with another's weights takes a copy of the vocabulary in `base_workdir`, and
  once it has begun needs that folder no more. In a checkpoint of Hugging Face transformers it is
  `spiece.model`.

  Raises:
    MissingVocabularyError: neither folder has one.
    VocabularyError: each has another, and the run has not begun.
  """
  path = os.path.join(workdir, 'vocabulary.model')
  exists = tf.io.gfile.exists
  if not base_workdir or (exists(path) and configuration.begun(workdir)):
    return path
  names = ('vocabulary.model', 'spiece.model')
  base = next(filter(exists, (os.path.join(base_workdir, name) for name in names)), None)
  if base is None and not exists(path):
    raise MissingVocabularyError(
      f'No {" or ".join(names)} in {base_workdir} (BASE_WORKDIR). A T5X checkpoint never has one:'
      ' give the SentencePiece model that the weights were trained with, as'
      " --gin.VOCABULARY_PATH=PATH, or T5's own by --gin_file=gin/tasks/t5_vocabulary.gin, or bytes"
      ' by --gin_file=gin/tasks/bytes.gin.'
    )
  if base is None:
    return path
  content = _read(base)
  if not exists(path):
    _write_atomically(path, content)
  elif _read(path) != content:
    raise VocabularyError(
      f'{path} is another vocabulary than {base}, which the weights in {base_workdir} belong to:'
      f' remove {path}, or give another --workdir.'
    )
  return path


def _read(path: str) -> bytes:
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


class _SentencePieceVocabulary(seqio.SentencePieceVocabulary):
  """Says how to come by a missing file, and which one is no vocabulary."""

  def _model_context(self) -> Any:
    if self._model is None:
      _check_file(self.sentencepiece_model_file)
    return super()._model_context()


def _check_file(path: str) -> None:
  """Raises an error that names the file, unless it is a vocabulary as this module makes them."""
  if path == T5_VOCABULARY:
    mend = 'set VOCABULARY_PATH to a copy of it, such as the spiece.model of a T5.'
  else:
    mend = (
      'make it with `calm vocab`, with the options that `calm train` is given, or set '
      'VOCABULARY_PATH.'
    )
  try:
    content = _read(path)
  except tf.errors.OpError as error:
    reason = '' if isinstance(error, tf.errors.NotFoundError) else f' ({lines.reason(error)})'
    raise MissingVocabularyError(f'No vocabulary {path}{reason}: {mend}') from None
  try:
    processor = sentencepiece_library.SentencePieceProcessor(model_proto=content)
  except RuntimeError:
    raise VocabularyError(
      f'{path} is not a SentencePiece model, or a damaged one: remove it, then {mend}'
    ) from None
  ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if ids != (0, 1, 2):
    raise VocabularyError(
      f'{path} has pad {ids[0]}, EOS {ids[1]} and unknown {ids[2]} (-1 is none), and must have 0, 1'
      ' and 2: train it with pad_id=0, eos_id=1, unk_id=2, or with `calm vocab`.'
    )


def write_vocabulary(
  task: seqio.Task,
  path: str | None,
  vocab_size: settings.Count,
  *,
  split: str = 'train',
  max_examples: settings.Count | None = 2_000_000,
  normalization: str = 'nmt_nfkc',
  keep_whitespace: bool = False,
  user_symbols: Sequence[str] = (),
  byte_fallback: bool = False,
  overwrite: bool = False,
) -> str:
  """Trains a SentencePiece vocabulary (unigram) from a task's inputs and targets; returns `path`.

  Kudo, https://arxiv.org/abs/1804.10959. A vocabulary that is there already is left as it is
  unless `overwrite`: the weights trained with it know no other. How many of the texts hold what it
  does not know, and how many targets do not come back from their tokens, is said on standard error.

  Args:
    task: text in, text out; its own vocabulary is not needed.
    path: file to write; None where there is none to make, as with bytes.
    vocab_size: pieces in all, pad, EOS and unknown included.
    split: of the task.
    max_examples: read no more than so many.
    normalization: what SentencePiece makes of a text first, one of NORMALIZATIONS; T5's takes
      newlines for spaces, m² for m2 and ﬁ for fi, 'identity' changes nothing.
    keep_whitespace: keep newlines, tabs, indentation and several spaces apart; otherwise all are
      one space, and none at the ends.
    user_symbols: texts that are one piece each, always.
    byte_fallback: spell unknown characters in bytes; takes 256 pieces.

  Raises:
    ValueError: there is no path, the split is empty, a setting cannot be, or its text has no use
      for, or needs more than, vocab_size pieces.
    storage.BusyError: another process makes it.
  """
  if not path:
    raise ValueError(
      "This configuration has no vocabulary to make: bytes need none, and T5's own is there."
      ' To make one, include gin/tasks/sentencepiece.gin.'
    )
  settings.check(write_vocabulary, vocab_size=vocab_size, max_examples=max_examples)
  if normalization not in NORMALIZATIONS:
    raise ValueError(f'NORMALIZATION is {normalization!r}, not one of {", ".join(NORMALIZATIONS)}.')
  if isinstance(user_symbols, str) or not all(isinstance(one, str) and one for one in user_symbols):
    raise ValueError(f'USER_SYMBOLS is {user_symbols!r}, not a tuple of texts.')
  symbols = [*dict.fromkeys([*(_WHITESPACE if keep_whitespace else ()), *user_symbols])]
  options: dict[str, Any] = {
    'normalization_rule_name': normalization,
    'user_defined_symbols': symbols,
    'byte_fallback': byte_fallback,
  }
  if keep_whitespace:  # Said only then, since what is said is written into the file.
    options['remove_extra_whitespaces'] = False
  with storage.lock(f'{path}.lock', path):
    if tf.io.gfile.exists(path) and not overwrite:
      print(f'{path} is there already and stays as it is.', file=sys.stderr)
      return path
    texts = functools.partial(_texts, task, split, max_examples)
    _write_atomically(path, _train(task, split, texts(), vocab_size, options))
  print(f'Wrote {path}: {vocab_size} pieces.', file=sys.stderr)
  _say_losses(path, f'{task.name} {split}', texts())
  return path


def _texts(
  task: seqio.Task, split: str, max_examples: int | None
) -> Iterator[tuple[str, str, str]]:
  """(feature, text, where) of the inputs and targets that are read."""
  found = examples.read(task, split)
  for example in itertools.islice(found, max_examples):
    yield 'inputs', example.texts['inputs'], example.where
    yield 'targets', example.target, example.where
  if next(found, None) is not None:
    storage.warn(f'Read the first {max_examples} examples alone (max_examples).', once=True)


def _train(
  task: seqio.Task,
  split: str,
  texts: Iterator[tuple[str, str, str]],
  vocab_size: int,
  options: Mapping[str, Any],
) -> bytes:
  """The model that SentencePiece makes of texts."""
  keep = not options.get('remove_extra_whitespaces', True)
  sentences = (part for _, text, _ in texts for part in _parts(text, keep))
  first = next(sentences, None)
  if first is None:
    raise ValueError(text_tasks.has_no('text', task, split))
  model = io.BytesIO()
  try:
    sentencepiece_library.SentencePieceTrainer.train(
      sentence_iterator=iter(
        tqdm.tqdm(itertools.chain([first], sentences), 'reading', unit=' texts', disable=None)
      ),
      model_writer=model,
      vocab_size=vocab_size,
      model_type='unigram',
      character_coverage=1.0,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      max_sentence_length=2 * _MAX_SENTENCE_BYTES,
      num_threads=1,  # The result depends on their number.
      minloglevel=2,
      **options,
    )
  except RuntimeError as error:
    reason = str(error).rpartition('] ')[-1]  # After the place in SentencePiece's own source.
    raise ValueError(f'No vocabulary of {vocab_size} pieces (VOCAB_SIZE): {reason}') from None
  return model.getvalue()


def _parts(text: str, keep_whitespace: bool) -> Iterator[str]:
  """Cuts a text between words, and very long words, into parts that SentencePiece does not skip."""
  text = text.translate(_RESERVED)
  part: list[str] = []
  size = 0
  for word in re.findall(r'\s*\S+|\s+$', text) if keep_whitespace else text.split():
    length = len(word.encode('utf-8'))
    if length > _MAX_SENTENCE_BYTES:
      step = _MAX_SENTENCE_BYTES // 4  # A character has 4 bytes at most.
      yield from (word[at : at + step] for at in range(0, len(word), step))
      continue
    size += length + 1
    if size > _MAX_SENTENCE_BYTES and part:
      yield _joined(part, keep_whitespace)
      part, size = [], length + 1
    part.append(word)
  if part:
    yield _joined(part, keep_whitespace)


def _joined(words: Sequence[str], keep_whitespace: bool) -> str:
  return ('' if keep_whitespace else ' ').join(words)


def _say_losses(path: str, what: str, texts: Iterator[tuple[str, str, str]]) -> None:
  """Counts what the texts lose in the vocabulary at `path`, and says it."""
  vocabulary = sentencepiece(path)
  losses = fidelity.Losses(what)
  while chunk := list(itertools.islice(texts, 2000)):
    for feature in text_tasks.FEATURES:
      found = [(text, where) for name, text, where in chunk if name == feature]
      rows = vocabulary.tokenizer.EncodeAsIds([text for text, _ in found])
      places = [where for _, where in found]
      losses.look(vocabulary, feature, [text for text, _ in found], rows, places)
  losses.say()


def _write_atomically(path: str, content: bytes) -> None:
  folder = os.path.dirname(path)
  if folder:
    tf.io.gfile.makedirs(folder)
  temporary = f'{path}.{os.getpid()}'
  try:
    with tf.io.gfile.GFile(temporary, 'wb') as file:
      file.write(content)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except BaseException:
    if tf.io.gfile.exists(temporary):
      tf.io.gfile.remove(temporary)
    raise
