"""An error as the terminal shows it: a sentence that names the thing and the mend.

Errors of this house are such sentences already. Those of gin are given our words here, and of
those that Python or a library raised where nobody expected it, the place is told.
"""

import difflib
import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calm import fingerprints, imports, settings

# Raised by Python itself for what does not fit, in words about its own workings.
_PYTHONS = (
  ArithmeticError,
  AssertionError,
  AttributeError,
  LookupError,
  MemoryError,
  NameError,
  NotImplementedError,
  RecursionError,
  StopIteration,
  TypeError,
  UnicodeError,
)
# So are these, by the same class as our own errors.
_PYTHONS_WORDS = re.compile(
  r'invalid literal for \w+\(|could not convert string to|(not enough|too many) values to unpack'
  r'|math (domain|range) error|(min|max)\(\) |.* is not in list$|cannot convert float'
  r'|The truth value of an array|setting an array element|operands could not be broadcast'
  r'|embedded null|bytes must be in range|Expecting (value|property name|\W)|Extra data: '
)
# Errors of the system, which gin hands on without their attributes.
_ERRNO = re.compile(r"\[Errno -?\d+\] ([^:]*)(?:: '?([^']*)'?)?")
_CALL = re.compile(r"\n  In call to configurable '(\w+)' .*")
# Gin's own errors, and what is said instead; the places are those of the groups.
_GINS = (
  (
    r"Configurable '(?P<name>[\w./]+)' doesn't have a parameter named '(?P<what>\w+)'\.",
    '{name} has no parameter {what}{like}.',
  ),
  (
    r"Couldn't resolve selector (?P<name>[\w.]+); .* has no attribute (?P<what>\w+)\.",
    'There is no {name}: its module has no {what}{like}.',
  ),
  (
    r"'(?P<name>\w+)' was not provided by an import statement\.",
    'Nothing called {name} is imported: import its module at the top of the config.',
  ),
  (
    r"No configurable matching (?:reference )?'(?P<name>[^']+)'\.?",
    'There is no {name} that could be set or called: import its module at the top of the config.',
  ),
  (
    r'Unable to open file: (?P<name>.*?)\. Searched config paths: \[.*?\]\.',
    'No config {name} to include.',
  ),
  (
    r'(?P<name>[\w./]+) set to `%gin\.REQUIRED` but not subsequently overridden\.',
    '{name} is not set: give --gin.{name}=VALUE, or set it in a config.',
  ),
  (
    r"Ambiguous selector '(?P<name>[^']+)', matches (?P<what>.*)\.",
    '{name} may mean several: write one of {what}.',
  ),
  (
    r'Required bindings for `(?P<name>[^`]+)` not provided in config: (?P<what>.*)',
    '{name} needs {what}: set them in a config.',
  ),
)


def in_words(error: BaseException, setting_for: Callable[[str, Any], str | None]) -> str:
  """What is to be said of an error, in a line or with the list it came with.

  Args:
    error: whatever was raised.
    setting_for: names the macro or parameter that gave a function's parameter its value.
  """
  text, calls = _without_calls(str(error))
  if isinstance(error, settings.SettingError):
    name = setting_for(error.name, error.value)
    return text if name in (None, error.name) else f'{name}: {text}'
  if isinstance(error, SyntaxError):
    return _not_gin(error)
  if isinstance(error, ImportError):
    return imports.missing(error) + _place(text)
  if isinstance(error, OSError) and (found := _ERRNO.match(text)):
    return f'{found[2] or "A file"}: {found[1]}.'
  for pattern, words in _GINS:
    if found := re.match(pattern, text, re.DOTALL):
      said = {'what': '', **found.groupdict()}
      return words.format(**said, like=_like(error, **said)) + text[found.end() :]
  if text and not _is_pythons(error, text):
    return text
  return _unexpected(error, calls)


def _is_pythons(error: BaseException, text: str) -> bool:
  """Whether an error speaks of Python's or Flax's own workings, and is none of our own classes."""
  top = type(error).__module__.partition('.')[0]
  if top in fingerprints.PACKAGES:
    return False
  return top == 'flax' or isinstance(error, _PYTHONS) or bool(_PYTHONS_WORDS.match(text))


def _without_calls(message: str) -> tuple[str, list[str]]:
  """A message without gin's account of its calls, places in brackets; and who was called."""
  message = re.sub(r'\n +In file (".*"), (line \d+)\n +(.*)(?:\n +\^)?', r' (\1 \2: \3)', message)
  message = re.sub(r'\n +In bindings string line \d+\n +(.*)(?:\n +\^)?', r' (\1)', message)
  message, *calls = _CALL.split(message)
  return message.partition('\n  No values supplied by Gin')[0].rstrip(), calls[::2]


def _unexpected(error: BaseException, calls: Sequence[str]) -> str:
  """Where an error came from, and out of whose call."""
  place = _place(_without_calls(str(error))[0])
  if place:
    return f'This is no setting that could be read:{place}.'
  frames = traceback.extract_tb(error.__traceback__)
  package = str(Path(__file__).parent)
  own = [frame for frame in frames if frame.filename.startswith(package)] or frames
  place = f' ({Path(own[-1].filename).name}, line {own[-1].lineno})' if own else ''
  who = f'{calls[0]} cannot work with what it is given' if calls else 'This cannot be done as asked'
  return f'{who}{place}: look at its settings; --traceback shows what happened.'


def _not_gin(error: SyntaxError) -> str:
  where = f'"{error.filename}" line {error.lineno}' if error.filename else 'A setting'
  line = (error.text or '').strip()
  shown = f': {settings.short(line)}' if line else ''
  return f'{where} cannot be read as gin{shown}. A line is NAME = VALUE, with texts in quotes.'


def _place(text: str) -> str:
  found = re.search(r' \((?:"[^"]*" line \d+: )?[^()]*\)$', text)
  return found[0] if found else ''


def _like(error: BaseException, name: str, what: str) -> str:
  """Names that resemble the one that is not there."""
  import gin

  try:
    there = inspect.signature(inspect.unwrap(gin.get_configurable(name))).parameters
  except (ValueError, TypeError, KeyError):
    return ''
  like = difflib.get_close_matches(what, there, 1)
  return f'; did you mean {like[0]}?'.removesuffix('?') if like else f'; it has {", ".join(there)}'
