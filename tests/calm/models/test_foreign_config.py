"""Settings of other libraries are read, refused by name, or of no account; never dropped."""

import json

import pytest

from calm.models import foreign_config
from calm.models.foreign_config import Settings


def settings(tmp_path, **values):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(values))
  return Settings.read(path)


def test_what_fits_is_read_and_what_is_absent_or_null_is_the_default(tmp_path):
  found = settings(tmp_path, width=3, eps=1e-6, whole=2, tied=True, act='relu', none=None)
  assert (found.size('width'), found.size('depth', 7), found.size('none', 5)) == (3, 7, 5)
  assert (found.number('eps'), found.number('whole'), found.number('rate', 0.1)) == (1e-6, 2, 0.1)
  assert (found.flag('tied'), found.flag('cached', False)) == (True, False)
  assert found.choice('act', ('relu', 'gelu')) == 'relu'
  assert 'width' in found
  assert 'none' not in found
  found.finish()


@pytest.mark.parametrize(
  'value', ['512', -1, 0, 1e12, 10**30, 512.0, True, [512], {}, float('nan')]
)
def test_a_size_is_a_whole_number_in_range(tmp_path, value):
  with pytest.raises(ValueError, match=r'config\.json: d_model is .*whole number from 1 to'):
    Settings({'d_model': value}, tmp_path / 'config.json').size('d_model', 512)


@pytest.mark.parametrize('value', ['1e-6', -1, 2, True, float('nan'), float('inf'), 10**400, []])
def test_a_number_is_finite_and_in_range(tmp_path, value):
  with pytest.raises(ValueError, match=r'config\.json: eps is .*number from 0 to 1'):
    Settings({'eps': value}, tmp_path / 'config.json').number('eps', 1e-6, 0, 1)


@pytest.mark.parametrize('value', [1, 0, 'true', []])
def test_a_flag_is_true_or_false(tmp_path, value):
  with pytest.raises(ValueError, match=r'config\.json: tied is .*true or false'):
    settings(tmp_path, tied=value).flag('tied', True)


@pytest.mark.parametrize('value', [1, True, ['5']])
def test_a_text_is_a_text(tmp_path, value):
  assert settings(tmp_path, version='5').text('version') == '5'
  with pytest.raises(ValueError, match=r'config\.json: version is .*text'):
    settings(tmp_path, version=value).text('version', '4')


@pytest.mark.parametrize('value', ['BertModel', 7, {}, [7], [['BertModel']]])
def test_texts_are_a_list_of_them(tmp_path, value):
  assert settings(tmp_path, names=['a', 'b']).texts('names') == ('a', 'b')
  assert settings(tmp_path).texts('names') == ()
  with pytest.raises(ValueError, match=r'config\.json: names is .*list of texts'):
    settings(tmp_path, names=value).texts('names')


@pytest.mark.parametrize('value', ['GELU', 1, ['relu'], {'relu': 1}])
def test_a_choice_is_one_of_the_words(tmp_path, value):
  with pytest.raises(ValueError, match=r'config\.json: act is .*known are relu, gelu'):
    settings(tmp_path, act=value).choice('act', ('relu', 'gelu'), 'relu')


@pytest.mark.parametrize(
  ('value', 'words'),
  [(None, ()), ([], ()), (['b', 'a'], ('b', 'a')), ('a', ('a',)), ('B | a', ('b', 'a'))],
)
def test_words_are_a_list_or_a_text(tmp_path, value, words):
  assert settings(tmp_path, kinds=value).words('kinds', ('a', 'b')) == words


@pytest.mark.parametrize('value', ['', 'c', 'a|a', 'a|', ['A'], ['a', 1], [['a']], 1, {'a': 1}])
def test_words_are_known_and_each_is_there_once(tmp_path, value):
  with pytest.raises(ValueError, match=r'config\.json: kinds is .*known are a, b, each at most'):
    settings(tmp_path, kinds=value).words('kinds', ('a', 'b'))


@pytest.mark.parametrize('value', [True, 1.0, 2, '1', [1]])
def test_only_what_can_be_done_with_is_let_pass(tmp_path, value):
  for good in (1, None):
    settings(tmp_path, eos=good).only('eos', (1,))
  with pytest.raises(ValueError, match=r'config\.json: eos is .*only 1 is supported'):
    settings(tmp_path, eos=value).only('eos', (1,))


def test_what_is_required_and_absent_is_named(tmp_path):
  for read in (Settings.size, Settings.number, Settings.flag):
    with pytest.raises(ValueError, match=r'config\.json lacks d_model'):
      read(settings(tmp_path, d_model=None), 'd_model')


def test_what_nobody_asked_for_is_refused_unless_it_is_of_no_account(tmp_path):
  found = settings(tmp_path, d_modle=3, _note='x', torch_dtype='float32')
  found.size('d_model', 3)
  with pytest.raises(ValueError, match=r'config\.json: d_modle is 3; .*is d_model meant'):
    found.finish()
  found.finish({'d_modle', 'torch_dtype'})


def test_a_long_value_is_cut(tmp_path):
  with pytest.raises(ValueError) as raised:
    settings(tmp_path, act='relu' * 10**6).choice('act', ('relu',))
  assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_settings_of_generation_that_do_something_are_named(tmp_path, capsys):
  found = settings(tmp_path, num_beams=4, length_penalty=1.0, max_length=21)
  foreign_config.warn_of_generation(found, 'Decoding is greedy.')
  assert capsys.readouterr().err == (
    f'{found.path}: not carried: max_length 21, num_beams 4. Decoding is greedy.\n'
  )
  found.finish()
  found = settings(tmp_path, num_beans=4, eos=1, transformers_version='5', _note=1, top_k=50)
  found.only('eos', (1,))
  foreign_config.warn_of_generation(found, 'Decoding is greedy.')
  assert not capsys.readouterr().err
  foreign_config.warn_of_generation(found, 'Decoding is greedy.', others=True)
  expected = f'{found.path}: not carried: num_beans 4. Decoding is greedy.\n'
  assert capsys.readouterr().err == expected
