"""The config.json of a T5 of Hugging Face transformers, as a T5Config and back.

T5 1.0, 1.1 and Flan-T5 are one model type there, told apart by their settings; mT5 has the
architecture of T5 1.1 (https://huggingface.co/docs/transformers/model_doc/t5, .../mt5).
"""

from typing import Any

from calm.models import foreign_config
from calm.models.foreign_config import Settings
from calm.models.safetensors_directory import Tensors
from calm.models.t5 import T5Config

MODEL_TYPES = ('t5', 'mt5')
GENERATION_CONFIG = 'generation_config.json'

SPECIAL_TOKENS = {'pad_token_id': 0, 'eos_token_id': 1, 'decoder_start_token_id': 0}

# Sizes and settings: our names, and those of config.json.
SIZES = {
  'vocab_size': 'vocab_size',
  'emb_dim': 'd_model',
  'num_heads': 'num_heads',
  'head_dim': 'd_kv',
  'mlp_dim': 'd_ff',
  'num_encoder_layers': 'num_layers',
}
SETTINGS = {
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
_ARCHITECTURES = (
  'T5ForConditionalGeneration',
  'MT5ForConditionalGeneration',
  'T5WithLMHeadModel',
  'T5Model',
  'MT5Model',
)
_DECODING = (
  'What is decoded is what the configuration says: greedily, up to MAX_DECODE_STEPS tokens.'
)
_LARGEST_DISTANCE = 2**20
# Lengths that transformers only warns of: positions are relative.
_NO_ACCOUNT = foreign_config.NO_ACCOUNT | {'n_positions', 'max_position_embeddings'}


def from_settings(settings: Settings) -> T5Config:
  """The T5Config that a config.json describes.

  Raises:
    ValueError: a setting is absent, mistyped, out of range, not supported or not known; names the
      file and the setting.
  """
  kind = settings.choice('model_type', MODEL_TYPES)
  _require_supported(settings)
  sizes: dict[str, Any] = {ours: settings.size(name) for ours, name in SIZES.items()}
  # A half for each direction, and a half of that for single distances.
  num_buckets = settings.size('relative_attention_num_buckets', 32, low=4)
  config = T5Config(
    **sizes,
    num_decoder_layers=settings.size('num_decoder_layers', sizes['num_encoder_layers']),
    relpos_num_buckets=num_buckets,
    relpos_max_distance=settings.size(
      'relative_attention_max_distance', 128, num_buckets // 2 + 1, _LARGEST_DISTANCE
    ),
    norm_epsilon=settings.number('layer_norm_epsilon', 1e-6, 0, 1),
    dropout_rate=settings.number('dropout_rate', 0.1, 0, foreign_config.BELOW_ONE),
    mlp_activations=_activations(settings, 'relu' if kind == 't5' else 'gated-gelu'),
    logits_via_embedding=_scaled_head(settings, kind),
  )
  foreign_config.warn_of_generation(settings, _DECODING)
  settings.finish(_NO_ACCOUNT)
  return config


def check_generation(settings: Settings) -> None:
  """Says on stderr what of a generation_config.json is not carried.

  Raises:
    ValueError: its special tokens are not T5's.
  """
  _require_tokens(settings)
  foreign_config.warn_of_generation(settings, _DECODING, others=True)


def tied(settings: Settings) -> bool:
  """Whether the embedding serves as head where there is no other."""
  return settings.flag('tie_word_embeddings', settings.choice('model_type', MODEL_TYPES) == 't5')


def to_settings(config: T5Config, dtype: str) -> dict:
  """The settings of config.json for a T5Config, whose weights are stored as `dtype`.

  Raises:
    ValueError: transformers has no such T5.
  """
  if config.mlp_activations not in _FEED_FORWARD:
    raise ValueError(f'transformers has no T5 with mlp_activations {config.mlp_activations}.')
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    'is_encoder_decoder': True,
    'feed_forward_proj': _FEED_FORWARD[config.mlp_activations],
    'tie_word_embeddings': config.logits_via_embedding,
    'torch_dtype': dtype,
    **{name: getattr(config, ours) for ours, name in (SIZES | SETTINGS).items()},
    **SPECIAL_TOKENS,
  }


def to_generation_settings(config: T5Config, max_decode_steps: int | None = None) -> dict:
  """The settings of generation_config.json: tokens, and how many of them an output has at most."""
  settings: dict = dict(SPECIAL_TOKENS)
  if max_decode_steps is not None:
    settings['max_length'] = max_decode_steps + 1  # It counts the token that decoding begins with.
  if config.num_decoder_layers > config.num_encoder_layers:
    # transformers (5.24) gives the decoder's cache the encoder's depth, and fails beyond it.
    settings['use_cache'] = False
  return settings


def differences(config: T5Config, theirs: T5Config) -> list[str]:
  """Lines about what `config` sets otherwise than `theirs`, the T5Config of a config.json.

  Dropout and the type of activations are left to the user.
  """
  fields = (*SIZES, *SETTINGS, 'mlp_activations', 'logits_via_embedding')
  pairs = {name: (getattr(config, name), getattr(theirs, name)) for name in fields}
  del pairs['dropout_rate']
  return [
    f'{name}: the model has {ours!r}, config.json says {other!r}'
    for name, (ours, other) in pairs.items()
    if ours != other
  ]


def require_sizes(settings: Settings, config: T5Config, tensors: Tensors) -> None:
  """Checks the sizes of a config.json against the tensors that are there, before any is read.

  Args:
    settings: of config.json.
    config: what `from_settings` made of them.
    tensors: a `safetensors_directory.Tensors`.

  Raises:
    ValueError: a size is another; names both files, the setting and the tensor.
  """
  attention = 'encoder.block.0.layer.0.SelfAttention'
  table = f'{attention}.relative_attention_bias.weight'
  feed_forward = 'encoder.block.0.layer.1.DenseReluDense'
  joined = config.num_heads * config.head_dim
  buckets = config.relpos_num_buckets
  foreign_config.require_sizes(
    settings,
    tensors,
    (
      ('vocab_size', config.vocab_size, 'shared.weight', 0, ''),
      ('d_model', config.emb_dim, 'shared.weight', 1, ''),
      ('relative_attention_num_buckets', buckets, table, 0, ''),
      ('num_heads', config.num_heads, table, 1, ''),
      ('d_kv', joined, f'{attention}.q.weight', 0, f' for {config.num_heads} heads'),
      ('d_ff', config.mlp_dim, f'{feed_forward}.wo.weight', 1, ''),
    ),
    (
      ('num_layers', config.num_encoder_layers, 'encoder.block.'),
      ('num_decoder_layers', config.num_decoder_layers, 'decoder.block.'),
    ),
  )
  gate = f'{feed_forward}.wi{"_0" * (len(config.mlp_activations) < 2)}.weight'
  if gate in tensors.shapes:
    settings.refuse('feed_forward_proj', f'{tensors.file(gate)} holds {gate}')


def _require_supported(settings: Settings) -> None:
  """Refuses what would make another model, or other tokens, of the same weights."""
  settings.only('architectures', [[name] for name in _ARCHITECTURES])
  _require_tokens(settings)
  settings.only('quantization_config', ({},), 'quantized weights are not supported')
  settings.only('is_encoder_decoder', (True,))
  settings.only('pruned_heads', ({},))
  for name in ('is_decoder', 'tie_encoder_decoder', 'add_cross_attention'):
    settings.only(name, (False,))


def _require_tokens(settings: Settings) -> None:
  for name, token in SPECIAL_TOKENS.items():
    settings.only(name, (token, [token]), f'here it is always {token}')


def _activations(settings: Settings, default: str) -> tuple[str, ...]:
  projection = settings.choice('feed_forward_proj', _FEED_FORWARD.values(), default)
  ours = next(ours for ours, theirs in _FEED_FORWARD.items() if theirs == projection)
  # What follows from it may be stated on its own.
  settings.only('dense_act_fn', ('gelu_new' if ours[0] == 'gelu' else ours[0],))
  settings.only('is_gated_act', (len(ours) > 1,))
  return ours


def _scaled_head(settings: Settings, kind: str) -> bool:
  """Whether logits are those of T5 1.0: by the embedding, scaled.

  Up to transformers 4, `tie_word_embeddings` says both; version 5 writes it as true for all and
  says in `scale_decoder_outputs` whether they are scaled. Then untied weights are told by
  lm_head.weight being there. An mT5 is never scaled in version 5.
  """
  is_tied = tied(settings)
  if kind == 'mt5':
    settings.only('scale_decoder_outputs', (False,))
    version = str(settings.text('transformers_version', '4')).partition('.')[0]
    if is_tied and version == '4':
      settings.refuse('tie_word_embeddings', 'an mT5 with a head tied so is not supported')
    return False
  scaled = settings.flag('scale_decoder_outputs', is_tied)
  if scaled and not is_tied:
    settings.refuse(
      'scale_decoder_outputs', 'a scaled head that is not tied to the embedding is not supported'
    )
  return scaled
