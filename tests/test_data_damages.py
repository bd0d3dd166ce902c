"""Whatever damage a file of data has, it is read as what it is, or refused by file and line."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / 'scripts' / 'check_data_damages.py'
NUMBER = 240


@pytest.fixture(scope='module')
def script():
  """scripts/check_data_damages.py as a module."""
  spec = importlib.util.spec_from_file_location('check_data_damages', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  yield module
  sys.modules.pop('check_data_damages', None)


def test_damaged_files_are_read_in_full_or_named_with_the_line(script, tmp_path):
  ended = [script.trial(seed, tmp_path) for seed in range(NUMBER)]
  assert [one for one in ended if one[-1]] == []
  assert {kind for _, kind, _, _ in ended} == {*script.DAMAGES, *script.PACKED}
  assert {end for _, _, end, _ in ended} == {'read', 'refused'}


def test_the_trials_notice_what_is_skipped_or_said_in_pythons_words(script, tmp_path):
  seed = next(
    seed
    for seed in range(99)
    if script.trial(seed, tmp_path)[:3] == ('a.jsonl', 'a line twice', 'read')
  )
  whole = script.read
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(script, 'read', lambda path: whole(path)[1:])
    assert 'are there' in script.trial(seed, tmp_path)[-1]

    def fail(message):
      def read(path):
        raise ValueError(message.format(path=path))

      patch.setattr(script, 'read', read)
      return script.trial(seed, tmp_path)[-1]

    assert fail('{path}:3: not JSON.') == ''
    assert 'no line' in fail('{path}: not JSON.')
    assert "Python's words" in fail("{path}:3: 'utf-8' codec can't decode.")
    assert 'a message of' in fail('{path}:3: ' + 'x' * 10**5)


def test_files_that_are_whole_are_read_in_full(script, tmp_path):
  for name in script.NAMES:
    content = script.written(name, script.records(random.Random(7)))
    path = tmp_path / name
    path.write_bytes(content)
    assert len(script.read(path)) == script.rows_in(name, content) > 1
