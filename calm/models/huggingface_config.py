"""The settings of transformers' T5, config.json, and our T5Config.

T5 1.0, 1.1 and Flan-T5 are one model type there, told apart by their settings
(https://huggingface.co/docs/transformers/model_doc/t5).
"""

from calm.models.t5 import T5Config

SPECIAL_TOKENS = {'pad_token_id': 0, 'eos_token_id': 1, 'decoder_start_token_id': 0}

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


def from_settings(settings, path):
  """The T5Config of the settings in config.json; `path` is named in errors."""
  if settings.get('model_type') != 't5':
    raise ValueError(f'{path}: model_type is {settings.get("model_type")!r}; only t5 is supported.')
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


def to_settings(config, dtype):
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
    **SPECIAL_TOKENS,
  }


def to_generation_settings(config):
  """The settings of generation_config.json for a T5Config."""
  if config.num_decoder_layers <= config.num_encoder_layers:
    return SPECIAL_TOKENS
  # transformers (5.24) gives the decoder's cache the encoder's depth, and fails beyond it.
  return {**SPECIAL_TOKENS, 'use_cache': False}


def differences(config, theirs):
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
