"""Reads configs for gin: in our names, and noting what they set and where."""

import io
import re
import tokenize
from pathlib import Path

from calm import arguments, earlier_names, t5x_names
from calm.bindings import Setting

# Whole configurations as gin writes them: what a run has saved.
_SAVED = re.compile(r'^# (?:Macros|Parameters for .*):\n# =+$', re.MULTILINE)


class Reader:
  """Opens configs for gin, in our names.

  `found` are the names of T5X that were set in them, `ours` the macros that shipped building blocks
  set: these mean here what they say there. `read` are the macros that something reads, `given` what
  files of the user's own set.
  """

  def __init__(self, root: Path):
    self._root = root
    self.found: set[str] = set()
    self.ours: set[str] = set()
    self.read: set[str] = set()
    self.given: list[Setting] = []

  def open(self, path: str) -> io.StringIO:
    try:
      source = Path(path).read_text(encoding='utf-8')
    except UnicodeDecodeError:
      raise ValueError(f'{path} is not UTF-8 text: is it a config?') from None
    folder, root = Path(path).resolve(), self._root
    if folder.is_relative_to(root / 'gin'):
      self.ours |= set_in(source)
    text = self.translate(source)
    self.read |= read_in(text)
    found = settings_in(text, path)
    shipped = folder.is_relative_to(root / 'gin') or folder.is_relative_to(root / 'configs')
    if not shipped and not _SAVED.search(source):
      self.given += found
    file = io.StringIO(text)
    file.name = path  # For gin's messages.
    return file

  def translate(self, source: str) -> str:
    source = arguments.with_words_of_python(earlier_names.translate(source))
    source, found = t5x_names.translate(source)
    self.found |= found
    return source


def settings_in(source: str, path: str) -> list[Setting]:
  """What a config sets, and on which line; of what cannot be read gin tells, but for its end."""
  from gin import config_parser

  class Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
      return scoped_configurable_name

    def macro(self, macro_name: str) -> str:
      return macro_name

  found = []
  try:
    for statement in config_parser.ConfigParser(source, Delegate()):
      if isinstance(statement, config_parser.BindingStatement):
        scope, selector, parameter, _, location = statement
        name = f'{scope}{"/" if scope else ""}{selector}{"." if parameter else ""}{parameter}'
        where = f'"{path}" line {location.line_num}'
        found.append(Setting(name, where, on_command_line=False))
  except (SyntaxError, ValueError):
    pass
  except tokenize.TokenError:
    raise ValueError(f'"{path}" ends within brackets or quotes that are not closed.') from None
  return found


def set_in(text: str) -> set[str]:
  """Names of the macros that a config sets."""
  return set(re.findall(r'^(\w+) =', text, re.MULTILINE))


def read_in(text: str) -> set[str]:
  """Names of the macros that a config reads, or this module does."""
  return {'WORKDIR', *re.findall(r'%(\w+)\b(?!\.)', text)}
