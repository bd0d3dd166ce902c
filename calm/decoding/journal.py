"""JSON Lines that are written batch by batch, and taken up again where they stopped.

Beside `out.jsonl` stands `out.jsonl.settings.json`, what its lines were made with: a file is only
continued by a run of equal settings.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def to_line(record: Mapping[str, Any]) -> str:
  """A record as one line of JSON, readable as it is unless it cannot be written as UTF-8."""
  line = json.dumps(record, ensure_ascii=False)
  try:
    line.encode('utf-8')
  except UnicodeEncodeError:  # Half of a surrogate pair, which JSON may hold.
    line = json.dumps(record)
  return line + '\n'


def write_json(path: str | os.PathLike, value: Any):
  """Writes a JSON file that is there as a whole or not at all."""
  temporary = Path(f'{os.fspath(path)}.{os.getpid()}')
  temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
  temporary.replace(path)


def settings_path(path: str | os.PathLike) -> Path:
  """Where the settings of a journal stand."""
  return Path(f'{os.fspath(path)}.settings.json')


def differing_settings(path: str | os.PathLike, settings: Mapping[str, Any]) -> list[str]:
  """Names of the settings in which an earlier run's file differs; empty if it can be continued.

  Raises:
    FileExistsError: there is a file, but no settings beside it.
  """
  if not os.path.exists(path) or (os.path.getsize(path) == 0 and not _has_settings(path)):
    return []
  if not _has_settings(path):
    raise FileExistsError(
      f'{path} exists and has no {settings_path(path).name} beside it: it was not made here and'
      ' is left alone. Choose another output, delete it, or set overwrite = True.'
    )
  try:
    earlier = json.loads(settings_path(path).read_text(encoding='utf-8'))
  except ValueError:
    earlier = {}
  wanted = json.loads(json.dumps(dict(settings)))
  return sorted(
    key for key in earlier.keys() | wanted.keys() if earlier.get(key) != wanted.get(key)
  )


def _has_settings(path):
  return settings_path(path).is_file()


@contextlib.contextmanager
def _naming(path):
  """Says which output it is that cannot be written."""
  try:
    yield
  except OSError as error:
    raise OSError(f'{path} cannot be written: {error.strerror}. Choose another output.') from None


class Standard:
  """Standard output, where every run starts anew."""

  count = 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    return None

  def add(self, first: int, records: Sequence[Mapping[str, Any]]):
    """Writes the records of a batch; `first` is the first one's number."""
    del first
    sys.stdout.write(''.join(map(to_line, records)))
    sys.stdout.flush()

  def check(self, first: int, heads: Sequence[Mapping[str, Any]]):
    """There is nothing to compare with."""

  def check_end(self, total: int):
    """There is nothing to compare with."""


class Journal:
  """A file of JSON Lines, continued after its last whole line.

  Raises:
    FileExistsError: the file is not a journal, or one of other settings.
    OSError: it cannot be written.
  """

  def __init__(
    self, path: str | os.PathLike, settings: Mapping[str, Any], *, overwrite: bool = False
  ):
    self.path = Path(path)
    self.count = 0  # Whole lines that earlier runs left.
    if self.path.exists() and not self.path.is_file():  # A folder, a device, a pipe.
      raise FileExistsError(f"{path} is no file: choose another output, or '-'.")
    with _naming(path):
      self.path.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
      self.path.unlink(missing_ok=True)
    elif differing := differing_settings(path, settings):
      raise FileExistsError(
        f'{path} was made with other settings ({", ".join(differing)}; see'
        f' {settings_path(path)}). Choose another output, delete it, or set overwrite = True.'
      )
    with _naming(path):
      write_json(settings_path(path), dict(settings))
      self._file = open(self.path, 'a+b')  # noqa: SIM115, closed by __exit__
    self._cut()
    self._known = open(self.path, 'rb')  # noqa: SIM115

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()
    self._known.close()

  def add(self, first: int, records: Sequence[Mapping[str, Any]]):
    """Writes the records of a batch but for those that are there."""
    self._file.write(''.join(map(to_line, records[max(0, self.count - first) :])).encode('utf-8'))
    self._file.flush()

  def check(self, first: int, heads: Sequence[Mapping[str, Any]]):
    """Compares what records begin with, from record `first` on, with the lines that are there.

    Batches are checked in their order, each once.

    Raises:
      ValueError: a line was made of another input.
    """
    for number, head in enumerate(heads[: max(0, self.count - first)], first + 1):
      record = json.loads(self._known.readline())
      if to_line({key: record.get(key) for key in head}) != to_line(head):
        raise ValueError(
          f'{self.path}:{number} was made of another input. Choose another output, delete it, or'
          ' set overwrite = True.'
        )

  def check_end(self, total: int):
    """Raises a ValueError if there are more lines than the `total` inputs."""
    if self.count > total:
      raise ValueError(
        f'{self.path} has {self.count} lines, the input only {total}: it was made of another'
        ' input. Choose another output, delete it, or set overwrite = True.'
      )

  def _cut(self):
    """Counts the whole lines and cuts off what follows them."""
    end = 0
    self._file.seek(0)
    for line in self._file:
      if not _is_record(line):
        break
      end += len(line)
      self.count += 1
    self._file.truncate(end)


def _is_record(line):
  if not line.endswith(b'\n'):
    return False
  try:
    return isinstance(json.loads(line), dict)
  except ValueError:
    return False
