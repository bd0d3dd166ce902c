"""Short names for what a result was made of, so that it is not taken for another's."""

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def of_arrays(tree: Any) -> str:
  """SHA-256 in hex of a tree of arrays: paths, types, shapes and every byte."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n'.encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def of_texts(texts: Iterable[str]) -> str:
  """SHA-256 in hex of texts in their order."""
  digest = hashlib.sha256()
  for text in texts:
    encoded = text.encode('utf-8', 'surrogatepass')
    digest.update(f'{len(encoded)}\n'.encode())
    digest.update(encoded)
  return digest.hexdigest()


def describe(thing: Any) -> str:
  """str() of a thing on one line, without addresses, so the same in every process."""
  return ' '.join(re.sub(r' at 0x[0-9a-f]+', '', str(thing)).split())
