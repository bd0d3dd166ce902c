"""Directories of config.json and safetensors files, as Hugging Face keeps models; without torch.

What is said here holds for any such model; which tensors it has, and what its settings mean, is
said where its kind is: `calm.models.huggingface_t5`.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from calm import storage

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}
_PARTIAL = '.partial-'


def holds_weights(directory: Path) -> bool:
  """Whether weights of this kind lie in a directory."""
  return any((directory / name).is_file() for name in (WEIGHTS, INDEX))


def read_settings(directory: Path) -> dict[str, Any]:
  """The settings of config.json, a dict.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged.
  """
  if not (directory / CONFIG).is_file():
    raise FileNotFoundError(f'{directory} holds weights but no {CONFIG}.')
  return storage.read_json(directory / CONFIG)


class Tensors:
  """The tensors of a directory, in one file or in shards; read one by one, when asked for.

  Attributes:
    shapes: the shape of every tensor, by name.

  Raises:
    FileNotFoundError: a shard is missing.
    ValueError: a file is damaged, a tensor is quantized, or two files hold one of that name.
  """

  def __init__(self, directory: Path, unused: Sequence[str] = ()):
    """Opens `directory`; tensors called as one of `unused` are passed over."""
    # The file that holds a tensor, and its name there.
    self._stored: dict[str, tuple[Path, str]] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    for path, listed in _weight_files(directory).items():
      self._add(path, unused)
      for name in listed - set(unused) - self.shapes.keys():
        raise ValueError(f'{path} lacks {name}, which {INDEX} lists.')

  def read(self, name: str) -> np.ndarray:
    """The tensor called `name`, a NumPy array of the type in which it is stored.

    Raises:
      ValueError: a value is not finite, or not in float32.
    """
    path, stored_name = self._stored[name]
    with _open(path) as file:
      value = file.get_tensor(stored_name)
    with np.errstate(over='ignore'):
      finite = np.isfinite(value.astype(np.float32) if value.dtype == np.float64 else value)
    if not finite.all():
      at = ', '.join(map(str, np.argwhere(~finite)[0]))
      number = finite.size - np.count_nonzero(finite)
      raise ValueError(
        f'{path}: {stored_name} holds {number} values that are not finite, the first at [{at}].'
      )
    return value

  def file(self, name: str) -> Path:
    """The path of the file that holds the tensor called `name`."""
    return self._stored[name][0]

  def copy(self, name: str, other: str) -> None:
    """Makes `name` stand for the tensor `other`, too."""
    self._stored[name], self.shapes[name] = self._stored[other], self.shapes[other]

  def merge(
    self, name: str, copies: Iterable[str], why: str = f'{CONFIG} says they are one'
  ) -> None:
    """Makes one tensor of `name` and its copies, which must be equal; any may be absent.

    `why` they must is the end of the message about two that are not.

    Raises:
      ValueError: two differ.
    """
    for copy in copies:
      if copy not in self.shapes:
        continue
      if name not in self.shapes:
        self.copy(name, copy)
      elif not np.array_equal(self.read(name), self.read(copy)):
        path, _ = self._stored[copy]
        raise ValueError(f'{path}: {copy} and {name} differ, though {why}.')
      del self._stored[copy], self.shapes[copy]

  def _add(self, path: Path, unused: Sequence[str]) -> None:
    with _open(path) as file:
      for name in set(file.keys()) - set(unused):
        tensor = file.get_slice(name)
        if name in self.shapes:
          raise ValueError(f'{path}: {name} is in {self.file(name).name}, too.')
        if tensor.get_dtype() not in ('F64', 'F32', 'F16', 'BF16'):
          raise ValueError(f'{path}: {name} is quantized ({tensor.get_dtype()}): not supported.')
        self._stored[name] = path, name
        self.shapes[name] = tuple(tensor.get_shape())


def write(
  directory: str | os.PathLike | None,
  settings: Mapping[str, Any],
  tensors: Mapping[str, Any],
  dtype: str = 'float32',
  beside: Mapping[str, Any] | None = None,
) -> Path:
  """Writes a directory, in place of an older one of the same kind; returns its path.

  The weights are in place before config.json is, so that an interrupted call leaves nothing that
  looks whole.

  Args:
    directory: is made; may exist if it holds nothing else than what an earlier call wrote.
    settings: for config.json.
    tensors: arrays by name.
    dtype: of the written weights, one of DTYPES.
    beside: all other files of this kind of directory, by name: a dict to be written as JSON,
      bytes, the path of a file to be copied, or None if there is to be none.

  Raises:
    FileExistsError: `directory` holds other files; nothing is changed.
    FileNotFoundError: there is no such file to be copied.
    ValueError: no directory, or another dtype.
    storage.BusyError: another process writes it.
  """
  if not directory:
    raise ValueError('There is no directory to write: set --output (EXPORT_DIRECTORY).')
  directory, beside = Path(directory), beside or {}
  files = (CONFIG, *beside, WEIGHTS)
  if dtype not in DTYPES:
    raise ValueError(f'dtype: {dtype!r} is not one of {", ".join(DTYPES)}.')
  for name, content in beside.items():
    if not (content is None or isinstance(content, dict | bytes) or Path(content).is_file()):
      raise FileNotFoundError(f'There is no {content} to be written as {name}.')
  _require_replaceable(directory, files)
  with storage.lock(directory.parent / f'.{directory.name}.lock', str(directory)):
    _write(directory, settings, tensors, dtype, beside, files)
  return directory


def _write(
  directory: Path,
  settings: Mapping[str, Any],
  tensors: Mapping[str, Any],
  dtype: str,
  beside: Mapping[str, Any],
  files: Sequence[str],
) -> None:
  for path in directory.glob(f'{_PARTIAL}*'):  # What an interrupted call left.
    shutil.rmtree(path)
  directory.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=directory) as temporary:
    partial = Path(temporary)
    arrays = {name: _as_stored(value, dtype) for name, value in tensors.items()}
    safetensors.numpy.save_file(arrays, partial / WEIGHTS, metadata={'format': 'pt'})
    for name, content in {**beside, CONFIG: settings}.items():
      if isinstance(content, dict):
        storage.write_json(partial / name, dict(sorted(content.items())))
      elif isinstance(content, bytes):
        storage.write_bytes(partial / name, content)
      elif content is not None:
        shutil.copyfile(content, partial / name)
    # safetensors lets nobody else read what it writes.
    (partial / WEIGHTS).chmod((partial / CONFIG).stat().st_mode)
    for name in files:  # config.json is the first to go and the last to come.
      (directory / name).unlink(missing_ok=True)
    for name in reversed(files):
      if (partial / name).exists():
        (partial / name).replace(directory / name)


def _as_stored(value: Any, dtype: str) -> np.ndarray:
  return np.ascontiguousarray(np.asarray(value).astype(DTYPES[dtype]))


def _require_replaceable(directory: Path, files: Sequence[str]) -> None:
  if directory.exists() and not directory.is_dir():
    raise FileExistsError(f'{directory} is a file; an export needs a directory.')
  if not directory.exists():
    return
  others = sorted(
    path.name
    for path in directory.iterdir()
    if path.name not in files and not path.name.startswith(_PARTIAL)
  )
  if others:
    raise FileExistsError(
      f'{directory} holds other files ({", ".join(others[:5])}): export to an empty directory.'
    )


def _weight_files(directory: Path) -> dict[Path, set[str]]:
  """The files that hold tensors, each with the names of those that it must hold."""
  if (directory / WEIGHTS).is_file():  # transformers, too, looks for the whole file first.
    return {directory / WEIGHTS: set()}
  weight_map = storage.read_json(directory / INDEX).get('weight_map')
  if not isinstance(weight_map, dict) or not weight_map:
    raise ValueError(f'{directory / INDEX} has no "weight_map".')
  listed: dict[Path, set[str]] = {}
  for tensor, name in sorted(weight_map.items(), key=str):
    if not isinstance(name, str) or '\0' in name or Path(name).name != name:
      raise ValueError(f'{directory / INDEX} names {name!r}, which is not beside it.')
    if not (directory / name).is_file():
      raise FileNotFoundError(f'{directory / name} is missing; {INDEX} lists it for {tensor}.')
    listed.setdefault(directory / name, set()).add(tensor)
  return listed


def _open(path: Path) -> Any:
  try:
    return safetensors.safe_open(path, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is not a whole safetensors file: {error}.') from error
