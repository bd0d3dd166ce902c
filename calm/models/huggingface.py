"""T5 directories of Hugging Face transformers: config.json and safetensors, without torch.

Their kernels are the transpose of ours, and so are the tables of relative positions. T5 1.0, 1.1
and Flan-T5 are one model type there, told apart by their settings
(https://huggingface.co/docs/transformers/model_doc/t5).
"""

import dataclasses
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from calm.models import huggingface_config, parameters
from calm.models.t5 import T5

CONFIG = 'config.json'
GENERATION_CONFIG = 'generation_config.json'
WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
VOCABULARY = 'spiece.model'
# Those of an export, in the order in which an older one is removed; they come in the other order.
_FILES = (CONFIG, GENERATION_CONFIG, VOCABULARY, WEIGHTS)
_PARTIAL = '.partial-'
DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}

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


def _name(flat):
  """Their name of the parameter with our flat name."""
  for pattern, name in _NAMES:
    if match := re.fullmatch(pattern, flat):
      name = match.expand(name)
      return name if name.endswith('.weight') else f'{name}.weight'
  raise ValueError(f'transformers has no T5 parameter for {flat}.')


def _transposed(flat):
  return flat.endswith(('kernel', 'rel_embedding'))


class Directory:
  """What a directory of transformers holds; tensors are read one by one, when asked for.

  Attributes:
    config: the T5Config that config.json describes.
    shapes: the shape of every parameter found, by transformers' name.

  Raises:
    FileNotFoundError: a shard is missing.
    ValueError: a file is damaged, or a setting is not supported.
  """

  def __init__(self, directory):
    settings = _read_json(directory / CONFIG)
    tied = settings.get('tie_word_embeddings', True)
    self.config = huggingface_config.from_settings(settings, directory / CONFIG)
    # The file that holds a parameter, and its name there.
    self._stored: dict[str, tuple[Path, str]] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(directory):
      self._add(path)
    self._merge_copies(_EMBEDDING, _EMBEDDING_COPIES)
    if self.config.logits_via_embedding:
      self._merge_copies(_EMBEDDING, (_HEAD,))
    elif tied and _HEAD not in self.shapes and _EMBEDDING in self.shapes:
      # Tied, but without the factor of T5 1.0: the embedding serves as an ordinary head.
      self._stored[_HEAD], self.shapes[_HEAD] = self._stored[_EMBEDDING], self.shapes[_EMBEDDING]

  @staticmethod
  def name(flat):
    """transformers' name of the parameter with the flat name `flat`."""
    return _name(flat)

  @staticmethod
  def shape(flat, shape):
    """The shape in which transformers keeps a parameter of our `shape`."""
    return tuple(reversed(shape)) if _transposed(flat) else tuple(shape)

  def read(self, flat):
    """The parameter with flat name `flat`, as a float32 array."""
    value = self._tensor(_name(flat))
    return np.array(value.T if _transposed(flat) else value, np.float32, order='C')

  def differences(self, config):
    """Lines about the settings in which `config` differs from config.json."""
    return huggingface_config.differences(config, self.config)

  def _add(self, path):
    with _open(path) as file:
      for name in set(file.keys()) - set(_UNUSED):
        tensor = file.get_slice(name)
        if tensor.get_dtype() not in ('F64', 'F32', 'F16', 'BF16'):
          raise ValueError(f'{path}: {name} is quantized ({tensor.get_dtype()}): not supported.')
        self._stored[name] = path, name
        self.shapes[name] = tuple(tensor.get_shape())

  def _tensor(self, name):
    path, stored_name = self._stored[name]
    with _open(path) as file:
      return file.get_tensor(stored_name)

  def _merge_copies(self, name, copies):
    """Makes one parameter of `name` and its copies, which must be equal; any may be absent."""
    for copy in copies:
      if copy not in self.shapes:
        continue
      if name not in self.shapes:
        self._stored[name], self.shapes[name] = self._stored[copy], self.shapes[copy]
      elif not np.array_equal(self._tensor(name), self._tensor(copy)):
        path, _ = self._stored[copy]
        raise ValueError(f'{path}: {copy} and {name} differ, though {CONFIG} says they are one.')
      del self._stored[copy], self.shapes[copy]


def save(directory, config, params, *, dtype='float32', vocabulary_path=None):
  """Writes a directory that transformers' T5ForConditionalGeneration loads; returns its path.

  The weights are in place before config.json is, so that an interrupted call leaves nothing that
  looks whole. transformers has no exit classifier: a model's is left out, which stderr is told.

  Args:
    directory: is made; may exist if it holds nothing else than such an export.
    config: the T5Config of `params`.
    params: the parameters, a nested dict of arrays.
    dtype: of the written weights, 'float32' or 'bfloat16'.
    vocabulary_path: a SentencePiece model, to be copied beside the weights as spiece.model.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    FileNotFoundError: there is no such vocabulary.
    ValueError: no directory, the parameters do not fit `config`, or transformers has no such T5.
  """
  if not directory:
    raise ValueError('There is no directory to write: set --output (EXPORT_DIRECTORY).')
  directory = Path(directory)
  if dtype not in DTYPES:
    raise ValueError(f'dtype: {dtype!r} is not one of {", ".join(DTYPES)}.')
  if vocabulary_path is not None and not Path(vocabulary_path).is_file():
    raise FileNotFoundError(f'There is no vocabulary {vocabulary_path}.')
  flat = parameters.flatten(params)
  shapes = {name: np.shape(value) for name, value in flat.items()}
  parameters.require_fit('params', parameters.shapes(T5(config)), shapes)
  if config.exit_classifier:
    config = dataclasses.replace(config, exit_classifier=False)
    flat = {name: flat[name] for name in parameters.shapes(T5(config))}
    print(
      f'{directory}: written without the exit classifier, for which transformers has no place; the '
      'checkpoints of the run keep it.',
      file=sys.stderr,
    )
  settings = huggingface_config.to_settings(config, dtype)
  _require_replaceable(directory)

  directory.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=directory) as temporary:
    partial = Path(temporary)
    tensors = {_name(name): _exported(name, value, dtype) for name, value in flat.items()}
    safetensors.numpy.save_file(tensors, partial / WEIGHTS, metadata={'format': 'pt'})
    if vocabulary_path is not None:
      shutil.copyfile(vocabulary_path, partial / VOCABULARY)
    _write_json(partial / GENERATION_CONFIG, huggingface_config.to_generation_settings(config))
    _write_json(partial / CONFIG, settings)
    # safetensors lets nobody else read what it writes.
    (partial / WEIGHTS).chmod((partial / CONFIG).stat().st_mode)
    for name in _FILES:  # config.json is the first to go and the last to come.
      (directory / name).unlink(missing_ok=True)
    for name in reversed(_FILES):
      if (partial / name).exists():
        (partial / name).replace(directory / name)
  return directory


def _exported(flat, value, dtype):
  value = np.asarray(value).astype(DTYPES[dtype])
  return np.ascontiguousarray(value.T if _transposed(flat) else value)


def _require_replaceable(directory):
  if directory.exists() and not directory.is_dir():
    raise FileExistsError(f'{directory} is a file; an export needs a directory.')
  if not directory.exists():
    return
  others = sorted(
    path.name
    for path in directory.iterdir()
    if path.name not in _FILES and not path.name.startswith(_PARTIAL)
  )
  if others:
    raise FileExistsError(
      f'{directory} holds other files ({", ".join(others[:5])}): export to an empty directory.'
    )
  for path in directory.glob(f'{_PARTIAL}*'):  # What an interrupted export left.
    shutil.rmtree(path)


def _weight_files(directory):
  if (directory / WEIGHTS).is_file():  # transformers, too, looks for the whole file first.
    return [directory / WEIGHTS]
  weight_map = _read_json(directory / INDEX).get('weight_map')
  if not isinstance(weight_map, dict) or not weight_map:
    raise ValueError(f'{directory / INDEX} has no "weight_map".')
  paths = []
  for name in sorted(set(map(str, weight_map.values()))):
    if Path(name).name != name:
      raise ValueError(f'{directory / INDEX} names {name!r}, which is not beside it.')
    if not (directory / name).is_file():
      raise FileNotFoundError(f'{directory / name} is missing; {INDEX} lists it.')
    paths.append(directory / name)
  return paths


def _open(path):
  try:
    return safetensors.safe_open(path, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is not a whole safetensors file: {error}.') from error


def _read_json(path):
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f'{path} is not valid JSON: {error}.') from error
  if not isinstance(content, dict):
    raise ValueError(f'{path} holds no JSON object.')
  return content


def _write_json(path, content):
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')
