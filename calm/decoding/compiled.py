"""Which dataclasses are in a compiled function's arguments, for JAX to tell them apart.

JAX compares the structure of arguments to find what it has compiled. In jaxlib 0.10 those of two
dataclasses with as many fields are equal, whatever their classes; whether the program of one then
runs for the other is left to chance (their hashes), and nothing tells. So a function that is
compiled for rules takes `classes_of` its arguments as one more, a static one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


def classes_of(tree: Any) -> Any:
  """The dataclasses in nested containers, hashable: equal where classes and places are."""
  if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
    fields = (getattr(tree, field.name) for field in dataclasses.fields(tree))
    return type(tree), tuple(map(classes_of, fields))
  if isinstance(tree, Mapping):
    return tuple((key, classes_of(value)) for key, value in tree.items())
  if isinstance(tree, list | tuple):
    return tuple(map(classes_of, tree))
  return None
