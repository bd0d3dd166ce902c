"""BERT as Hugging Face transformers keeps it: settings of config.json, and directories.

https://huggingface.co/docs/transformers/model_doc/bert; names of tensors are those of all encoders
(`calm.models.huggingface_encoder`).
"""

from calm.models import huggingface_encoder, safetensors_directory
from calm.models.bert import Bert, BertConfig
from calm.models.foreign_config import BELOW_ONE
from calm.models.huggingface_encoder import ACTIVATIONS, EncoderDirectory

# Sizes: our names, and those of config.json.
_SIZES = {
  'vocab_size': 'vocab_size',
  'emb_dim': 'hidden_size',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'num_layers': 'num_hidden_layers',
}
_MORE_SIZES = {'max_length': 'max_position_embeddings', 'num_token_types': 'type_vocab_size'}
_NUMBERS = {
  'norm_epsilon': 'layer_norm_eps',
  'init_stddev': 'initializer_range',
  'dropout_rate': 'hidden_dropout_prob',
  'attention_dropout_rate': 'attention_probs_dropout_prob',
  'classifier_dropout_rate': 'classifier_dropout',
}


class Directory(EncoderDirectory):
  """A BERT in a directory of transformers."""

  network = Bert
  config_class = BertConfig
  prefix = 'bert.'
  architecture = 'BertForSequenceClassification'
  base_architecture = 'BertModel'
  fields = (*_SIZES, *_MORE_SIZES, 'activation', 'norm_epsilon')

  def _fields(self, settings):
    default = BertConfig()
    fields = {ours: settings.size(name) for ours, name in _SIZES.items()}
    for ours, name in _MORE_SIZES.items():
      fields[ours] = settings.size(name, getattr(default, ours))
    for ours, name in _NUMBERS.items():
      if name in settings:
        high = BELOW_ONE if ours.endswith('dropout_rate') else 1
        fields[ours] = settings.number(name, low=0, high=high)
    fields['activation'] = ACTIVATIONS[settings.choice('hidden_act', ACTIVATIONS, 'gelu')]
    settings.only('position_embedding_type', ('absolute',))
    settings.only('embedding_size', (fields['emb_dim'],), 'it must be the hidden_size')
    return fields


def save(directory, config, params, *, dtype='float32', vocabulary_path=None, labels=()):
  """Writes a directory that transformers' BertModel loads; returns its path.

  With a classifier it is a BertForSequenceClassification. An interrupted call leaves nothing that
  looks whole.

  Args:
    directory: is made; may exist if it holds nothing else than such an export.
    config: the BertConfig of `params`.
    params: the parameters, a nested dict of arrays.
    dtype: of the written weights, 'float32' or 'bfloat16'.
    vocabulary_path: a directory whose tokenizer's files are copied beside the weights.
    labels: names of the classifier's labels; by default LABEL_0 and so on.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    FileNotFoundError: there is no tokenizer at `vocabulary_path`.
    ValueError: no directory, or the parameters do not fit `config`, or the labels the classifier.
  """
  tensors, head = huggingface_encoder.export(Directory, config, params, labels)
  settings = {**_to_settings(config), **head, 'torch_dtype': dtype}
  beside = huggingface_encoder.tokenizer_files(vocabulary_path)
  return safetensors_directory.write(directory, settings, tensors, dtype, beside)


def _to_settings(config):
  names = _SIZES | _MORE_SIZES | _NUMBERS
  return {
    'model_type': 'bert',
    'hidden_act': huggingface_encoder.written_activation(config.activation),
    'position_embedding_type': 'absolute',
    **{name: getattr(config, ours) for ours, name in names.items()},
  }
