"""What a value, a function, a folder of code is: by content, so that a change of it shows.

`identity` describes a thing in words and numbers as JSON takes them; what is too long for words
(weights, source code) appears as a fingerprint. Two identities are compared by `differences`, which
says in words what has changed. Nothing here depends on where files lie, on addresses, or on the
process.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calm import sources

FINGERPRINT = 'sha256:'
Described = dict[str, Any]
# Our own packages, whose code counts as a whole (`code`), function by function only elsewhere.
PACKAGES = ('calm', 'sweet', 'elang')
# What else is bound to a function: `calm.configuration` adds what gin would pass to it.
BINDERS: list[Callable[[Callable], Mapping[str, Any]]] = []


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
  return FINGERPRINT + digest.hexdigest()


@functools.cache
def code(*names: str) -> str:
  """Fingerprint of the code of modules and packages, by name, comments and docstrings left out.

  Paths count relative to their package, so that an installed package equals its checkout.

  Raises:
    ModuleNotFoundError: there is no such module.
  """
  found = {}
  for name in names:
    spec = importlib.util.find_spec(name)
    if spec is None:
      raise ModuleNotFoundError(f'No module {name}.')
    if not spec.submodule_search_locations:
      found[name] = sources.bare(Path(str(spec.origin)).read_text(encoding='utf-8'))
    for folder in map(Path, spec.submodule_search_locations or ()):
      for path in sorted(folder.rglob('*.py')):
        place = f'{name}/{path.relative_to(folder).as_posix()}'
        found[place] = sources.bare(path.read_text(encoding='utf-8'))
  return fingerprint(found)


def identity(value: Any) -> Any:
  """What a thing is, as JSON takes it.

  - Numbers, texts, None and containers of them stand for themselves, arrays by fingerprint.
  - A function is its module and name with the arguments bound to it (by functools.partial, a
    closure, or gin), and, unless it is of a library or of this project, its source and that of all
    it calls in the user's modules.
  - A dataclass is its class and its fields, but for fields whose metadata say `identity: False`:
    settings that change no result. The class counts as a function does.
  - Any other object may have an `identity` of its own, a property; else it is its class and
    attributes.

  Raises:
    ValueError: a thing that refers to itself, or holds what has no content (an open file, say).
  """
  return _identity(value, ())


def name_of(function: Any) -> str:
  """'package.module.name' of a function or class as it was defined, whatever wraps it."""
  function = inspect.unwrap(function)
  if isinstance(function, functools.partial):
    return name_of(function.func)
  module = getattr(function, '__module__', None) or type(function).__module__
  return f'{module}.{getattr(function, "__qualname__", type(function).__qualname__)}'


def flatten(identity: Any, path: str = '') -> dict[str, Any]:
  """The leaves of an identity by dotted path; a function or class stands under its own path."""
  if isinstance(identity, Mapping) and identity:
    leaves: dict[str, Any] = {}
    name = 'class' if 'class' in identity else 'function'
    for key, value in identity.items():
      named = path and key == name and isinstance(value, str)
      inside = path if named else f'{path}.{key}' if path else str(key)
      leaves |= flatten(value, inside)
    return leaves
  if isinstance(identity, list) and any(isinstance(item, Mapping | list) for item in identity):
    return {
      name: leaf
      for i, item in enumerate(identity)
      for name, leaf in flatten(item, f'{path}[{i}]').items()
    }
  return {path: identity}


# By dotted path the words for what was there and what is now; None where there are no words for it,
# as of weights or code.
Differences = dict[str, tuple[str, str] | None]
NOTHING = 'nothing'  # the word for a path that only the other identity has


def differences(before: Any, now: Any) -> Differences:
  """What differs between two identities; empty if nothing does.

  As in {'rule.measure': ('softmax_margin', 'state_saturation'), 'params': None}.
  """
  old, new = flatten(before), flatten(now)
  found: Differences = {}
  for path in dict.fromkeys((*old, *new)):
    if path not in old:
      found[path] = (NOTHING, words(new[path]))
    elif path not in new:
      found[path] = (words(old[path]), NOTHING)
    elif old[path] != new[path]:
      hidden = _is_fingerprint(old[path]) or _is_fingerprint(new[path])
      found[path] = None if hidden else (words(old[path]), words(new[path]))
  return found


def in_words(differences: Differences) -> str:
  """Differences on one line, as in 'rule.min_exit was 1 and is 2; params differs'.

  What comes or goes with something that differs itself, as another rule's settings, is left out.
  """
  parts = [
    f'{path} differs' if pair is None else f'{path} was {pair[0]} and is {pair[1]}'
    for path, pair in differences.items()
    if not (pair and NOTHING in pair and any(path.startswith(f'{one}.') for one in differences))
  ]
  return '; '.join(parts)


def words(leaf: Any) -> str:
  """A leaf of an identity as people read it, at most 200 characters of it."""
  if _is_fingerprint(leaf):
    return 'another'
  text = leaf if isinstance(leaf, str) and leaf else repr(leaf)
  if isinstance(leaf, str) and leaf.partition('.')[0] in PACKAGES:
    text = leaf.rpartition('.')[2]  # Our own functions need no address.
  return text if len(text) <= 200 else f'{text[:197]}...'


def _is_fingerprint(leaf: Any) -> bool:
  return isinstance(leaf, str) and leaf.startswith(FINGERPRINT)


def _identity(value: Any, inside: tuple[Any, ...]) -> Any:
  if value is None or isinstance(value, bool | int | str):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  if isinstance(value, bytes) or (hasattr(value, 'dtype') and hasattr(value, 'shape')):
    return _of_array(value)
  if isinstance(value, np.dtype):
    return value.name
  if any(value is other for other in inside):
    raise ValueError(f'{type(value).__qualname__} refers to itself: it has no identity.')
  inside = (*inside, value)
  if isinstance(value, Mapping):
    return {str(key): _identity(item, inside) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_identity(item, inside) for item in value]
  if isinstance(value, set | frozenset):
    return sorted((_identity(item, inside) for item in value), key=repr)
  if isinstance(value, type):
    return _of_class(value)
  own = getattr(value, 'identity', None)
  if isinstance(own, Mapping):
    return _identity(own, inside)
  if dataclasses.is_dataclass(value):
    counted = [f for f in dataclasses.fields(value) if f.metadata.get('identity', True)]
    state = {field.name: getattr(value, field.name) for field in counted}
    return _merge(_of_class(type(value)), _identity(state, inside))
  if (callable(value) and not hasattr(type(value), '__dict__')) or _is_function(value):
    return _of_function(value, inside)
  if isinstance(value, types.ModuleType):
    return {'module': value.__name__, **_source(value)}
  try:
    state = vars(value)
  except TypeError:
    raise ValueError(f'{type(value).__qualname__} has no identity: it has no content.') from None
  return _merge(_of_class(type(value)), _identity(state, inside))


def _of_array(value: Any) -> Any:
  if isinstance(value, bytes):
    return fingerprint(value)
  if np.ndim(value) == 0 and not str(value.dtype).startswith('key'):
    return _identity(np.asarray(value).item(), ())
  return fingerprint(value)


def _is_function(value: Any) -> bool:
  kinds = types.FunctionType | types.BuiltinFunctionType | types.MethodType | functools.partial
  return isinstance(value, kinds) or hasattr(value, '__wrapped__')


def _of_function(function: Any, inside: tuple[Any, ...]) -> Described:
  if isinstance(function, functools.partial):
    described = _identity(function.func, inside)
    given = {str(i): value for i, value in enumerate(function.args)} | function.keywords
    return _bind(described, given, inside)
  if isinstance(function, types.MethodType):
    described = _of_function(function.__func__, inside)
    return _bind(described, {'self': function.__self__}, inside)
  plain = inspect.unwrap(function)
  described = _bind(
    {'function': name_of(plain), **_source(plain)}, sources.free_variables(plain), inside
  )
  for binder in BINDERS:
    described = _bind(described, binder(function), inside)
  return described


def _of_class(kind: type) -> Described:
  return {'class': f'{kind.__module__}.{kind.__qualname__}', **_source(kind)}


def _source(thing: Any) -> Described:
  """The fingerprint of a function's, class's or module's source, if it is the user's own."""
  if not sources.is_own(thing, PACKAGES):
    return {}
  return {'source': fingerprint(sources.closure(thing, PACKAGES, _constant))}


def _constant(value: Any) -> str:
  """A module's constant as a part of the functions that read it."""
  try:
    return fingerprint(identity(value))
  except ValueError:
    return type(value).__qualname__


def _bind(described: Described, arguments: Mapping[str, Any], inside: tuple[Any, ...]) -> Described:
  if not arguments:
    return described
  bound = {name: _identity(value, inside) for name, value in arguments.items()}
  return {**described, 'bound': {**described.get('bound', {}), **bound}}


def _merge(described: Described, state: Described) -> Described:
  if described.keys() & state.keys():  # A field called `source`, say.
    return {**described, 'fields': state}
  return {**described, **state}


def _write(digest: 'hashlib._Hash', kind: str, content: bytes) -> None:
  # Kind and length before the content: no two values write the same bytes.
  digest.update(f'{kind}:{len(content)}:'.encode())
  digest.update(content)


def _update(digest: 'hashlib._Hash', value: Any, place: str) -> None:
  if value is None or isinstance(value, bool | int | float | str):
    _write(digest, type(value).__name__, str(value).encode('utf-8', 'surrogatepass'))
  elif isinstance(value, bytes):
    _write(digest, 'bytes', value)
  elif isinstance(value, np.dtype):
    _write(digest, 'dtype', value.name.encode())
  elif isinstance(value, Mapping):
    if not all(isinstance(key, str) for key in value):
      raise ValueError(f'{place} has keys that are not strings: no fingerprint can be made of it.')
    _write(digest, 'mapping', str(len(value)).encode())
    for key in sorted(value):
      _write(digest, 'key', key.encode('utf-8', 'surrogatepass'))
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


def _update_array(digest: 'hashlib._Hash', value: Any, place: str) -> None:
  array = np.ascontiguousarray(value)
  if array.dtype.hasobject:
    raise ValueError(f'{place} is an array of objects: no fingerprint can be made of it.')
  _write(digest, 'array', f'{array.dtype.name}{np.shape(value)}'.encode())
  _write(digest, 'data', array.tobytes())
