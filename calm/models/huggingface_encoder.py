"""What encoders have in common as Hugging Face transformers keeps them.

The base lies under a prefix or not, the scale and bias of a norm may have their first names, and
heads of other tasks may lie beside. Each kind of encoder adds its settings:
`calm.models.huggingface_bert`, `calm.models.huggingface_deberta`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm.models import safetensors_directory
from calm.models.foreign_config import BELOW_ONE, NO_ACCOUNT, Settings, require_sizes
from calm.models.safetensors_directory import CONFIG

# Sizes: our names, and those of config.json.
SIZES = {
  'vocab_size': 'vocab_size',
  'emb_dim': 'hidden_size',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'num_layers': 'num_hidden_layers',
}
# hidden_act, and our name of it; of several that mean one, the first is written.
ACTIVATIONS = {
  'gelu': 'exact_gelu',
  'gelu_python': 'exact_gelu',
  'gelu_new': 'gelu',
  'gelu_fast': 'gelu',
  'gelu_accurate': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
  'tanh': 'tanh',
  'linear': 'linear',
}
# Our names and theirs; what follows the slash is a kernel, a scale, a bias or an embedding. Without
# a slash it is the whole name.
NAMES = (
  (r'embeddings/(word|position|token_type)/(\w+)', r'embeddings.\1_embeddings/\2'),
  (r'embeddings/norm/(\w+)', r'embeddings.LayerNorm/\1'),
  (r'layers_(\d+)/attention/(query|key|value)/(\w+)', r'encoder.layer.\1.attention.self.\2/\3'),
  (r'layers_(\d+)/attention/out/(\w+)', r'encoder.layer.\1.attention.output.dense/\2'),
  (r'layers_(\d+)/attention_norm/(\w+)', r'encoder.layer.\1.attention.output.LayerNorm/\2'),
  (r'layers_(\d+)/mlp/wi/(\w+)', r'encoder.layer.\1.intermediate.dense/\2'),
  (r'layers_(\d+)/mlp/wo/(\w+)', r'encoder.layer.\1.output.dense/\2'),
  (r'layers_(\d+)/mlp_norm/(\w+)', r'encoder.layer.\1.output.LayerNorm/\2'),
  (r'pooler/dense/(\w+)', r'pooler.dense/\1'),
  (r'classifier/(\w+)', r'classifier/\1'),
)
# Settings of any encoder that change nothing of its states and logits.
_NO_ACCOUNT = frozenset({
  'cross_attention_hidden_size',
  'directionality',
  'eos_token_id',
  'language',
  'model_max_length',
  'name',
  'pad_token_id',
  'pooler_fc_size',
  'pooler_num_attention_heads',
  'pooler_num_fc_layers',
  'pooler_size_per_head',
  'pooler_type',
  'sentence_transformers',
  'tie_word_embeddings',
})  # fmt: skip
_CLASSIFIER = 'classifier.'
_POOLER = 'pooler.'
# Of other tasks.
_HEADS = ('cls.', 'qa_outputs.', 'lm_predictions.', 'mask_predictions.')
# Early versions wrote these buffers.
_UNUSED = ('embeddings.position_ids', 'embeddings.token_type_ids')


class EncoderDirectory:
  """An encoder in a directory of transformers; parameters are read one by one, when asked for.

  Attributes:
    network: the class of the network.
    config_class: that of its config.
    config: the config that config.json and the heads found describe.
    labels: the names of the classifier's labels; empty where there is no classifier.
    shapes: the shape of every parameter found, by transformers' name.

  Raises:
    FileNotFoundError: config.json or a shard is missing.
    ValueError: a file is damaged, or a setting is not supported.
  """

  network: Any
  config_class: Any
  # Of the names of the base, where it lies beside a head.
  prefix: str
  # Whether the pooler is of the base, or else, as the classifier always, of a head.
  pooler_in_base = True
  # What transformers calls a network whose head is our classifier, and one without.
  architecture: str
  base_architecture: str
  # Fields of the config that config.json tells, to be compared.
  fields: Sequence[str]
  names: Sequence[tuple[str, str]] = NAMES
  # Settings that change nothing of states and logits, beside those of any encoder.
  no_account: frozenset[str] = frozenset()

  def __init__(self, directory: Path):
    values = safetensors_directory.read_settings(directory)
    settings = Settings(values, directory / CONFIG)
    unused = [f'{prefix}{name}' for prefix in ('', self.prefix) for name in _UNUSED]
    self._tensors = safetensors_directory.Tensors(directory, unused)
    self.shapes = self._tensors.shapes
    self._prefix = self.prefix if any(n.startswith(self.prefix) for n in self.shapes) else ''
    for name in list(self.shapes):
      now = re.sub(r'LayerNorm\.gamma$', 'LayerNorm.weight', name)
      now = re.sub(r'LayerNorm\.beta$', 'LayerNorm.bias', now)
      if now != name:
        self._tensors.merge(now, (name,))
    pooler = any(name.startswith(self._pooler) for name in self.shapes)
    self.labels = self._read_labels(values, settings, pooler)
    _refuse_other_forms(settings)
    fields = self._fields(settings)
    self._require_sizes(settings, fields)
    try:
      self.config = self.config_class(
        **fields, pooler=pooler or bool(self.labels), num_labels=len(self.labels)
      )
    except ValueError as error:
      raise ValueError(f'{settings.path}: {error}') from None
    settings.finish(NO_ACCOUNT | _NO_ACCOUNT | self.no_account)

  @staticmethod
  def settings_of(config: Any) -> dict[str, Any]:
    """What config.json says of a config, all but of the heads."""
    raise NotImplementedError

  def _fields(self, settings: Settings) -> dict[str, Any]:
    """The fields of the config that `settings` tell, all but those of the heads."""
    raise NotImplementedError

  def name(self, flat: str) -> str | None:
    """transformers' name of the parameter with the flat name `flat`; None if it has none."""
    name = name_of(flat, self.names)
    return name if name is None or self.in_head(name) else self._prefix + name

  @classmethod
  def in_head(cls, name: str) -> bool:
    """Whether a parameter, by transformers' name without a prefix, never has one."""
    return name.startswith(_CLASSIFIER if cls.pooler_in_base else (_CLASSIFIER, _POOLER))

  @staticmethod
  def shape(flat: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in which transformers keeps a parameter of our `shape`."""
    return tuple(reversed(shape)) if flat.endswith('kernel') else tuple(shape)

  def read(self, flat: str) -> np.ndarray:
    """The parameter with flat name `flat`, as a float32 array."""
    value = self._tensors.read(self.name(flat) or flat)
    return np.array(value.T if flat.endswith('kernel') else value, np.float32, order='C')

  def differences(self, config: Any) -> list[str]:
    """Lines about the settings in which `config` differs from config.json.

    Dropout and the type of activations are left to the user; heads show in the parameters.
    """
    pairs = {name: (getattr(config, name), getattr(self.config, name)) for name in self.fields}
    return [
      f'{name}: the model has {ours!r}, config.json says {theirs!r}'
      for name, (ours, theirs) in pairs.items()
      if ours != theirs
    ]

  def beyond(self, config: Any) -> list[str]:
    """Names of the parameters of decoder layers beyond those of `config`: there are none."""
    del config
    return []

  def left_out(self, config: Any) -> list[str]:
    """Names of the parameters of heads for which a network of `config` has no place."""
    heads = [*_HEADS]
    if not (config.num_labels and self.config.num_labels):
      heads.append(_CLASSIFIER)
    if not config.pooler:
      heads.append(self._pooler)
    return sorted(name for name in self.shapes if name.startswith(tuple(heads)))

  def _require_sizes(self, settings: Settings, fields: Mapping[str, Any]) -> None:
    embeddings, layers = f'{self._prefix}embeddings', f'{self._prefix}encoder.layer.'
    words = f'{embeddings}.word_embeddings.weight'
    types = f'{embeddings}.token_type_embeddings.weight'
    sizes = [
      ('vocab_size', fields['vocab_size'], words, 0, ''),
      ('hidden_size', fields['emb_dim'], words, 1, ''),
      ('intermediate_size', fields['mlp_dim'], f'{layers}0.intermediate.dense.weight', 0, ''),
      ('type_vocab_size', fields['num_token_types'], types, 0, ''),
    ]
    if fields.get('absolute_positions', True):
      positions = f'{embeddings}.position_embeddings.weight'
      sizes.append(('max_position_embeddings', fields['max_length'], positions, 0, ''))
    if fields.get('position_terms'):
      # A half of the rows for each direction.
      distances = f'{self._prefix}encoder.rel_embeddings.weight'
      rows = 2 * fields['max_relative_positions']
      sizes.append(('max_relative_positions', rows, distances, 0, ''))
    stacks = [('num_hidden_layers', fields['num_layers'], layers)]
    require_sizes(settings, self._tensors, sizes, stacks)
    if fields['num_token_types'] and types not in self.shapes:
      settings.refuse('type_vocab_size', f'the weights beside it have no {types}')
    if not fields.get('head_size') and fields['emb_dim'] % fields['num_heads']:
      settings.refuse('num_attention_heads', f'it must divide hidden_size, {fields["emb_dim"]}')

  @property
  def _pooler(self) -> str:
    return self._prefix + _POOLER if self.pooler_in_base else _POOLER

  def _read_labels(
    self, values: Mapping[str, Any], settings: Settings, pooler: bool
  ) -> tuple[str, ...]:
    """Names of the labels of a classifier over the pooled state, if there is one."""
    architectures = settings.texts('architectures')
    rows, *_ = self.shapes.get(f'{_CLASSIFIER}weight') or (0,)
    if self.architecture not in architectures:
      # Of a network that does not say what it is, the parameters tell.
      return default_labels(rows if pooler and not architectures else 0)
    if 'id2label' not in settings:
      return default_labels(settings.size('num_labels', rows or 2))
    names = values['id2label']
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
      settings.refuse('id2label', 'it must name labels 0, 1, ...')
    return tuple(str(names[str(i)]) for i in range(len(names)))


def read_numbers(settings: Settings, names: Mapping[str, str]) -> dict[str, Any]:
  """The sizes of an encoder and its numbers, as far as they are set, by our names.

  `names` are our names of the numbers, and those of config.json.
  """
  fields: dict[str, Any] = {ours: settings.size(name) for ours, name in SIZES.items()}
  for ours, name in names.items():
    if name in settings:
      high = BELOW_ONE if ours.endswith('dropout_rate') else 1
      fields[ours] = settings.number(name, low=0, high=high)
  return fields


def written_activation(ours: str) -> str:
  """hidden_act of one of our activations."""
  return next(name for name, activation in ACTIVATIONS.items() if activation == ours)


def name_of(flat: str, names: Sequence[tuple[str, str]] = NAMES) -> str | None:
  """transformers' name, without a prefix, of a flat name; None if it has none."""
  for pattern, name in names:
    if match := re.fullmatch(pattern, flat):
      name, slash, kind = match.expand(name).partition('/')
      return name + (slash and ('.bias' if kind == 'bias' else '.weight'))
  return None


def default_labels(number: int) -> tuple[str, ...]:
  """What transformers calls labels that have no names."""
  return tuple(f'LABEL_{i}' for i in range(number))


def _refuse_other_forms(settings: Settings) -> None:
  """Refuses what makes another network of the same parameters."""
  for name in ('is_decoder', 'is_encoder_decoder', 'add_cross_attention', 'tie_encoder_decoder'):
    settings.only(name, (False,), 'only encoders are supported')
  settings.only('pruned_heads', ({}, []), 'pruned heads are not supported')
  settings.only('quantization_config', (), 'quantized weights are not supported')
  settings.only('auto_map', (), 'it is computed by code of its own, which is not run')
  settings.generation()  # Encoders generate nothing.
