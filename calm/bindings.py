"""What gin was told, read back before anything is called: what is set, and what leads to what."""

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from calm import settings

Key = tuple[str, str, str]  # scope, configurable, parameter
MACRO = 'gin.macro'
# Read by the program itself.
READ = frozenset({'WORKDIR'})


@dataclasses.dataclass(frozen=True)
class Setting:
  """A macro or parameter as a user set it: on the command line, or in a file of his own."""

  name: str  # 'NUM_STEPS', 'loop.train.num_steps' or 'scope/loop.train.num_steps'
  where: str  # '--gin.NUM_STEPS', '"my.gin" line 3'
  on_command_line: bool = True


class Bindings:
  """All that gin was told, as its finalize hooks are given it."""

  def __init__(self, config: Mapping[tuple[str, str], Mapping[str, Any]]):
    self._config = config

  def all(self) -> Iterator[Key]:
    """Everything that is set."""
    for (scope, selector), values in self._config.items():
      yield from ((scope, selector, parameter) for parameter in values)

  def value(self, key: Key) -> Any:
    """What a key is set to, references as they are."""
    scope, selector, parameter = key
    return self._config[scope, selector][parameter]

  def macros(self) -> set[str]:
    """The names of all macros that are set."""
    return {scope for scope, selector in self._config if selector == MACRO}

  def read(self) -> set[str]:
    """The names of all macros that something reads."""
    references = (one for key in self.all() for one in references_in(self.value(key)))
    return {*READ, *(macro_of(one) for one in references if is_macro(one))}

  def bound(self, scopes: Sequence[str], selector: str) -> dict[str, Key]:
    """What is set for a call in a scope, by parameter; inner scopes are over outer ones."""
    found = {}
    for depth in range(len(scopes) + 1):
      scope = '/'.join(scopes[:depth])
      for parameter in self._config.get((scope, selector), {}):
        found[parameter] = (scope, selector, parameter)
    return found

  def used_by(self, selectors: Iterable[str], ignored: str | None = None) -> set[Key]:
    """All that is set for calls of these, and of whatever they refer to.

    A parameter `ignored`, as configs name it and in any scope, is not looked at.

    Raises:
      ValueError: a setting refers to itself.
    """
    used: set[Key] = set()
    for selector in selectors:
      for _ in self.calls(selector, used, ignored):
        pass
    return used

  def calls(
    self, selector: str, used: set[Key], ignored: str | None = None
  ) -> Iterator[tuple[Key, Any, tuple[str, ...]]]:
    """The references that a call of `selector` leads to: (where it stands, reference, its scopes).

    `used` gets all that is set on the way.
    """
    done: set[tuple[str, tuple[str, ...]]] = set()

    def visit(
      selector: str, scopes: tuple[str, ...], path: list[tuple[str, tuple[str, ...]]]
    ) -> Iterator[tuple[Key, Any, tuple[str, ...]]]:
      if (selector, scopes) in done:
        return
      done.add((selector, scopes))
      for key in self.bound(scopes, selector).values():
        if ignored is not None and means(ignored, name_of(('', *key[1:]))):
          continue
        used.add(key)
        for one in references_in(self.value(key)):
          inner = tuple(one.scopes) or scopes
          called = (one.configurable.selector, inner)
          if called in path:
            circle = ' -> '.join(map(_shown, [*path[path.index(called) :], called]))
            raise ValueError(f'{self.setting(key)} leads back to itself: {circle}.')
          yield key, one, inner
          yield from visit(*called, [*path, called])

    yield from visit(selector, (), [(selector, ())])

  def setting(self, key: Key) -> str:
    """Who decides on a parameter: the macro that it reads, or the parameter itself."""
    names, value = [name_of(key)], self.value(key)
    while is_reference(value) and is_macro(value) and (macro_of(value), MACRO) in self._config:
      if macro_of(value) in names:  # It leads back to itself.
        break
      names.append(macro_of(value))
      value = self.value((names[-1], MACRO, 'value'))
    return names[-1]

  def plain(self, value: Any, inside: tuple[str, ...] = ()) -> Any:
    """A value as far as it is known before anything is called: functions, and what they make.

    Raises:
      ValueError: a macro refers to itself.
    """
    if isinstance(value, dict):
      return {key: self.plain(one, inside) for key, one in value.items()}
    if isinstance(value, list | tuple):
      return type(value)(self.plain(one, inside) for one in value)
    if not is_reference(value):
      return value
    if is_macro(value):
      name = macro_of(value)
      if name in inside:
        raise ValueError(f'{name} leads back to itself: {" -> ".join([*inside, name])}.')
      macro = self._config.get((name, MACRO))
      return self.plain(macro['value'], (*inside, name)) if macro else settings.Made(repr(value))
    function = inspect.unwrap(value.configurable.wrapped)
    if not value.evaluate:
      return function
    made = settings.hints_of(function).get('return', Any)
    return settings.Made(repr(value), function if inspect.isclass(function) else made)


def is_reference(value: Any) -> bool:
  """Whether gin's value is an @reference or a %macro."""
  return hasattr(value, 'configurable') and hasattr(value, 'evaluate')


def is_macro(reference: Any) -> bool:
  """Whether a reference is a %macro."""
  return reference.configurable.selector == MACRO


def macro_of(reference: Any) -> str:
  """The name of the macro that a reference reads."""
  return '/'.join(reference.scopes)


def references_in(value: Any) -> Iterator[Any]:
  """All references in a value, however deep in lists and mappings."""
  if is_reference(value):
    yield value
  elif isinstance(value, Mapping):
    yield from (one for pair in value.items() for part in pair for one in references_in(part))
  elif isinstance(value, list | tuple):
    yield from (one for part in value for one in references_in(part))


def name_of(key: Key) -> str:
  """A key as a user writes it: 'NUM_STEPS', or 'loop.train.num_steps'."""
  scope, selector, parameter = key
  if selector == MACRO:
    return scope
  return f'{scope}{"/" if scope else ""}{brief(selector)}.{parameter}'


def brief(selector: str) -> str:
  """The last two names, as configs import modules."""
  return '.'.join(selector.split('.')[-2:])


def means(written: str, name: str) -> bool:
  """Whether what a user wrote is what `name_of` says; either may have more of the module."""
  if written == name:
    return True
  if '.' not in written or '.' not in name:
    return False
  scope, _, rest = written.rpartition('/')
  other_scope, _, other = name.rpartition('/')
  return scope == other_scope and (rest.endswith(f'.{other}') or other.endswith(f'.{rest}'))


def _shown(call: tuple[str, tuple[str, ...]]) -> str:
  selector, scopes = call
  return '/'.join(scopes) if selector == MACRO else brief(selector)
