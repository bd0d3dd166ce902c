"""DeBERTas of transformers in all their forms, read and written without it."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from calm.models import deberta, huggingface_deberta, pretrained
from calm.models.deberta import DebertaConfig

TINY = DebertaConfig(37, 12, 3, 17, 2, 11, max_relative_positions=11)
LABELLED = dataclasses.replace(TINY, num_labels=5)
BARE = dataclasses.replace(TINY, pooler=False)
# As in microsoft/deberta-base, -base-mnli and -xlarge.
OF_NO_ACCOUNT = {
  'attention_head_size': 4,
  'legacy': True,
  'padding_idx': 0,
  'pooler_hidden_size': 12,
  'share_att_key': False,
  'talking_head': False,
  'torch_dtype': 'float32',
}


@pytest.fixture
def params(varied_encoder):
  return varied_encoder(deberta.Deberta(TINY))


@pytest.fixture
def export(altered_export, varied_encoder):
  """Writes a config's params and lets `change` alter settings and tensors; gives the directory."""

  def write(config=TINY, change=None):
    return altered_export(config, varied_encoder(deberta.Deberta(config)), change)

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
    BARE,
    dataclasses.replace(TINY, position_terms=(), num_token_types=3),
    dataclasses.replace(TINY, position_terms=('p2c',), absolute_positions=True),
    dataclasses.replace(LABELLED, position_terms=('c2p',), max_relative_positions=4),
    dataclasses.replace(TINY, activation='gelu', pooler_activation='tanh', norm_epsilon=1e-5),
    dataclasses.replace(TINY, dropout_rate=0.0, pooler_dropout_rate=0.3, init_stddev=0.5),
    dataclasses.replace(LABELLED, classifier_dropout_rate=0.4, attention_dropout_rate=0.2),
  ],
)
def test_an_export_is_read_back_bit_by_bit(tmp_path, varied_encoder, equal_trees, config):
  params = varied_encoder(deberta.Deberta(config))
  directory = pretrained.save_huggingface(tmp_path / 'out', config, params)
  found, loaded = pretrained.load(directory)
  assert found == config
  equal_trees(loaded, params)
  assert sorted(path.name for path in directory.iterdir()) == ['config.json', 'model.safetensors']


def test_kernels_are_transposed_and_a_head_puts_the_base_under_a_prefix(export, varied_encoder):
  tensors = load_file(export(LABELLED) / 'model.safetensors')
  params = varied_encoder(deberta.Deberta(LABELLED))
  attention = params['layers_1']['attention']
  theirs = 'deberta.encoder.layer.1.attention.self'
  for name, ours in (
    ('in_proj.weight', attention['query_key_value']['kernel'].T),
    ('q_bias', attention['query_bias']),
    ('v_bias', attention['value_bias']),
    ('pos_proj.weight', attention['position_key']['kernel'].T),
    ('pos_q_proj.weight', attention['position_query']['kernel'].T),
    ('pos_q_proj.bias', attention['position_query']['bias']),
  ):
    np.testing.assert_array_equal(tensors[f'{theirs}.{name}'], ours)
  table = tensors['deberta.encoder.rel_embeddings.weight']
  np.testing.assert_array_equal(table, params['rel_embeddings'])
  # transformers has the pooler beside the base, with or without a classifier.
  assert {'pooler.dense.weight', 'classifier.bias'} <= tensors.keys()
  assert 'pooler.dense.weight' in load_file(export(TINY) / 'model.safetensors')
  assert 'encoder.rel_embeddings.weight' in load_file(export(BARE) / 'model.safetensors')


def old_names(settings, tensors):
  rename(tensors, 'LayerNorm.weight', 'LayerNorm.gamma')
  rename(tensors, 'LayerNorm.bias', 'LayerNorm.beta')


def without_a_prefix(settings, tensors):
  rename(tensors, 'deberta.', '')


def with_buffers(settings, tensors):
  tensors['deberta.embeddings.position_ids'] = np.arange(11)[None]


def with_settings_of_no_account(settings, tensors):
  settings.update(OF_NO_ACCOUNT)


def as_text(settings, tensors):
  settings['pos_att_type'] = 'C2P | p2c'


def with_as_many_distances_as_positions(settings, tensors):
  settings['max_relative_positions'] = -1


def with_settings_left_out(settings, tensors):
  sizes = ('vocab_size', 'hidden_size', 'num_', 'intermediate_size', 'model_type', 'max_position_')
  for name in list(settings):
    if not name.startswith((*sizes, 'relative_attention', 'pos')):
      del settings[name]


@pytest.mark.parametrize(
  'change',
  [
    old_names,
    without_a_prefix,
    with_buffers,
    with_settings_of_no_account,
    as_text,
    with_as_many_distances_as_positions,
    with_settings_left_out,
  ],
)
def test_all_forms_hold_the_same_network(export, params, equal_trees, change, capsys):
  config, loaded = pretrained.load(export(TINY, change))
  assert config == TINY
  equal_trees(loaded, params)
  assert not capsys.readouterr().err


def test_settings_left_out_are_those_of_transformers(export):
  plain = dataclasses.replace(TINY, position_terms=(), absolute_positions=True)

  def change(settings, tensors):
    with_settings_left_out(settings, tensors)
    for name in ('relative_attention', 'pos_att_type', 'position_biased_input'):
      del settings[name]

  assert pretrained.load(export(plain, change))[0] == plain


def add_heads(settings, tensors):
  settings['architectures'] = ['DebertaForMaskedLM']
  for name in ('cls.predictions.bias', 'lm_predictions.lm_head.bias'):
    tensors[name] = np.ones(37, np.float32)


def add_positions(settings, tensors):
  tensors['deberta.embeddings.position_embeddings.weight'] = np.ones((11, 12), np.float32)


@pytest.mark.parametrize(
  ('change', 'names'),
  [
    (add_heads, 'cls.predictions.bias, lm_predictions.lm_head.bias'),
    (add_positions, 'deberta.embeddings.position_embeddings.weight'),
  ],
)
def test_what_is_not_read_is_left_out_by_name(export, params, equal_trees, change, names, capsys):
  directory = export(TINY, change)
  equal_trees(pretrained.load(directory)[1], params)
  assert capsys.readouterr().err == (
    f'{directory}: left out, since the model has no place for them: {names}\n'
  )


def test_relative_embeddings_without_a_term_are_left_out_by_name(export, capsys):
  plain = dataclasses.replace(BARE, position_terms=())

  def change(settings, tensors):
    settings['relative_attention'] = True
    tensors['encoder.rel_embeddings.weight'] = np.ones((22, 12), np.float32)

  assert pretrained.load(export(plain, change))[0] == plain
  assert 'encoder.rel_embeddings.weight' in capsys.readouterr().err


def test_tables_that_are_read_must_be_there(export):
  def change(settings, tensors):
    del tensors['deberta.encoder.rel_embeddings.weight']

  with pytest.raises(ValueError, match=r'missing: 1\n  deberta\.encoder\.rel_embeddings\.weight'):
    pretrained.load(export(TINY, change))
  plain = dataclasses.replace(TINY, position_terms=())
  with pytest.raises(ValueError, match=r'position_terms: the model has \(\)'):
    pretrained.load(export(TINY), plain)


def test_heads_that_the_model_lacks_are_left_out_by_name(export, params, capsys):
  _, loaded = pretrained.load(export(LABELLED), BARE)
  assert loaded.keys() == params.keys() - {'pooler'}
  err = capsys.readouterr().err
  assert 'classifier.bias, classifier.weight, pooler.dense.bias, pooler.dense.weight' in err


def test_heads_that_are_not_there_can_begin_anew(export, varied_encoder, equal_trees):
  directory = export(BARE)
  with pytest.raises(ValueError, match=r'pooler\.dense\.weight \[12, 12\][\s\S]*initial_params'):
    pretrained.load(directory, LABELLED)
  model = deberta.Deberta(LABELLED)
  begun = pretrained.initial_params(directory, model, fresh='^(pooler|classifier)/')
  assert begun.pop('classifier')['kernel'].shape == (12, 5)
  assert begun.pop('pooler')['dense']['kernel'].shape == (12, 12)
  equal_trees(begun, varied_encoder(deberta.Deberta(BARE)))


def test_names_of_labels_are_kept(tmp_path, varied_encoder):
  params, names = varied_encoder(deberta.Deberta(LABELLED)), ('a', 'b', 'c', 'd', 'LABEL_9')
  pretrained.save_huggingface(tmp_path / 'out', LABELLED, params, labels=names)
  assert huggingface_deberta.Directory(tmp_path / 'out').labels == names


def test_settings_without_a_shape_are_compared_too(export):
  other = dataclasses.replace(TINY, num_heads=4, pooler_activation='relu', max_length=12)
  with pytest.raises(ValueError) as raised:
    pretrained.load(export(), other)
  for name in ('num_heads: the model has 4', 'pooler_activation: the', 'max_length: the model'):
    assert name in str(raised.value)
  training = dataclasses.replace(TINY, dropout_rate=0.5, dtype='bfloat16')
  assert pretrained.load(export(), training)[0] == training


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('hidden_act', 'quick_gelu'),
    ('hidden_size', None),
    ('layer_norm_eps', 'small'),
    ('is_decoder', True),
    ('embedding_size', 8),
    ('pooler_hidden_size', 8),
    ('attention_head_size', 8),
    ('talking_head', True),
    ('pooler_hidden_act', 'quick_gelu'),
    ('pos_att_type', 'p2p'),
    ('pos_att_type', ''),
    ('pos_att_type', 7),
    ('pos_att_type', ['c2p', 'c2p']),
    ('pos_att_type', 'c2p|p2c|p2p'),
    ('position_biased_input', 'no'),
    ('max_relative_positions', 2.5),
    ('type_vocab_size', -1),
    ('share_att_key', True),
    ('norm_rel_ebd', 'layer_norm'),
    ('position_buckets', 256),
    ('conv_kernel_size', 3),
    ('rotary_base', 10000),
  ],
)
def test_settings_that_would_change_the_result_are_refused_by_name(export, name, value):
  directory = export(TINY, lambda settings, _: settings.update({name: value}))
  with pytest.raises(ValueError, match=rf'config\.json.* {name}'):
    pretrained.load(directory)


def test_terms_without_relative_attention_are_refused(export):
  directory = export(TINY, lambda settings, _: settings.update(relative_attention=False))
  with pytest.raises(ValueError, match=r'pos_att_type.*without relative_attention'):
    pretrained.load(directory)


def test_later_versions_are_refused_with_the_reason(export):
  directory = export(TINY, lambda settings, _: settings.update(model_type='deberta-v2'))
  with pytest.raises(
    ValueError, match=r"'deberta-v2'; versions 2 and 3 .* known are bert, deberta"
  ):
    pretrained.load(directory)
