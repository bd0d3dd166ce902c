"""Files of JSON Lines that grow, are cut, and grow on."""

import json

import pytest

from calm.decoding import journal

SETTINGS = {'seed': 0, 'params': 'abc'}
RECORDS = [{'index': i, 'text': text} for i, text in enumerate(['one', 'zwei', 'três', '四', ''])]


@pytest.fixture
def path(tmp_path):
  """Where the journal is kept."""
  return tmp_path / 'new' / 'out.jsonl'


def fill(path, records=RECORDS):
  """Writes a whole journal and returns its bytes."""
  with journal.Journal(path, SETTINGS) as output:
    output.add(0, records)
  return path.read_bytes()


def test_records_are_lines_in_their_order(path):
  content = fill(path)
  assert [json.loads(line) for line in content.splitlines()] == RECORDS
  assert '四'.encode() in content


def test_a_file_cut_anywhere_is_continued_to_the_same_file(path):
  whole = fill(path)
  for end in range(len(whole) + 1):
    path.write_bytes(whole[:end])
    with journal.Journal(path, SETTINGS) as output:
      assert output.count == whole[:end].count(b'\n')
      output.check(0, RECORDS)
      output.add(0, RECORDS[:2])
      output.add(2, RECORDS[2:])
    assert path.read_bytes() == whole


def test_what_follows_the_last_whole_record_is_cut(path):
  whole = fill(path)
  path.write_bytes(whole + b'\0\0\0\n{"index": 9}\n')
  with journal.Journal(path, SETTINGS) as output:
    assert output.count == len(RECORDS)
  assert path.read_bytes() == whole


def test_lines_are_in_the_file_as_soon_as_they_are_added(path):
  with journal.Journal(path, SETTINGS) as output:
    output.add(0, RECORDS[:1])
    assert path.read_bytes().count(b'\n') == 1


def test_other_settings_are_refused_by_name_and_nothing_is_touched(path):
  whole = fill(path)
  for other, names in (({'seed': 1, 'params': 'abc'}, 'seed'), ({'seed': 1, 'a': 2}, 'a, params')):
    with pytest.raises(FileExistsError, match=rf'with other settings \({names}.*overwrite'):
      journal.Journal(path, other)
  assert path.read_bytes() == whole
  assert journal.differing_settings(path, SETTINGS) == []


def test_a_file_that_is_no_journal_is_left_alone(path):
  path.parent.mkdir()
  path.write_text('precious\n')
  with pytest.raises(FileExistsError, match='is left alone'):
    journal.Journal(path, SETTINGS)
  assert path.read_text() == 'precious\n'


def test_a_device_and_a_folder_are_refused_and_nothing_is_written(tmp_path):
  for other in ('/dev/full', tmp_path):
    with pytest.raises(FileExistsError, match=f'{other} is no file'):
      journal.Journal(other, SETTINGS)
    assert not journal.settings_path(other).exists()


def test_an_output_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  path = tmp_path / 'file' / 'out.jsonl'
  with pytest.raises(OSError, match=f'{path} cannot be written: .* Choose another output'):
    journal.Journal(path, SETTINGS)


def test_an_empty_file_may_become_one(path):
  path.parent.mkdir()
  path.touch()
  assert fill(path)


def test_overwrite_starts_anew(path):
  fill(path)
  with journal.Journal(path, {'seed': 1}, overwrite=True) as output:
    assert output.count == 0
  assert path.read_bytes() == b''
  assert journal.differing_settings(path, {'seed': 1}) == []


def test_lines_made_of_other_inputs_are_named(path):
  fill(path)
  heads = [{'index': i} for i in range(5)]
  with journal.Journal(path, SETTINGS) as output:
    output.check(0, heads[:2])
    output.check(2, heads[2:])
  with (
    journal.Journal(path, SETTINGS) as output,
    pytest.raises(ValueError, match=r'out\.jsonl:3 was made of another input'),
  ):
    output.check(0, [*heads[:2], {'index': 7}])


def test_more_lines_than_inputs_are_an_error(path):
  fill(path)
  with journal.Journal(path, SETTINGS) as output:
    output.check_end(5)
    with pytest.raises(ValueError, match='has 5 lines, the input only 4'):
      output.check_end(4)


def test_half_a_surrogate_pair_is_escaped():
  assert json.loads(journal.to_line({'text': '\ud800'}).encode()) == {'text': '\ud800'}
