"""T5 as Hugging Face transformers keeps it: names and shapes of tensors, settings of config.json.

Their kernels are the transpose of ours, and so are the tables of relative positions. T5 1.0, 1.1
and Flan-T5 are one model type there, told apart by their settings
(https://huggingface.co/docs/transformers/model_doc/t5).
"""

import dataclasses
import re
import sys

import numpy as np

from calm.models import parameters, safetensors_directory
from calm.models.safetensors_directory import CONFIG
from calm.models.t5 import T5, T5Config

GENERATION_CONFIG = 'generation_config.json'
VOCABULARY = 'spiece.model'

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

_SPECIAL_TOKENS = {'pad_token_id': 0, 'eos_token_id': 1, 'decoder_start_token_id': 0}

# Sizes and settings: our names, and those of config.json.
_SIZES = {
  'vocab_size': 'vocab_size',
  'emb_dim': 'd_model',
  'num_heads': 'num_heads',
  'head_dim': 'd_kv',
  'mlp_dim': 'd_ff',
  'num_encoder_layers': 'num_layers',
}
_SETTINGS = {
  'num_decoder_layers': 'num_decoder_layers',
  'relpos_num_buckets': 'relative_attention_num_buckets',
  'relpos_max_distance': 'relative_attention_max_distance',
  'norm_epsilon': 'layer_norm_epsilon',
  'dropout_rate': 'dropout_rate',
}
# feed_forward_proj, by our activations. Its 'gated-gelu' is the tanh form, as our 'gelu' is; its
# 'gelu' without a gate would be the exact form.
_FEED_FORWARD = {
  ('relu',): 'relu',
  ('gelu',): 'gelu_new',
  ('silu',): 'silu',
  ('gelu', 'linear'): 'gated-gelu',
  ('relu', 'linear'): 'gated-relu',
  ('silu', 'linear'): 'gated-silu',
}


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

  def __init__(self, directory):
    settings = safetensors_directory.read_settings(directory)
    tied = settings.get('tie_word_embeddings', True)
    self.config = _from_settings(settings, directory / CONFIG)
    self._tensors = tensors = safetensors_directory.Tensors(directory, _UNUSED)
    self.shapes = tensors.shapes
    tensors.merge(_EMBEDDING, _EMBEDDING_COPIES)
    if self.config.logits_via_embedding:
      tensors.merge(_EMBEDDING, (_HEAD,))
    elif tied and _HEAD not in self.shapes and _EMBEDDING in self.shapes:
      # Tied, but without the factor of T5 1.0: the embedding serves as an ordinary head.
      tensors.copy(_HEAD, _EMBEDDING)

  @staticmethod
  def name(flat):
    """transformers' name of the parameter with the flat name `flat`; None if it has none."""
    for pattern, name in _NAMES:
      if match := re.fullmatch(pattern, flat):
        name = match.expand(name)
        return name if name.endswith('.weight') else f'{name}.weight'
    return None

  @staticmethod
  def shape(flat, shape):
    """The shape in which transformers keeps a parameter of our `shape`."""
    return tuple(reversed(shape)) if _transposed(flat) else tuple(shape)

  def read(self, flat):
    """The parameter with flat name `flat`, as a float32 array."""
    value = self._tensors.read(self.name(flat))
    return np.array(value.T if _transposed(flat) else value, np.float32, order='C')

  def differences(self, config):
    """Lines about the settings in which `config` differs from config.json."""
    return _differences(config, self.config)

  def beyond(self, config):
    """Names of the parameters of decoder layers beyond those of `config`."""
    layers = ((name, re.match(r'decoder\.block\.(\d+)\.', name)) for name in self.shapes)
    return [name for name, at in layers if at and int(at[1]) >= config.num_decoder_layers]

  def left_out(self, config):
    """Names of the parameters for which a network of `config` has no place: none are let pass."""
    del config
    return []


def save(directory, config, params, *, dtype='float32', vocabulary_path=None):
  """Writes a directory that transformers' T5ForConditionalGeneration loads; returns its path.

  An interrupted call leaves nothing that looks whole. transformers has no exit classifier: a
  model's is left out, which stderr is told.

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
  tensors = {Directory.name(name): _exported(name, value) for name, value in flat.items()}
  beside = {GENERATION_CONFIG: _to_generation_settings(config), VOCABULARY: vocabulary_path}
  settings = _to_settings(config, dtype)
  return safetensors_directory.write(directory, settings, tensors, dtype, beside)


def _transposed(flat):
  return flat.endswith(('kernel', 'rel_embedding'))


def _exported(flat, value):
  return np.asarray(value).T if _transposed(flat) else np.asarray(value)


def _from_settings(settings, path):
  """The T5Config of the settings in config.json; `path` is named in errors."""
  missing = [name for name in _SIZES.values() if settings.get(name) is None]
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}.')
  for name in ('pad_token_id', 'decoder_start_token_id'):
    if settings.get(name) not in (None, 0):
      raise ValueError(f'{path}: {name} is {settings[name]}; here it is always 0.')
  if settings.get('quantization_config'):
    raise ValueError(f'{path}: quantized weights are not supported.')
  fields = {ours: settings[name] for ours, name in _SIZES.items()}
  fields['num_decoder_layers'] = fields['num_encoder_layers']
  for ours, name in _SETTINGS.items():
    if settings.get(name) is not None:
      fields[ours] = settings[name]
  fields['mlp_activations'] = _to_activations(settings, path)
  fields['logits_via_embedding'] = _scaled_head(settings, path)
  try:
    return T5Config(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from error


def _to_activations(settings, path):
  projection = settings.get('feed_forward_proj', 'relu')
  # The form of gelu may be stated on its own.
  stated = settings.get('dense_act_fn')
  for ours, theirs in _FEED_FORWARD.items():
    used = 'gelu_new' if ours[0] == 'gelu' else ours[0]
    if projection == theirs and stated in (None, used):
      return ours
  raise ValueError(
    f'{path}: feed_forward_proj {projection!r} with dense_act_fn {stated!r} is not supported; '
    f'there are {", ".join(_FEED_FORWARD.values())}.'
  )


def _scaled_head(settings, path):
  """Whether logits are those of T5 1.0: by the embedding, scaled.

  Up to transformers 4, `tie_word_embeddings` says both; version 5 writes it as true for all and
  says in `scale_decoder_outputs` whether they are scaled. Then untied weights are told by
  lm_head.weight being there.
  """
  tied = settings.get('tie_word_embeddings', True)
  scaled = settings.get('scale_decoder_outputs', tied)
  if scaled and not tied:
    raise ValueError(f'{path}: a scaled head that is not tied to the embedding is not supported.')
  return bool(scaled)


def _to_settings(config, dtype):
  """The settings of config.json for a T5Config."""
  if config.mlp_activations not in _FEED_FORWARD:
    raise ValueError(f'transformers has no T5 with mlp_activations {config.mlp_activations}.')
  names = _SIZES | _SETTINGS
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    'is_encoder_decoder': True,
    'feed_forward_proj': _FEED_FORWARD[config.mlp_activations],
    'tie_word_embeddings': config.logits_via_embedding,
    'torch_dtype': dtype,
    **{name: getattr(config, ours) for ours, name in names.items()},
    **_SPECIAL_TOKENS,
  }


def _to_generation_settings(config):
  """The settings of generation_config.json for a T5Config."""
  if config.num_decoder_layers <= config.num_encoder_layers:
    return _SPECIAL_TOKENS
  # transformers (5.24) gives the decoder's cache the encoder's depth, and fails beyond it.
  return {**_SPECIAL_TOKENS, 'use_cache': False}


def _differences(config, theirs):
  """Lines about what `config` sets otherwise than `theirs`, the T5Config of a config.json.

  Dropout and the type of activations are left to the user.
  """
  fields = (*_SIZES, *_SETTINGS, 'mlp_activations', 'logits_via_embedding')
  pairs = {name: (getattr(config, name), getattr(theirs, name)) for name in fields}
  del pairs['dropout_rate']
  return [
    f'{name}: the model has {ours!r}, config.json says {other!r}'
    for name, (ours, other) in pairs.items()
    if ours != other
  ]
