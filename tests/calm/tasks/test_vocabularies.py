"""A vocabulary is made of a task's own text, once and repeatably."""

import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
import tensorflow as tf

from calm import configuration, storage
from calm.tasks import text, vocabularies


@pytest.fixture
def words(translation, tmp_path):
  """A task whose vocabulary, `tmp_path`/sp.model, is yet to be made."""
  return translation(vocabulary=vocabularies.sentencepiece(str(tmp_path / 'sp.model')))


def make(task, path, size=41, **options):
  return vocabularies.write_vocabulary(task, str(path), size, **options)


def test_pad_is_0_eos_1_and_unknown_2(words, tmp_path):
  for vocabulary in (
    vocabularies.byte_vocabulary(),
    vocabularies.sentencepiece(make(words, tmp_path / 'sp.model')),
  ):
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
  assert vocabulary.vocab_size == 41
  assert vocabulary.encode('\N{SNOWMAN}')[-1] == 2


def test_text_comes_back(words, tmp_path):
  make(words, tmp_path / 'sp.model')
  vocabulary = words.output_features['targets'].vocabulary
  for example in text.examples(words, 'train'):
    for key in ('inputs_pretokenized', 'targets_pretokenized'):
      assert vocabulary.decode(vocabulary.encode(example[key])) == example[key]
  everything = ''.join(map(chr, range(32, 2000))) + '日本\n\t  é'
  vocabulary = vocabularies.byte_vocabulary()
  assert vocabulary.decode(vocabulary.encode(everything)) == everything
  assert min(vocabulary.encode(everything)) >= 3
  assert max(vocabulary.encode(everything)) < vocabulary.vocab_size == 259


def test_byte_fallback_spells_what_is_not_in_the_text(words, tmp_path):
  path = make(words, tmp_path / 'sp.model', 290, byte_fallback=True)
  vocabulary = vocabularies.sentencepiece(path)
  assert vocabulary.decode(vocabulary.encode('\N{SNOWMAN}')) == '\N{SNOWMAN}'


def test_written_twice_it_is_the_same_byte_for_byte(words, tmp_path):
  make(words, tmp_path / 'a.model')
  make(words, tmp_path / 'b.model')
  assert (tmp_path / 'a.model').read_bytes() == (tmp_path / 'b.model').read_bytes()


def test_a_run_keeps_a_copy_of_the_vocabulary_it_begins_with(tmp_path):
  base, run = tmp_path / 'base', tmp_path / 'run'

  def kept():
    return Path(vocabularies.in_workdir(str(run), str(base))).read_bytes()

  with pytest.raises(vocabularies.MissingVocabularyError, match=r'No vocabulary\.model or spiece'):
    kept()
  base.mkdir()
  (base / 'vocabulary.model').write_bytes(b'first')
  assert kept() == b'first'
  (base / 'vocabulary.model').write_bytes(b'second')
  with pytest.raises(vocabularies.VocabularyError, match=r'run/vocabulary\.model is another vocab'):
    kept()  # What a command with another base has left: the weights are not its.
  configuration.save(run, '')
  assert kept() == b'first'
  shutil.rmtree(base)
  assert kept() == b'first'
  assert {path.name for path in run.iterdir()} == {'config.gin', 'vocabulary.model'}


def test_a_checkpoint_without_a_vocabulary_is_used_with_that_of_the_run(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'vocabulary.model').write_bytes(b'own')
  path = vocabularies.in_workdir(str(tmp_path / 'run'), str(tmp_path / 't5x'))
  assert Path(path).read_bytes() == b'own'


def test_sentinels_follow_the_pieces(words, tmp_path):
  path = make(words, tmp_path / 'sp.model')
  assert vocabularies.sentencepiece(path, extra_ids=3).vocab_size == 44


def test_an_existing_file_stays_unless_it_is_to_be_overwritten(words, tmp_path, capsys):
  path = tmp_path / 'sp.model'
  path.write_bytes(b'mine')
  assert make(words, path) == str(path)
  assert path.read_bytes() == b'mine'
  assert 'stays as it is' in capsys.readouterr().err
  make(words, path, overwrite=True)
  assert path.read_bytes() != b'mine'


def test_nothing_but_the_vocabulary_is_left_in_new_folders(words, tmp_path):
  make(words, tmp_path / 'new' / 'folder' / 'sp.model')
  assert os.listdir(tmp_path / 'new' / 'folder') == ['sp.model']


def test_an_unwritten_file_leaves_nothing_behind(words, tmp_path, monkeypatch):
  def full(*_, **__):
    raise OSError('no space left')

  monkeypatch.setattr(vocabularies.tf.io.gfile, 'rename', full)
  with pytest.raises(OSError, match='no space'):
    make(words, tmp_path / 'new' / 'sp.model')
  assert os.listdir(tmp_path / 'new') == []


@pytest.mark.parametrize('size', [5000, 4])
def test_a_size_that_does_not_suit_the_text_is_an_error(words, tmp_path, size):
  with pytest.raises(
    ValueError, match=rf'No vocabulary of {size} pieces \(VOCAB_SIZE\): Vocabulary size'
  ):
    make(words, tmp_path / 'sp.model', size)
  assert not (tmp_path / 'sp.model').exists()


def test_text_without_a_word_is_an_error(translation, tmp_path):
  for records in ([], [{'en': '', 'fr': ' '}]):
    with pytest.raises(ValueError, match=r"'train' of task 'files' has no text; .*train\.jsonl"):
      make(translation(records, inputs='{en}'), tmp_path / 'sp.model')


def test_an_unknown_split_is_an_error(words, tmp_path):
  with pytest.raises(ValueError, match="no split 'test'"):
    make(words, tmp_path / 'sp.model', split='test')


def test_a_missing_vocabulary_names_the_command_that_makes_it(words):
  vocabulary = words.output_features['inputs'].vocabulary
  for use in (lambda: vocabulary.vocab_size, lambda: vocabulary.encode('x')):
    with pytest.raises(FileNotFoundError, match=r'sp\.model: make it with `calm vocab`'):
      use()


@pytest.mark.parametrize('path', ['', None])
def test_without_a_path_there_is_no_vocabulary_to_make_or_read(words, path):
  with pytest.raises(ValueError, match='no vocabulary to make: bytes need none'):
    vocabularies.write_vocabulary(words, path, 41)
  with pytest.raises(ValueError, match='set VOCABULARY_PATH'):
    vocabularies.sentencepiece(path)


def test_a_file_that_is_no_vocabulary_is_named(tmp_path):
  path = tmp_path / 'sp.model'
  path.write_text('some text')
  with pytest.raises(vocabularies.VocabularyError, match=r'sp\.model is not a SentencePiece model'):
    _ = vocabularies.sentencepiece(str(path)).vocab_size
  path.write_bytes(b'')
  with pytest.raises(vocabularies.VocabularyError, match=r'sp\.model has pad -1, EOS -1'):
    _ = vocabularies.sentencepiece(str(path)).vocab_size
  with pytest.raises(FileNotFoundError, match='make it with `calm vocab`'):
    _ = vocabularies.sentencepiece(str(tmp_path)).vocab_size


def test_special_tokens_that_are_others_are_named(tmp_path):
  # As SentencePiece numbers them if it is not told otherwise: unknown 0, EOS 2, and no pad.
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['a b c d'] * 9),
    model_prefix=str(tmp_path / 'sp'),
    vocab_size=9,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  vocabulary = vocabularies.sentencepiece(str(tmp_path / 'sp.model'))
  with pytest.raises(
    vocabularies.VocabularyError, match=r'sp\.model has pad -1, EOS 2 and unknown 0.*0, 1 and 2'
  ):
    vocabulary.encode('a')


def test_t5s_vocabulary_may_be_a_copy(words, tmp_path):
  vocabulary = vocabularies.t5(make(words, tmp_path / 'spiece.model'))
  assert vocabulary.vocab_size == 41 + 100


def test_t5s_vocabulary_out_of_reach_names_the_macro_for_a_copy(monkeypatch):
  def unreachable(path, _):
    raise tf.errors.AbortedError(None, None, f'{path}: could not resolve host')

  monkeypatch.setattr(vocabularies.tf.io.gfile, 'GFile', unreachable)
  with pytest.raises(
    FileNotFoundError, match=r'No vocabulary gs://.*resolve host.*: set VOCABULARY_PATH to a copy'
  ):
    _ = vocabularies.t5().vocab_size


def test_long_texts_are_read_to_their_end(translation, tmp_path):
  long = ' '.join(['un'] * 5000 + ['zzz'])
  task = translation([{'en': 'one', 'fr': long}] * 3)
  vocabulary = vocabularies.sentencepiece(make(task, tmp_path / 'sp.model', 12))
  assert vocabulary.decode(vocabulary.encode('zzz')) == 'zzz'


def test_one_process_makes_a_vocabulary_at_a_time(translation, tmp_path):
  path = tmp_path / 'sp.model'
  with (
    storage.lock(f'{path}.lock', 'a vocabulary'),
    pytest.raises(storage.BusyError, match=r'sp\.model is in use by another process \(pid'),
  ):
    vocabularies.write_vocabulary(translation(), str(path), 41)
  assert not path.exists()
  vocabularies.write_vocabulary(translation(), str(path), 41)
  assert [one.name for one in tmp_path.iterdir() if 'sp.model' in one.name] == ['sp.model']


def test_a_vocabulary_that_cannot_be_downloaded_is_told_in_a_line(monkeypatch):
  said = "Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve hostname', "
  said += 'error details: Could not resolve host: www.example.org\n\t when reading gs://there'

  def refuse(*_):
    raise tf.errors.AbortedError(None, None, said)

  monkeypatch.setattr(tf.io.gfile.GFile, 'read', refuse)
  with pytest.raises(vocabularies.MissingVocabularyError) as info:
    vocabularies.t5().encode('a')
  assert str(info.value) == (
    f'No vocabulary {vocabularies.T5_VOCABULARY} (Could not resolve host: www.example.org): set '
    'VOCABULARY_PATH to a copy of it, such as the spiece.model of a T5.'
  )
