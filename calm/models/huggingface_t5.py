"""T5 as Hugging Face transformers keeps it: names and shapes of tensors; T5 1.0, 1.1, Flan and mT5.

Their kernels are the transpose of ours, and so are the tables of relative positions. What their
settings mean is said in `calm.models.huggingface_t5_config`.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from calm import storage
from calm.models import (
  huggingface_t5_config,
  huggingface_tokenizer,
  parameters,
  safetensors_directory,
)
from calm.models.foreign_config import Settings
from calm.models.huggingface_t5_config import GENERATION_CONFIG
from calm.models.safetensors_directory import CONFIG
from calm.models.t5 import T5, T5Config
from calm.settings import Count

_EMBEDDING = 'shared.weight'
_HEAD = 'lm_head.weight'
# Some versions of transformers write the embedding again under these names.
_EMBEDDING_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# Early versions wrote a table that no version reads: cross-attention has no relative positions.
_UNUSED = ('decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight',)

# Our flat names and theirs. The letter of an attention kernel is the first of ours: q, k, v, o.
_NAMES = (
  (r'token_embedder/embedding', _EMBEDDING),
  (r'decoder/logits_dense/kernel', _HEAD),
  (r'(\w+)/(?:en|de)coder_norm/scale', r'\1.final_layer_norm.weight'),
  (r'(\w+)/relpos_bias/.*', r'\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight'),
  (r'(\w+)/layers_(\d+)/pre_(?:self_)?attention_layer_norm/.*', r'\1.block.\2.layer.0.layer_norm'),
  (r'(\w+)/layers_(\d+)/(?:self_)?attention/(\w).*', r'\1.block.\2.layer.0.SelfAttention.\3'),
  (r'(\w+)/layers_(\d+)/pre_cross_attention_layer_norm/.*', r'\1.block.\2.layer.1.layer_norm'),
  (r'(\w+)/layers_(\d+)/encoder_decoder_\w+/(\w).*', r'\1.block.\2.layer.1.EncDecAttention.\3'),
  (r'encoder/layers_(\d+)/pre_mlp_layer_norm/.*', r'encoder.block.\1.layer.1.layer_norm'),
  (r'encoder/layers_(\d+)/mlp/(\w+)/.*', r'encoder.block.\1.layer.1.DenseReluDense.\2'),
  (r'decoder/layers_(\d+)/pre_mlp_layer_norm/.*', r'decoder.block.\1.layer.2.layer_norm'),
  (r'decoder/layers_(\d+)/mlp/(\w+)/.*', r'decoder.block.\1.layer.2.DenseReluDense.\2'),
)


class Directory:
  """A T5 in a directory of transformers; parameters are read one by one, when asked for.

  Attributes:
    network: the class of the network, T5.
    config_class: that of its config.
    config: the T5Config that config.json describes.
    shapes: the shape of every parameter found, by transformers' name.

  Raises:
    FileNotFoundError: config.json or a shard is missing.
    ValueError: a file is damaged, or a setting is not supported.
  """

  network = T5
  config_class = T5Config

  def __init__(self, directory: Path):
    settings = Settings(safetensors_directory.read_settings(directory), directory / CONFIG)
    self.config = huggingface_t5_config.from_settings(settings)
    if (directory / GENERATION_CONFIG).exists():
      huggingface_t5_config.check_generation(Settings.read(directory / GENERATION_CONFIG))
    self._tensors = tensors = safetensors_directory.Tensors(directory, _UNUSED)
    self.shapes = tensors.shapes
    tensors.merge(_EMBEDDING, _EMBEDDING_COPIES)
    huggingface_t5_config.require_sizes(settings, self.config, tensors)
    tied = huggingface_t5_config.tied(settings)
    if self.config.logits_via_embedding:
      tensors.merge(_EMBEDDING, (_HEAD,), f'{CONFIG} says (tie_word_embeddings) they are one')
    elif tied and _HEAD not in self.shapes and _EMBEDDING in self.shapes:
      # Tied, but without the factor of T5 1.0: the embedding serves as an ordinary head.
      tensors.copy(_HEAD, _EMBEDDING)

  @staticmethod
  def name(flat: str) -> str | None:
    """transformers' name of the parameter with the flat name `flat`; None if it has none."""
    for pattern, name in _NAMES:
      if match := re.fullmatch(pattern, flat):
        name = match.expand(name)
        return name if name.endswith('.weight') else f'{name}.weight'
    return None

  @staticmethod
  def shape(flat: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in which transformers keeps a parameter of our `shape`."""
    return tuple(reversed(shape)) if _transposed(flat) else tuple(shape)

  def read(self, flat: str) -> np.ndarray:
    """The parameter with flat name `flat`, as a float32 array."""
    value = self._tensors.read(self.name(flat) or flat)
    return np.array(value.T if _transposed(flat) else value, np.float32, order='C')

  def differences(self, config: T5Config) -> list[str]:
    """Lines about the settings in which `config` differs from config.json."""
    return huggingface_t5_config.differences(config, self.config)

  def beyond(self, config: T5Config) -> list[str]:
    """Names of the parameters of decoder layers beyond those of `config`."""
    layers = ((name, re.match(r'decoder\.block\.(\d+)\.', name)) for name in self.shapes)
    return [name for name, at in layers if at and int(at[1]) >= config.num_decoder_layers]

  def left_out(self, config: T5Config) -> list[str]:
    """Names of the parameters for which a network of `config` has no place: none are let pass."""
    del config
    return []


def save(
  directory: str | os.PathLike | None,
  config: T5Config,
  params: Any,
  *,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
  vocabulary: Any = None,
  vocabulary_path: str | os.PathLike | None = None,
  max_decode_steps: Count | None = None,
) -> Path:
  """Writes a directory that transformers' T5ForConditionalGeneration loads; returns its path.

  Stderr is told what is in it. An interrupted call leaves nothing that looks whole. transformers
  has no exit classifier: a model's is left out, which stderr is told, too.

  Args:
    directory: is made; may exist if it holds nothing else than such an export.
    config: the T5Config of `params`.
    params: the parameters, a nested dict of arrays.
    dtype: of the written weights, 'float32' or 'bfloat16'.
    vocabulary: the model's, of seqio; its tokenizer is written beside the weights.
    vocabulary_path: a SentencePiece model without sentinels, in place of `vocabulary`.
    max_decode_steps: how many tokens an output has at most, EOS among them; transformers' own
      20 if it is None.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    FileNotFoundError: there is no such vocabulary.
    ValueError: no directory, the parameters or the vocabulary do not fit `config`, or transformers
      has no such T5.
  """
  flat = parameters.flatten(params)
  shapes = {name: np.shape(value) for name, value in flat.items()}
  parameters.require_fit('params', parameters.shapes(T5(config)), shapes)
  if config.exit_classifier:
    config = dataclasses.replace(config, exit_classifier=False)
    flat = {name: flat[name] for name in parameters.shapes(T5(config))}
    storage.warn(
      f'{directory}: written without the exit classifier, for which transformers has no place; the '
      'checkpoints of the run keep it.'
    )
  tensors = {Directory.name(name) or name: _exported(name, value) for name, value in flat.items()}
  settings = huggingface_t5_config.to_settings(config, dtype)
  generation = huggingface_t5_config.to_generation_settings(config, max_decode_steps)
  tokenizer = _tokenizer(vocabulary, vocabulary_path, config)
  beside = {GENERATION_CONFIG: generation, **dict.fromkeys(huggingface_tokenizer.FILES)}
  beside |= tokenizer.files if tokenizer else {}
  written = safetensors_directory.write(directory, settings, tensors, dtype, beside)
  storage.warn(
    f'Wrote {written}: {sum(value.size for value in tensors.values()):,} parameters as {dtype}; '
    f'{_decode_length(max_decode_steps)}; {_pieces(vocabulary or vocabulary_path, tokenizer)}. '
    f'Files: {", ".join(sorted(path.name for path in written.iterdir()))}.'
  )
  return written


def _tokenizer(
  vocabulary: Any, vocabulary_path: str | os.PathLike | None, config: T5Config
) -> huggingface_tokenizer.Tokenizer | None:
  """The tokenizer to be written, if there is one; its tokens must have rows in the embedding."""
  tokenizer = None
  if vocabulary_path is not None:
    if not Path(vocabulary_path).is_file():
      raise FileNotFoundError(f'There is no vocabulary {vocabulary_path} to be written.')
    try:
      tokenizer = huggingface_tokenizer.sentencepiece(Path(vocabulary_path).read_bytes())
    except ValueError as error:
      raise ValueError(f'{vocabulary_path}: {error}') from None
  elif vocabulary is not None:
    tokenizer = huggingface_tokenizer.of(vocabulary)
  size = tokenizer.num_pieces + tokenizer.num_sentinels if tokenizer else 0
  if size > config.vocab_size:
    raise ValueError(
      f'The vocabulary has {size} tokens and the model {config.vocab_size} (vocab_size): it is '
      "another model's."
    )
  return tokenizer


def _decode_length(max_decode_steps: int | None) -> str:
  if max_decode_steps is None:
    return 'outputs as long as transformers makes them, for no length was given'
  return f'outputs of at most {max_decode_steps} tokens'


def _pieces(vocabulary: Any, tokenizer: huggingface_tokenizer.Tokenizer | None) -> str:
  if tokenizer:
    return f'a tokenizer of {tokenizer.num_pieces} pieces and {tokenizer.num_sentinels} sentinels'
  if vocabulary is not None:
    return f'no tokenizer, for transformers has none that gives the tokens of {vocabulary}'
  return 'no tokenizer, for no vocabulary was given'


def _transposed(flat: str) -> bool:
  return flat.endswith(('kernel', 'rel_embedding'))


def _exported(flat: str, value: Any) -> np.ndarray:
  return np.asarray(value).T if _transposed(flat) else np.asarray(value)
