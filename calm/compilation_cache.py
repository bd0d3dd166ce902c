"""Compiled programs on disk, so that a second command on the same model compiles nothing again.

JAX keeps and finds them: by the program, the compiler's options and flags, the versions of JAX's
library and of the device's, and what the device, or a CPU of that kind, can do. Here is said where
they lie, how much they may take, and what becomes of a folder that cannot be used or is damaged.

Programs that are found are run, so the folder must be nobody else's: it is in the user's cache and
not in a workdir, which may have come from elsewhere.
"""

import argparse
import os
import re
import stat
import tempfile
import warnings
from pathlib import Path
from typing import Any

from calm import storage

OFF = 'off'
MAX_BYTES = 2**30
SETTINGS = {
  'jax_compilation_cache_max_size': MAX_BYTES,  # What was not used for longest goes first.
  # Reading the smallest program is faster than compiling it.
  'jax_persistent_cache_min_compile_time_secs': 0.0,
  'jax_persistent_cache_min_entry_size_bytes': 0,
  # XLA's own, of which nothing bounds the size.
  'jax_persistent_cache_enable_xla_caches': 'none',
}
_ENTRY, _USED = '-cache', '-atime'  # A program, and when it was last used, which is written after.
_FAILED = re.compile(r"Error (\w+) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL)


def add_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --compilation_cache to a parser."""
  parser.add_argument(
    '--compilation_cache',
    metavar='DIR',
    help=f"where compiled programs are kept, {OFF} for nowhere; by default in the user's cache, "
    f'{MAX_BYTES >> 20} MiB at most',
  )


def use(folder: str | os.PathLike | None = None) -> None:
  """Has JAX keep what it compiles in `folder`, of its own in the user's cache if it is None.

  'off' keeps nothing. Where JAX has been told already, as by its own variables
  JAX_COMPILATION_CACHE_DIR or JAX_ENABLE_COMPILATION_CACHE, that holds unless a folder is given. A
  folder that cannot be used is told in a line, and everything is compiled.
  """
  import jax

  if folder == OFF:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  told = jax.config.values
  kept, keeps = told['jax_compilation_cache_dir'], told['jax_enable_compilation_cache']
  if (kept or not keeps) if folder is None else (keeps and kept == str(Path(folder).resolve())):
    return
  try:
    path = default_folder() if folder is None else Path(folder)
    _prepare(path, own=folder is None)
  except (OSError, RuntimeError, NotImplementedError) as error:
    reason = getattr(error, 'strerror', None) or str(error)
    storage.warn(f'Compiled programs are not kept: {folder or "the cache"}: {reason}.')
    return
  for name, value in SETTINGS.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update('jax_compilation_cache_dir', str(path.resolve()))
  _tell_failures(path)


def default_folder() -> Path:
  """Where the user's programs lie; RuntimeError if the user has no home."""
  cache = Path(os.environ.get('XDG_CACHE_HOME', ''))
  cache = cache if cache.is_absolute() else Path.home() / '.cache'
  return cache / 'adaptive-inference' / 'compiled'


def _prepare(folder: Path, *, own: bool) -> None:
  """Makes a folder, or mends it; OSError if it cannot be used."""
  import filelock

  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  status = folder.stat()
  writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
  if own and (status.st_uid != os.getuid() or writable):
    raise PermissionError(None, f'{folder} can be written by others, whose programs would be run')
  with filelock.FileLock(folder / '.lockfile', timeout=10):
    # What a full disk or a killed process has left: it would be read, or end JAX's own clearing.
    for path in folder.glob(f'*{_ENTRY}'):
      used = path.with_name(path.name.removesuffix(_ENTRY) + _USED)
      if not used.exists() or not path.stat().st_size:
        path.unlink()
        used.unlink(missing_ok=True)
  with tempfile.TemporaryFile(dir=folder) as file:
    file.write(bytes(1 << 16))


def _tell_failures(folder: Path) -> None:
  """Puts JAX's warnings of this cache into a line, the first one; damaged programs are removed."""
  usual = warnings.showwarning
  told: list[str] = []

  def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    failed = _FAILED.match(str(message))
    if failed is None:
      usual(message, *args, **kwargs)
      return
    doing, program, reason = failed.groups()
    if doing == 'reading':
      for path in folder.glob(f'{program}-*'):
        path.unlink(missing_ok=True)
    if not told:
      told.append(reason)
      what = 'are damaged and compiled again' if doing == 'reading' else 'cannot be kept'
      storage.warn(f'{folder}: compiled programs {what} ({reason}).')

  warnings.showwarning = show
