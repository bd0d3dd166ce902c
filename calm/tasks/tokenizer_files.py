"""A checkpoint's tokenizer, made of the files beside its weights.

The kinds are WordPiece (BERT, https://arxiv.org/abs/1810.04805, section 3.2) and byte-level BPE
(DeBERTa v1's, which is GPT-2's), whole in tokenizer.json or as their vocabulary with settings. The
files are those of Hugging Face transformers. DeBERTa's `bpe_encoder.bin` is a pickle, whose content
could run as code: it is never opened.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from calm import model_folders, storage

WHOLE = 'tokenizer.json'
CONFIG = 'tokenizer_config.json'
SPECIAL_TOKENS = 'special_tokens_map.json'
ADDED_TOKENS = 'added_tokens.json'
WORDPIECE_VOCABULARY = 'vocab.txt'
BPE_VOCABULARY, BPE_MERGES = 'vocab.json', 'merges.txt'
PICKLES = ('bpe_encoder.bin', 'spm.bin')

# tokenizer_config's names for what a BertNormalizer does, and its own.
_NORMALIZER = {
  'do_lower_case': 'lowercase',
  'strip_accents': 'strip_accents',
  'tokenize_chinese_chars': 'handle_chinese_chars',
}
_SPECIAL = {
  'pad_token': '[PAD]',
  'unk_token': '[UNK]',
  'cls_token': '[CLS]',
  'sep_token': '[SEP]',
  'mask_token': '[MASK]',
}
# Of tokenizers whose vocabulary alone makes them WordPiece, or byte-level BPE.
_CLASSES = {
  WORDPIECE_VOCABULARY: ('BertTokenizer', 'BertTokenizerFast'),
  BPE_VOCABULARY: ('DebertaTokenizer', 'DebertaTokenizerFast'),
}


@dataclasses.dataclass(frozen=True)
class Files:
  """The tokenizer of a directory as `tokenizers` runs it, and what its settings say beside."""

  tokenizer: tokenizers.Tokenizer
  special: Mapping[str, str]  # 'pad_token' and so on, and the token
  token_types: bool  # whether the network is told which text of a pair a token belongs to


def read(directory: str | os.PathLike) -> Files:
  """The tokenizer in a directory; of sentence-transformers, in the folder of the network.

  Padding and truncation that tokenizer.json may carry are switched off. Where it differs from
  tokenizer_config.json about case, accents and Chinese characters, the latter decides, as in
  transformers.

  Raises:
    FileNotFoundError: there are no files of a tokenizer.
    ValueError: a file is damaged, or the tokenizer of a kind that is not supported, or a pickle.
  """
  folder = model_folders.transformer_folder(directory)
  settings = _Settings(folder)
  if (folder / WHOLE).is_file():
    tokenizer = _whole(folder / WHOLE)
    if isinstance(tokenizer.model, models.WordPiece):
      _normalize_as_told(tokenizer, settings)
  elif (folder / WORDPIECE_VOCABULARY).is_file():
    tokenizer = _wordpiece(folder / WORDPIECE_VOCABULARY, settings)
  elif (folder / BPE_VOCABULARY).is_file() and (folder / BPE_MERGES).is_file():
    tokenizer = _byte_level(folder, settings)
  else:
    raise FileNotFoundError(_nothing_in(folder))
  tokenizer.no_padding()
  tokenizer.no_truncation()
  if tokenizer.post_processor is None:
    tokenizer.post_processor = _template(tokenizer, settings)
  return Files(tokenizer, settings.special, settings.token_types)


class _Settings:
  """What tokenizer_config.json and the files of tokens beside it say."""

  def __init__(self, folder: Path):
    self.path = folder / CONFIG
    self.values = storage.read_json(self.path) if self.path.is_file() else {}
    stated = {}
    if (folder / SPECIAL_TOKENS).is_file():
      stated = storage.read_json(folder / SPECIAL_TOKENS)
    self.special = {
      name: _content(self.values.get(name) or stated.get(name) or token)
      for name, token in _SPECIAL.items()
    }
    self.token_types = 'token_type_ids' in self._list('model_input_names', ['token_type_ids'])
    self.added = self._added(folder / ADDED_TOKENS)
    if self.values.get('truncation_side', 'right') != 'right':
      raise ValueError(
        f'{self.path}: truncation_side is {self.values["truncation_side"]!r}; texts are cut at '
        'their end (right).'
      )

  def flag(self, name: str, default: bool | None = None) -> bool | None:
    """true or false, or `default` where it is absent or null."""
    value = self.values.get(name)
    if value is not None and not isinstance(value, bool):
      raise ValueError(f'{self.path}: {name} is {value!r}; it must be true or false.')
    return default if value is None else value

  def require_class(self, vocabulary: str) -> None:
    """Refuses a tokenizer that is more than its vocabulary."""
    name = self.values.get('tokenizer_class')
    if name is not None and name not in _CLASSES[vocabulary]:
      raise ValueError(
        f'{self.path}: tokenizer_class is {name!r}, which {vocabulary} alone does not make; save '
        f'it with transformers as {WHOLE}.'
      )

  def _list(self, name: str, default: list[str]) -> list[str]:
    value = self.values.get(name)
    if value is not None and not isinstance(value, list):
      raise ValueError(f'{self.path}: {name} is {value!r}; it must be a list.')
    return default if value is None else value

  def _added(self, path: Path) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary by number, from either of the files that may list them."""
    found = {}
    if path.is_file():
      listed = storage.read_json(path)
      found = _made(path, lambda: {int(number): AddedToken(t) for t, number in listed.items()})
    entries = self.values.get('added_tokens_decoder') or {}
    found |= _made(self.path, lambda: {int(n): _added_token(entries[n]) for n in entries})
    return dict(sorted(found.items()))


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
  flags = {name: bool(entry.get(name)) for name in ('single_word', 'lstrip', 'rstrip', 'special')}
  return AddedToken(entry['content'], **flags, normalized=bool(entry.get('normalized', True)))


def _content(token: Any) -> str:
  """The text of a token that may be written with its settings."""
  return str(token['content'] if isinstance(token, dict) and 'content' in token else token)


def _whole(path: Path) -> tokenizers.Tokenizer:
  tokenizer = _made(path, lambda: tokenizers.Tokenizer.from_str(path.read_text(encoding='utf-8')))
  if not isinstance(tokenizer.model, models.WordPiece | models.BPE):
    kind = type(tokenizer.model).__name__
    raise ValueError(f'{path}: the tokenizer is a {kind}; WordPiece and BPE are supported.')
  if getattr(tokenizer.model, 'dropout', None):
    raise ValueError(f'{path}: the tokenizer draws its merges (dropout): set "dropout" to null.')
  return tokenizer


def _wordpiece(path: Path, settings: _Settings) -> tokenizers.Tokenizer:
  settings.require_class(WORDPIECE_VOCABULARY)
  words = _made(path, lambda: path.read_text(encoding='utf-8')).split('\n')
  words = words[:-1] if words[-1] == '' else words
  vocabulary = {word: number for number, word in enumerate(words)}
  special = settings.special
  _require(path, vocabulary, [token for name, token in special.items() if name != 'mask_token'])
  tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=special['unk_token']))
  tokenizer.normalizer = normalizers.BertNormalizer(
    lowercase=bool(settings.flag('do_lower_case', True))
  )
  _normalize_as_told(tokenizer, settings)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  _add_tokens(path, tokenizer, settings)
  return tokenizer


def _byte_level(folder: Path, settings: _Settings) -> tokenizers.Tokenizer:
  settings.require_class(BPE_VOCABULARY)
  path, merges = folder / BPE_VOCABULARY, folder / BPE_MERGES
  vocabulary = storage.read_json(path)
  special = settings.special
  needed = [
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    special['cls_token'],
    special['sep_token'],
  ]
  _require(path, vocabulary, needed)
  if not all(type(number) is int for number in vocabulary.values()):
    raise storage.DamagedError(f'{path} is damaged: a token has no number.')
  parts = _made(merges, lambda: models.BPE.read_file(str(path), str(merges)))
  tokenizer = tokenizers.Tokenizer(_made(merges, lambda: models.BPE(*parts)))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(bool(settings.flag('add_prefix_space', False)))
  _add_tokens(path, tokenizer, settings)
  return tokenizer


def _made(path: Path, make: Callable[[], Any]) -> Any:
  """What `make` returns; whatever it raises is about the file at `path`."""
  try:
    return make()
  except Exception:  # The library raises nothing more special.
    raise storage.DamagedError(f'{path} is damaged, or of no kind of tokenizer.') from None


def _require(path: Path, vocabulary: Collection[str], tokens: Iterable[str]) -> None:
  missing = [token for token in tokens if token not in vocabulary]
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing[:5])}.')


def _add_tokens(path: Path, tokenizer: tokenizers.Tokenizer, settings: _Settings) -> None:
  """Special tokens stay whole where a text holds them, as in transformers."""
  vocabulary = tokenizer.get_vocab()
  known = [token for token in settings.special.values() if token in vocabulary]
  tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in known])
  for number, token in settings.added.items():
    tokenizer.add_tokens([token])
    if tokenizer.token_to_id(token.content) != number:
      raise ValueError(
        f'{path}: the added token {token.content!r} has number {number}, which is not the next.'
      )


def _normalize_as_told(tokenizer: tokenizers.Tokenizer, settings: _Settings) -> None:
  """Lets tokenizer_config.json decide about case, accents and Chinese characters."""
  normalizer = tokenizer.normalizer
  if not isinstance(normalizer, normalizers.BertNormalizer):
    return
  state = {ours: getattr(normalizer, ours) for ours in ('clean_text', *_NORMALIZER.values())}
  for name, ours in _NORMALIZER.items():
    if (told := settings.flag(name)) is not None:
      state[ours] = told
  tokenizer.normalizer = normalizers.BertNormalizer(**state)


def _template(
  tokenizer: tokenizers.Tokenizer, settings: _Settings
) -> processors.TemplateProcessing:
  """[CLS] first text [SEP] second text [SEP].

  So it is for DeBERTa, too, as published. transformers 5 puts two separators between its texts and
  writes that into tokenizer.json, which is then followed.
  """
  first, end = settings.special['cls_token'], settings.special['sep_token']
  numbers = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((first, end))]
  if None in dict(numbers).values():
    raise ValueError(f'{settings.path.parent}: the vocabulary lacks {first} or {end}.')
  return processors.TemplateProcessing(
    single=f'{first}:0 $A:0 {end}:0',
    pair=f'{first}:0 $A:0 {end}:0 $B:1 {end}:1',
    special_tokens=numbers,
  )


def _nothing_in(folder: Path) -> str:
  kinds = f'{WHOLE}, {WORDPIECE_VOCABULARY}, or {BPE_VOCABULARY} with {BPE_MERGES}'
  pickled = [name for name in PICKLES if (folder / name).is_file()]
  if pickled:
    return (
      f'{folder} holds no {kinds}. {pickled[0]} is not opened, since it can hold code: save the '
      "tokenizer with transformers' save_pretrained."
    )
  return f'{folder} holds no tokenizer: no {kinds}.'
