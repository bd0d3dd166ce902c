"""Files of JSON Lines that grow, are cut or damaged, and grow on."""

import json
import random

import pytest

from calm import storage
from calm.evaluation import journal

SETTINGS = {'seed': 0, 'rule': {'measure': 'softmax_margin'}}
RECORDS = [{'index': i, 'text': text} for i, text in enumerate(['one', 'zwei', 'três', '四', ''])]
HEADS = [{'index': i} for i in range(5)]


@pytest.fixture
def path(tmp_path):
  """Where the journal is kept."""
  return tmp_path / 'new' / 'out.jsonl'


def fill(path, batch_size=2, total=5):
  """Writes what a journal lacks; returns the numbers of the batches that were made."""
  made = []
  with journal.Journal(path, SETTINGS) as output:
    for first in range(0, total, batch_size):
      end = min(first + batch_size, total)
      if output.lacks(first, HEADS[first:end]):
        made.append(first)
        output.add(first, RECORDS[first:end])
    output.end(total, partial=True)
  return made


def others(path):
  """What lies beside the journal and its settings."""
  return sorted(one.name for one in path.parent.iterdir() if not one.name.startswith('out.jsonl'))


def test_records_are_lines_in_their_order(path):
  assert fill(path) == [0, 2, 4]
  assert journal.read(path, 5) == RECORDS
  lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
  assert [{k: line[k] for k in ('index', 'text')} for line in lines] == RECORDS
  assert '四' in path.read_text(encoding='utf-8')
  assert journal.read_settings(path) == SETTINGS
  assert others(path) == []


def test_a_file_cut_anywhere_is_continued_to_the_same_file(path, capsys):
  fill(path)
  whole = path.read_bytes()
  for end in range(len(whole) + 1):
    path.write_bytes(whole[:end])
    fill(path)
    assert path.read_bytes() == whole
  assert capsys.readouterr().err == ''  # An interruption is no damage.


def test_damage_is_said_and_only_what_is_damaged_is_made_again(path, capsys):
  fill(path)
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b'zwei', b'drei'))
  assert fill(path) == [0]
  assert path.read_bytes() == whole
  assert f'{path}:2 is damaged and made again' in capsys.readouterr().err
  assert not path.with_name('out.jsonl.whole').exists()


def test_what_is_whole_behind_damage_survives_another_interruption(path):
  fill(path)
  whole = path.read_bytes()
  path.write_bytes(b'x' + whole[1:])
  with journal.Journal(path, SETTINGS) as output:
    assert output.count == 0
  assert path.read_bytes() == b''
  assert fill(path) == [0]
  assert path.read_bytes() == whole


def test_a_smaller_part_leaves_the_rest_even_if_it_is_aside(path):
  fill(path)
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b'zwei', b'drei'))
  assert fill(path, total=2) == [0]
  assert fill(path, batch_size=1) == []
  assert path.read_bytes() == whole


def test_no_damage_is_used_and_none_keeps_the_file_from_being_whole_again(path):
  fill(path)
  whole, settings = path.read_bytes(), journal.settings_path(path).read_bytes()
  rng = random.Random(0)
  for _ in range(150):
    body = bytearray(whole)
    for _ in range(rng.choice([1, 1, 3])):
      at = rng.randrange(len(body))
      kind = rng.randrange(4)
      if kind == 0:
        body[at] ^= 1 << rng.randrange(8)
      elif kind == 1:
        del body[at : at + rng.choice([1, 20])]
      elif kind == 2:
        body[at:at] = bytes([rng.randrange(256)])
      else:
        body[at:at] = body[rng.randrange(len(body)) :]
    path.write_bytes(bytes(body))
    fill(path)
    assert path.read_bytes() == whole
    assert journal.settings_path(path).read_bytes() == settings


def test_lines_are_in_the_file_as_soon_as_they_are_added(path):
  with journal.Journal(path, SETTINGS) as output:
    output.add(0, RECORDS[:1])
    assert path.read_bytes().count(b'\n') == 1


@pytest.mark.parametrize(
  ('other', 'said'),
  [
    ({'seed': 1, 'rule': {'measure': 'softmax_margin'}}, 'seed was 0 and is 1'),
    ({'seed': 0, 'rule': {'measure': 'mine'}}, 'rule.measure was softmax_margin and is mine'),
    ({'seed': 0}, 'rule.measure was softmax_margin and is nothing'),
  ],
)
def test_other_settings_are_refused_in_words_and_nothing_is_touched(path, other, said):
  fill(path)
  whole = path.read_bytes()
  with (
    pytest.raises(journal.OtherSettingsError, match=rf'{said}\. Choose another.*overwrite'),
    journal.Journal(path, other),
  ):
    pass
  assert path.read_bytes() == whole
  assert journal.read_settings(path) == SETTINGS


@pytest.mark.parametrize('content', [None, b'{}', b'{"seed": 0}', b'\xff'])
def test_a_file_that_does_not_say_how_it_was_made_is_left_alone(path, content):
  path.parent.mkdir()
  path.write_text('precious\n')
  if content is not None:
    journal.settings_path(path).write_bytes(content)
  with pytest.raises(FileExistsError, match='is left as it is'), journal.Journal(path, SETTINGS):
    pass
  assert path.read_text() == 'precious\n'


def test_a_device_and_a_folder_are_refused_and_nothing_is_written(tmp_path):
  for other in ('/dev/full', tmp_path):
    with (
      pytest.raises(FileExistsError, match=f'{other} is no file'),
      journal.Journal(other, SETTINGS),
    ):
      pass
    assert not journal.settings_path(other).exists()


def test_an_output_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  path = tmp_path / 'file' / 'out.jsonl'
  with (
    pytest.raises(OSError, match=f'{path} cannot be written: .* Choose another output'),
    journal.Journal(path, SETTINGS),
  ):
    pass


def test_one_process_writes_at_a_time(path):
  with journal.Journal(path, SETTINGS) as output:
    with pytest.raises(storage.BusyError, match=r'out\.jsonl is in use .*pid'):
      fill(path)
    output.add(0, RECORDS)
  assert fill(path) == []
  assert journal.read(path, 5) == RECORDS


def test_an_empty_file_may_become_one(path):
  path.parent.mkdir()
  path.touch()
  assert fill(path) == [0, 2, 4]


def test_overwrite_starts_anew(path):
  fill(path)
  with journal.Journal(path, {'seed': 1}, overwrite=True) as output:
    assert output.count == 0
  assert path.read_bytes() == b''
  assert journal.read_settings(path) == {'seed': 1}


def test_lines_made_of_other_inputs_are_named(path):
  fill(path)
  with (
    journal.Journal(path, SETTINGS) as output,
    pytest.raises(journal.OtherInputsError, match=r'out\.jsonl:3 was made of another input'),
  ):
    output.lacks(0, [*HEADS[:2], {'index': 7}])


def test_more_lines_than_inputs_are_an_error_unless_a_part_is_wanted(path):
  fill(path)
  with journal.Journal(path, SETTINGS) as output:
    output.end(5)
    output.end(4, partial=True)
    with pytest.raises(journal.OtherInputsError, match='has 5 lines, the input only 4'):
      output.end(4)


def test_a_record_may_have_an_index_of_its_own(path):
  rows = [{'index': 'x', 'text': 'a'}, {'index': 'x', 'text': 'b'}]
  with journal.Journal(path, SETTINGS) as output:
    output.add(0, rows)
  with journal.Journal(path, SETTINGS) as output:
    assert output.count == 2
  assert journal.read(path, 2) == rows


def test_what_was_put_aside_goes_with_its_file(path):
  fill(path)
  path.write_bytes(path.read_bytes().replace(b'zwei', b'drei'))
  with journal.Journal(path, SETTINGS) as output:
    assert output.count == 1
  path.unlink()
  with journal.Journal(path, {'seed': 1}) as output:
    assert output.lacks(0, HEADS)
  assert not path.with_name('out.jsonl.whole').exists()
