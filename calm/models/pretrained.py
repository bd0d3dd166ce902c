"""Weights in and out: T5X checkpoints, and directories of Hugging Face transformers."""

import re
from pathlib import Path

from calm.models import huggingface, parameters, t5x_format
from calm.models.t5 import T5

save_huggingface = huggingface.save


def load(directory, config=None, *, cut_decoder=False):
  """Reads a T5 from a directory; its files tell whether T5X or transformers wrote it.

  A T5X checkpoint (the folder with the file `checkpoint`) carries no sizes. Without `config` they
  are inferred from the shapes, which leave open the activation (gelu is assumed for gated
  feed-forward blocks, relu for others), relpos_max_distance and norm_epsilon (T5's).

  Args:
    directory: on this machine.
    config: the T5Config to load for; every size and setting must agree with the checkpoint's. By
      default the checkpoint's own, in float32.
    cut_decoder: whether to drop the checkpoint's decoder layers beyond `config`'s.

  Returns:
    (T5Config, params), params a nested dict of float32 NumPy arrays: they are on the host, for the
    caller to place on devices.

  Raises:
    FileNotFoundError: there is no such directory, or no checkpoint in it, or a part is missing.
    ValueError: a file is damaged, or the checkpoint does not fit. Then the message lists all that
      is missing, all that is unexpected, and every shape that differs. An exit classifier is never
      made up: `calm.training.exit_classifier.initial_params` adds a fresh one.
  """
  source = _source(Path(directory))
  config = source.config if config is None else config
  if config.exit_classifier and 'decoder.exit_classifier.kernel' not in source.shapes:
    raise ValueError(
      f'The checkpoint {directory} has no exit classifier: load it with exit_classifier=False, or '
      'train one, beginning with calm.training.exit_classifier.initial_params.'
    )
  found, settings = dict(source.shapes), source.differences(config)
  extra = [name for name in found if _decoder_layer(name) >= config.num_decoder_layers]
  if extra and cut_decoder:
    found = {name: shape for name, shape in found.items() if name not in extra}
    settings = [line for line in settings if not line.startswith('num_decoder_layers')]
  elif extra:
    settings.append('cut_decoder=True would drop the decoder layers that are too many')
  shapes = parameters.shapes(T5(config))
  expected = {source.name(flat): source.shape(flat, shape) for flat, shape in shapes.items()}
  parameters.require_fit(f'The checkpoint {directory}', expected, found, settings)
  return config, parameters.unflatten({flat: source.read(flat) for flat in shapes})


def initial_params(directory, config, *, cut_decoder=False):
  """Parameters to begin training T5(config) with, from a checkpoint; as `load` reads them."""
  return load(directory, config, cut_decoder=cut_decoder)[1]


def _source(directory):
  """What reads `directory`, chosen by the files in it."""
  if not directory.is_dir():
    raise FileNotFoundError(f'There is no directory {directory}.')
  if any((directory / name).is_file() for name in (huggingface.WEIGHTS, huggingface.INDEX)):
    if not (directory / huggingface.CONFIG).is_file():
      raise FileNotFoundError(f'{directory} holds weights but no {huggingface.CONFIG}.')
    return huggingface.Directory(directory)
  if (directory / t5x_format.TREE).is_file():
    return t5x_format.Directory(directory)
  raise FileNotFoundError(f'{directory} holds no checkpoint: {_mend(directory)}')


def _mend(directory):
  steps = sorted(path.name for path in directory.glob('checkpoint_*') if path.is_dir())
  if steps:
    return f'name one of the folders in it ({", ".join(steps)}).'
  if any(directory.glob('*.bin')):
    return 'its weights are pickled; save them with transformers as safetensors.'
  return (
    f'neither {huggingface.CONFIG} and {huggingface.WEIGHTS} nor T5X\'s file "{t5x_format.TREE}".'
  )


def _decoder_layer(name):
  """The number of the decoder layer that a parameter belongs to; -1 for others."""
  match = re.match(r'decoder\.(?:layers_|block\.)(\d+)\.', name)
  return int(match[1]) if match else -1
