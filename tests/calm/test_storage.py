"""Files are whole or absent, damage is found, and one process writes at a time."""

import contextlib
import gzip
import io
import json
import os
import random
import subprocess
import sys

import pytest

from calm import storage

RECORD = {
  'threshold': 0.85,
  'words': ['été', ''],
  'none': None,
  'deep': {'a': [1, 2.5]},
}


def damaged(content, rng):
  """The content with one byte changed, lost or added, or cut off."""
  at = rng.randrange(len(content))
  changed = bytes([content[at] ^ (1 << rng.randrange(8))])
  return rng.choice(
    [
      content[:at] + changed + content[at + 1 :],
      content[:at] + content[at + 1 :],
      content[:at] + bytes([rng.randrange(256)]) + content[at:],
      content[:at],
    ]
  )


def test_a_record_comes_back_as_it_was(tmp_path):
  storage.write_record(tmp_path / 'deep' / 'a.json', RECORD)
  assert storage.read_record(tmp_path / 'deep' / 'a.json') == RECORD
  assert os.listdir(tmp_path / 'deep') == ['a.json']


def test_no_damage_of_a_record_goes_unseen(tmp_path):
  path, rng = tmp_path / 'a.json', random.Random(0)
  storage.write_record(path, RECORD)
  whole = path.read_bytes()
  for _ in range(200):
    path.write_bytes(damaged(whole, rng))
    with contextlib.suppress(storage.DamagedError):
      assert storage.read_record(path) == RECORD  # A space more or less between its words.


def test_no_damage_of_a_line_goes_unseen():
  rng = random.Random(0)
  line = storage.to_checked_line(RECORD, 17)
  assert storage.from_checked_line(line) == (17, RECORD)
  assert json.loads(line)['threshold'] == 0.85
  for _ in range(300):
    changed = damaged(line, rng)
    if changed != line:
      with pytest.raises(storage.DamagedError):
        storage.from_checked_line(changed)


def test_half_a_surrogate_pair_is_kept():
  line = storage.to_checked_line({'text': '\ud83d'}, 0)
  assert storage.from_checked_line(line) == (0, {'text': '\ud83d'})


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
  storage.write_text(tmp_path / 'a', 'old')
  with pytest.raises(TypeError):
    storage.write_bytes(tmp_path / 'a', 'no bytes')
  assert (tmp_path / 'a').read_text() == 'old'
  assert os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize('content', [b'', b'[1]', b'{"a": 1', b'\xff', b'[' * 100_000])
def test_what_is_no_json_object_is_named(tmp_path, content):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  with pytest.raises(storage.DamagedError, match=r'a\.json is damaged'):
    storage.read_json(path)


def test_a_lock_names_who_holds_it_and_ends_with_the_process(tmp_path):
  path = tmp_path / 'lock'
  hold = 'import sys, time; from calm import storage\n'
  hold += 'with storage.lock(sys.argv[1], "x"): print("held", flush=True); time.sleep(60)'
  other = subprocess.Popen([sys.executable, '-c', hold, path], stdout=subprocess.PIPE)
  assert other.stdout.readline() == b'held\n'
  message = rf'the run is in use.*pid {other.pid}\)'
  with pytest.raises(storage.BusyError, match=message), storage.lock(path, 'the run'):
    pass
  other.kill()
  other.wait()
  with storage.lock(path, 'the run'):
    assert path.read_text() == f'{os.getpid()}\n'
    with pytest.raises(storage.BusyError, match=str(os.getpid())), storage.lock(path, 'the run'):
      pass
  assert not path.exists()


def test_gzip_is_told_by_its_content():
  for content in (b'', b'a', b'plain text\n'):
    for packed in (content, gzip.compress(content)):
      assert storage.unpacked(io.BytesIO(packed)).read() == content


@pytest.mark.parametrize('number', [b'NaN', b'1e999', b'-Infinity'])
def test_a_number_that_is_never_written_is_damage(tmp_path, number):
  path = tmp_path / 'a.json'
  storage.write_record(path, {'a': 2.5})
  path.write_bytes(path.read_bytes().replace(b'2.5', number))
  with pytest.raises(storage.DamagedError, match=r'a\.json is damaged: not JSON'):
    storage.read_record(path)


def test_what_is_shown_is_short_and_has_both_ends():
  assert storage.shown('short') == "'short'"
  assert storage.shortened('x' * 200) == 'x' * 200
  for value in ('a' + 'x' * 10**6 + 'z', ['a', *range(10**5), 'z'], b'a' + b'x' * 10**6 + b'z'):
    said = storage.shown(value)
    assert len(said) <= 200
    assert 'a' in said[:10]
    assert 'z' in said[-10:]


def test_a_warning_is_short_and_may_be_given_once(capsys):
  storage.warn('x' * 10**6)
  assert len(capsys.readouterr().err) < 5000
  for _ in range(2):
    storage.warn('told once', once=True)
  assert capsys.readouterr().err == 'told once\n'


@pytest.mark.parametrize('number', ['NaN', '-Infinity', '1e999', '1' + '0' * 5000])
def test_what_is_no_number_is_named_with_its_key(number):
  for text in (f'{{"b": {{"key": {number}}}}}', f'{{"a": 1, "key": [1, [{number}]]}}'):
    with pytest.raises(
      ValueError, match=r"(is no number of JSON|out of range), under the key 'key'"
    ):
      storage.parse_json(text)
  for text in (number, f'[1, {number}]'):
    with pytest.raises(ValueError, match=r'(is no number of JSON|out of range)$'):
      storage.parse_json(text)
