"""Files that are whole or absent, checked when they are read, and written by one process at a time.

Records are JSON objects that carry a checksum of their own text, so that a byte that was changed,
lost or added is found; lines of JSON Lines likewise, each on its own.
"""

import collections
import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

CHECKSUM = 'checksum'
_SEAL = f', "{CHECKSUM}": "'.encode()


class DamagedError(ValueError):
  """A file or line is not what was written: changed, cut off, or never written by this project."""


class BusyError(OSError):
  """Another process is at work where this one would be."""


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file that is there as a whole or not at all; its folder is made.

  The content is on disk before the file has its name, so that a power cut leaves the old one or
  the new.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(temporary, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
  """Gives a folder to be filled, which is `path` as a whole when the block ends, or not at all."""
  partial = Path(path).with_name(f'{Path(path).name}.partial')
  shutil.rmtree(partial, ignore_errors=True)  # What an interrupted call left.
  partial.mkdir(parents=True)
  yield partial
  partial.rename(path)


def write_text(path: str | os.PathLike, text: str) -> None:
  """`write_bytes` of a text in UTF-8."""
  write_bytes(path, text.encode('utf-8'))


def write_json(path: str | os.PathLike, value: Any) -> None:
  """`write_text` of a JSON value, to be read by people."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """The JSON object in a file.

  Raises:
    FileNotFoundError: there is no such file.
    DamagedError: it holds no JSON object; names the file.
  """
  path = Path(path)
  try:
    value = parse_json(path.read_bytes().decode('utf-8-sig'))
  except UnicodeDecodeError:
    raise DamagedError(f'{path} is damaged: not JSON (it is not UTF-8).') from None
  except ValueError as error:
    raise DamagedError(f'{path} is damaged: not JSON ({error}).') from None
  if not isinstance(value, dict):
    raise DamagedError(f'{path} is damaged: it holds no JSON object.')
  return value


def parse_json(text: str) -> Any:
  """The value of strict JSON: no key twice in an object, no NaN, no number beyond float64.

  Raises:
    ValueError: it is none; says in words what is wrong, and at which line and column of the text.
  """
  try:
    value = json.loads(
      text,
      object_pairs_hook=_object,
      parse_constant=_not_a_number,
      parse_float=_in_range,
      parse_int=_whole,
    )
  except json.JSONDecodeError as error:
    what = _JSON_ERRORS.get(error.msg, 'an escape that JSON does not know')
    line = f'line {error.lineno}, ' if error.lineno > 1 else ''
    found = text[error.pos : error.pos + 40]
    before = f', where {found!r} stands' if found.strip() else ', where it ends'
    raise ValueError(f'{what} at {line}column {error.colno}{before}') from None
  except RecursionError:
    raise ValueError('it is nested too deeply') from None
  _require_numbers(value)
  return value


_JSON_ERRORS = {
  'Expecting value': 'no value',
  "Expecting ',' delimiter": 'no comma',
  "Expecting ':' delimiter": 'no colon',
  'Expecting property name enclosed in double quotes': 'no key in double quotes',
  'Unterminated string starting at': 'a text that does not end, begun',
  'Invalid control character at': 'a control character that is not escaped',
  'Extra data': 'more than one value: the second is',
  'Illegal trailing comma before end of object': 'a comma too many',
  'Illegal trailing comma before end of array': 'a comma too many',
}
_MOST_DIGITS = 4000


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    ((twice, _),) = collections.Counter(key for key, _ in pairs).most_common(1)
    raise ValueError(f'the key {shown(twice)} appears twice in an object')
  for key, value in pairs:
    _require_numbers(value, f', under the key {shown(key)}')
  return found


@dataclasses.dataclass(frozen=True)
class _NoNumber:
  """Stands for a number that cannot be read until the key is known under which it stands."""

  why: str


def _require_numbers(value: Any, under: str = '') -> None:
  if isinstance(value, _NoNumber):
    raise ValueError(value.why + under)
  if isinstance(value, list):
    for one in value:
      _require_numbers(one, under)


def _not_a_number(word: str) -> _NoNumber:
  return _NoNumber(f'{word} is no number of JSON')


def _in_range(digits: str) -> float | _NoNumber:
  value = float(digits)
  if value in (float('inf'), float('-inf')):
    return _NoNumber(f'the number {shortened(digits, 60)} is out of range')
  return value


def _whole(digits: str) -> int | _NoNumber:
  if len(digits) > _MOST_DIGITS:
    return _NoNumber(f'a number of {len(digits)} digits is out of range')
  return int(digits)


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
  """Writes a JSON object with the checksum of its content as its last entry.

  Raises:
    ValueError: a number that JSON has no word for, as NaN.
  """
  sealed = {**record, CHECKSUM: checksum(_canonical(record))}
  write_text(path, json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + '\n')


def read_record(path: str | os.PathLike) -> dict[str, Any]:
  """What `write_record` wrote, without the checksum.

  Raises:
    FileNotFoundError: there is no such file.
    DamagedError: it has been changed, or was not written here; names the file.
  """
  record = read_json(path)
  found = record.pop(CHECKSUM, None)
  if found is None:
    raise DamagedError(f'{path} has no checksum: it was not written here, or is damaged.')
  try:
    expected = checksum(_canonical(record))
  except ValueError:  # NaN, which is never written.
    expected = None
  if found != expected:
    raise DamagedError(f'{path} has been changed since it was written: its checksum does not fit.')
  return record


def checksum(content: bytes) -> str:
  """64 bits of SHA-256, in hexadecimal: enough to find damage, not to keep off forgers."""
  return hashlib.sha256(content).hexdigest()[:16]


def to_line(record: Mapping[str, Any]) -> bytes:
  """A record as one line of JSON, readable as it is unless it cannot be written as UTF-8."""
  try:
    return json.dumps(record, ensure_ascii=False).encode('utf-8') + b'\n'
  except UnicodeEncodeError:  # Half of a surrogate pair, which JSON may hold.
    return json.dumps(record).encode('utf-8') + b'\n'


def to_checked_line(record: Mapping[str, Any], number: int) -> bytes:
  """`to_line` of a record that is not empty, with its number and a checksum of both at the end."""
  body = to_line({key: value for key, value in record.items() if key != CHECKSUM})[:-2]
  return body + _SEAL + _numbered(body, number) + b'"}\n'


def from_checked_line(line: bytes) -> tuple[int, dict[str, Any]]:
  """(number, record) of a line that `to_checked_line` made.

  Raises:
    DamagedError: the line is another, or not whole.
  """
  body, seal, rest = line.rpartition(_SEAL)
  number = rest.partition(b':')[0]
  if not seal or not number.isdigit() or rest != _numbered(body, int(number)) + b'"}\n':
    raise DamagedError('the checksum does not fit')
  return int(number), json.loads(body + b'}')


def _numbered(body: bytes, number: int) -> bytes:
  digits = str(number).encode()
  return digits + b':' + checksum(digits + b':' + body).encode()


@contextlib.contextmanager
def lock(path: str | os.PathLike, what: str) -> Iterator[None]:
  """Keeps others from the same work while the block runs, in this process or another.

  The lock is the operating system's, on a file at `path` that holds the process id, and ends with
  the process, however that ends; the file goes when the block is left. Paths of remote storage,
  which have no locks, are not locked.

  Args:
    path: of the lock file; its folder is made.
    what: is being worked on, for the message.

  Raises:
    BusyError: another holds it; names its process id.
  """
  if '://' in os.fspath(path):
    yield
    return
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    file = _locked(path, what, stack)
    file.truncate(0)
    file.write(f'{os.getpid()}\n'.encode())
    file.flush()
    stack.callback(path.unlink, missing_ok=True)
    yield


def _locked(path: Path, what: str, stack: contextlib.ExitStack) -> BinaryIO:
  """The lock file, open and locked."""
  while True:
    file = stack.enter_context(open(path, 'a+b'))  # noqa: SIM115
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read(64).decode('ascii', 'replace').strip() or 'unknown'
      raise BusyError(
        f'{what} is in use by another process (pid {holder}): wait for it to end, or stop it.'
      ) from None
    # The one before may have removed the file between our opening and locking it.
    with contextlib.suppress(FileNotFoundError):
      if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
        return file


def unpacked(file: BinaryIO) -> BinaryIO:
  """A binary file to read, unpacked if it is gzip, whatever its name; pipes, too."""
  raw: Any = file
  buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
  packed = buffered.peek(2)[:2] == b'\x1f\x8b'
  return cast(BinaryIO, gzip.GzipFile(fileobj=buffered)) if packed else buffered


def number(value: float | None) -> float | None:
  """A float, or None where JSON has no number: of NaN and infinities."""
  return float(value) if value is not None and math.isfinite(value) else None


def warn(message: str, *, once: bool = False) -> None:
  """A line on standard error; with `once`, only the first time that this process says it."""
  if once and message in _SAID:
    return
  if once:
    _SAID.add(message)
  print(shortened(message, 4000), file=sys.stderr, flush=True)


_SAID: set[str] = set()


def shortened(text: str, most: int = 200) -> str:
  """A text of at most `most` characters: of a longer one its begin and end, and how long it is."""
  if len(text) <= most:
    return text
  said = f' ... ({len(text)} characters) ... '
  room = max(most - len(said), 2)
  return text[: room - room // 3] + said + text[len(text) - room // 3 :]


def shown(value: Any, most: int = 200) -> str:
  """A value as a message shows it: its repr, shortened."""
  # Of a long text no more is written out than can be seen.
  if isinstance(value, str | bytes) and len(value) > 2 * most:
    half = value[:most], value[-most:]
    return f'{repr(half[0])[: most // 2]} ... ({len(value)} long) ... {repr(half[1])[-most // 3 :]}'
  return shortened(repr(value), most)


def _canonical(record: Mapping[str, Any]) -> bytes:
  text = json.dumps(record, sort_keys=True, separators=(',', ':'), allow_nan=False)
  return text.encode('ascii')
