"""DeBERTa as Hugging Face transformers keeps it: settings of config.json, and directories.

https://huggingface.co/docs/transformers/model_doc/deberta; names of tensors are those of all
encoders (`calm.models.huggingface_encoder`) but for the attention's.
"""

from typing import Any

from calm.models import huggingface_encoder
from calm.models.deberta import Deberta, DebertaConfig
from calm.models.disentangled_attention import POSITION_TERMS
from calm.models.foreign_config import Settings
from calm.models.huggingface_encoder import ACTIVATIONS, SIZES, EncoderDirectory

LATER_VERSIONS = (
  'versions 2 and 3 of DeBERTa are other networks (distances in logarithmic buckets, positions '
  'projected as contents are), and only the first is supported; '
)
_ATTENTION = r'layers_(\d+)/attention'
_SELF = r'encoder.layer.\1.attention.self'
_NAMES = (
  (r'rel_embeddings', 'encoder.rel_embeddings.weight'),
  (rf'{_ATTENTION}/query_key_value/(\w+)', rf'{_SELF}.in_proj/\2'),
  (rf'{_ATTENTION}/query_bias', rf'{_SELF}.q_bias'),
  (rf'{_ATTENTION}/value_bias', rf'{_SELF}.v_bias'),
  (rf'{_ATTENTION}/position_key/(\w+)', rf'{_SELF}.pos_proj/\2'),
  (rf'{_ATTENTION}/position_query/(\w+)', rf'{_SELF}.pos_q_proj/\2'),
  *huggingface_encoder.NAMES,
)
_REL_EMBEDDINGS = 'encoder.rel_embeddings.weight'
_POSITIONS = 'embeddings.position_embeddings.weight'

_NUMBERS = {
  'norm_epsilon': 'layer_norm_eps',
  'init_stddev': 'initializer_range',
  'dropout_rate': 'hidden_dropout_prob',
  'attention_dropout_rate': 'attention_probs_dropout_prob',
  'pooler_dropout_rate': 'pooler_dropout',
  'classifier_dropout_rate': 'cls_dropout',
}
_MORE = {
  'max_length': 'max_position_embeddings',
  'max_relative_positions': 'max_relative_positions',
  'absolute_positions': 'position_biased_input',
  'num_token_types': 'type_vocab_size',
}
_ACTIVATIONS = {'activation': 'hidden_act', 'pooler_activation': 'pooler_hidden_act'}


class Directory(EncoderDirectory):
  """A DeBERTa in a directory of transformers."""

  network = Deberta
  config_class = DebertaConfig
  prefix = 'deberta.'
  pooler_in_base = False
  architecture = 'DebertaForSequenceClassification'
  base_architecture = 'DebertaModel'
  fields = (*SIZES, *_MORE, *_ACTIVATIONS, 'norm_epsilon', 'position_terms')
  names = _NAMES
  no_account = frozenset({'legacy', 'padding_idx'})

  def left_out(self, config: DebertaConfig) -> list[str]:
    """Names of the parameters of heads, and of tables that transformers does not read either."""
    names = super().left_out(config)
    tables = {
      _REL_EMBEDDINGS: self.config.position_terms,
      _POSITIONS: self.config.absolute_positions,
    }
    unread = {f'{self._prefix}{name}' for name, read in tables.items() if not read}
    return sorted({*names, *(unread & self.shapes.keys())})

  def _fields(self, settings: Settings) -> dict[str, Any]:
    fields = huggingface_encoder.read_numbers(settings, _NUMBERS)
    for ours, name in _ACTIVATIONS.items():
      fields[ours] = ACTIVATIONS[settings.choice(name, ACTIVATIONS, 'gelu')]
    fields['num_token_types'] = settings.size('type_vocab_size', 0, low=0)
    fields['absolute_positions'] = settings.flag('position_biased_input', True)
    fields['max_length'] = length = settings.size('max_position_embeddings', 512)
    most = settings.size('max_relative_positions', -1, low=-1)
    fields['max_relative_positions'] = most if most > 0 else length
    fields['position_terms'] = settings.words('pos_att_type', POSITION_TERMS)
    if not settings.flag('relative_attention', False) and fields['position_terms']:
      settings.refuse(
        'pos_att_type', 'without relative_attention it would change the scale of the scores only'
      )
    _refuse_others(settings, fields['emb_dim'], fields['num_heads'])
    return fields

  @staticmethod
  def settings_of(config: DebertaConfig) -> dict[str, Any]:
    """What config.json says of a config, all but of the heads."""
    names = SIZES | _NUMBERS | _MORE
    activations = {
      name: huggingface_encoder.written_activation(getattr(config, ours))
      for ours, name in _ACTIVATIONS.items()
    }
    return {
      'model_type': 'deberta',
      'relative_attention': bool(config.position_terms),
      'pos_att_type': list(config.position_terms),
      **activations,
      **{name: getattr(config, ours) for ours, name in names.items()},
    }


def _refuse_others(settings: Settings, emb_dim: int, num_heads: int) -> None:
  """Refuses what would make another network: of variants of the first version, and of the later."""
  settings.only('talking_head', (False,), 'talking heads are not supported')
  for name in ('embedding_size', 'pooler_hidden_size'):
    settings.only(name, (emb_dim,), 'it must be the hidden_size')
  settings.only('attention_head_size', (emb_dim // num_heads,), 'it must be hidden_size / heads')
  later = 'it belongs to later versions of DeBERTa, which are not supported'
  settings.only('share_att_key', (False,), later)
  settings.only('norm_rel_ebd', ('', 'none'), later)
  settings.only('position_buckets', (-1, 0), later)
  settings.only('conv_kernel_size', (0,), later)
