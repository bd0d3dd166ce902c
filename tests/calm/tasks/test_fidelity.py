"""What a text loses on its way through a vocabulary is counted, and the first of it is shown."""

import re

import pytest

from calm.tasks import batches, fidelity, vocabularies

CODE = 'def f(x):\n    return x² # ½\n\tpass '
PLAIN = 'nothing to lose'


@pytest.fixture
def make(translation, tmp_path):
  """make(targets, **options): the largest vocabulary of a task with these targets, and the task."""

  def make(targets, **options):
    path = str(tmp_path / 'sp.model')
    vocabulary = vocabularies.sentencepiece(path)
    records = [{'en': 'x', 'fr': target} for target in targets]
    task = translation(records, inputs='{en}', vocabulary=vocabulary)
    try:
      vocabularies.write_vocabulary(task, path, 999, **options)
    except ValueError as error:  # SentencePiece says how many there may be.
      most = re.search(r'value <= (\d+)', str(error))
      if most is None:
        raise
      vocabularies.write_vocabulary(task, path, int(most[1]), **options)
    return vocabulary, task

  return make


def test_a_vocabulary_says_which_targets_do_not_come_back(make, capsys):
  make([PLAIN, CODE, CODE, 'two  spaces'])
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 2
  assert 'files train: 3 of 4 targets do not come back' in said[1]
  assert r"train.jsonl:2 has 'def f(x):\n    return x² " in said[1]
  assert "and would get 'def f(x): return x2 " in said[1]
  assert "NORMALIZATION = 'identity'" in said[1]


def test_a_vocabulary_may_keep_everything(make, capsys):
  texts = [PLAIN, CODE, ' a\r\n  b', 'e\u0301 \u00a0 \ufb01', '\n', '  ']
  vocabulary, task = make(texts, normalization='identity', keep_whitespace=True)
  assert [vocabulary.decode(vocabulary.encode(text)) for text in texts] == texts
  batches.train_batches(task, **SIZES, truncate=True)
  assert 'come back' not in capsys.readouterr().err


def test_symbols_of_ones_own_are_one_piece_each(make):
  vocabulary, _ = make(['a <sep> b'] * 9, user_symbols=('<sep>',))
  assert vocabulary.decode([vocabulary.encode('<sep>')[-1]]) == '<sep>'


@pytest.mark.parametrize(
  ('options', 'complaint'),
  [
    ({'normalization': 'none'}, "NORMALIZATION is 'none', not one of nmt_nfkc, nfkc"),
    ({'user_symbols': '<sep>'}, "USER_SYMBOLS is '<sep>', not a tuple of texts"),
    ({'user_symbols': ('',)}, 'USER_SYMBOLS is'),
  ],
)
def test_settings_of_a_vocabulary_that_cannot_be_are_named(make, options, complaint):
  with pytest.raises(ValueError, match=complaint):
    make([PLAIN], **options)


def test_what_the_trainer_would_skip_is_read_all_the_same(make):
  # A word longer than it takes, and characters that it keeps for itself.
  long = 'ж' * 9000
  vocabulary, _ = make([long, 'zzz \u2585 yyy', '用' * 5000])
  for text in ('ж', 'zzz', 'yyy', '用'):
    assert vocabulary.unk_id not in vocabulary.encode(text)


def test_examples_beyond_those_that_are_read_are_told(make, capsys):
  make([PLAIN, CODE, CODE], max_examples=1)
  said = capsys.readouterr().err
  assert 'Read the first 1 examples alone (max_examples).' in said
  assert 'come back' not in said


SIZES = {'batch_size': 1, 'inputs_length': 4, 'targets_length': 9}


def test_training_counts_what_is_unknown_changed_and_cut(make, translation, capsys):
  vocabulary, _ = make([PLAIN] * 3)
  capsys.readouterr()
  records = [
    {'en': 'x', 'fr': 'los'},
    {'en': PLAIN * 3, 'fr': 'l\nos'},
    {'en': 'x\N{SNOWMAN}', 'fr': 'l\N{SNOWMAN}'},
  ]
  task = translation(records, inputs='{en}', vocabulary=vocabulary)
  batches.train_batches(task, **SIZES, truncate=True)
  said = capsys.readouterr().err.splitlines()
  told = (re.search(r'train: (\d of \d .*?)[,:]', line)[1] for line in said)
  assert sorted(told) == [
    '1 of 3 inputs are cut to their length (TRUNCATE = True)',
    '1 of 3 inputs hold characters that the vocabulary does not know',
    '1 of 3 targets hold characters that the vocabulary does not know',
    '2 of 3 targets do not come back from their tokens',
  ]
  assert all('train.jsonl:' in line for line in said)
  assert "train.jsonl:3 has '\N{SNOWMAN}'" in ''.join(said)
  batches.train_batches(task, **SIZES, truncate=True)
  assert capsys.readouterr().err == ''


def test_bytes_lose_nothing():
  vocabulary = vocabularies.byte_vocabulary()
  losses = fidelity.Losses()
  losses.look(vocabulary, 'targets', [CODE], [vocabulary.encode(CODE)], ['here'])
  assert list(losses.lines()) == []
  assert fidelity.decode(vocabulary, [vocabulary.encode(CODE)]) == [CODE]
