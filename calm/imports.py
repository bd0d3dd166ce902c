"""Which modules a config may name: those that Python finds, and not the current folder's.

A config can import any module and call what is in it. Its author chose the names; what lies in the
folder where a command happens to be run he did not: so that is looked at only if it is asked for,
by `--import_from` or PYTHONPATH, however the config was named.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Gin hands errors on without their attributes.
_NAME = re.compile(r"No module named '([\w.]+)'|from '([\w.]+)'")


@contextlib.contextmanager
def only_from(folders: Sequence[str]) -> Iterator[None]:
  """Has modules found in `folders`, after all installed ones, and in the current one only if named.

  Raises:
    NotADirectoryError: one of them is no folder.
  """
  for folder in folders:
    if not os.path.isdir(folder):
      raise NotADirectoryError(f'--import_from={folder}: no such folder.')
  asked = [*folders, *filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))]
  before, here = [*sys.path], os.path.realpath('.')
  if here not in map(os.path.realpath, asked):
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]
  sys.path += [os.path.abspath(folder) for folder in folders]
  try:
    yield
  finally:
    sys.path[:] = before


def missing(error: ImportError) -> str:
  """Says of a module that cannot be imported what is to be done, in a sentence."""
  found = _NAME.search(str(error))
  name = error.name or (found[1] if found else 'A module')
  top = name.partition('.')[0]
  if Path(f'{top}.py').is_file() or Path(top).is_dir():
    return (
      f'{name} lies in the current folder, whose code runs only if you ask for it: '
      'give --import_from=. if you trust it.'
    )
  if isinstance(error, ModuleNotFoundError):
    return f'There is no module {name}: install it, or say where it lies with --import_from=DIR.'
  return f'{name} cannot be imported as it is asked for.'
