"""Directories of config.json and safetensors, whatever model is in them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calm import storage
from calm.models import safetensors_directory
from calm.models.safetensors_directory import Tensors

TENSORS = {
  'word.weight': np.arange(15, dtype=np.float32).reshape(5, 3),
  'pooler.bias': np.array([0.1, -2.5], np.float32),
  'norm': np.float32([7]),
}
BESIDE = {'vocab.txt': None, 'extra.json': {'b': 1, 'a': 2}}


@pytest.fixture
def written(tmp_path):
  """A directory with TENSORS and one file beside them."""
  return safetensors_directory.write(tmp_path / 'new/exported', {'hidden': 3}, TENSORS, 'float32')


def read(directory, **options):
  tensors = Tensors(directory, **options)
  return {name: tensors.read(name) for name in tensors.shapes}


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for name, value in found.items():
    assert value.dtype == expected[name].dtype
    np.testing.assert_array_equal(value, expected[name])


def shard(directory, parts=2):
  """Splits the weights of a directory as transformers does."""
  tensors = load_file(directory / 'model.safetensors')
  (directory / 'model.safetensors').unlink()
  names = {name: f'model-{i % parts:05d}.safetensors' for i, name in enumerate(sorted(tensors))}
  for file in set(names.values()):
    save_file({name: tensors[name] for name in names if names[name] == file}, directory / file)
  index = {'metadata': {}, 'weight_map': names}
  (directory / 'model.safetensors.index.json').write_text(json.dumps(index))


def test_what_is_written_is_read_back(written):
  assert safetensors_directory.holds_weights(written)
  assert safetensors_directory.read_settings(written) == {'hidden': 3}
  assert Tensors(written).shapes == {name: value.shape for name, value in TENSORS.items()}
  assert_equal(read(written), TENSORS)
  assert sorted(path.name for path in written.iterdir()) == ['config.json', 'model.safetensors']
  assert len({path.stat().st_mode for path in written.iterdir()}) == 1


def test_equal_content_gives_equal_bytes(tmp_path, written):
  swapped = dict(reversed(TENSORS.items()))
  again = safetensors_directory.write(tmp_path / 'again', {'hidden': 3}, swapped)
  for name in ('config.json', 'model.safetensors'):
    assert (again / name).read_bytes() == (written / name).read_bytes()


def test_bfloat16_is_rounded_once(tmp_path):
  low = safetensors_directory.write(tmp_path / 'low', {}, TENSORS, 'bfloat16')
  assert_equal(read(low), {name: value.astype('bfloat16') for name, value in TENSORS.items()})


def test_views_are_written_as_they_look(tmp_path):
  transposed = {'word.weight': TENSORS['word.weight'].T}
  assert_equal(read(safetensors_directory.write(tmp_path / 'out', {}, transposed)), transposed)


def test_shards_are_one(written):
  shard(written)
  assert safetensors_directory.holds_weights(written)
  assert_equal(read(written), TENSORS)


def test_a_missing_shard_is_named(written):
  shard(written)
  (written / 'model-00001.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match=r'model-00001\.safetensors'):
    Tensors(written)


@pytest.mark.parametrize('weight_map', [None, {}, {'norm': '../model.safetensors'}])
def test_an_index_that_cannot_be_followed(written, weight_map):
  (written / 'model.safetensors').unlink()
  index = written / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': weight_map}))
  with pytest.raises(ValueError, match=index.name):
    Tensors(written)


@pytest.mark.parametrize('part', [0.0, 0.01, 0.2, 0.99])
def test_truncated_weights(written, part):
  path = written / 'model.safetensors'
  content = path.read_bytes()
  path.write_bytes(content[: int(part * len(content))])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    Tensors(written)


@pytest.mark.parametrize('content', [b'{"model_type": "t5"', b'[1]', b'\xff\xfe'])
def test_settings_that_are_not_json(written, content):
  (written / 'config.json').write_bytes(content)
  with pytest.raises(ValueError, match=r'config\.json'):
    safetensors_directory.read_settings(written)


def test_weights_without_settings(written):
  (written / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'holds weights but no config\.json'):
    safetensors_directory.read_settings(written)


def test_quantized_weights_are_refused_unless_unused(written):
  save_file({**TENSORS, 'norm': np.int8([7])}, written / 'model.safetensors')
  with pytest.raises(ValueError, match=r'norm is quantized \(I8\)'):
    Tensors(written)
  others = {name: value for name, value in TENSORS.items() if name != 'norm'}
  assert_equal(read(written, unused=('norm',)), others)


def test_copies_of_a_tensor_are_one_if_they_are_equal(tmp_path):
  word = TENSORS['word.weight']
  directory = safetensors_directory.write(tmp_path / 'out', {}, {'a': word, 'b': word, 'c': -word})
  tensors = Tensors(directory)
  tensors.merge('a', ('b', 'absent'))
  assert tensors.shapes == {'a': (5, 3), 'c': (5, 3)}
  with pytest.raises(ValueError, match='c and a differ'):
    tensors.merge('a', ('c',))
  tensors.merge('new', ('c',))
  tensors.copy('twin', 'new')
  assert tensors.shapes == {'a': (5, 3), 'new': (5, 3), 'twin': (5, 3)}
  np.testing.assert_array_equal(tensors.read('twin'), -word)


def test_a_directory_replaces_one_of_its_kind_and_nothing_else(tmp_path):
  directory, vocabulary = tmp_path / 'exported', tmp_path / 'words'
  vocabulary.write_bytes(b'words')
  beside = {**BESIDE, 'vocab.txt': vocabulary}
  safetensors_directory.write(directory, {'old': 1}, TENSORS, beside=beside)
  assert (directory / 'vocab.txt').read_bytes() == b'words'
  assert json.loads((directory / 'extra.json').read_text()) == BESIDE['extra.json']
  (directory / '.partial-interrupted').mkdir()
  safetensors_directory.write(directory, {'new': 1}, TENSORS, beside=BESIDE)
  assert safetensors_directory.read_settings(directory) == {'new': 1}
  names = {'config.json', 'extra.json', 'model.safetensors'}
  assert {path.name for path in directory.iterdir()} == names

  (directory / 'thesis.tex').touch()
  before = {path: path.read_bytes() for path in directory.iterdir()}
  with pytest.raises(FileExistsError, match=r'thesis\.tex'):
    safetensors_directory.write(directory, {}, TENSORS, beside=BESIDE)
  assert {path: path.read_bytes() for path in directory.iterdir()} == before
  with pytest.raises(FileExistsError, match='is a file'):
    safetensors_directory.write(directory / 'thesis.tex', {}, TENSORS)


@pytest.mark.parametrize(
  ('arguments', 'error', 'message'),
  [
    ({'dtype': 'int8'}, ValueError, "'int8' is not one of float32, bfloat16"),
    ({'directory': ''}, ValueError, 'EXPORT_DIRECTORY'),
    ({'beside': {'vocab.txt': 'no.words'}}, FileNotFoundError, r'no\.words .* vocab\.txt'),
  ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, arguments, error, message):
  monkeypatch.chdir(tmp_path)
  defaults = {'directory': 'out', 'settings': {}, 'tensors': TENSORS}
  with pytest.raises(error, match=message):
    safetensors_directory.write(**{**defaults, **arguments})
  assert not list(tmp_path.iterdir())


def test_an_interrupted_call_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
  directory = safetensors_directory.write(tmp_path / 'out', {'old': 1}, TENSORS, beside=BESIDE)
  replace, calls = type(directory).replace, []

  def replace_once(path, target):
    if target.parent == directory:
      calls.append(target.name)
      if len(calls) > 1:
        raise KeyboardInterrupt
    return replace(path, target)

  monkeypatch.setattr(type(directory), 'replace', replace_once)
  with pytest.raises(KeyboardInterrupt):
    safetensors_directory.write(directory, {'new': 1}, TENSORS, beside=BESIDE)
  assert calls[0] == 'model.safetensors'
  with pytest.raises(FileNotFoundError):
    safetensors_directory.read_settings(directory)


def test_one_process_writes_a_directory_at_a_time(tmp_path):
  directory = tmp_path / 'export'
  with (
    storage.lock(tmp_path / '.export.lock', 'an export'),
    pytest.raises(storage.BusyError, match=r'export is in use by another process \(pid'),
  ):
    safetensors_directory.write(directory, {}, {'a': np.zeros(3)})
  assert not directory.exists()
  safetensors_directory.write(directory, {}, {'a': np.zeros(3)})
  assert sorted(path.name for path in tmp_path.iterdir()) == ['export']


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_values_that_are_not_finite_are_named(tmp_path, value, dtype):
  word = TENSORS['word.weight'].copy()
  word[3, 1:] = value
  tensors = {**TENSORS, 'word.weight': word}
  directory = safetensors_directory.write(tmp_path / 'out', {}, tensors, dtype)
  with pytest.raises(ValueError, match=r'model\.safetensors: word\.weight .* 2 .*\[3, 1\]'):
    Tensors(directory).read('word.weight')
  assert Tensors(directory).read('norm') == 7


def test_values_beyond_float32_are_not_finite_there(written):
  save_file({**TENSORS, 'norm': np.float64([1e300])}, written / 'model.safetensors')
  with pytest.raises(ValueError, match=r'model\.safetensors: norm'):
    Tensors(written).read('norm')


def test_shards_hold_what_the_index_lists_and_each_tensor_once(written):
  shard(written)
  index = written / 'model.safetensors.index.json'
  listed = json.loads(index.read_text())
  first = written / listed['weight_map']['norm']
  listed['weight_map']['absent'] = first.name
  index.write_text(json.dumps(listed))
  with pytest.raises(ValueError, match=rf'{first.name} lacks absent'):
    Tensors(written)
  del listed['weight_map']['absent']
  index.write_text(json.dumps(listed))
  for path in written.glob('model-*'):
    save_file(TENSORS, path)
  with pytest.raises(ValueError, match=r'model-00001\.safetensors: .* model-00000'):
    Tensors(written)
