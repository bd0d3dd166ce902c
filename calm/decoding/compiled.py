"""Compiled functions of rules: one program for each kind of rule, whatever its numbers."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def jit(function: Callable, *, static_argnames: Sequence[str] = (), **options: Any) -> Callable:
  """`jax.jit` that never takes a dataclass for another of the same fields.

  JAX compares the structure of arguments to find what it has compiled. In jaxlib 0.10 those of two
  dataclasses with as many fields are equal, whatever their classes; whether the program of one then
  runs for the other is left to chance (their hashes), and nothing tells. Here the classes in the
  arguments are part of what is compared.
  """

  def by_classes(classes, *args, **kwargs):
    del classes
    return function(*args, **kwargs)

  # By its signature JAX finds static arguments that are given by place.
  own = inspect.signature(function)
  classes = inspect.Parameter('classes', inspect.Parameter.POSITIONAL_OR_KEYWORD)
  signature = own.replace(parameters=[classes, *own.parameters.values()])
  by_classes.__signature__ = signature  # type: ignore[attr-defined]
  compiled = jax.jit(by_classes, static_argnames=('classes', *static_argnames), **options)

  @functools.wraps(function)
  def call(*args, **kwargs):
    return compiled(classes_of((args, kwargs)), *args, **kwargs)

  return call


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
