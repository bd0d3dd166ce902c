"""T5s of transformers, read and written without it."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
import seqio
from safetensors.numpy import load_file

from calm.models import pretrained, t5

TINY = t5.T5Config(37, 12, 3, 5, 17, 2, 3)
TIED = dataclasses.replace(TINY, mlp_activations=('relu',), logits_via_embedding=True)


@pytest.fixture
def export(altered_export, varied_params):
  """Writes a config's params and lets `change` alter settings and tensors; gives the directory."""

  def write(config=TINY, change=None):
    return altered_export(config, varied_params(config), change)

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


def no_size(name):
  """Values of a setting that are no size, or another than that of the weights."""
  return [(name, value) for value in ('12', -1, 0, 1e12, 10**9, 10**30, 12.5, True, [12], 13, 1)]


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    *no_size('vocab_size'),
    *no_size('d_model'),
    *no_size('num_heads'),
    *no_size('d_kv'),
    *no_size('d_ff'),
    *no_size('num_layers'),
    *no_size('num_decoder_layers'),
    *no_size('relative_attention_num_buckets'),
    ('d_model', None),
    ('relative_attention_max_distance', 16),
    ('relative_attention_max_distance', 10**9),
    ('relative_attention_max_distance', '128'),
    ('layer_norm_epsilon', -1e-6),
    ('layer_norm_epsilon', float('nan')),
    ('layer_norm_epsilon', '1e-6'),
    ('dropout_rate', 1.0),
    ('dropout_rate', True),
    ('feed_forward_proj', 'gelu'),
    ('feed_forward_proj', 'gated-tanh'),
    ('feed_forward_proj', 'relu'),
    ('feed_forward_proj', ['gated-gelu']),
    ('dense_act_fn', 'gelu'),
    ('is_gated_act', False),
    ('architectures', ['T5EncoderModel']),
    ('pad_token_id', 3),
    ('eos_token_id', 3),
    ('eos_token_id', [1, 2]),
    ('decoder_start_token_id', 3),
    ('tie_word_embeddings', 'false'),
    ('scale_decoder_outputs', True),
    ('scale_decoder_outputs', 0),
    ('is_decoder', True),
    ('is_encoder_decoder', False),
    ('pruned_heads', {'0': [1]}),
    ('quantization_config', {'load_in_8bit': True}),
    ('hidden_size', 12),
    ('d_modle', 12),
  ],
)
def test_a_setting_that_cannot_be_carried_is_refused_by_file_and_name(export, name, value):
  directory = export(TINY, lambda settings, tensors: settings.update({name: value}))
  begun = time.perf_counter()
  with pytest.raises(ValueError, match=rf'exported/config\.json.*\b{name}\b'):
    pretrained.load(directory)
  assert time.perf_counter() - begun < 1


@pytest.mark.parametrize('name', ['pad_token_id', 'eos_token_id', 'decoder_start_token_id'])
def test_other_special_tokens_of_generation_are_refused(export, name):
  directory = export()
  (directory / 'generation_config.json').write_text(json.dumps({name: 5}))
  with pytest.raises(ValueError, match=rf'generation_config\.json: {name} is 5'):
    pretrained.load(directory)


def test_how_text_was_generated_is_not_carried_and_that_is_said(export, capsys):
  directory = export(TINY, lambda settings, tensors: settings.update(num_beams=4, max_length=200))
  (directory / 'generation_config.json').write_text('{"length_penalty": 2.0, "eos_token_id": 1}')
  capsys.readouterr()
  assert pretrained.load(directory)[0] == TINY
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith(f'{directory}/config.json: not carried: max_length 200, num_beams 4. ')
  assert second.startswith(f'{directory}/generation_config.json: not carried: length_penalty 2.0. ')


def test_what_transformers_writes_beside_is_of_no_account(export, capsys):
  def change(settings, tensors):
    del tensors
    settings.update(
      _name_or_path='/somewhere',
      classifier_dropout=0.0,
      dense_act_fn='gelu_new',
      eos_token_id=[1],
      initializer_factor=1.0,
      is_gated_act=True,
      n_positions=512,
      output_past=True,
      pruned_heads={},
      task_specific_params=None,
      tokenizer_class='T5Tokenizer',
      transformers_version='4.23.1',
      use_cache=True,
    )

  directory = export(TINY, change)
  capsys.readouterr()
  assert pretrained.load(directory)[0] == TINY
  assert not capsys.readouterr().err


@pytest.mark.parametrize('name', ['encoder.block.1.layer.0.layer_norm.weight', 'shared.weight'])
def test_weights_that_are_not_finite_are_named(export, name):
  def change(settings, tensors):
    del settings
    tensors[name][..., 2] = np.nan

  with pytest.raises(ValueError, match=rf'model\.safetensors: {name} .* not finite'):
    pretrained.load(export(TINY, change))


MT5 = {'model_type': 'mt5', 'architectures': ['MT5ForConditionalGeneration']}


def test_mt5_is_a_t5_1_1(export, varied_params, equal_trees):
  def change(settings, tensors):
    del tensors, settings['feed_forward_proj'], settings['tie_word_embeddings']
    settings.update(MT5)

  config, params = pretrained.load(export(TINY, change))
  assert config == TINY
  equal_trees(params, varied_params(TINY))


def test_a_tied_mt5_is_one_of_transformers_5_whose_logits_are_not_scaled(export):
  def change(settings, tensors):
    del tensors['lm_head.weight']
    settings.update(MT5, tie_word_embeddings=True, transformers_version=version)

  version = '5.24.0'
  config, params = pretrained.load(export(TINY, change))
  assert not config.logits_via_embedding
  kernel = params['decoder']['logits_dense']['kernel']
  np.testing.assert_array_equal(kernel.T, params['token_embedder']['embedding'])
  version = '4.57.1'
  with pytest.raises(ValueError, match=r'config\.json: tie_word_embeddings is true'):
    pretrained.load(export(TINY, change))


def test_an_export_replaces_an_export_and_nothing_else(
  tmp_path, varied_params, sentencepiece_model
):
  directory = tmp_path / 'exported'
  vocabulary_path = tmp_path / 'vocabulary'
  vocabulary_path.write_bytes(sentencepiece_model(vocab_size=37))
  params = varied_params(TINY)
  pretrained.save_huggingface(directory, TINY, params, vocabulary_path=vocabulary_path)
  assert (directory / 'spiece.model').read_bytes() == vocabulary_path.read_bytes()
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
  (tmp_path / 'text').write_bytes(b'pieces')
  with pytest.raises(ValueError, match=r'/text: .*not a SentencePiece model'):
    pretrained.save_huggingface(directory, TINY, params, vocabulary_path=tmp_path / 'text')
  vocabulary = seqio.ByteVocabulary(extra_ids=0)
  with pytest.raises(ValueError, match=r'259 tokens and the model 37 \(vocab_size\)'):
    pretrained.save_huggingface(directory, TINY, params, vocabulary=vocabulary)
  config = dataclasses.replace(TINY, mlp_activations=('relu', 'gelu'))
  with pytest.raises(ValueError, match='mlp_activations'):
    pretrained.save_huggingface(directory, config, params)
  assert not directory.exists()


@pytest.mark.parametrize('max_decode_steps', [None, 64])
def test_an_export_keeps_the_decode_length(tmp_path, varied_params, max_decode_steps):
  directory = pretrained.save_huggingface(
    tmp_path / 'out', TINY, varied_params(TINY), max_decode_steps=max_decode_steps
  )
  generation = json.loads((directory / 'generation_config.json').read_text())
  # The token that decoding begins with counts there.
  assert generation.get('max_length') == (max_decode_steps and max_decode_steps + 1)


def test_an_export_says_what_it_wrote(tmp_path, varied_params, capsys):
  config = dataclasses.replace(TINY, vocab_size=270)
  params = varied_params(config)
  directory = pretrained.save_huggingface(
    tmp_path / 'out', config, params, vocabulary=seqio.ByteVocabulary(), max_decode_steps=7
  )
  number = sum(np.size(value) for value in jax.tree.leaves(params))
  files = ', '.join(sorted(path.name for path in directory.iterdir()))
  assert capsys.readouterr().err == (
    f'Wrote {directory}: {number:,} parameters as float32; outputs of at most 7 tokens; '
    f'a tokenizer of 259 pieces and 0 sentinels. Files: {files}.\n'
  )
  other = seqio.PassThroughVocabulary(size=30)
  pretrained.save_huggingface(tmp_path / 'out', config, params, vocabulary=other)
  err = capsys.readouterr().err
  assert (
    'no length was given; no tokenizer, for transformers has none that gives the tokens of ' in err
  )
  assert not (directory / 'tokenizer_config.json').exists()


@pytest.mark.parametrize('model_type', ['bpe', 'char', 'word'])
def test_a_vocabulary_of_which_transformers_would_make_other_tokens_is_not_written(
  tmp_path, varied_params, sentencepiece_model, capsys, model_type
):
  path = tmp_path / 'pieces.model'
  path.write_bytes(sentencepiece_model(model_type=model_type, hard_vocab_limit=False))
  params = varied_params(TINY)
  directory = pretrained.save_huggingface(tmp_path / 'out', TINY, params, vocabulary_path=path)
  assert f'has none that gives the tokens of {path}.' in capsys.readouterr().err
  assert sorted(path.name for path in directory.iterdir()) == [
    'config.json',
    'generation_config.json',
    'model.safetensors',
  ]


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
