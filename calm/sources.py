"""The source of functions, classes and modules, and of what they call: what decides their results.

Only code of one's own is followed: a library, and this project, count elsewhere and as a whole.
"""

import ast
import inspect
import io
import sys
import sysconfig
import textwrap
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def bare(text: str) -> str:
  """Python source without comments, docstrings and blank lines: what is left decides.

  Source that does not parse stays as it is.
  """
  try:
    tree = ast.parse(text)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
  except (SyntaxError, tokenize.TokenError):
    return text
  lines = text.splitlines()
  for token in reversed(tokens):
    if token.type == tokenize.COMMENT:
      row, column = token.start
      lines[row - 1] = lines[row - 1][:column]
  for node in ast.walk(tree):
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
      string = node.body[0]
      for row in range(string.lineno - 1, int(string.end_lineno or string.lineno)):
        lines[row] = ''
  return '\n'.join(line.rstrip() for line in lines if line.strip())


def is_own(thing: Any, packages: Sequence[str]) -> bool:
  """Whether a function, class or module is the user's: of no library and none of `packages`."""
  name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
  if not isinstance(name, str) or name.partition('.')[0] in (*packages, 'builtins'):
    return False
  path = getattr(sys.modules.get(name), '__file__', None)
  if path is None:  # Typed in, or run as a text.
    return name == '__main__' or name not in sys.modules
  return not any(Path(path).is_relative_to(folder) for folder in _LIBRARIES)


def free_variables(function: Any) -> dict[str, Any]:
  """What a function made inside another has taken from there, by name."""
  try:
    found = inspect.getclosurevars(function).nonlocals
  except (TypeError, ValueError):
    return {}
  return {name: value for name, value in found.items() if value is not function}


def closure(thing: Any, packages: Sequence[str], constant: Callable[[Any], str]) -> dict[str, str]:
  """The bare source of a function, class or module and of all of one's own that it refers to.

  Values that it reads from its module appear as `constant` says. What is reached through a name is
  followed; what is reached in another way (by getattr, say) is not.
  """
  found: dict[str, str] = {}
  waiting = [thing]
  while waiting:
    one = waiting.pop()
    key = _key(one)
    if key in found:
      continue
    found[key] = _text(one)
    for name, value in _referred(one):
      if isinstance(value, types.FunctionType | type | types.ModuleType):
        if is_own(value, packages):
          waiting.append(inspect.unwrap(value) if callable(value) else value)
      elif not callable(value):
        found[f'{key}:{name}'] = constant(value)
  return found


_LIBRARIES = tuple(
  Path(path) for path in {sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib')}
)


def _key(thing: Any) -> str:
  module = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
  return f'{module}:{getattr(thing, "__qualname__", "")}'


def _text(thing: Any) -> str:
  try:
    if isinstance(thing, types.ModuleType):
      return bare(inspect.getsource(thing))
    return bare(textwrap.dedent(inspect.getsource(thing)))
  except (OSError, TypeError):  # Typed in: no file holds it.
    return repr([(code.co_code, code.co_names, _plain_constants(code)) for code in _codes(thing)])


def _plain_constants(code: types.CodeType) -> list[Any]:
  return [value for value in code.co_consts if not isinstance(value, types.CodeType)]


def _codes(thing: Any) -> Iterator[types.CodeType]:
  """The code objects of a function or of a class's methods, those inside them too."""
  if isinstance(thing, type):
    waiting = [
      function.__code__ for value in vars(thing).values() for function in _functions(value)
    ]
  else:
    waiting = [thing.__code__] if isinstance(thing, types.FunctionType) else []
  while waiting:
    code = waiting.pop()
    yield code
    waiting.extend(value for value in code.co_consts if isinstance(value, types.CodeType))


def _functions(value: Any) -> list[types.FunctionType]:
  """The functions of an entry of a class: a method, a property's, a static one."""
  candidates = (value, *(getattr(value, name, None) for name in ('fget', '__func__', 'func')))
  return [one for one in candidates if isinstance(one, types.FunctionType)]


def _referred(thing: Any) -> Iterator[tuple[str, Any]]:
  """Pairs of a name and the value of the module that it stands for."""
  if isinstance(thing, types.ModuleType):
    for name, value in vars(thing).items():
      if isinstance(value, types.FunctionType | type | types.ModuleType):
        yield name, value
    return
  scope: Mapping[str, Any] = getattr(thing, '__globals__', None) or vars(
    sys.modules.get(thing.__module__, types.ModuleType('none'))
  )
  if isinstance(thing, type):
    for base in thing.__bases__:
      yield base.__name__, base
  for code in _codes(thing):
    for name in code.co_names:
      if name in scope and not name.startswith('__'):
        yield name, scope[name]
