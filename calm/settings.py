"""What a setting may be: kinds of values, said in annotations and checked by them.

  def train(*, num_steps: settings.Count, seed: settings.Seed = 0): ...

An annotation serves three: the reader, mypy (a Count is an int), and whoever checks a value, which
is the function itself where it matters (`check`, `check_fields`), and the configuration beforehand,
which knows where the value was set (`calm.checks`).
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import os
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal


@dataclasses.dataclass(frozen=True)
class Range:
  """Finite numbers from `low` to `high`, both among them unless `above` or `below`."""

  low: float = -math.inf
  high: float = math.inf
  above: bool = False
  below: bool = False

  def __contains__(self, number: Any) -> bool:
    high_enough = number > self.low if self.above else number >= self.low
    low_enough = number < self.high if self.below else number <= self.high
    finite = isinstance(number, numbers.Integral) or math.isfinite(number)
    return bool(high_enough and low_enough and finite)

  def __str__(self) -> str:
    low, high = map(_written, (self.low, self.high))
    if self.high == math.inf:
      return f'above {low}' if self.above else f'of at least {low}'
    return f'in {"(" if self.above else "["}{low}, {high}{")" if self.below else "]"}'


def _written(number: float) -> str:
  whole = math.isfinite(number) and number == int(number)
  return str(int(number)) if whole else f'{number:g}'


@dataclasses.dataclass(frozen=True)
class NotEmpty:
  """Lists and mappings with something in them."""


_NATURAL, _AT_LEAST_0 = Range(1), Range(0)
Count = Annotated[int, _NATURAL]
Natural = Annotated[int, _AT_LEAST_0]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, _AT_LEAST_0]
Share = Annotated[float, Range(0, 1)]
ShareBelow1 = Annotated[float, Range(0, 1, below=True)]
Level = Annotated[float, Range(0, 1, above=True, below=True)]  # A tolerance, or a probability.
Finite = Annotated[float, Range()]


class SettingError(ValueError):
  """A value is not what a setting may be; `name` is the parameter's, `value` what it was given."""

  def __init__(self, name: str, value: Any, wanted: str):
    super().__init__(f'{name} must be {wanted}, not {short(value)}.')
    self.name, self.value, self.wanted = name, value, wanted


@dataclasses.dataclass(frozen=True)
class Made:
  """Stands for what a call will give, of which nothing but its kind may be known."""

  text: str  # As it is written.
  kind: Any = Any

  def __repr__(self) -> str:
    return self.text


def check(function: Callable, /, **values: Any) -> None:
  """Raises a SettingError for the first of `values` that its parameter's annotation excludes."""
  hints = hints_of(function)
  for name, value in values.items():
    if not fits(hints.get(name, Any), value):
      raise SettingError(name, value, words(hints[name]))


def check_fields(instance: Any) -> None:
  """`check` for the fields of a dataclass."""
  check(type(instance), **{f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)})


@functools.cache
def hints_of(thing: Callable) -> Mapping[str, Any]:
  """Annotations of the parameters of a function or class, by name; Any where it cannot be read."""
  thing = inspect.unwrap(thing)
  if inspect.isclass(thing) and not dataclasses.is_dataclass(thing):
    thing = inspect.unwrap(thing.__init__)
  try:
    return typing.get_type_hints(thing, include_extras=True)
  except (NameError, TypeError, AttributeError):  # One of them names what its module has not.
    annotations = getattr(thing, '__annotations__', {})
    names = getattr(thing, '__globals__', None) or vars(sys.modules[thing.__module__])
    return {name: _hint(annotation, names) for name, annotation in annotations.items()}


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
  holder = types.SimpleNamespace(__annotations__={'it': annotation})
  try:
    return typing.get_type_hints(holder, names, include_extras=True)['it']  # type: ignore[arg-type]
  except (NameError, TypeError, AttributeError):
    return Any


def fits(kind: Any, value: Any) -> bool:
  """Whether a value is of an annotated kind, as far as that can be told without knowing more.

  Objects pass for each other, as they do in Python; numbers, texts, lists and functions do not.
  """
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is Annotated:
    return fits(arguments[0], value) and all(_allows(each, value) for each in arguments[1:])
  if kind in (Any, inspect.Parameter.empty) or isinstance(kind, typing.TypeVar):
    return True
  if origin in (typing.Union, types.UnionType):
    return any(fits(each, value) for each in arguments)
  if isinstance(value, Made):
    return _may_be(kind, origin, value.kind)
  if origin is Literal:
    return any(type(value) is type(each) and value == each for each in arguments)
  if kind in _PLAIN:
    return _PLAIN[kind][1](value)
  return _container_fits(kind, origin, arguments, value)


def words(kind: Any) -> str:
  """What a value of an annotated kind is, in words: 'a whole number of at least 1'."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is Annotated:
    text = words(arguments[0])
    for each in arguments[1:]:
      text += f' {each}' if isinstance(each, Range) and each != Range() else ''
      text += ', not empty' if isinstance(each, NotEmpty) else ''
    return text
  if origin in (typing.Union, types.UnionType):
    if {int, float} <= {*arguments}:  # jax.typing.ArrayLike
      return 'a number'
    plain = [each for each in arguments if _module(each) not in ('jax', 'numpy')]
    return ' or '.join(dict.fromkeys(map(words, plain)))
  if origin is Literal:
    return f'one of {", ".join(map(repr, arguments))}'
  if kind in _PLAIN:
    return _PLAIN[kind][0]
  shape = origin or kind
  if shape is collections.abc.Callable:
    return 'a function (@module.name)'
  if not inspect.isclass(shape) or shape is Any:
    return 'something else'
  if issubclass(shape, collections.abc.Mapping):
    return f'a mapping to {words(arguments[1])}' if arguments else 'a mapping'
  if issubclass(shape, collections.abc.Iterable) and not issubclass(shape, str):
    each = [one for one in arguments if one is not ...]
    return f'a list, each of it {words(each[0])}' if each and each[0] is not Any else 'a list'
  return f'an object of the kind {shape.__name__} (@module.name())'


def short(value: Any) -> str:
  """A value as it would be written, of which no more is shown than a line takes."""
  if isinstance(value, str | bytes | int | float | Made | None):
    return _SHORT.repr(value)
  name = getattr(value, '__qualname__', None)
  return f'@{name}' if name else _SHORT.repr(value)


def _module(kind: Any) -> str:
  return getattr(kind, '__module__', '').partition('.')[0]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _is_scalar_array(value: Any) -> bool:
  """An array without axes, as JAX gives for a number; what is in it may be traced."""
  return getattr(value, 'ndim', None) == 0 and not isinstance(value, numbers.Number)


def _whole(value: Any) -> bool:
  if _is_scalar_array(value):
    return value.dtype.kind in 'iu'
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
  if _is_scalar_array(value):
    return value.dtype.kind != 'b'
  return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
  int: ('a whole number', _whole),
  float: ('a number', _number),
  bool: ('True or False', lambda value: isinstance(value, bool)),
  str: ('a text', lambda value: isinstance(value, str)),
  type(None): ('None', lambda value: value is None),
}


def _allows(allowed: Any, value: Any) -> bool:
  """Whether a number is in a range, or a list not empty; of what is made later none can tell."""
  if isinstance(allowed, NotEmpty):
    return not isinstance(value, collections.abc.Sized) or len(value) > 0
  if not isinstance(allowed, Range):
    return True
  if isinstance(value, bool):
    return False
  if _is_scalar_array(value):
    try:
      value = float(value)
    except TypeError:  # Traced.
      return True
  return value in allowed if isinstance(value, numbers.Real) else True


def _may_be(kind: Any, origin: Any, made: Any) -> bool:
  """Whether what a call gives, of the annotated kind `made`, may be of another kind."""
  if typing.get_origin(made) in (typing.Union, types.UnionType):
    return any(_may_be(kind, origin, each) for each in typing.get_args(made))
  made = typing.get_origin(made) or made
  if not inspect.isclass(made) or made is Any:
    return True
  if origin is Literal:
    return made in (str, int)
  if kind in _PLAIN:
    return made is kind or (made is int and kind is float)
  shape = origin or kind
  if inspect.isclass(shape) and shape.__module__ == 'collections.abc':
    return issubclass(made, shape)
  return made not in _PLAIN


_LITERALS = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))


def _container_fits(kind: Any, origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
  """The same as `fits` for lists, mappings, functions and objects."""
  shape = origin or kind
  if not inspect.isclass(shape):
    return True
  if shape is collections.abc.Callable:
    return callable(value)
  if issubclass(shape, collections.abc.Mapping):
    if not isinstance(value, collections.abc.Mapping):
      return False
    pairs = value.items() if len(arguments) == 2 else ()
    return all(fits(kind, one) for pair in pairs for kind, one in zip(arguments, pair, strict=True))
  if issubclass(shape, collections.abc.Iterable) and not issubclass(shape, str):
    each = arguments[0] if arguments else Any
    if isinstance(value, list | tuple | set | range):
      return all(fits(each, one) for one in value)
    return isinstance(value, collections.abc.Iterable) and not isinstance(
      value, str | bytes | collections.abc.Mapping
    )
  if shape is os.PathLike or issubclass(shape, os.PathLike):
    return isinstance(value, str | os.PathLike)
  if isinstance(value, _LITERALS) or inspect.isroutine(value):
    return _has_all_of(shape, value)
  return True


def _has_all_of(shape: Any, value: Any) -> bool:
  """Whether a plain value or a function is of a class, or has what a Protocol asks for."""
  if not getattr(shape, '_is_protocol', False):
    return isinstance(value, shape)
  members = {*vars(shape), *getattr(shape, '__annotations__', {})}
  return all(hasattr(value, name) for name in members if not name.startswith('_')) and (
    '__call__' not in members or callable(value)
  )
