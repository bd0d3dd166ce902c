"""Short names that change when what they stand for changes: of parameters, data and code."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(value: Any) -> str:
  """'sha256:...' of nested containers of arrays, texts and numbers.

  Mappings with string keys (in any order), lists, tuples, dataclasses, arrays of numbers (NumPy's
  or JAX's, with their type and shape), dtypes, strings, bytes, numbers, booleans and None. A tuple
  equals a list of the same.

  Raises:
    ValueError: anything else; names its place.
  """
  digest = hashlib.sha256()
  _update(digest, value, 'value')
  return f'sha256:{digest.hexdigest()}'


def code_fingerprint(*folders: str | Path) -> str:
  """'sha256:...' of the Python files below the folders (or of single files): paths and contents.

  Paths count relative to their folder, so that an installed package equals its checkout.

  Raises:
    FileNotFoundError: no Python file at one of them.
  """
  digest = hashlib.sha256()
  for folder in map(Path, folders):
    files = [folder] if folder.is_file() else sorted(folder.rglob('*.py'))
    if not files:
      raise FileNotFoundError(f'No Python file at {folder}.')
    for file in files:
      name = file.name if file == folder else file.relative_to(folder).as_posix()
      _write(digest, 'file', name.encode())
      _write(digest, 'text', file.read_bytes())
  return f'sha256:{digest.hexdigest()}'


def describe(thing: Any) -> str:
  """str() of a thing on one line, without addresses, so the same in every process."""
  return ' '.join(re.sub(r' at 0x[0-9a-f]+', '', str(thing)).split())


def _write(digest, kind, content):
  # Kind and length before the content: no two values write the same bytes.
  digest.update(f'{kind}:{len(content)}:'.encode())
  digest.update(content)


def _update(digest, value, place):
  if value is None or isinstance(value, bool | int | float | str):
    _write(digest, type(value).__name__, str(value).encode())
  elif isinstance(value, bytes):
    _write(digest, 'bytes', value)
  elif isinstance(value, np.dtype):
    _write(digest, 'dtype', value.name.encode())
  elif isinstance(value, Mapping):
    if not all(isinstance(key, str) for key in value):
      raise ValueError(f'{place} has keys that are not strings: no fingerprint can be made of it.')
    _write(digest, 'mapping', str(len(value)).encode())
    for key in sorted(value):
      _write(digest, 'key', key.encode())
      _update(digest, value[key], f'{place}[{key!r}]')
  elif isinstance(value, list | tuple):
    _write(digest, 'sequence', str(len(value)).encode())
    for i, item in enumerate(value):
      _update(digest, item, f'{place}[{i}]')
  elif dataclasses.is_dataclass(value) and not isinstance(value, type):
    _write(digest, 'dataclass', type(value).__qualname__.encode())
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    _update(digest, fields, place)
  elif hasattr(value, 'dtype') and hasattr(value, 'shape'):
    _update_array(digest, value, place)
  else:
    raise ValueError(
      f'{place} is a {type(value).__qualname__}: no fingerprint can be made of it. '
      'Give numbers, strings, arrays, or containers of them.'
    )


def _update_array(digest, value, place):
  array = np.ascontiguousarray(value)
  if array.dtype.hasobject:
    raise ValueError(f'{place} is an array of objects: no fingerprint can be made of it.')
  _write(digest, 'array', f'{array.dtype.name}{np.shape(value)}'.encode())
  _write(digest, 'data', array.tobytes())
