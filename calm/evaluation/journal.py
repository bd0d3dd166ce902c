"""JSON Lines that are written batch by batch, and taken up again where they stopped.

Beside `out.jsonl` stands `out.jsonl.settings.json`, what its lines were made with: a file is only
continued by a run of equal settings. Each line carries a checksum; one that is damaged is made
again, and what is whole behind it is kept (in `out.jsonl.whole` until all are in their place).
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from calm import fingerprints, storage

Record = Mapping[str, Any]  # As JSON takes it.
_MEND = 'Choose another output, delete it, or set overwrite = True.'


class OtherSettingsError(FileExistsError):
  """A file was made with other settings; `differences` says which, as `fingerprints` does."""

  def __init__(self, message: str, differences: fingerprints.Differences):
    super().__init__(message)
    self.differences = differences


class OtherInputsError(ValueError):
  """A file was made of other inputs."""


class Standard:
  """Standard output, where every run starts anew and lines carry no checksum."""

  count = 0

  def __enter__(self) -> 'Standard':
    return self

  def __exit__(self, *_: object) -> None:
    return None

  def lacks(self, first: int, heads: Sequence[Record]) -> bool:
    """Whether there are lines to be made for a batch: always."""
    del first, heads
    return True

  def add(self, first: int, records: Sequence[Record]) -> None:
    """Writes the records of a batch; `first` is the first one's number."""
    del first
    sys.stdout.write(''.join(storage.to_line(record).decode('utf-8') for record in records))
    sys.stdout.flush()

  def end(self, total: int, *, partial: bool = False) -> None:
    """There is nothing to compare with."""


def settings_path(path: str | os.PathLike) -> Path:
  """Where the settings of a journal stand."""
  return Path(f'{os.fspath(path)}.settings.json')


def read_settings(path: str | os.PathLike) -> dict[str, Any] | None:
  """The settings of the journal at `path`; None if it has none, or none that can be believed."""
  try:
    return storage.read_record(settings_path(path))
  except (FileNotFoundError, storage.DamagedError):
    return None


def read(path: str | os.PathLike, count: int) -> list[dict[str, Any]]:
  """The first `count` records of a journal.

  Raises:
    storage.DamagedError: one is damaged or missing; names file and line.
  """
  records = []
  with open(path, 'rb') as file:
    for number, line in enumerate(itertools.islice(file, count), 1):
      try:
        records.append(storage.from_checked_line(line)[1])
      except storage.DamagedError as error:
        raise storage.DamagedError(f'{path}:{number}: {error}.') from None
  if len(records) < count:
    raise storage.DamagedError(f'{path} has {len(records)} lines, and {count} were written.')
  return records


class Journal:
  """A file of records in their order; their checksums hold their numbers, from 0.

  Used as a context; two at once on one file are refused.

  Raises, when entered:
    OtherSettingsError: the file was made with other settings.
    FileExistsError: the file was not made here.
    storage.BusyError: another process writes it.
    OSError: it cannot be written.
  """

  def __init__(self, path: str | os.PathLike, settings: Record, *, overwrite: bool = False):
    self.path = Path(path)
    self.count = 0  # Whole lines from the first on that earlier runs left.
    self._settings, self._overwrite = dict(settings), overwrite
    self._aside = Path(f'{os.fspath(path)}.whole')
    self._known: dict[int, bytes] = {}  # Whole lines behind a damaged one.
    self._stack = contextlib.ExitStack()
    self._file: BinaryIO
    self._before: BinaryIO

  def __enter__(self) -> 'Journal':
    with contextlib.ExitStack() as stack:
      if self.path.exists() and not self.path.is_file():  # A folder, a device, a pipe.
        raise FileExistsError(f"{self.path} is no file: choose another output, or '-'.")
      with _naming(self.path):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        busy = self.path.with_name(f'.{self.path.name}.lock')
        stack.enter_context(storage.lock(busy, str(self.path)))
      if self._overwrite or not self.path.exists():
        # What was put aside belongs to a file that is gone.
        self.path.unlink(missing_ok=True)
        self._aside.unlink(missing_ok=True)
      else:
        self._check_settings()
      with _naming(self.path):
        storage.write_record(settings_path(self.path), self._settings)
        self._recover()
        self._file = stack.enter_context(open(self.path, 'a+b'))
        self._before = stack.enter_context(open(self.path, 'rb'))
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *_: object) -> None:
    self._stack.close()

  def lacks(self, first: int, heads: Sequence[Record]) -> bool:
    """Whether a line is missing of those from number `first` on, which begin with `heads`.

    Batches are asked for in their order, each once.

    Raises:
      OtherInputsError: a line was made of another input.
    """
    missing = False
    for number, head in enumerate(heads, first):
      if number < self.count:
        line = self._before.readline()
      elif number in self._known:
        line = self._known[number]
      else:
        missing = True
        continue
      _, record = storage.from_checked_line(line)
      if storage.to_line({key: record.get(key) for key in head}) != storage.to_line(head):
        raise OtherInputsError(f'{self.path}:{number + 1} was made of another input. {_MEND}')
    if not missing:
      self._write(self._known[n] for n in range(max(first, self.count), first + len(heads)))
    return missing

  def add(self, first: int, records: Sequence[Record]) -> None:
    """Writes the records of a batch but for those that are there."""
    self._write(
      self._known.get(number) or storage.to_checked_line(record, number)
      for number, record in enumerate(records, first)
      if number >= self.count
    )

  def end(self, total: int, *, partial: bool = False) -> None:
    """Says that there are `total` inputs and all have been added; `partial`: there may be more.

    Raises:
      OtherInputsError: there are more lines than inputs.
    """
    if self.count > total and not partial:
      raise OtherInputsError(
        f'{self.path} has {self.count} lines, the input only {total}: it was made of another'
        f' input. {_MEND}'
      )
    if max(self._known, default=-1) < total:
      self._aside.unlink(missing_ok=True)

  def _write(self, lines: Iterator[bytes]) -> None:
    with _naming(self.path):
      self._file.write(b''.join(lines))
      self._file.flush()

  def _check_settings(self) -> None:
    path, found = settings_path(self.path), read_settings(self.path)
    if not self.path.exists() or (self.path.stat().st_size == 0 and not path.exists()):
      return
    if found is None:
      what = 'is damaged' if path.exists() else 'is missing'
      raise FileExistsError(
        f'{self.path} exists, and {path.name}, which says how it was made, {what}: it is left as it'
        f' is. {_MEND}'
      )
    differences = fingerprints.differences(found, fingerprints.identity(self._settings))
    if differences:
      raise OtherSettingsError(
        f'{self.path} was made with other settings: {fingerprints.in_words(differences)}. {_MEND}',
        differences,
      )

  def _recover(self) -> None:
    """Keeps the whole lines; those behind a damaged one are put aside, to be written again."""
    known = {number: line for number, line in _numbered(self._aside) if number is not None}
    end = size = 0
    damaged = False
    for number, line in _numbered(self.path):
      if number == self.count and end == size:
        self.count += 1
        end += len(line)
      elif number is not None:
        known[number] = line
      size += len(line)
      # A last line without its end is what an interruption leaves.
      damaged |= end < size and line.endswith(b'\n')
    self._known = {number: line for number, line in known.items() if number >= self.count}
    if damaged:
      print(f'{self.path}:{self.count + 1} is damaged and made again.', file=sys.stderr)
      storage.write_bytes(self._aside, b''.join(self._known.values()))
    if end < size:
      with open(self.path, 'r+b') as file:
        file.truncate(end)


def _numbered(path: Path) -> Iterator[tuple[int | None, bytes]]:
  """Lines with their numbers; None is that of a line that is not whole."""
  if not path.exists():
    return
  with open(path, 'rb') as file:
    for line in file:
      try:
        yield storage.from_checked_line(line)[0], line
      except storage.DamagedError:
        yield None, line


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
  """Says which output it is that cannot be written."""
  try:
    yield
  except storage.BusyError:
    raise
  except OSError as error:
    raise OSError(f'{path} cannot be written: {error.strerror}. Choose another output.') from None
