"""Digests of a checkpoint's files, kept beside them, so that damage is found when they are read.

Orbax's index has checksums of its own; arrays have none, and a changed byte of a weight passes.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from calm import storage

FILE = 'digests.json'
FOLDERS = ('state', 'progress')


def write(checkpoint: str | os.PathLike) -> None:
  """Writes the SHA-256 of each file of a checkpoint's items into its folder.

  Raises:
    OSError: a file cannot be read, or the digests not written.
  """
  checkpoint = Path(checkpoint)
  names = [path.relative_to(checkpoint) for path in _files(checkpoint)]
  digests = {name.as_posix(): _digest(checkpoint / name) for name in sorted(names)}
  storage.write_record(checkpoint / FILE, {'sha256': digests})


def verify(checkpoint: str | os.PathLike) -> bool:
  """Compares a checkpoint's files with their digests; returns False if it has no digests.

  Raises:
    DamagedError: a file is not what it was, or lost; names the first.
    OSError: a file cannot be read.
  """
  checkpoint = Path(checkpoint)
  try:
    digests = storage.read_record(checkpoint / FILE)['sha256']
  except FileNotFoundError:
    return False
  for name, expected in digests.items():
    try:
      found = _digest(checkpoint / name)
    except FileNotFoundError:
      raise storage.DamagedError(f'{name} is lost') from None
    if found != expected:
      raise storage.DamagedError(f'{name} is not what was written')
  return True


def _files(checkpoint: Path) -> Iterator[Path]:
  for folder in FOLDERS:
    yield from (path for path in (checkpoint / folder).rglob('*') if path.is_file())


def _digest(path: Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
