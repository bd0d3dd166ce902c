"""BERT as Hugging Face transformers keeps it: settings of config.json, and directories.

https://huggingface.co/docs/transformers/model_doc/bert; names of tensors are those of all encoders
(`calm.models.huggingface_encoder`).
"""

from typing import Any

from calm.models import huggingface_encoder
from calm.models.bert import Bert, BertConfig
from calm.models.foreign_config import Settings
from calm.models.huggingface_encoder import ACTIVATIONS, SIZES, EncoderDirectory

_MORE_SIZES = {'max_length': 'max_position_embeddings', 'num_token_types': 'type_vocab_size'}
_NUMBERS = {
  'norm_epsilon': 'layer_norm_eps',
  'init_stddev': 'initializer_range',
  'dropout_rate': 'hidden_dropout_prob',
  'attention_dropout_rate': 'attention_probs_dropout_prob',
  'classifier_dropout_rate': 'classifier_dropout',
}
# Of a sub-network, whose heads are fewer than fill the state. transformers has no such BERT, and
# refuses the weights for their shape.
_HEAD_SIZE = 'attention_head_size'


class Directory(EncoderDirectory):
  """A BERT in a directory of transformers."""

  network = Bert
  config_class = BertConfig
  prefix = 'bert.'
  architecture = 'BertForSequenceClassification'
  base_architecture = 'BertModel'
  fields = (*SIZES, *_MORE_SIZES, 'activation', 'norm_epsilon', 'head_dim')

  def _fields(self, settings: Settings) -> dict[str, Any]:
    default = BertConfig()
    fields = huggingface_encoder.read_numbers(settings, _NUMBERS)
    for ours, name in _MORE_SIZES.items():
      fields[ours] = settings.size(name, getattr(default, ours))
    if _HEAD_SIZE in settings:
      fields['head_size'] = settings.size(_HEAD_SIZE)
    fields['activation'] = ACTIVATIONS[settings.choice('hidden_act', ACTIVATIONS, 'gelu')]
    settings.only('position_embedding_type', ('absolute',))
    settings.only('embedding_size', (fields['emb_dim'],), 'it must be the hidden_size')
    return fields

  @staticmethod
  def settings_of(config: BertConfig) -> dict[str, Any]:
    """What config.json says of a config, all but of the heads."""
    names = SIZES | _MORE_SIZES | _NUMBERS
    own = {} if config.head_size is None else {_HEAD_SIZE: config.head_size}
    return {
      'model_type': 'bert',
      'hidden_act': huggingface_encoder.written_activation(config.activation),
      'position_embedding_type': 'absolute',
      **{name: getattr(config, ours) for ours, name in names.items()},
      **own,
    }
