"""Is every setting used, of its kind and complete? Answered before anything is called.

Answers name what a user wrote: the macro or parameter, and the flag or line.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

from calm import settings
from calm.bindings import (
  MACRO,
  READ,
  Bindings,
  Setting,
  brief,
  is_macro,
  macro_of,
  means,
  name_of,
  references_in,
)


def check_values(
  bindings: Bindings, given: Sequence[Setting], function_of: Callable[[str], Any]
) -> None:
  """Raises a ValueError for the first value that is not what its parameter may be.

  Args:
    bindings: all that is set.
    given: what the user set, and where.
    function_of: the function or class of a selector.
  """
  for key in bindings.all():
    _, selector, parameter = key
    if selector.startswith('gin.'):
      continue
    kind = settings.hints_of(function_of(selector)).get(parameter, Any)
    value = bindings.plain(bindings.value(key))
    if not settings.fits(kind, value):
      raise ValueError(
        f'{named(bindings.setting(key), given)} must be {settings.words(kind)}, '
        f'not {settings.short(value)} ({parameter} of {brief(selector)}).'
      )


def named(name: str, given: Sequence[Setting]) -> str:
  """A macro or parameter by its name and, where the user set it, by the flag or the line."""
  for setting in reversed(given):
    if means(setting.name, name):
      if not setting.on_command_line:
        return f'{setting.where}: {setting.name}'
      return setting.where if name in setting.where else f'{setting.where} ({name})'
  return f'--gin.{name}'


def setting_for(bindings: Bindings, parameter: str, value: Any) -> str | None:
  """The macro or parameter that gave a parameter of that name a value; None if it is not known."""
  found = {}
  for key in bindings.all():
    if key[2] == parameter and key[1] != MACRO:
      found[bindings.setting(key)] = repr(bindings.plain(bindings.value(key))) == repr(value)
  equal = [name for name in found if found[name]]
  return equal[0] if equal else next(iter(found)) if len(found) == 1 else None


def check_use(
  bindings: Bindings,
  given: Sequence[Setting],
  read: Collection[str],
  known: Collection[str],
  roots: Collection[str],
) -> list[Setting]:
  """Refuses what nothing reads; returns what files set and nothing uses, as things are configured.

  Args:
    bindings: all that is set.
    given: what the user set, and where.
    read: macros that some config reads, even where another one is over it.
    known: names that other commands' configs have; a file may set them for these.
    roots: selectors of the functions that may be called; if there are none, only macros are looked
      at, and whether anything reads them.

  Raises:
    ValueError: a macro is set that nothing reads, or something on the command line that nothing
      uses.
  """
  read = {*read, *bindings.read()}
  for setting in given:
    unread = setting.name.isidentifier() and setting.name not in read
    if unread and (setting.on_command_line or setting.name not in known):
      raise ValueError(f'{setting.where}: no config reads {setting.name}; {_like(setting, read)}')
  unused = idle(bindings, given, roots) if roots else []
  for setting in unused:
    if setting.on_command_line:
      raise ValueError(f'{setting.where}: {_why_idle(bindings, setting)}')
  return unused


def idle(
  bindings: Bindings,
  given: Sequence[Setting],
  roots: Collection[str],
  ignored: str | None = None,
) -> list[Setting]:
  """What the user set and calls of `roots` do not use, nor what only a parameter leads to."""
  used = {name_of(key) for key in bindings.used_by(roots, ignored)} | READ
  return [one for one in given if not any(means(one.name, name) for name in used)]


def _like(setting: Setting, read: Collection[str]) -> str:
  like = difflib.get_close_matches(setting.name, read, 1)
  return f'did you mean {like[0]}?' if like else f'there are {", ".join(sorted(read))}.'


def _why_idle(bindings: Bindings, setting: Setting) -> str:
  if not setting.name.isidentifier():
    configurable = setting.name.rpartition('.')[0].rpartition('/')[2]
    return f'nothing that is configured uses {configurable}, so {setting.name} changes nothing.'
  readers = sorted(
    {
      name_of(key)
      for key in bindings.all()
      for one in references_in(bindings.value(key))
      if is_macro(one) and macro_of(one) == setting.name
    }
  )
  whose = sorted({name.rpartition('.')[0].rpartition('/')[2] or name for name in readers})
  return (
    f'{setting.name} changes nothing: only {", ".join(readers)} reads it, and nothing that is '
    f'configured uses {" or ".join(whose)}.'
  )


def check_arguments(
  bindings: Bindings, root: str, function_of: Callable[[str], Any], given_anyway: Collection[str]
) -> None:
  """Raises a ValueError for the first call that lacks an argument.

  Args:
    bindings: all that is set.
    root: selector of the function that is called.
    function_of: the function or class of a selector.
    given_anyway: what the caller of the root gives it.
  """
  _require(bindings, root, (), function_of, given_anyway, '')
  for key, reference, scopes in bindings.calls(root, set()):
    if reference.evaluate and not is_macro(reference):
      who = f'{bindings.setting(key)}: '
      _require(bindings, reference.configurable.selector, scopes, function_of, (), who)


def _require(
  bindings: Bindings,
  selector: str,
  scopes: tuple[str, ...],
  function_of: Callable[[str], Any],
  given_anyway: Collection[str],
  who: str,
) -> None:
  try:
    parameters = inspect.signature(function_of(selector)).parameters.values()
  except (ValueError, TypeError):  # Some of C's.
    return
  bound = bindings.bound(scopes, selector)
  for one in parameters:
    needed = one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    if needed and one.name not in bound and one.name not in given_anyway:
      name = brief(selector)
      raise ValueError(
        f'{who}{name} needs {one.name}: set {name}.{one.name} in a config or with '
        f'--gin.{name}.{one.name}=VALUE; if the function itself is meant, write @{name} without ().'
      )
