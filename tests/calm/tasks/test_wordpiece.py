"""Texts and pairs as an encoder takes them: frames, types, cuts, counts, identity."""

import os
import shutil

import numpy as np
import pytest

from calm import fingerprints
from calm.tasks import tokenizer_files, wordpiece
from calm.tasks.tokenization import ExampleError

PAD, UNK, CLS, SEP, MASK, THE, CAT, S, _S, SAT, _AT, DOT = range(12)


@pytest.fixture
def tokenizer(wordpiece_folder):
  return wordpiece.load(wordpiece_folder())


def one(tokenizer, *texts, max_length=99, **options):
  (encoded,) = tokenizer.encode([texts], max_length, **options)
  assert encoded.tokens.dtype == encoded.token_types.dtype == np.int32
  return encoded


def test_a_text_and_a_pair_have_their_frames_and_types(tokenizer):
  text = one(tokenizer, 'The cats sat.')
  assert text.tokens.tolist() == [CLS, THE, CAT, _S, SAT, DOT, SEP]
  assert text.token_types.tolist() == [0] * 7
  pair = one(tokenizer, 'the cat', 'sat')
  assert pair.tokens.tolist() == [CLS, THE, CAT, SEP, SAT, SEP]
  assert pair.token_types.tolist() == [0, 0, 0, 0, 1, 1]
  assert one(tokenizer, '').tokens.tolist() == [CLS, SEP]
  assert one(tokenizer, '', '').tokens.tolist() == [CLS, SEP, SEP]


def test_a_network_that_takes_no_types_gets_zeros(wordpiece_folder):
  tokenizer = wordpiece.load(wordpiece_folder(model_input_names=['input_ids']))
  assert one(tokenizer, 'the', 'cat').token_types.tolist() == [0] * 5


def test_what_is_unknown_is_counted(tokenizer, byte_level_folder):
  assert one(tokenizer, 'the dog saw the zebra.').num_unknown == 3
  assert one(tokenizer, 'the cat').num_unknown == 0
  assert one(wordpiece.load(byte_level_folder()), 'the dog 😀').num_unknown == 0


def test_what_texts_lose_is_told_in_words(tokenizer):
  rows = [('the cat',), ('the cats sat',), ('the dog',)]
  assert wordpiece.lost(tokenizer.encode(rows, 5, truncate=True), 5) == [
    '1 of 3 texts are cut to 5 tokens',
    '1 of 3 texts have unknown tokens',
  ]
  assert wordpiece.lost(tokenizer.encode(rows[:2], 9), 9) == []
  assert wordpiece.lost(iter(()), 9) == []


def test_cutting_is_an_error_that_names_the_row_unless_it_is_allowed(tokenizer):
  rows = [('the cat',), ('the cats sat',)]
  assert [e.num_cut for e in tokenizer.encode(rows, 6)] == [0, 0]
  with pytest.raises(ExampleError, match=r'^row 1 has 6 tokens, and the length is 5: set it'):
    list(tokenizer.encode(rows, 5))
  with pytest.raises(ExampleError, match=r'^data\.tsv:7 has 6 tokens'):
    list(tokenizer.encode(rows, 5, where=['data.tsv:3', 'data.tsv:7']))
  cut = one(tokenizer, *rows[1], max_length=5, truncate=True)
  assert cut.tokens.tolist() == [CLS, THE, CAT, _S, SEP]
  assert cut.num_cut == 1


@pytest.mark.parametrize(
  ('lengths', 'budget', 'kept'),
  [
    ([9], 4, [4]),
    ([9, 2], 8, [6, 2]),
    ([2, 9], 8, [2, 6]),
    ([9, 8], 8, [4, 4]),
    ([9, 8], 7, [4, 3]),
    ([8, 9], 7, [3, 4]),
    ([5, 5], 7, [3, 4]),
    ([9, 0], 3, [3, 0]),
  ],
)
def test_the_longer_text_gives_way(lengths, budget, kept):
  assert wordpiece.lengths_of_parts(lengths, budget) == kept


def test_a_pair_is_cut_to_the_length_with_its_frame(tokenizer):
  cut = one(tokenizer, 'cat ' * 7, 'the the', max_length=8, truncate=True)
  assert cut.tokens.tolist() == [CLS, CAT, CAT, CAT, SEP, THE, THE, SEP]
  assert cut.token_types.tolist() == [0] * 5 + [1] * 3
  assert cut.num_cut == 4


def test_a_length_that_holds_no_text_is_an_error(tokenizer):
  with pytest.raises(ValueError, match='A length of 4 holds no token of 2 texts'):
    one(tokenizer, 'the', 'cat', max_length=4, truncate=True)
  with pytest.raises(ValueError, match='A length of 2 holds no token of 1 text'):
    one(tokenizer, 'the', max_length=2, truncate=True)


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ((), '0 texts'),
    ('ab', 'not a tuple'),
    (('a', 'b', 'c'), '3 texts'),
    (('the', None), 'None is no text'),
    (('cat \ud83d',), 'half a character'),
  ],
)
def test_rows_that_are_no_texts_are_named(tokenizer, row, message):
  with pytest.raises(ExampleError, match=f'^row 1: .*{message}'):
    list(tokenizer.encode([('the',), row], 9))


def test_rows_come_in_order_however_many(tokenizer, monkeypatch):
  monkeypatch.setattr(wordpiece, '_CHUNK', 3)
  rows = [('the ' * i,) if i % 2 else ('cat', 'the ' * i) for i in range(8)]
  counts = [int((e.tokens == THE).sum()) for e in tokenizer.encode(rows, 30)]
  assert counts == list(range(8))


def test_sizes_are_those_a_model_needs(tokenizer, byte_level_folder):
  assert (tokenizer.vocab_size, tokenizer.pad_id) == (17, PAD)
  other = wordpiece.load(byte_level_folder(special=('[CLS]', '[SEP]', '[PAD]')))
  assert (other.vocab_size, other.pad_id) == (256 + 6 + 4, 2)


def test_identity_is_by_content(tokenizer, wordpiece_folder, whole_folder, byte_level_folder):
  whole = tokenizer_files.read(wordpiece_folder('a')).tokenizer
  whole.enable_padding(length=9)
  for same in (wordpiece_folder('b', do_lower_case=True), whole_folder(whole)):
    assert wordpiece.load(same).identity == tokenizer.identity
    assert not fingerprints.differences(
      fingerprints.identity(wordpiece.load(same)), fingerprints.identity(tokenizer)
    )
  cased = wordpiece.load(wordpiece_folder('cased', do_lower_case=False))
  words = fingerprints.differences(tokenizer.identity, cased.identity)
  assert words['normalizer.lowercase'] == ('True', 'False')
  others = [
    wordpiece.load(wordpiece_folder('c', words=('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'the'))),
    wordpiece.load(wordpiece_folder('d', model_input_names=['input_ids'])),
    wordpiece.load(byte_level_folder()),
    cased,
  ]
  found = [tokenizer.identity, *(other.identity for other in others)]
  assert all(a != b for i, a in enumerate(found) for b in found[:i])


TEXTS = (
  'The cats sat.',
  '',
  'The café, [SEP] 中 — x',
  'cat ' * 30,
  "the cat's  \t\n zebra 😀",
)
ROWS = [(a,) for a in TEXTS] + [(a, b) for a in TEXTS for b in TEXTS]


def assert_equal_to_transformers(folder, rows=ROWS, lengths=(99, 33, 16, 7)):
  transformers = pytest.importorskip('transformers')
  theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), wordpiece.load(folder)
  assert (len(theirs), theirs.pad_token_id) == (ours.vocab_size, ours.pad_id)
  for length in lengths:
    for row, encoded in zip(rows, ours.encode(rows, length, truncate=True), strict=True):
      columns = [[text] for text in row]
      expected = theirs(*columns, truncation=True, max_length=length)
      assert encoded.tokens.tolist() == expected['input_ids'][0], row
      assert encoded.token_types.tolist() == expected['token_type_ids'][0], row


@pytest.mark.parametrize('cased', [False, True])
def test_wordpiece_equals_transformers(wordpiece_folder, cased):
  folder = wordpiece_folder(do_lower_case=not cased, tokenizer_class='BertTokenizer')
  (folder / 'config.json').write_text('{"model_type": "bert"}')
  assert_equal_to_transformers(folder)


def test_byte_level_equals_transformers(byte_level_folder):
  folder = byte_level_folder(tokenizer_class='DebertaTokenizer')
  (folder / 'config.json').write_text('{"model_type": "deberta"}')
  # Of single texts: transformers 5 frames pairs otherwise than DeBERTa was trained.
  assert_equal_to_transformers(folder, [row for row in ROWS if len(row) == 1])


@pytest.mark.skipif('MINILM_DIRECTORY' not in os.environ, reason='MINILM_DIRECTORY is not set')
def test_a_real_tokenizer_equals_transformers_from_either_file(tmp_path):
  directory = os.environ['MINILM_DIRECTORY']
  assert_equal_to_transformers(directory, lengths=(300, 64, 9))
  for name in ('vocab.txt', 'tokenizer_config.json'):
    shutil.copy(os.path.join(directory, name), tmp_path)
  assert wordpiece.load(tmp_path).identity == wordpiece.load(directory).identity
