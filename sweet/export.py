"""A classifier of a run, with the layers below it, as a model of Hugging Face transformers."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm import settings
from calm.models import pretrained
from calm.settings import Count, Positive
from calm.tasks.classification import Classification, Form
from sweet import checkpoint
from sweet.model import ExitsConfig
from sweet.multi_model import MultiModel
from sweet.objectives import Classifiers


def export(
  *,
  model: Classifiers,
  params: Any,
  labels: Form,
  directory: str | None,
  workdir: str | None = None,
  exit: Count | None = None,
  temperatures: Sequence[Positive] | None = None,
  dtype: str = 'float32',
) -> Path:
  """Writes a directory that transformers loads for the classification of sequences.

  Logits are those of the classifier over its temperature, so that their softmax is what
  `sweet predict` gives as a probability.

  Args:
    model: of the run.
    params: of the model.
    labels: whose names config.json gets.
    directory: is made; may exist if it holds nothing else than such an export.
    workdir: of the run, whose tokenizer is copied.
    exit: the classifier, from 1; None is the last.
    temperatures: of the classifiers; None is 1 for each.
    dtype: of the written weights, 'float32' or 'bfloat16'.

  Returns:
    The directory.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    ValueError: there is no such classifier, or transformers has none that pools as it does.
  """
  settings.check(export, exit=exit, temperatures=temperatures)
  number = len(model.exits) if exit is None else exit
  if number > len(model.exits):
    raise ValueError(f'exit (EXIT) is {exit}, and there are {len(model.exits)} classifiers.')
  check_exportable(model.config)
  config, own = network_of(model, params, number)
  if temperatures is not None:
    own['classifier'] = {
      name: np.asarray(value, np.float32) / np.float32(temperatures[number - 1])
      for name, value in own['classifier'].items()
    }
  names = tuple(labels.labels) if isinstance(labels, Classification) else ()
  tokenizer = None if workdir is None else checkpoint.directory(None, workdir)
  path = pretrained.save_huggingface(
    directory, config, own, dtype=dtype, vocabulary_path=tokenizer, labels=names
  )
  layers = model.exits[number - 1]
  print(f'{path}: classifier {number} of {len(model.exits)}, after {layers} layers, {dtype}.')
  return path


def check_exportable(config: ExitsConfig) -> None:
  """Raises ValueError for classifiers that transformers has no class for."""
  if config.pooling != 'cls':
    raise ValueError(
      "transformers' classifiers read the first token's state, and these the mean of all: only"
      " what was trained with POOLING = 'cls' can be exported."
    )
  if config.pooler == 'none':
    raise ValueError(
      "transformers' classifiers have a pooler, and these have none: only what was trained with"
      " POOLER = 'own' or 'shared' can be exported."
    )


def network_of(
  model: Classifiers, params: Mapping[str, Any], number: int
) -> tuple[Any, dict[str, Any]]:
  """The encoder that ends at a classifier, with that as its own head.

  Returns:
    (BertConfig or DebertaConfig, its parameters).
  """
  layers, k, network = model.exits[number - 1], number, model.config
  if isinstance(model, MultiModel):
    params, k = params[f'model_{number}'], 1
  encoder = dataclasses.replace(
    network.encoder, num_layers=layers, pooler=True, num_labels=network.num_outputs
  )
  kept = {name: value for name, value in params['encoder'].items() if _below(name, layers)}
  pooler = 'pooler' if network.pooler == 'shared' else f'pooler_{k}'
  return encoder, {**kept, 'pooler': params[pooler], 'classifier': params[f'classifier_{k}']}


def _below(name: str, layers: int) -> bool:
  number = name.removeprefix('layers_')
  return number == name or int(number) < layers
