"""T5s of transformers, read and written without it."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calm.models import pretrained, t5

TINY = t5.T5Config(37, 12, 3, 5, 17, 2, 3)
TIED = dataclasses.replace(TINY, mlp_activations=('relu',), logits_via_embedding=True)


@pytest.fixture
def export(tmp_path, varied_params):
  """Writes a config's params and lets `change` alter settings and tensors; gives the directory."""

  def write(config=TINY, change=lambda settings, tensors: None):
    directory = pretrained.save_huggingface(tmp_path / 'exported', config, varied_params(config))
    settings = json.loads((directory / 'config.json').read_text())
    tensors = load_file(directory / 'model.safetensors')
    change(settings, tensors)
    (directory / 'config.json').write_text(json.dumps(settings))
    save_file(tensors, directory / 'model.safetensors')
    return directory

  return write


@pytest.mark.parametrize('config', [TINY, TIED], ids=['t5_1_1', 't5_1_0'])
def test_an_export_is_read_back_bit_by_bit(tmp_path, varied_params, equal_trees, config):
  params = varied_params(config)
  directory = pretrained.save_huggingface(tmp_path / 'new/exported', config, params)
  loaded_config, loaded = pretrained.load(directory)
  assert loaded_config == config
  equal_trees(loaded, params)
  assert sorted(path.name for path in directory.iterdir()) == [
    'config.json',
    'generation_config.json',
    'model.safetensors',
  ]
  assert len({path.stat().st_mode for path in directory.iterdir()}) == 1


@pytest.mark.parametrize(
  'activations', [('gelu',), ('silu',), ('relu', 'linear'), ('silu', 'linear')]
)
def test_activations_survive_the_round_trip(export, activations):
  config = dataclasses.replace(TINY, mlp_activations=activations)
  assert pretrained.load(export(config))[0] == config


def test_kernels_are_transposed(export, varied_params):
  tensors = load_file(export() / 'model.safetensors')
  decoder = varied_params(TINY)['decoder']
  layer = 'decoder.block.1.layer.1.EncDecAttention'
  np.testing.assert_array_equal(
    tensors[f'{layer}.o.weight'],
    decoder['layers_1']['encoder_decoder_attention']['out']['kernel'].T,
  )
  table = tensors['decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight']
  np.testing.assert_array_equal(table, decoder['relpos_bias']['rel_embedding'].T)


def test_bfloat16_is_written_and_read(tmp_path, varied_params):
  directory = tmp_path / 'low'
  pretrained.save_huggingface(directory, TINY, varied_params(TINY), dtype='bfloat16')
  tensors = load_file(directory / 'model.safetensors')
  assert {tensor.dtype.name for tensor in tensors.values()} == {'bfloat16'}
  _, params = pretrained.load(directory)
  again = pretrained.save_huggingface(tmp_path / 'again', TINY, params, dtype='bfloat16')
  original = (directory / 'model.safetensors').read_bytes()
  assert (again / 'model.safetensors').read_bytes() == original
  with pytest.raises(ValueError, match='int8'):
    pretrained.save_huggingface(directory, TINY, params, dtype='int8')


@pytest.mark.parametrize('config', [TINY, TIED], ids=['t5_1_1', 't5_1_0'])
def test_copies_of_the_embedding_are_one(export, varied_params, equal_trees, config):
  def change(settings, tensors):
    del settings
    for name in ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'):
      tensors[name] = tensors['shared.weight']
    if config.logits_via_embedding:
      tensors['lm_head.weight'] = tensors['shared.weight']
    unused = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
    tensors[unused] = np.ones((32, 3), np.float32)

  equal_trees(pretrained.load(export(config, change))[1], varied_params(config))


def test_one_copy_of_the_embedding_suffices(export, varied_params, equal_trees):
  def change(settings, tensors):
    del settings
    tensors['encoder.embed_tokens.weight'] = tensors.pop('shared.weight')

  equal_trees(pretrained.load(export(TINY, change))[1], varied_params(TINY))


@pytest.mark.parametrize('name', ['encoder.embed_tokens.weight', 'lm_head.weight'])
def test_copies_that_differ_are_an_error(export, name):
  def change(settings, tensors):
    del settings
    tensors[name] = tensors['shared.weight'] + 1

  with pytest.raises(ValueError, match=f'{name} and shared.weight differ'):
    pretrained.load(export(TIED, change))


def test_an_untied_head_that_is_absent_is_missing(export):
  def change(settings, tensors):
    del settings, tensors['lm_head.weight']

  with pytest.raises(ValueError, match=r'missing: 1\n  lm_head\.weight \[37, 12\]'):
    pretrained.load(export(TINY, change))


def test_settings_of_transformers_5_untied(export, varied_params, equal_trees):
  def change(settings, tensors):
    del tensors
    settings.update(tie_word_embeddings=True, scale_decoder_outputs=False)

  config, params = pretrained.load(export(TINY, change))
  assert config == TINY
  equal_trees(params, varied_params(TINY))


def test_settings_of_transformers_5_tied_but_not_scaled(export):
  def change(settings, tensors):
    del tensors['lm_head.weight']
    settings.update(tie_word_embeddings=True, scale_decoder_outputs=False)

  config, params = pretrained.load(export(TINY, change))
  assert config == TINY
  kernel = params['decoder']['logits_dense']['kernel']
  np.testing.assert_array_equal(kernel.T, params['token_embedder']['embedding'])


def test_settings_left_out_are_those_of_the_first_t5(export):
  def change(settings, tensors):
    del tensors
    for name in list(settings):
      if name.startswith(('relative', 'tie', 'feed', 'layer', 'dropout', 'pad', 'decoder')):
        del settings[name]

  assert pretrained.load(export(TIED, change))[0] == TIED


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('feed_forward_proj', 'gelu'),
    ('feed_forward_proj', 'gated-tanh'),
    ('dense_act_fn', 'gelu'),
    ('d_model', None),
    ('d_model', 'wide'),
    ('pad_token_id', 3),
    ('decoder_start_token_id', 3),
    ('scale_decoder_outputs', True),
    ('quantization_config', {'load_in_8bit': True}),
  ],
)
def test_settings_that_are_not_supported(export, name, value):
  directory = export(TINY, lambda settings, tensors: settings.update({name: value}))
  with pytest.raises(ValueError, match=r'config\.json'):
    pretrained.load(directory)


def test_an_export_replaces_an_export_and_nothing_else(tmp_path, varied_params):
  directory = tmp_path / 'exported'
  (tmp_path / 'vocabulary').write_bytes(b'pieces')
  vocabulary_path = tmp_path / 'vocabulary'
  params = varied_params(TINY)
  pretrained.save_huggingface(directory, TINY, params, vocabulary_path=vocabulary_path)
  assert (directory / 'spiece.model').read_bytes() == b'pieces'
  (directory / '.partial-interrupted').mkdir()
  pretrained.save_huggingface(directory, TIED, varied_params(TIED))
  assert pretrained.load(directory)[0] == TIED
  assert {path.name for path in directory.iterdir()} == {
    'config.json',
    'generation_config.json',
    'model.safetensors',
  }

  (directory / 'thesis.tex').touch()
  before = (directory / 'config.json').read_bytes()
  with pytest.raises(FileExistsError, match=r'thesis\.tex'):
    pretrained.save_huggingface(directory, TINY, params)
  assert (directory / 'config.json').read_bytes() == before
  with pytest.raises(FileExistsError, match='is a file'):
    pretrained.save_huggingface(directory / 'thesis.tex', TINY, params)


def test_an_export_checks_what_it_is_given(tmp_path, varied_params):
  directory, params = tmp_path / 'exported', varied_params(TINY)
  with pytest.raises(ValueError, match=r'params does not fit[\s\S]*decoder/logits_dense/kernel'):
    pretrained.save_huggingface(directory, TIED, params)
  with pytest.raises(FileNotFoundError, match=r'no\.model'):
    pretrained.save_huggingface(directory, TINY, params, vocabulary_path=tmp_path / 'no.model')
  config = dataclasses.replace(TINY, mlp_activations=('relu', 'gelu'))
  with pytest.raises(ValueError, match='mlp_activations'):
    pretrained.save_huggingface(directory, config, params)
  assert not directory.exists()


def test_an_exit_classifier_is_left_out_and_that_is_said(
  tmp_path, varied_params, equal_trees, capsys
):
  config = dataclasses.replace(TINY, exit_classifier=True)
  params = varied_params(config)
  pretrained.save_huggingface(tmp_path / 'out', config, params)
  assert f'{tmp_path}/out: written without the exit classifier' in capsys.readouterr().err
  found, loaded = pretrained.load(tmp_path / 'out')
  assert found == TINY
  del params['decoder']['exit_classifier']
  equal_trees(loaded, params)
