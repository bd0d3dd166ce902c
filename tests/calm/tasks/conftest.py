"""Files of records and of tokenizers, and a task in bytes, shared by the tests of this folder."""

import json

import pytest
from tokenizers import pre_tokenizers

from calm.tasks import files, vocabularies

RECORDS = [
  {'en': 'one', 'fr': 'un'},
  {'en': 'twenty-one', 'fr': 'vingt et un'},
  {'en': 'eighty', 'fr': 'quatre-vingts'},
  {'en': 'ninety-nine', 'fr': 'quatre-vingt-dix-neuf'},
  {'en': 'two hundred', 'fr': 'deux cents'},
  {'en': 'seven', 'fr': 'sept'},
  {'en': 'a thousand and one', 'fr': 'mille un'},
]


@pytest.fixture
def write(tmp_path):
  """write(name, content) of bytes, text, or records for JSON Lines; gives the path."""

  def write(name, content):
    if isinstance(content, list):
      content = ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in content)
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
    return str(path)

  return write


@pytest.fixture
def translation(write):
  """translation(**options): a task from 'en' to 'fr' over 7 records, in bytes."""

  def translation(records=RECORDS, **options):
    defaults = {
      'train': write('train.jsonl', records),
      'validation': write('validation.jsonl', records[:3]),
      'inputs': 'en: {en}',
      'targets': '{fr}',
      'vocabulary': vocabularies.byte_vocabulary(),
    }
    return files.task(**{**defaults, **options})

  return translation


WORDS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'cat', 's', '##s', 'sat', '##at', '.')
WORDS = (*WORDS, 'c', 'cafe', 'café', 'The', '中')
MERGES = ('Ġ t', 'h e', 'Ġt he', 'Ġ c', 'a t', 'Ġc at')


@pytest.fixture
def wordpiece_folder(tmp_path):
  """Writes vocab.txt and tokenizer_config.json, as BERT's; gives the folder."""

  def write(name='wordpiece', words=WORDS, **settings):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'vocab.txt').write_text(''.join(f'{word}\n' for word in words), encoding='utf-8')
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return folder

  return write


@pytest.fixture
def byte_level_folder(tmp_path):
  """Writes vocab.json, merges.txt and tokenizer_config.json, as DeBERTa's; gives the folder."""

  def write(name='byte_level', special=('[PAD]', '[CLS]', '[SEP]', '[UNK]'), **settings):
    folder = tmp_path / name
    folder.mkdir()
    joined = [merge.replace(' ', '') for merge in MERGES]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *joined, '[MASK]']
    (folder / 'vocab.json').write_text(json.dumps({word: i for i, word in enumerate(words)}))
    merges = ''.join(f'{merge}\n' for merge in ('#version: 0.2', *MERGES))
    (folder / 'merges.txt').write_text(merges, encoding='utf-8')
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return folder

  return write


@pytest.fixture
def whole_folder(tmp_path):
  """Writes a tokenizer of the library as tokenizer.json, and settings; gives the folder."""

  def write(tokenizer, name='whole', **settings):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'tokenizer.json').write_text(tokenizer.to_str(), encoding='utf-8')
    if settings:
      (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return folder

  return write
