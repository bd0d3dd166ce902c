"""Weights in and out: T5X checkpoints, and directories of Hugging Face transformers."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calm import configuration, model_folders, settings, storage
from calm.models import (
  huggingface_bert,
  huggingface_deberta,
  huggingface_encoder,
  huggingface_encoder_export,
  huggingface_t5,
  parameters,
  safetensors_directory,
  t5x_format,
)
from calm.models.bert import BertConfig
from calm.models.deberta import DebertaConfig
from calm.models.t5 import T5Config

SIZES = 'sizes.json'
_PLACE = 'directory'  # in it, beside the sizes

Source = huggingface_encoder.EncoderDirectory | huggingface_t5.Directory | t5x_format.Directory
# What reads a directory of transformers, by the model_type in its config.json.
READERS: dict[str, Callable[[Path], Source]] = {
  'bert': huggingface_bert.Directory,
  'deberta': huggingface_deberta.Directory,
  'mt5': huggingface_t5.Directory,
  't5': huggingface_t5.Directory,
}
# Others that may be taken for one of these, and why they are none.
NO_READERS = {'deberta-v2': huggingface_deberta.LATER_VERSIONS}
# What writes one, by the class of the network's config.
WRITERS: dict[type, Any] = {
  BertConfig: functools.partial(huggingface_encoder_export.save, huggingface_bert.Directory),
  DebertaConfig: functools.partial(huggingface_encoder_export.save, huggingface_deberta.Directory),
  T5Config: huggingface_t5.save,
}


def save_huggingface(
  directory: str | os.PathLike | None,
  config: Any,
  params: Any,
  *,
  dtype: str = 'float32',
  vocabulary_path: str | os.PathLike | None = None,
  **others: Any,
) -> Path:
  """Writes a directory that transformers' `from_pretrained` loads; returns its path.

  Args:
    directory: is made; may exist if it holds nothing else than such an export.
    config: of `params`: a class of WRITERS.
    params: the parameters, a nested dict of arrays.
    dtype: of the written weights, 'float32' or 'bfloat16'.
    vocabulary_path: what is copied beside the weights: T5's SentencePiece model, or a directory
      with an encoder's tokenizer.
    others: what else that kind's own `save` takes, as a T5's `max_decode_steps`, or an encoder's
      `labels`.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    FileNotFoundError: there is no such vocabulary.
    ValueError: no directory, or transformers has no such network, or params of another shape.
  """
  if type(config) not in WRITERS:
    known = ', '.join(kind.__name__ for kind in WRITERS)
    raise ValueError(f'A {type(config).__name__} cannot be exported; there are {known}.')
  save = WRITERS[type(config)]
  return save(directory, config, params, dtype=dtype, vocabulary_path=vocabulary_path, **others)


def load(
  directory: str | os.PathLike, config: Any = None, *, cut_decoder: bool = False
) -> tuple[Any, dict[str, Any]]:
  """Reads a network from a directory; its files tell who wrote it, and which network it is.

  A T5X checkpoint (the folder with the file `checkpoint`) is a T5 and carries no sizes. Without
  `config` they are inferred from the shapes, which leave open the activation (gelu is assumed for
  gated feed-forward blocks, relu for others), relpos_max_distance and norm_epsilon (T5's).

  Args:
    directory: on this machine.
    config: the config (as T5Config or BertConfig) to load for; every size and setting must agree
      with the checkpoint's. By default the checkpoint's own, in float32.
    cut_decoder: whether to drop the checkpoint's decoder layers beyond `config`'s.

  Returns:
    (config, params), params a nested dict of float32 NumPy arrays: they are on the host, for the
    caller to place on devices. An encoder's heads for which the network has no place are left out,
    and named on stderr.

  Raises:
    FileNotFoundError: there is no such directory, or no checkpoint in it, or a part is missing.
    ValueError: a file is damaged, the network is of another kind than those of READERS, or the
      checkpoint does not fit. Then the message lists all that is missing, all that is unexpected,
      and every shape that differs. Nothing is made up: `initial_params` is for that.
  """
  source = _source(Path(directory))
  config = source.config if config is None else config
  if not isinstance(config, source.config_class):
    raise ValueError(
      f'{directory} is for a {source.config_class.__name__}, not a {type(config).__name__}.'
    )
  return config, _read(directory, source, source.network(config), cut_decoder, {})


def config_of(directory: str | os.PathLike) -> Any:
  """The config of the network in a directory, as its files tell; no weights are read.

  Of a T5X checkpoint it is what the shapes tell, as `load` says.

  Raises:
    FileNotFoundError, ValueError: as `load`, for what is not there or of another kind.
  """
  return _source(Path(directory)).config


def initial_params(
  directory: str | os.PathLike,
  model: parameters.Network,
  *,
  cut_decoder: bool = False,
  fresh: str | None = None,
  seed: settings.Seed = 0,
) -> dict[str, Any]:
  """Parameters to begin training `model` with, from a checkpoint that fits it but for its `fresh`.

  Args:
    directory: as `load` takes it.
    model: the network.
    cut_decoder: as `load` takes it.
    fresh: a pattern, as 'exit_classifier/'. Parameters in whose flat name it is found begin as
      they do in a new model, whether or not the checkpoint has them.
    seed: of these.

  Returns:
    The parameters, a nested dict of float32 NumPy arrays.

  Raises:
    FileNotFoundError, ValueError: as `load`; or `fresh` is found in no parameter of the model.
  """
  begun = parameters.fresh(model, fresh, seed)
  return _read(directory, _source(Path(directory)), model, cut_decoder, begun)


def config_in_workdir(workdir: str | os.PathLike, directory: str | os.PathLike, config: Any) -> Any:
  """The config of a run that begins with the weights in `directory`.

  Sizes, and all else that weights depend on, are those of a checkpoint that lies there, whatever
  `config` says. The run keeps them in `workdir`, in sizes.json, and once it has begun needs the
  checkpoint no more. So does a run that begins with that run's weights. Another run has no such
  file: then its config is `config`.

  Args:
    workdir: the run's; need not be there.
    directory: the workdir of another run, or a checkpoint as `load` takes it.
    config: the config (as T5Config) that says the rest: the type of activations, dropout, whether
      there is an exit classifier.

  Raises:
    FileNotFoundError, ValueError: as `load`.
    storage.DamagedError: sizes.json was changed.
  """
  own, place = Path(workdir, SIZES), os.path.abspath(directory)
  kept = storage.read_record(own) if own.is_file() else None
  # Of another checkpoint, with which no run has begun.
  left = kept and kept.pop(_PLACE, place) != place and not configuration.begun(workdir)
  if kept is not None and not (left and Path(directory).is_dir()):
    return dataclasses.replace(config, **kept)
  sizes = _sizes_in(Path(directory), config)
  if sizes is None:
    own.unlink(missing_ok=True)
    return config
  storage.write_record(own, {**sizes, _PLACE: place})
  return dataclasses.replace(config, **sizes)


def _sizes_in(directory: Path, config: Any) -> dict[str, Any] | None:
  """Sizes that a run or a checkpoint in a folder has of its own, by field; None if it has none."""
  if (directory / SIZES).is_file():
    return {
      name: size for name, size in storage.read_record(directory / SIZES).items() if name != _PLACE
    }
  if not _is_checkpoint(directory):
    return None
  found = _source(directory).config
  if not isinstance(config, type(found)):
    raise ValueError(f'{directory} is for a {type(found).__name__}, not a {type(config).__name__}.')
  return {name: getattr(found, name) for name in _sizes(found)}


def vocab_size(config: Any) -> int:
  """The rows of the embedding, for those who check tokens."""
  return config.vocab_size


def _sizes(config: Any) -> list[str]:
  """Names of the fields that weights depend on."""
  names = (field.name for field in dataclasses.fields(config) if field.metadata.get('identity', 1))
  return [name for name in names if name not in ('dtype', 'exit_classifier')]


def _read(
  directory: str | os.PathLike,
  source: Source,
  model: parameters.Network,
  cut_decoder: bool,
  begun: Mapping[str, Any],
) -> dict[str, Any]:
  """The parameters of `model`: those of the flat dict `begun`, and all others from `source`."""
  others = {source.name(flat) for flat in begun}
  found = {name: shape for name, shape in source.shapes.items() if name not in others}
  left_out = set(source.left_out(model.config)) & found.keys()
  if left_out:
    found = {name: shape for name, shape in found.items() if name not in left_out}
    listed = ', '.join(sorted(left_out))
    storage.warn(f'{directory}: left out, since the model has no place for them: {listed}')
  settings, mends = source.differences(model.config), []
  beyond = source.beyond(model.config)
  if beyond and cut_decoder:
    found = {name: shape for name, shape in found.items() if name not in beyond}
    settings = [line for line in settings if not line.startswith('num_decoder_layers')]
  elif beyond:
    mends.append('cut_decoder=True would drop the decoder layers that are too many.')
  read = {name: shape for name, shape in parameters.shapes(model).items() if name not in begun}
  expected = {source.name(flat) or flat: source.shape(flat, read[flat]) for flat in read}
  if expected.keys() - found.keys():
    mends.append("initial_params(fresh='PATTERN') would begin what is missing as a new model does.")
  parameters.require_fit(f'The checkpoint {directory}', expected, found, settings, mends)
  return parameters.unflatten({flat: source.read(flat) for flat in read} | dict(begun))


def _source(directory: Path) -> Source:
  """What reads `directory`, chosen by the files in it."""
  if not directory.is_dir():
    raise FileNotFoundError(f'There is no directory {directory}.')
  directory = model_folders.transformer_folder(directory)
  if safetensors_directory.holds_weights(directory):
    model_type = safetensors_directory.read_settings(directory).get('model_type')
    if str(model_type) not in READERS:
      raise ValueError(
        f'{directory / safetensors_directory.CONFIG}: model_type is {model_type!r}; '
        f'{NO_READERS.get(str(model_type), "")}known are {", ".join(READERS)}.'
      )
    return READERS[str(model_type)](directory)
  if (directory / t5x_format.TREE).is_file():
    return t5x_format.Directory(directory)
  raise FileNotFoundError(f'{directory} holds no checkpoint: {_mend(directory)}')


def _is_checkpoint(directory: Path) -> bool:
  return safetensors_directory.holds_weights(directory) or (directory / t5x_format.TREE).is_file()


def _mend(directory: Path) -> str:
  steps = sorted(path.name for path in directory.glob('checkpoint_*') if path.is_dir())
  if steps:
    return f'name one of the folders in it ({", ".join(steps)}).'
  shards = sorted(path.name for path in directory.glob('*.safetensors'))
  if shards:
    return f'{safetensors_directory.INDEX} is missing, which lists {", ".join(shards[:5])}.'
  if any(directory.glob('*.bin')):
    return 'its weights are pickled; save them with transformers as safetensors.'
  files = f'{safetensors_directory.CONFIG} and {safetensors_directory.WEIGHTS}'
  return f'neither {files} nor T5X\'s file "{t5x_format.TREE}".'
