"""Directories of encoders that Hugging Face transformers loads: what is written of any kind."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm import model_folders
from calm.models import parameters, safetensors_directory
from calm.models.huggingface_encoder import EncoderDirectory, default_labels, name_of

TOKENIZER_FILES = (
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.txt',
  'vocab.json',
  'merges.txt',
)


def save(
  kind: type[EncoderDirectory],
  directory: str | os.PathLike | None,
  config: Any,
  params: Any,
  *,
  dtype: str = 'float32',
  vocabulary_path: str | os.PathLike | None = None,
  labels: Sequence[str] = (),
) -> Path:
  """Writes a directory that transformers loads as `kind.base_architecture`; returns its path.

  With a classifier it is a `kind.architecture`. An interrupted call leaves nothing that looks
  whole.

  Args:
    kind: the EncoderDirectory that would read it.
    directory: is made; may exist if it holds nothing else than such an export.
    config: of `params`.
    params: the parameters, a nested dict of arrays.
    dtype: of the written weights, 'float32' or 'bfloat16'.
    vocabulary_path: a directory whose tokenizer's files are copied beside the weights.
    labels: names of the classifier's labels; by default LABEL_0 and so on.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    FileNotFoundError: there is no tokenizer at `vocabulary_path`.
    ValueError: no directory, or the parameters do not fit `config`, or the labels the classifier.
  """
  tensors, head = export(kind, config, params, labels)
  settings = {**kind.settings_of(config), **head, 'torch_dtype': dtype}
  beside = tokenizer_files(vocabulary_path)
  return safetensors_directory.write(directory, settings, tensors, dtype, beside)


def export(
  kind: type[EncoderDirectory], config: Any, params: Any, labels: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """What is written of a network: its tensors, and what config.json says of its head.

  Args:
    kind: the EncoderDirectory that would read it.
    config: of `params`.
    params: the parameters, a nested dict of arrays.
    labels: names of the classifier's labels; by default LABEL_0 and so on.

  Returns:
    Arrays by transformers' name, and a dict of settings.

  Raises:
    ValueError: the parameters do not fit `config`, or the labels the classifier.
  """
  flat = parameters.flatten(params)
  shapes = {name: np.shape(value) for name, value in flat.items()}
  parameters.require_fit('params', parameters.shapes(kind.network(config)), shapes)
  if labels and len(set(labels)) != config.num_labels:
    raise ValueError(f'There are {len(set(labels))} labels, and the model has {config.num_labels}.')
  theirs = {name: name_of(name, kind.names) or name for name in flat}
  # Beside a head, the base lies under its prefix.
  prefix = kind.prefix if any(map(kind.in_head, theirs.values())) else ''
  tensors = {}
  for name, value in flat.items():
    value = np.asarray(value).T if name.endswith('kernel') else np.asarray(value)
    tensors[theirs[name] if kind.in_head(theirs[name]) else prefix + theirs[name]] = value
  if not config.num_labels:
    return tensors, {'architectures': [kind.base_architecture]}
  names = tuple(labels) or default_labels(config.num_labels)
  return tensors, {
    'architectures': [kind.architecture],
    'id2label': {str(i): name for i, name in enumerate(names)},
    'label2id': {name: i for i, name in enumerate(names)},
  }


def tokenizer_files(directory: str | os.PathLike | None) -> dict[str, Path | None]:
  """The tokenizer's files in a directory by name, None where there is none.

  Raises:
    FileNotFoundError: there is none at all.
  """
  if directory is None:
    return dict.fromkeys(TOKENIZER_FILES)
  folder = model_folders.transformer_folder(directory)
  found = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
  if not found:
    raise FileNotFoundError(
      f'{directory} holds no tokenizer: none of {", ".join(TOKENIZER_FILES)}.'
    )
  return {name: found.get(name) for name in TOKENIZER_FILES}
