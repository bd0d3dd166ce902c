"""Which checkpoint is recognised, what fits, and what is said when it does not."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tensorstore as ts
from flax import serialization

from calm import configuration
from calm.models import parameters, pretrained, t5

TINY = t5.T5Config(37, 12, 3, 5, 17, 2, 3)
OTHER = dataclasses.replace(TINY, emb_dim=9, num_decoder_layers=5)
KINDS = {
  't5_1_1': TINY,
  't5_1_0': dataclasses.replace(TINY, mlp_activations=('relu',), logits_via_embedding=True),
}


def _write_t5x(directory, target):
  directory.mkdir()
  tree = {'version': 3, 'optimizer': {'target': target}}
  (directory / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))


def _write_zarr(path, value):
  chunks = [max(1, size // 2) for size in value.shape]
  spec = {
    'driver': 'zarr',
    'dtype': value.dtype.name,
    'kvstore': {'driver': 'file', 'path': f'{path}/'},
    'metadata': {'chunks': chunks, 'shape': list(value.shape), 'compressor': {'id': 'gzip'}},
  }
  ts.open(spec, create=True).result().write(value).result()
  return spec


@pytest.fixture
def t5x_copy(fixtures, tmp_path):
  """A T5X checkpoint to be damaged."""
  return shutil.copytree(fixtures / 't5x_1_0_tiny/checkpoint_700', tmp_path / 'checkpoint_700')


@pytest.fixture
def huggingface_copy(tmp_path, varied_params):
  """A small T5 1.1 as transformers has it, to be damaged."""
  return pretrained.save_huggingface(tmp_path / 'exported', TINY, varied_params(TINY))


@pytest.mark.parametrize('config', KINDS.values(), ids=KINDS)
def test_arrays_inside_the_msgpack_file(tmp_path, varied_params, equal_trees, config):
  params = varied_params(config)
  _write_t5x(tmp_path / 'inline', params)
  inferred, loaded = pretrained.load(tmp_path / 'inline')
  assert inferred == config
  equal_trees(loaded, params)


def test_bfloat16_arrays_in_chunks_written_elsewhere(tmp_path, varied_params):
  params = parameters.flatten(varied_params(TINY))
  _write_t5x(tmp_path / 'checkpoint_3', {})
  target, rounded = {}, {}
  for name, value in params.items():
    folder = 'target.' + name.replace('/', '.')
    low = value.astype('bfloat16')
    spec = _write_zarr(tmp_path / 'checkpoint_3' / folder, low)
    spec['kvstore'] = {'driver': 'gcs', 'bucket': 'far', 'path': f'away/checkpoint_3/{folder}/'}
    target[name], rounded[name] = spec, low.astype(np.float32)
  tree = {'target': parameters.unflatten(target)}
  (tmp_path / 'checkpoint_3/checkpoint').write_bytes(serialization.msgpack_serialize(tree))
  _, loaded = pretrained.load(tmp_path / 'checkpoint_3', TINY)
  for name, value in parameters.flatten(loaded).items():
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, rounded[name])


def test_the_optimizer_state_may_be_absent(t5x_copy, fixtures, equal_trees):
  for folder in t5x_copy.glob('state.*'):
    shutil.rmtree(folder)
  _, params = pretrained.load(t5x_copy)
  equal_trees(params, pretrained.load(fixtures / 't5x_1_0_tiny/checkpoint_700')[1])


def test_a_checkpoint_that_does_not_fit_tells_all(fixtures):
  # One encoder layer too few, two decoder layers too many, another mlp_dim, an untied head.
  config = t5.T5Config(96, 16, 2, 12, 31, 2, 4, ('relu',))
  with pytest.raises(ValueError) as raised:
    pretrained.load(fixtures / 't5x_1_0_tiny/checkpoint_700', config)
  text = str(raised.value)
  missing, rest = text.split('unexpected: ')
  unexpected, different = rest.split('shapes that differ: ')
  assert 'missing: 27' in missing  # 13 in each decoder layer, and the head.
  assert 'decoder.logits_dense.kernel [16, 96]' in missing
  assert 'decoder.layers_3.mlp.wo.kernel [31, 16]' in missing
  assert unexpected.startswith('8')
  assert 'encoder.layers_2.mlp.wi.kernel [16, 32]' in unexpected
  assert different.startswith('8')
  assert 'encoder.layers_0.mlp.wi.kernel: expected [16, 31], found [16, 32]' in different


def test_settings_without_a_shape_are_compared_too(huggingface_copy):
  config = dataclasses.replace(TINY, relpos_max_distance=99, norm_epsilon=1e-5)
  with pytest.raises(ValueError, match=r'relpos_max_distance: .* 99, .* 128') as raised:
    pretrained.load(huggingface_copy, config)
  assert 'norm_epsilon' in str(raised.value)


def test_choices_for_training_are_the_users(huggingface_copy):
  config = dataclasses.replace(TINY, dropout_rate=0.0, dtype='bfloat16', remat=True)
  assert pretrained.load(huggingface_copy, config)[0] == config


@pytest.mark.parametrize('kind', ['huggingface', 't5x'])
def test_the_decoder_is_cut_on_request_only(
  tmp_path, huggingface_copy, varied_params, equal_trees, kind
):
  directory = huggingface_copy
  if kind == 't5x':
    directory = tmp_path / 'inline'
    _write_t5x(directory, varied_params(TINY))
  config = dataclasses.replace(TINY, num_decoder_layers=2)
  with pytest.raises(ValueError, match='cut_decoder=True'):
    pretrained.initial_params(directory, t5.T5(config))
  params = varied_params(TINY)
  del params['decoder']['layers_2']
  equal_trees(pretrained.initial_params(directory, t5.T5(config), cut_decoder=True), params)


def test_more_decoder_layers_than_there_are_stay_an_error(huggingface_copy):
  config = dataclasses.replace(TINY, num_decoder_layers=4)
  with pytest.raises(ValueError, match=r'decoder\.block\.3\.'):
    pretrained.initial_params(huggingface_copy, t5.T5(config), cut_decoder=True)


@pytest.mark.parametrize('kind', ['t5x', 'huggingface'])
def test_a_classifier_that_is_not_there_is_not_made_up(kind, t5x_copy, huggingface_copy):
  directory = t5x_copy if kind == 't5x' else huggingface_copy
  config, _ = pretrained.load(directory)
  config = dataclasses.replace(config, exit_classifier=True)
  message = r"missing: 2\n[\s\S]*initial_params\(fresh='PATTERN'\)"
  with pytest.raises(ValueError, match=message):
    pretrained.load(directory, config)
  with pytest.raises(ValueError, match=message):
    pretrained.initial_params(directory, t5.T5(config))


@pytest.mark.parametrize('kind', ['t5x', 'huggingface'])
def test_fresh_parameters_are_a_new_models_and_all_others_the_checkpoints(
  tmp_path, huggingface_copy, varied_params, kind
):
  directory = huggingface_copy
  if kind == 't5x':
    directory = tmp_path / 'inline'
    _write_t5x(directory, varied_params(TINY))
  model = t5.T5(dataclasses.replace(TINY, exit_classifier=True))
  fresh = r'exit_classifier/|logits_dense/'
  params = pretrained.initial_params(directory, model, fresh=fresh, seed=3)
  new = parameters.flatten(model.init_params(jax.random.key(3)))
  kept = parameters.flatten(varied_params(TINY))
  flat = parameters.flatten(params)
  assert flat.keys() == new.keys()
  for name, value in flat.items():
    expected = new if name.startswith(('decoder/exit_classifier', 'decoder/logits')) else kept
    np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


def test_fresh_parameters_may_have_another_shape_in_the_checkpoint(tmp_path, varied_params):
  params = varied_params(TINY)
  params['decoder']['exit_classifier'] = {'kernel': np.ones((99, 2)), 'bias': np.ones(2)}
  _write_t5x(tmp_path / 'inline', params)
  model = t5.T5(dataclasses.replace(TINY, exit_classifier=True))
  loaded = pretrained.initial_params(tmp_path / 'inline', model, fresh='exit_classifier/')
  assert loaded['decoder']['exit_classifier']['kernel'].shape == (TINY.emb_dim, 1)


def test_fresh_parameters_excuse_no_others(huggingface_copy):
  config = dataclasses.replace(TINY, exit_classifier=True, num_encoder_layers=1)
  with pytest.raises(ValueError) as raised:
    pretrained.initial_params(huggingface_copy, t5.T5(config), fresh='exit_classifier/')
  assert 'missing: none' in str(raised.value)
  assert 'unexpected: 9\n  encoder.block.1.layer.0' in str(raised.value)


def test_a_pattern_that_names_nothing_is_an_error(huggingface_copy):
  with pytest.raises(ValueError, match=r"'exit_clas' is found in no parameter; .*logits_dense/"):
    pretrained.initial_params(huggingface_copy, t5.T5(TINY), fresh='exit_clas')


@pytest.mark.parametrize('model_type', ['bart', 'umt5', 'longt5', None, ['t5']])
def test_a_network_of_an_unknown_kind_is_refused_and_the_known_ones_are_listed(
  huggingface_copy, model_type
):
  path = huggingface_copy / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'model_type': model_type}))
  with pytest.raises(ValueError) as raised:
    pretrained.load(huggingface_copy)
  known = ', '.join(pretrained.READERS)
  assert str(raised.value) == f'{path}: model_type is {model_type!r}; known are {known}.'


def test_a_classifier_that_is_there_is_read(tmp_path, varied_params, equal_trees):
  config = dataclasses.replace(TINY, exit_classifier=True)
  params = varied_params(config)
  _write_t5x(tmp_path / 'inline', params)
  _, loaded = pretrained.load(tmp_path / 'inline', config)
  equal_trees(loaded, params)


def test_shards_without_their_index(huggingface_copy):
  (huggingface_copy / 'model.safetensors').rename(huggingface_copy / 'model-00001.safetensors')
  with pytest.raises(FileNotFoundError, match=r'index\.json is missing.* model-00001\.safetensors'):
    pretrained.load(huggingface_copy)


def test_directories_without_a_checkpoint(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    pretrained.load(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match=r'config\.json'):
    pretrained.load(tmp_path)
  (tmp_path / 'pytorch_model.bin').touch()
  with pytest.raises(FileNotFoundError, match='safetensors'):
    pretrained.load(tmp_path)
  (tmp_path / 'checkpoint_500').mkdir()
  with pytest.raises(FileNotFoundError, match='checkpoint_500'):
    pretrained.load(tmp_path)


def test_a_parameter_whose_folder_is_gone(t5x_copy):
  shutil.rmtree(t5x_copy / 'target.encoder.layers_1.mlp.wo.kernel')
  with pytest.raises(ValueError, match=r'encoder\.layers_1\.mlp\.wo\.kernel cannot be read'):
    pretrained.load(t5x_copy)


def test_a_missing_chunk_is_not_read_as_zeros(t5x_copy):
  (t5x_copy / 'target.encoder.layers_1.mlp.wo.kernel/0.0').unlink()
  with pytest.raises(ValueError, match=r'encoder\.layers_1\.mlp\.wo\.kernel .*missing'):
    pretrained.load(t5x_copy)


def test_a_damaged_chunk(t5x_copy):
  (t5x_copy / 'target.token_embedder.embedding/0.0').write_bytes(b'damaged')
  with pytest.raises(ValueError, match=r'token_embedder\.embedding cannot be read'):
    pretrained.load(t5x_copy)


@pytest.mark.parametrize('content', [b'', b'\xc1', b'text', b'\x93\x01'])
def test_a_damaged_tree(t5x_copy, content):
  (t5x_copy / 'checkpoint').write_bytes(content)
  with pytest.raises(ValueError, match='checkpoint_700/checkpoint'):
    pretrained.load(t5x_copy)


def test_half_a_tree(t5x_copy):
  content = (t5x_copy / 'checkpoint').read_bytes()
  (t5x_copy / 'checkpoint').write_bytes(content[: len(content) // 2])
  with pytest.raises(ValueError, match='not a whole msgpack file'):
    pretrained.load(t5x_copy)


@pytest.mark.parametrize(
  ('leaf', 'message'),
  [
    (None, 'neither an array'),
    ({'driver': 'n5'}, "'n5'"),
    ({'driver': 'zarr'}, 'names no folder'),
    ({'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': 'a/..'}}, 'names no folder'),
  ],
)
def test_a_leaf_that_cannot_be_opened(tmp_path, leaf, message):
  _write_t5x(tmp_path / 'odd', {'token_embedder': {'embedding': leaf}})
  with pytest.raises(ValueError, match=message):
    pretrained.load(tmp_path / 'odd')


def test_sizes_that_cannot_be_inferred(tmp_path, varied_params):
  params = varied_params(TINY)
  del params['decoder']['relpos_bias']
  _write_t5x(tmp_path / 'odd', params)
  with pytest.raises(ValueError, match='give a config'):
    pretrained.load(tmp_path / 'odd')
  with pytest.raises(ValueError, match=r'missing: 1\n  decoder\.relpos_bias\.rel_embedding'):
    pretrained.load(tmp_path / 'odd', TINY)


def test_a_run_has_the_sizes_of_the_checkpoint_that_it_has_begun_with(
  huggingface_copy, fixtures, tmp_path, capsys
):
  run, other = tmp_path / 'run', fixtures / 't5x_1_0_tiny/checkpoint_700'
  wanted = {huggingface_copy: TINY, other: pretrained.config_of(other)}
  for directory in (other, huggingface_copy):  # As of a command with the wrong one, then the right.
    for _ in range(2):
      found = pretrained.config_in_workdir(run, directory, OTHER)
      assert found == wanted[directory]
  assert capsys.readouterr().err.count('sizes inferred') == 2  # Once it is asked for above.
  configuration.save(run, '')
  assert pretrained.config_in_workdir(run, other, OTHER) == TINY
  shutil.rmtree(huggingface_copy)
  assert pretrained.config_in_workdir(run, huggingface_copy, OTHER) == TINY
  assert pretrained.config_in_workdir(tmp_path / 'next', run, OTHER) == TINY
