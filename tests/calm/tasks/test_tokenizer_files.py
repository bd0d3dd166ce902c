"""Tokenizers in all the forms that checkpoints keep them in."""

import json

import pytest
import tokenizers
from tokenizers import models

from calm.tasks import tokenizer_files


def words_of(folder, *texts):
  """The tokens of a text or a pair, as words."""
  return tokenizer_files.read(folder).tokenizer.encode(*texts).tokens


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({}, ['the', 'cafe', '中', '.']),
    ({'do_lower_case': True, 'strip_accents': False}, ['the', 'café', '中', '.']),
    ({'do_lower_case': False}, ['The', 'café', '中', '.']),
    ({'do_lower_case': False, 'strip_accents': True}, ['The', 'cafe', '中', '.']),
    ({'tokenize_chinese_chars': False, 'strip_accents': None}, ['the', '[UNK]', '.']),
  ],
)
def test_case_accents_and_chinese_characters_are_as_told(
  wordpiece_folder, whole_folder, settings, words
):
  folder = wordpiece_folder(**settings)
  assert words_of(folder, 'The café中.') == ['[CLS]', *words, '[SEP]']
  # tokenizer_config.json decides over tokenizer.json.
  other = tokenizer_files.read(wordpiece_folder('other', do_lower_case=True)).tokenizer
  assert words_of(whole_folder(other, **settings), 'The café中.') == ['[CLS]', *words, '[SEP]']


def test_padding_and_truncation_inside_are_switched_off(wordpiece_folder, whole_folder):
  tokenizer = tokenizer_files.read(wordpiece_folder()).tokenizer
  tokenizer.enable_padding(length=9)
  tokenizer.enable_truncation(4)
  folder = whole_folder(tokenizer)
  assert words_of(folder, 'the cat') == ['[CLS]', 'the', 'cat', '[SEP]']
  assert len(words_of(folder, 'cat ' * 20)) == 22


def test_byte_level_tokens_know_spaces_and_all_characters(byte_level_folder):
  folder = byte_level_folder(tokenizer_class='DebertaTokenizer', do_lower_case=False)
  words = words_of(folder, 'the cat\n', ' the cat')
  assert words == ['[CLS]', 't', 'he', 'Ġcat', 'Ċ', '[SEP]', 'Ġthe', 'Ġcat', '[SEP]']
  encoded = tokenizer_files.read(folder).tokenizer.encode('\0 é中😀')
  assert len(encoded.ids) == 2 + len('\0 é中😀'.encode())
  spaced = byte_level_folder('spaced', add_prefix_space=True)
  assert words_of(spaced, 'the') == ['[CLS]', 'Ġthe', '[SEP]']


@pytest.mark.parametrize('mapped', [True, False])
def test_special_tokens_may_be_others(wordpiece_folder, mapped):
  words = ('<pad>', '<unk>', '<s>', '</s>', 'the', 'cat')
  special = {
    'pad_token': '<pad>',
    'unk_token': {'content': '<unk>', 'lstrip': False},
    'cls_token': '<s>',
    'sep_token': '</s>',
  }
  folder = wordpiece_folder(words=words, **({} if mapped else special))
  if mapped:
    (folder / 'special_tokens_map.json').write_text(json.dumps(special))
  assert words_of(folder, 'the dog', 'cat') == ['<s>', 'the', '<unk>', '</s>', 'cat', '</s>']
  assert tokenizer_files.read(folder).special['pad_token'] == '<pad>'


def test_added_tokens_stay_whole(wordpiece_folder):
  entry = {'content': '[SEP]', 'special': True, 'normalized': False}
  user = {'content': '<user>', 'special': True, 'normalized': False}
  folder = wordpiece_folder(added_tokens_decoder={'17': user, '3': entry})
  assert words_of(folder, 'the<user>cat') == ['[CLS]', 'the', '<user>', 'cat', '[SEP]']
  earlier = wordpiece_folder('earlier')
  (earlier / 'added_tokens.json').write_text('{"<user>": 17}')
  assert words_of(earlier, 'the <user>') == ['[CLS]', 'the', '<user>', '[SEP]']
  (earlier / 'added_tokens.json').write_text('{"<user>": 19}')
  with pytest.raises(ValueError, match=r"vocab\.txt: the added token '<user>' has number 19"):
    tokenizer_files.read(earlier)


def test_token_types_are_given_to_networks_that_take_them(wordpiece_folder):
  assert tokenizer_files.read(wordpiece_folder()).token_types
  names = ['input_ids', 'attention_mask']
  assert not tokenizer_files.read(wordpiece_folder('other', model_input_names=names)).token_types


def test_a_tokenizer_without_a_frame_gets_berts(wordpiece_folder, whole_folder):
  plain = tokenizers.Tokenizer(models.WordPiece({'[CLS]': 0, '[SEP]': 1, 'the': 2, '[UNK]': 3}))
  assert words_of(whole_folder(plain), 'the', 'the') == [
    '[CLS]',
    'the',
    '[SEP]',
    'the',
    '[SEP]',
  ]
  bare = tokenizers.Tokenizer(models.WordPiece({'the': 0, '[UNK]': 1}))
  with pytest.raises(ValueError, match=r'lacks \[CLS\] or \[SEP\]'):
    tokenizer_files.read(whole_folder(bare, 'bare'))


def test_a_sentence_transformers_tokenizer_is_in_the_folder_of_the_network(wordpiece_folder):
  inner = wordpiece_folder('0_Transformer')
  modules = [{'type': 'sentence_transformers.models.Transformer', 'path': '0_Transformer'}]
  (inner.parent / 'modules.json').write_text(json.dumps(modules))
  assert words_of(inner.parent, 'the') == ['[CLS]', 'the', '[SEP]']


def test_pickles_are_not_opened(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no tokenizer'):
    tokenizer_files.read(tmp_path)
  (tmp_path / 'bpe_encoder.bin').write_bytes(b'\x80\x04.')
  with pytest.raises(FileNotFoundError, match=r'bpe_encoder\.bin is not opened.*save_pretrained'):
    tokenizer_files.read(tmp_path)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'do_lower_case': 'yes'}, 'do_lower_case'),
    ({'tokenizer_class': 'BertJapaneseTokenizer'}, 'BertJapaneseTokenizer'),
    ({'truncation_side': 'left'}, 'truncation_side'),
    ({'model_input_names': 'input_ids'}, 'model_input_names'),
    ({'added_tokens_decoder': {'first': {}}}, 'damaged'),
    ({'added_tokens_decoder': [1]}, 'damaged'),
  ],
)
def test_settings_that_cannot_be_followed(wordpiece_folder, settings, message):
  with pytest.raises(ValueError, match=rf'tokenizer_config\.json.*{message}'):
    tokenizer_files.read(wordpiece_folder(**settings))


@pytest.mark.parametrize('content', ['{}', '[', '', '{"model": {"type": "Other"}}', '\0'])
def test_damaged_files_are_named(wordpiece_folder, byte_level_folder, content):
  folder = wordpiece_folder()
  (folder / 'tokenizer.json').write_text(content)
  with pytest.raises(
    ValueError, match=r'tokenizer\.json is damaged, or of no kind of tokenizer\.$'
  ):
    tokenizer_files.read(folder)
  folder = byte_level_folder()
  (folder / 'vocab.json').write_text(content)
  with pytest.raises(ValueError, match=r'vocab\.json'):
    tokenizer_files.read(folder)
  folder = byte_level_folder('other')
  (folder / 'merges.txt').write_text('neither vocabulary\n')
  with pytest.raises(ValueError, match=r'merges\.txt is damaged'):
    tokenizer_files.read(folder)


def test_vocabularies_that_lack_what_is_needed(wordpiece_folder, byte_level_folder):
  with pytest.raises(ValueError, match=r'vocab\.txt lacks \[PAD\], \[CLS\], \[SEP\]\.'):
    tokenizer_files.read(wordpiece_folder(words=('[UNK]', 'the')))
  with pytest.raises(ValueError, match=r'vocab\.json lacks \[CLS\], \[SEP\]\.'):
    tokenizer_files.read(byte_level_folder(special=('<s>', '</s>')))
  folder = wordpiece_folder('latin1')
  (folder / 'vocab.txt').write_bytes('[PAD]\né\n'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'vocab\.txt is damaged'):
    tokenizer_files.read(folder)


def test_tokenizers_of_other_kinds_are_refused(whole_folder):
  words = tokenizers.Tokenizer(models.WordLevel({'[UNK]': 0}, unk_token='[UNK]'))
  with pytest.raises(ValueError, match=r'tokenizer\.json: the tokenizer is a WordLevel'):
    tokenizer_files.read(whole_folder(words))
  random = tokenizers.Tokenizer(models.BPE({'a': 0}, [], dropout=0.1))
  with pytest.raises(ValueError, match='draws its merges'):
    tokenizer_files.read(whole_folder(random, 'random'))
