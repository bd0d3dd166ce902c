"""Where in a directory of Hugging Face the network and its tokenizer lie."""

import json
import os
from pathlib import Path

from calm.storage import DamagedError

CONFIG = 'config.json'
MODULES = 'modules.json'


def transformer_folder(directory: str | os.PathLike) -> Path:
  """The folder of config.json, weights and tokenizer: `directory`, or one in it.

  sentence-transformers keeps the network beside what it makes of its output, and lists all of them
  in modules.json: in early versions each in a folder of its own, as `0_Transformer`.

  Raises:
    ValueError: modules.json is damaged, or names no transformer or a folder that is not there.
  """
  directory = Path(directory)
  modules = directory / MODULES
  if (directory / CONFIG).is_file() or not modules.is_file():
    return directory
  for kind, path in _listed(modules):
    if kind.rpartition('.')[2] == 'Transformer':
      plain = Path(path).name == path and path not in ('', '..') and '\0' not in path
      if not plain or not (directory / path).is_dir():
        raise DamagedError(f'{modules} names the folder {path!r}, which is not beside it.')
      return directory / path
  raise DamagedError(f'{modules} lists no transformer.')


def _listed(modules: Path) -> list[tuple[str, str]]:
  """The type and path of each module."""
  try:
    return [(str(entry['type']), str(entry['path'])) for entry in json.loads(modules.read_bytes())]
  except (ValueError, TypeError, KeyError, RecursionError):
    raise DamagedError(
      f'{modules} is damaged: it is no list of modules with a type and a path each.'
    ) from None
