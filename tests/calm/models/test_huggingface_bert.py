"""BERTs of transformers in all their forms, read and written without it."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from calm.models import bert, huggingface_bert, pretrained, t5

TINY = bert.BertConfig(37, 12, 3, 17, 2, 11, 3)
LABELLED = dataclasses.replace(TINY, num_labels=5)
# As in bert-base-multilingual-cased, and in what versions 2 to 5 of transformers write.
OF_NO_ACCOUNT = {
  '_name_or_path': 'somewhere',
  'architectures': ['BertForMaskedLM'],
  'chunk_size_feed_forward': 7,
  'directionality': 'bidi',
  'gradient_checkpointing': False,
  'is_decoder': False,
  'pad_token_id': 5,
  'pooler_fc_size': 768,
  'pooler_type': 'first_token_transform',
  'pruned_heads': {},
  'temperature': 0.5,
  'tie_word_embeddings': True,
  'transformers_version': '5.24.0',
  'use_cache': True,
}


@pytest.fixture
def params(varied_encoder):
  return varied_encoder(bert.Bert(TINY))


@pytest.fixture
def export(altered_export, varied_encoder):
  """Writes a config's params and lets `change` alter settings and tensors; gives the directory."""

  def write(config=TINY, change=None):
    return altered_export(config, varied_encoder(bert.Bert(config)), change)

  return write


def rename(tensors, pattern, replacement):
  for name in list(tensors):
    if pattern in name:
      tensors[name.replace(pattern, replacement)] = tensors.pop(name)


@pytest.mark.parametrize(
  'config',
  [
    TINY,
    LABELLED,
    dataclasses.replace(TINY, pooler=False, classifier_dropout_rate=0.3),
    dataclasses.replace(TINY, activation='relu', norm_epsilon=1e-5, init_stddev=0.5),
    dataclasses.replace(TINY, activation='gelu', dropout_rate=0.0, attention_dropout_rate=0.2),
  ],
)
def test_an_export_is_read_back_bit_by_bit(tmp_path, varied_encoder, equal_trees, config):
  params = varied_encoder(bert.Bert(config))
  directory = pretrained.save_huggingface(tmp_path / 'out', config, params)
  found, loaded = pretrained.load(directory)
  assert found == config
  equal_trees(loaded, params)
  assert sorted(path.name for path in directory.iterdir()) == ['config.json', 'model.safetensors']


def test_kernels_are_transposed_and_a_head_puts_the_base_under_a_prefix(export, varied_encoder):
  tensors = load_file(export(LABELLED) / 'model.safetensors')
  params = varied_encoder(bert.Bert(LABELLED))
  np.testing.assert_array_equal(tensors['classifier.weight'], params['classifier']['kernel'].T)
  np.testing.assert_array_equal(
    tensors['bert.encoder.layer.1.output.dense.weight'], params['layers_1']['mlp']['wo']['kernel'].T
  )
  bare = load_file(export(TINY) / 'model.safetensors')
  assert 'embeddings.word_embeddings.weight' in bare


def old_names(settings, tensors):
  rename(tensors, 'LayerNorm.weight', 'LayerNorm.gamma')
  rename(tensors, 'LayerNorm.bias', 'LayerNorm.beta')


def under_a_prefix(settings, tensors):
  for name in list(tensors):
    tensors[f'bert.{name}'] = tensors.pop(name)


def with_buffers(settings, tensors):
  tensors['embeddings.position_ids'] = np.arange(11)[None]
  tensors['embeddings.token_type_ids'] = np.zeros((1, 11), np.int64)


def under_a_prefix_with_buffers(settings, tensors):
  with_buffers(settings, tensors)
  under_a_prefix(settings, tensors)


def with_settings_of_no_account(settings, tensors):
  settings.update(OF_NO_ACCOUNT)


def with_settings_left_out(settings, tensors):
  sizes = ('vocab_size', 'hidden_size', 'num_', 'intermediate_size', 'model_type', 'max', 'type_')
  for name in list(settings):
    if not name.startswith(sizes):
      del settings[name]


@pytest.mark.parametrize(
  'change',
  [
    old_names,
    under_a_prefix,
    with_buffers,
    under_a_prefix_with_buffers,
    with_settings_of_no_account,
    with_settings_left_out,
  ],
)
def test_all_forms_hold_the_same_network(export, params, equal_trees, change, capsys):
  config, loaded = pretrained.load(export(TINY, change))
  assert config == TINY
  equal_trees(loaded, params)
  assert not capsys.readouterr().err


def test_a_sentence_transformer_may_keep_the_network_in_a_folder(export, params, equal_trees):
  directory = export()
  inner = directory / '0_Transformer'
  inner.mkdir()
  for name in ('config.json', 'model.safetensors'):
    (directory / name).rename(inner / name)
  (directory / 'README.md').touch()
  modules = [
    {'idx': 0, 'name': '0', 'path': '0_Transformer', 'type': 'sentence_transformers.Transformer'},
    {'idx': 1, 'name': '1', 'path': '1_Pooling', 'type': 'sentence_transformers.Pooling'},
  ]
  (directory / 'modules.json').write_text(json.dumps(modules))
  equal_trees(pretrained.load(directory)[1], params)


def add_heads(settings, tensors):
  under_a_prefix(settings, tensors)
  settings['architectures'] = ['BertForPreTraining']
  tensors['cls.seq_relationship.weight'] = np.ones((2, 12), np.float32)
  tensors['cls.predictions.bias'] = np.ones(37, np.float32)


def test_heads_of_other_tasks_are_left_out_by_name(export, params, equal_trees, capsys):
  directory = export(TINY, add_heads)
  equal_trees(pretrained.load(directory)[1], params)
  assert capsys.readouterr().err == (
    f'{directory}: left out, since the model has no place for them: cls.predictions.bias, '
    'cls.seq_relationship.weight\n'
  )


@pytest.mark.parametrize('kind', ['BertForTokenClassification', 'BertForMultipleChoice'])
def test_the_classifier_of_another_task_is_not_taken_for_one_of_texts(export, kind, capsys):
  directory = export(LABELLED, lambda settings, _: settings.update(architectures=[kind]))
  assert pretrained.load(directory)[0] == TINY
  assert 'classifier.bias, classifier.weight' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r'missing: 2\n  classifier\.bias \[5\]'):
    pretrained.load(directory, LABELLED)


def test_a_classifier_without_a_word_about_it_is_read(export):
  directory = export(LABELLED, lambda settings, _: settings.pop('architectures'))
  assert pretrained.load(directory)[0] == LABELLED


def test_heads_that_the_model_lacks_are_left_out_by_name(export, params, capsys):
  plain = dataclasses.replace(TINY, pooler=False)
  _, loaded = pretrained.load(export(LABELLED), plain)
  assert loaded.keys() == params.keys() - {'pooler'}
  assert 'bert.pooler.dense.bias' in capsys.readouterr().err


def test_a_classifier_that_is_not_there_can_begin_anew(export, params, equal_trees):
  directory = export()
  with pytest.raises(ValueError, match=r'classifier\.weight \[5, 12\][\s\S]*initial_params'):
    pretrained.load(directory, LABELLED)
  begun = pretrained.initial_params(directory, bert.Bert(LABELLED), fresh='classifier/')
  assert begun.pop('classifier')['kernel'].shape == (12, 5)
  equal_trees(begun, params)


def test_names_of_labels_are_kept(tmp_path, varied_encoder):
  params, names = varied_encoder(bert.Bert(LABELLED)), ('a', 'b', 'c', 'd', 'LABEL_9')
  pretrained.save_huggingface(tmp_path / 'out', LABELLED, params, labels=names)
  assert huggingface_bert.Directory(tmp_path / 'out').labels == names
  with pytest.raises(ValueError, match='There are 2 labels, and the model has 5'):
    pretrained.save_huggingface(tmp_path / 'out', LABELLED, params, labels=('no', 'yes'))


def test_what_does_not_fit_is_listed(export):
  def change(settings, tensors):
    del tensors['encoder.layer.1.output.LayerNorm.bias']
    tensors['encoder.layer.2.output.LayerNorm.bias'] = np.ones(12, np.float32)
    tensors['pooler.dense.weight'] = np.ones((12, 11), np.float32)

  with pytest.raises(ValueError) as raised:
    pretrained.load(export(TINY, change))
  for line in (
    'missing: 1\n  encoder.layer.1.output.LayerNorm.bias [12]',
    'unexpected: 1\n  encoder.layer.2.output.LayerNorm.bias [12]',
    'shapes that differ: 1\n  pooler.dense.weight: expected [12, 12], found [12, 11]',
  ):
    assert line in str(raised.value)


def test_settings_without_a_shape_are_compared_too(export):
  other = dataclasses.replace(TINY, num_heads=4, activation='relu', norm_epsilon=1e-5)
  with pytest.raises(ValueError) as raised:
    pretrained.load(export(), other)
  for name in ('num_heads: the model has 4', 'activation: the model', 'norm_epsilon: the model'):
    assert name in str(raised.value)
  training = dataclasses.replace(TINY, dropout_rate=0.5, dtype='bfloat16')
  assert pretrained.load(export(), training)[0] == training


def test_a_config_of_another_kind_is_refused(export):
  with pytest.raises(ValueError, match='is for a BertConfig, not a T5Config'):
    pretrained.load(export(), t5.T5Config())


@pytest.mark.parametrize(
  ('theirs', 'ours'),
  [
    ('gelu', 'exact_gelu'),
    ('gelu_python', 'exact_gelu'),
    ('gelu_new', 'gelu'),
    ('gelu_pytorch_tanh', 'gelu'),
    ('relu', 'relu'),
    ('swish', 'silu'),
  ],
)
def test_activations_have_several_names(export, theirs, ours):
  directory = export(TINY, lambda settings, _: settings.update(hidden_act=theirs))
  assert pretrained.load(directory)[0].activation == ours


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('hidden_act', 'quick_gelu'),
    ('hidden_act', 7),
    ('hidden_size', None),
    ('hidden_size', '12'),
    ('num_attention_heads', 5),
    ('layer_norm_eps', 'small'),
    ('hidden_dropout_prob', 1),
    ('position_embedding_type', 'relative_key'),
    ('is_decoder', True),
    ('is_encoder_decoder', True),
    ('add_cross_attention', True),
    ('embedding_size', 8),
    ('pruned_heads', {'0': [1]}),
    ('quantization_config', {'load_in_8bit': True}),
    ('auto_map', {'AutoModel': 'modeling_other.OtherBert'}),
    ('rotary_base', 10000),
  ],
)
def test_settings_that_would_change_the_result_are_refused_by_name(export, name, value):
  directory = export(TINY, lambda settings, _: settings.update({name: value}))
  with pytest.raises(ValueError, match=rf'config\.json.* {name}'):
    pretrained.load(directory)


@pytest.mark.parametrize('names', [{'0': 'a', '2': 'b'}, ['a', 'b'], {'a': 0}])
def test_labels_are_counted_from_0(export, names):
  directory = export(LABELLED, lambda settings, _: settings.update(id2label=names))
  with pytest.raises(ValueError, match=r'config\.json: id2label'):
    pretrained.load(directory)


def test_a_tokenizer_is_copied_beside_the_weights(tmp_path, params):
  (tmp_path / 'source').mkdir()
  with pytest.raises(FileNotFoundError, match='holds no tokenizer'):
    pretrained.save_huggingface(tmp_path / 'out', TINY, params, vocabulary_path=tmp_path / 'source')
  (tmp_path / 'source/vocab.txt').write_text('[PAD]\n')
  (tmp_path / 'source/notes.txt').write_text('mine')
  out = pretrained.save_huggingface(
    tmp_path / 'out', TINY, params, vocabulary_path=tmp_path / 'source'
  )
  assert sorted(path.name for path in out.iterdir()) == [
    'config.json',
    'model.safetensors',
    'vocab.txt',
  ]


def test_a_config_of_another_kind_is_not_exported(tmp_path):
  with pytest.raises(ValueError, match='A dict cannot be exported; there are BertConfig, '):
    pretrained.save_huggingface(tmp_path / 'out', {}, {})
