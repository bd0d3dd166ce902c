"""Files of lines are opened one way, and told by their names."""

import os

import pytest

from calm.tasks import lines


def test_urls_are_remote_and_paths_are_not(tmp_path):
  assert lines.is_remote('gs://bucket/file')
  assert not lines.is_remote(tmp_path / 'file')
  assert not lines.is_remote('a:/b')


@pytest.mark.parametrize(
  ('path', 'form'),
  [
    ('a.jsonl', 'jsonl'),
    ('A.JSON.GZ', 'jsonl'),
    ('x/y.ndjson', 'jsonl'),
    ('gs://b/a.Tsv.gz', 'tsv'),
    ('a.tab', 'tsv'),
    ('a.b.csv', 'csv'),
    ('a.txt', None),
    ('csv', None),
    ('a.jsonl/b', None),
    ('-', None),
  ],
)
def test_a_name_tells_the_form_in_any_case(path, form):
  assert lines.format_of(path) == form


def test_a_scheme_that_nobody_opens_is_named():
  with pytest.raises(FileNotFoundError, match=r'nowhere://x: it cannot be looked for .*\. Mend it'):
    lines.matching('nowhere://x', 'Mend it.')


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
  def denied(path, _):
    raise PermissionError(13, 'Permission denied', path)

  monkeypatch.setattr('builtins.open', denied)
  with pytest.raises(PermissionError, match=r'a\.txt cannot be read: Permission denied\.'):
    next(lines.read_lines(str(tmp_path / 'a.txt')))


def test_a_file_is_closed_when_it_has_been_read(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{}\n' * 3)
  before = len(os.listdir('/dev/fd'))
  found = lines.read_lines(str(path))
  assert next(found) == (f'{path}:1', '{}')
  found.close()
  assert len(list(lines.read_lines(str(path)))) == 3
  assert len(os.listdir('/dev/fd')) == before
