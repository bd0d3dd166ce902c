"""Files of records, and a task over them in bytes, shared by the tests of this folder."""

import json

import pytest

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
