"""Files of text, line by line, and the records in them, each with the name of where it stands.

Paths are local, or any that TensorFlow's file systems open (gs://...); '-' is standard input.
"""

import contextlib
import csv
import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from calm import storage

STANDARD_INPUT = '-'
# The kinds of records, by how a path ends, in any case; '.gz' may follow.
FORMATS = {
  'jsonl': 'jsonl',
  'ndjson': 'jsonl',
  'json': 'jsonl',
  'tsv': 'tsv',
  'tab': 'tsv',
  'csv': 'csv',
}
# What files that are no text begin with.
_OTHERS = {
  b'\xff\xfe': 'UTF-16 text: write it as UTF-8',
  b'\xfe\xff': 'UTF-16 text: write it as UTF-8',
  b'BZh': 'packed by bzip2: unpack it, or use gzip',
  b'\xfd7zXZ': 'packed by xz: unpack it, or use gzip',
  b'\x28\xb5\x2f\xfd': 'packed by zstd: unpack it, or use gzip',
  b'PK\x03\x04': 'a zip archive: unpack it',
  b'PAR1': 'a Parquet file: write it as JSON Lines',
}
HALF_A_PAIR = 'a text cannot be written as UTF-8: it holds half of a surrogate pair, as \\ud800.'
Line = tuple[str, str]  # 'file:line', text
Record = tuple[str, dict[str, Any]]

csv.field_size_limit(2**31 - 1)  # A text may be longer than the 128 kB that csv takes by itself.


def format_of(path: str) -> str | None:
  """'jsonl', 'tsv' or 'csv', by what a path ends in; None if that says nothing."""
  ending = re.search(r'\.(\w+)(\.gz|\.gzip)?$', os.fspath(path), re.IGNORECASE)
  return FORMATS.get(ending[1].lower()) if ending else None


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is a URL such as gs://bucket/file, for TensorFlow's file systems to open."""
  return '://' in os.fspath(path)


def matching(path: str | os.PathLike, mend: str) -> list[str]:
  """The files that a path stands for: itself, or all that fit one with `*`, by their names.

  Standard input stands for itself.

  Raises:
    FileNotFoundError: there is none; says so, and `mend`.
  """
  import tensorflow as tf

  path = os.fspath(path)
  gfile = tf.io.gfile
  try:
    if path == STANDARD_INPUT or (gfile.exists(path) and not gfile.isdir(path)):
      return [path]
    found = sorted(one for one in gfile.glob(path) if not gfile.isdir(one)) if '*' in path else []
    what = 'a folder, not a file' if gfile.isdir(path) else 'no such file'
  except tf.errors.OpError as error:  # A scheme that nobody opens, or no network.
    what = f'it cannot be looked for ({reason(error)})'
    raise FileNotFoundError(f'{path}: {what}. {mend}') from None
  if not found:
    raise FileNotFoundError(f'{path}: {what}. {mend}')
  return found


def reason(error: Any) -> str:
  """What an error of TensorFlow's file systems says, in a line: of the network, what is wrong."""
  return storage.shortened(error.message.partition('\n')[0].rpartition('error details: ')[2])


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
  """A binary file to read, unpacked if it is gzip, whatever its name.

  Raises:
    OSError: it cannot be opened or read; names it.
  """
  with contextlib.ExitStack() as stack:
    try:
      file: Any
      if path == STANDARD_INPUT:
        file = sys.stdin.buffer
      elif is_remote(path):
        file = stack.enter_context(contextlib.closing(_Remote(path)))
      else:
        file = stack.enter_context(open(path, 'rb'))
      unpacked = storage.unpacked(file)
    except OSError as error:
      why = error.strerror or 'it is not there, or not to be read'
      raise type(error)(f'{path} cannot be read: {why}.') from None
    yield unpacked


class _Remote(io.RawIOBase):
  """A file of TensorFlow's file systems as Python reads files."""

  def __init__(self, path: str):
    import tensorflow as tf

    self._file = tf.io.gfile.GFile(path, 'rb')
    try:
      self._file.size()
    except tf.errors.OpError as error:
      raise OSError(0, error.message.partition('\n')[0]) from None

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    content = self._file.read(len(buffer))
    buffer[: len(content)] = content
    return len(content)

  def close(self) -> None:
    self._file.close()
    super().close()


def read_lines(path: str) -> Iterator[Line]:
  """`text_lines` of what is at a path, or of standard input, as they arrive."""
  with opened(path) as file:
    yield from text_lines(file, 'standard input' if path == STANDARD_INPUT else path)


def text_lines(file: BinaryIO | gzip.GzipFile, name: str) -> Iterator[Line]:
  """Yields ('name:line', text) of every line of a binary file, blank ones too, as they arrive.

  Raises:
    ValueError: a line is not UTF-8, or the gzip file is damaged; the message names the line.
  """
  number, line = 0, b''
  try:
    for number, line in enumerate(file, 1):
      decoded = line.decode('utf-8-sig' if number == 1 else 'utf-8')
      yield f'{name}:{number}', decoded.rstrip('\r\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'{name}:{number}: not UTF-8: {_not_utf8(line, number, error)}.') from None
  except (EOFError, gzip.BadGzipFile, zlib.error):
    raise ValueError(
      f'{name}:{number + 1}: the gzip file is damaged or cut off here, or something follows it.'
    ) from None


def _not_utf8(line: bytes, number: int, error: UnicodeDecodeError) -> str:
  for begin, what in _OTHERS.items() if number == 1 else ():
    if line.startswith(begin):
      return f'the file looks like {what}'
  byte = error.object[error.start]
  return f'byte {error.start + 1} of the line is {byte:#04x}. Write the file as UTF-8'


def records(found: Iterable[Line], form: str, example: str = '{"en": "..."}') -> Iterator[Record]:
  """Yields (where, record) of lines in a form: 'jsonl', or 'tsv' or 'csv' with a header line.

  Blank lines are skipped; if records follow them, a line on standard error says how many.

  Raises:
    ValueError: a line is no such record; the message names it.
  """
  if form == 'jsonl':
    yield from json_records(found, example)
  else:
    yield from _table(_csv_rows(found) if form == 'csv' else _tsv_rows(found))


class _Blank:
  """Counts the blank lines before a last record."""

  def __init__(self) -> None:
    self.where, self.count, self.skipped = '', 0, 0

  def add(self, where: str) -> None:
    self.where = self.where or where
    self.count += 1

  def record(self) -> None:
    self.skipped = self.count

  def say(self) -> None:
    if self.skipped:
      file, _, line = self.where.rpartition(':')
      lines = 'line' if self.skipped == 1 else 'lines'
      storage.warn(f'{file}: {self.skipped} blank {lines} skipped, from line {line} on.', once=True)


def json_records(found: Iterable[Line], example: str) -> Iterator[Record]:
  """Yields (where, record) of lines of JSON; blank ones are skipped.

  Raises:
    ValueError: a line does not parse, or is no object, as in `example`; the message names it.
  """
  blank = _Blank()
  for where, line in found:
    if not line.strip():
      blank.add(where)
      continue
    try:
      record = storage.parse_json(line)
    except ValueError as error:
      hint = ' A record is one line.' if line.strip() in ('{', '[', '[{') else ''
      raise ValueError(f'{where}: not JSON: {error}.{hint}') from None
    if not isinstance(record, dict):
      raise ValueError(f'{where}: a JSON object is needed, one in each line, as in {example}.')
    blank.record()
    yield where, record
  blank.say()


def _table(rows: Iterable[tuple[str, list[str]]]) -> Iterator[Record]:
  """Records of rows of columns, whose names are the first row."""
  header = None
  for where, columns in rows:
    if header is None:
      header = columns
      shown = storage.shortened(', '.join(map(repr, header)))
      if len(set(header)) < len(header):
        raise ValueError(f'{where}: a column name appears twice in the header line: {shown}.')
    elif len(columns) != len(header):
      raise ValueError(f'{where}: {len(columns)} columns, but the header line has {len(header)}.')
    else:
      yield where, dict(zip(header, columns, strict=True))


def _tsv_rows(found: Iterable[Line]) -> Iterator[tuple[str, list[str]]]:
  blank = _Blank()
  for where, line in found:
    if line.strip(' '):  # Tabs alone are a row of empty texts.
      blank.record()
      yield where, line.split('\t')
    else:
      blank.add(where)
  blank.say()


def _csv_rows(found: Iterable[Line]) -> Iterator[tuple[str, list[str]]]:
  """Rows of comma-separated values: quoted ones may hold commas, quotes twice, and newlines."""
  where, blank = '', _Blank()

  def lines() -> Iterator[str]:
    nonlocal where
    for place, line in found:
      where = where or place
      yield line + '\n'

  rows = csv.reader(lines(), strict=True)
  while True:
    where = ''  # Of the line that the row begins with.
    try:
      columns = next(rows, None)
    except csv.Error as error:
      never_closed = 'unexpected end' in str(error)
      what = 'a quote is opened and never closed' if never_closed else 'a quote inside a value'
      raise ValueError(
        f'{where}: not CSV: {what}. Put a value with quotes in quotes, and double those in it.'
      ) from None
    if columns is None:
      break
    if columns:
      blank.record()
      yield where, columns
    else:
      blank.add(where)
  blank.say()
