"""The files of a tokenizer of Hugging Face transformers for a vocabulary of this project.

SentencePiece's own file, spiece.model, does not say how many sentinels follow its pieces
(transformers adds 100 to it by default), nor does transformers read all that it does say. So
tokenizer.json is written too: the same pieces, with the same numbers, and the steps that
SentencePiece takes before it looks them up
(https://huggingface.co/docs/tokenizers/api/normalizers). As in all tokenizers of transformers, the
names of special tokens are these tokens where a text holds them.
"""

import base64
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

FILES = ('spiece.model', 'tokenizer.json', 'tokenizer_config.json')
_SPACE = '\u2581'
# SentencePiece's numbers for kinds of models, and of pieces.
_UNIGRAM = 1
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_PRIVATE = 0xF0000  # Unicode's private characters, which no normalization changes.


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A tokenizer's files, and how many tokens it knows.

  Attributes:
    files: bytes, or a dict for JSON, by name; None for a file of FILES that there is none of.
    num_pieces: tokens in all, sentinels not counted.
    num_sentinels: '<extra_id_0>' and so on, with the last numbers.
  """

  files: dict[str, bytes | dict | None]
  num_pieces: int
  num_sentinels: int


def of(vocabulary: Any) -> Tokenizer | None:
  """The tokenizer that gives the numbers of a seqio vocabulary; None if transformers has none.

  Raises:
    OSError, ValueError: the vocabulary's file cannot be read.
  """
  import seqio  # With TensorFlow, which reading weights does without.

  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return sentencepiece(vocabulary.sp_model, vocabulary.extra_ids)
  if type(vocabulary) is seqio.ByteVocabulary:
    return of_bytes(vocabulary.extra_ids)
  return None


def of_bytes(num_sentinels: int = 0) -> Tokenizer:
  """ByT5's tokenizer, which has no pieces to write: the bytes of UTF-8, from number 3."""
  config = {'tokenizer_class': 'ByT5Tokenizer', 'extra_ids': num_sentinels}
  return Tokenizer({**dict.fromkeys(FILES), 'tokenizer_config.json': config}, 259, num_sentinels)


def sentencepiece(model: bytes, num_sentinels: int = 0) -> Tokenizer | None:
  """The tokenizer of a SentencePiece model, the last pieces of which may be sentinels.

  None if the model is of another kind than unigram, or marks where words end: transformers would
  give other tokens.

  Raises:
    ValueError: it is no such model, or pad, EOS and unknown are not 0, 1 and 2.
  """
  from google.protobuf import message
  from sentencepiece import sentencepiece_model_pb2

  proto: Any = sentencepiece_model_pb2
  try:
    proto = proto.ModelProto.FromString(model)
  except message.DecodeError:
    raise ValueError('This is not a SentencePiece model.') from None
  if [piece.type for piece in proto.pieces[:3]] != [_CONTROL, _CONTROL, _UNKNOWN]:
    raise ValueError('The first pieces of this SentencePiece model are not pad, EOS and unknown.')
  suffixed = proto.trainer_spec.treat_whitespace_as_suffix
  escaped = proto.normalizer_spec.escape_whitespaces
  if proto.trainer_spec.model_type != _UNIGRAM or suffixed or not escaped:
    return None
  num_pieces = len(proto.pieces) - num_sentinels
  sentinels = [piece.piece.removeprefix(_SPACE) for piece in proto.pieces[num_pieces:]]
  del proto.pieces[num_pieces:]
  pad, eos, unknown = (piece.piece for piece in proto.pieces[:3])
  files = {
    'spiece.model': proto.SerializeToString() if num_sentinels else model,
    'tokenizer.json': _tokenizer_json(proto, sentinels),
    'tokenizer_config.json': {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'pad_token': pad,
      'eos_token': eos,
      'unk_token': unknown,
      'additional_special_tokens': sorted(sentinels, key=lambda name: (len(name), name)),
      'clean_up_tokenization_spaces': False,
    },
  }
  return Tokenizer(files, num_pieces, num_sentinels)


def _tokenizer_json(proto: Any, sentinels: Sequence[str]) -> dict[str, Any]:
  """The content of tokenizer.json for a unigram model, followed by sentinels."""
  pieces = [[piece.piece, piece.score] for piece in proto.pieces]
  pieces += [[name, 0.0] for name in sentinels]
  special = {i: piece.piece for i, piece in enumerate(proto.pieces) if piece.type == _CONTROL}
  special[2] = proto.pieces[2].piece
  whole = sorted((one.piece for one in proto.pieces if one.type == _USER_DEFINED), key=len)[::-1]
  eos = proto.pieces[1].piece
  end = {'SpecialToken': {'id': eos, 'type_id': 0}}
  first, second = ({'Sequence': {'id': which, 'type_id': 0}} for which in 'AB')
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    # Sentinels are looked for in normalized text, so where a word begins, as SentencePiece does.
    'added_tokens': [_added(i, name, normalized=False) for i, name in sorted(special.items())]
    + [_added(i, name, normalized=True) for i, name in enumerate(sentinels, len(proto.pieces))],
    'normalizer': {'type': 'Sequence', 'normalizers': _normalizers(proto.normalizer_spec, whole)},
    'pre_tokenizer': _whole(whole),
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': [first, end],
      'pair': [first, end, second, end],
      'special_tokens': {eos: {'id': eos, 'ids': [1], 'tokens': [eos]}},
    },
    'decoder': {'type': 'Sequence', 'decoders': _decoders(proto)},
    'model': {
      'type': 'Unigram',
      'unk_id': 2,
      'vocab': pieces,
      'byte_fallback': proto.trainer_spec.byte_fallback,
    },
  }


def _added(number: int, name: str, normalized: bool) -> dict[str, Any]:
  return {
    'id': number,
    'content': name,
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': normalized,
    'special': True,
  }


def _normalizers(spec: Any, whole: Sequence[str]) -> list[dict[str, Any]]:
  """SentencePiece's steps, in its order; pieces that stay `whole` it does not normalize."""
  stands_for = {piece: chr(_PRIVATE + i) for i, piece in enumerate(whole)}
  steps = [_replace({'String': piece}, mark) for piece, mark in stands_for.items()]
  if spec.precompiled_charsmap:
    charsmap = base64.b64encode(spec.precompiled_charsmap).decode('ascii')
    steps.append({'type': 'Precompiled', 'precompiled_charsmap': charsmap})
  if spec.remove_extra_whitespaces:
    steps += [_replace({'Regex': r'\A +| +\z'}, ''), _replace({'Regex': ' {2,}'}, ' ')]
  steps += [_replace({'String': mark}, piece) for piece, mark in stands_for.items()]
  if spec.add_dummy_prefix:
    steps.append({'type': 'Prepend', 'prepend': _SPACE})
  return [*steps, _replace({'String': ' '}, _SPACE)]


def _whole(pieces: Sequence[str]) -> dict[str, Any] | None:
  """Keeps some pieces from being joined with what stands beside them."""
  if not pieces:
    return None
  pattern = {'Regex': '|'.join(map(re.escape, pieces))}
  return {'type': 'Split', 'pattern': pattern, 'behavior': 'Isolated', 'invert': False}


def _decoders(proto: Any) -> list[dict[str, Any]]:
  steps = [_replace({'String': _SPACE}, ' ')]
  if proto.trainer_spec.byte_fallback:
    steps.append({'type': 'ByteFallback'})
  steps.append({'type': 'Fuse'})
  if proto.normalizer_spec.add_dummy_prefix:
    steps.append({'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0})
  return steps


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
  return {'type': 'Replace', 'pattern': pattern, 'content': content}
