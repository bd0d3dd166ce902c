"""What a run begins with: an encoder's checkpoint, its tokenizer, and fresh classifiers.

A run keeps a copy of the encoder's settings and tokenizer in its workdir, so that it can be moved
and needs the checkpoint no more once it has one of its own.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from calm import model_folders, storage
from calm.models import huggingface_encoder_export, parameters, pretrained
from calm.settings import Count, Seed, ShareBelow1
from calm.tasks import wordpiece
from calm.tasks.classification import Form
from calm.training import checkpoints
from calm.training.guards import writing
from sweet.model import ENCODERS, ExitsConfig
from sweet.multi_model import MultiModel
from sweet.objectives import Classifiers

FOLDER = 'encoder'
CONFIG = 'config.json'


def directory(checkpoint: str | None, workdir: str | None) -> Path:
  """Where the encoder's settings and tokenizer lie: in the workdir, once a run has begun there.

  The checkpoint may be another run's workdir.

  Raises:
    FileNotFoundError: neither is there.
  """
  kept = Path(workdir, FOLDER) if workdir else None
  if kept and kept.is_dir():
    return kept
  if checkpoint and _is_run(Path(checkpoint)):
    return Path(checkpoint, FOLDER)
  if not checkpoint:
    raise FileNotFoundError(
      f'There is no {kept or "workdir"}: name a directory with an encoder, as in'
      ' --gin.CHECKPOINT=checkpoints/bert, or the workdir of a run.'
    )
  return Path(checkpoint)


def exits_config(
  *,
  checkpoint: str | None = None,
  workdir: str | None = None,
  exits: Sequence[Count] | None = None,
  labels: Form,
  dropout_rate: ShareBelow1 | None = None,
  dtype: Any = 'float32',
  remat: bool = False,
  **choices: Any,
) -> ExitsConfig:
  """Classifiers after layers of a checkpoint's encoder, whose sizes are read from its config.json.

  Args:
    checkpoint: directory of a BERT or DeBERTa, as `calm.models.pretrained.load` takes it.
    workdir: of the run; what it has kept goes before the checkpoint.
    exits: layers, from 1; None for the paper's.
    labels: what a record is asked for.
    dropout_rate: of states, attention and classifiers; None for the checkpoint's.
    dtype, remat: of the encoder.
    choices: what else `ExitsConfig` takes.

  Raises:
    FileNotFoundError: there is no such directory.
    ValueError: it holds no encoder, or a choice that cannot be.
  """
  found = directory(checkpoint, workdir)
  encoder = _config_of(found, checkpoint)
  if type(encoder) not in ENCODERS:
    raise ValueError(
      f'{found} holds a {type(encoder).__name__}: the checkpoint of a BERT or DeBERTa is needed.'
    )
  changes: dict[str, Any] = {'dtype': dtype, 'remat': remat}
  if dropout_rate is not None:
    changes |= dict.fromkeys(('dropout_rate', 'attention_dropout_rate'), dropout_rate)
    changes['classifier_dropout_rate'] = None
  encoder = dataclasses.replace(encoder, **changes)
  return ExitsConfig(encoder, exits, labels.num_outputs, **choices)


def tokenizer(checkpoint: str | None = None, workdir: str | None = None) -> wordpiece.Tokenizer:
  """The encoder's own tokenizer, as kept in the workdir, or else the checkpoint's."""
  return wordpiece.load(directory(checkpoint, workdir))


def initial_params(checkpoint: str, model: Classifiers, *, seed: Seed = 0) -> dict[str, Any]:
  """The checkpoint's encoder and pooler under every classifier, whose own layer is fresh.

  Each pooler is a copy of the checkpoint's; where that has none they are fresh, and stderr says so.
  Of a run's workdir all is as that run has left it.

  Args:
    checkpoint: directory of the encoder, or the workdir of a run of the same classifiers.
    model: what is to be trained.
    seed: of what is fresh.

  Returns:
    Parameters of the model, a nested dict of arrays on the host.

  Raises:
    FileNotFoundError, ValueError: as `calm.models.pretrained.load`; or the encoder is another than
      the model's, or the run's classifiers are.
  """
  if _is_run(Path(checkpoint)):
    return checkpoints.restore_params(checkpoint, model)
  config, found = pretrained.load(checkpoint)
  theirs, ours = (_comparable(one) for one in (config, model.config.encoder))
  differing = [name for name in ours if theirs.get(name) != ours[name]]
  if config.num_layers < model.config.encoder.num_layers:
    raise ValueError(
      f'{checkpoint} has {config.num_layers} layers, and the last classifier stands after'
      f' {model.config.encoder.num_layers}: set EXITS.'
    )
  if differing:
    listed = ', '.join(f'{name} is {theirs.get(name)}, not {ours[name]}' for name in differing)
    raise ValueError(f"The encoder of {checkpoint} is another than the model's: {listed}.")
  flat = parameters.flatten(found)
  if model.config.pooler != 'none' and not any(name.startswith('pooler/') for name in flat):
    storage.warn(f'{checkpoint} has no pooler: those of the classifiers begin anew.')
  fresh = jax.device_get(model.init_params(jax.random.key(seed)))
  if isinstance(model, MultiModel):
    return {name: _begun(one, flat) for name, one in fresh.items()}
  return _begun(fresh, flat)


def check_texts(model: Classifiers, tokenizer: wordpiece.Tokenizer, length: int) -> None:
  """Raises a ValueError unless the encoder has an embedding for each token and each position."""
  encoder = model.config.encoder
  if tokenizer.vocab_size > encoder.vocab_size:
    raise ValueError(
      f'The tokenizer has {tokenizer.vocab_size} tokens, and the encoder {encoder.vocab_size}'
      ' embeddings: they belong to different checkpoints.'
    )
  if getattr(encoder, 'absolute_positions', True) and length > encoder.max_length:
    raise ValueError(
      f'length (LENGTH) is {length}, and the encoder has {encoder.max_length} positions: set it to'
      ' that at most.'
    )


def keep(checkpoint: str | None, workdir: str) -> None:
  """Leaves the encoder's config and tokenizer in the workdir of a run, if they are not there yet.

  Raises:
    FileNotFoundError: there is no checkpoint.
    WorkdirError: they cannot be written.
  """
  if not Path(workdir, FOLDER).is_dir():
    source = directory(checkpoint, workdir)
    write(_config_of(source, checkpoint), source, workdir)


def write(config: Any, source: Path, workdir: str) -> None:
  """Writes an encoder's config and copies its tokenizer from `source`, whole or not at all."""
  folder = Path(workdir, FOLDER)
  source = model_folders.transformer_folder(source)
  with writing(folder), storage.new_folder(folder) as made:
    write_config(made, config)
    for name in huggingface_encoder_export.TOKENIZER_FILES:
      if (source / name).is_file():
        shutil.copyfile(source / name, made / name)


def write_config(folder: Path, config: Any) -> None:
  """Writes an encoder's config as a run keeps it."""
  fields = {**dataclasses.asdict(config), 'dtype': str(config.dtype)}
  storage.write_record(folder / CONFIG, {'class': type(config).__name__, 'fields': fields})


def _is_run(folder: Path) -> bool:
  return Path(folder, FOLDER, CONFIG).is_file() and not Path(folder, CONFIG).is_file()


def _config_of(folder: Path, checkpoint: str | None) -> Any:
  """The config of an encoder in a folder: the checkpoint's own, or what a run keeps."""
  own = checkpoint and folder == Path(checkpoint)
  return pretrained.config_of(folder) if own else _kept_config(folder)


def _kept_config(folder: Path) -> Any:
  """The config that `write` wrote.

  Raises:
    FileNotFoundError, DamagedError: there is none, or it is damaged.
  """
  kept = storage.read_record(folder / CONFIG)
  classes = {one.__name__: one for one in ENCODERS}
  try:
    return classes[kept['class']](**kept['fields'])
  except (KeyError, TypeError, ValueError):
    raise storage.DamagedError(
      f'{folder / CONFIG} holds no settings of a {" or ".join(classes)}: another version of this'
      ' project wrote it. Remove the folder, and name the checkpoint again.'
    ) from None


def _comparable(encoder: Any) -> dict[str, Any]:
  """The settings that decide what an encoder computes, but for its depth, heads and type."""
  left_out = {'num_layers', 'pooler', 'num_labels', 'dtype'}
  return {
    field.name: getattr(encoder, field.name)
    for field in dataclasses.fields(encoder)
    if field.metadata.get('identity', True) and field.name not in left_out
  }


def _begun(fresh: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
  """`fresh` parameters of a model with those of a checkpoint, flat, wherever it has them."""
  fresh = parameters.flatten(fresh)
  begun = {name: flat.get(_begins_as(name) or '', value) for name, value in fresh.items()}
  return parameters.unflatten(begun)


def _begins_as(name: str) -> str | None:
  """The parameter of a checkpoint that one of a model begins as; None for what is fresh."""
  part, _, rest = name.partition('/')
  if part == 'encoder':
    return rest
  return f'pooler/{rest}' if part.startswith('pooler') else None
