"""Gin configs as a command line names them: where they lie, what is set, what a run saves.

Configs are T5X's: files that include each other, macros in capitals for what is often changed, and
`--gin.NAME=value` over all of them. Those of T5X's macros that mean the same here may be used.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import checks, errors, fingerprints, storage, t5x_names
from calm.bindings import Bindings, Setting
from calm.reader import Reader, read_in, set_in

PACKAGE = Path(__file__).resolve().parent

# Macros that name a file or folder, by the end of their name.
_PATHS = re.compile(r'^((?:\w+_)?(?:WORKDIR|FILE|PATH|DIR|DIRECTORY|CHECKPOINT)) = ', re.MULTILINE)

# Gin's words for a macro that a config leaves open with %gin.REQUIRED, or reads and never sets.
_UNSET = re.compile(
  r"(\w+)/macro\.value set to `%gin\.REQUIRED`|No bindings specified for '(\w+)/(?:gin\.)?macro'"
)


def shipped_root() -> Path:
  """The folder that holds `configs/` and `gin/`: beside the package, or inside it once installed.

  Raises:
    FileNotFoundError: neither is there; the installation is incomplete.
  """
  for root in (PACKAGE.parent, PACKAGE):
    if (root / 'configs').is_dir() and (root / 'gin').is_dir():
      return root
  raise FileNotFoundError(f'No configs/ and gin/ beside or inside {PACKAGE}: install calm again.')


def shipped_configs(program: str | None = None) -> dict[str, str]:
  """Maps paths of shipped configs, as --gin_file takes them, to what their header begins with.

  That is its first line, with those after it that its last sentence goes on in.

  They are those in the program's own folder, and those in no program's; without one, all.
  """
  root = shipped_root()
  own = f'configs/{program}/**/*.gin' if program else 'configs/**/*.gin'
  configs = {}
  for path in sorted({*root.glob(own), *root.glob('configs/*.gin')}):
    configs[path.relative_to(root).as_posix()] = _beginning(path.read_text(encoding='utf-8'))
  return configs


def _beginning(text: str) -> str:
  """The first lines of a header, up to one that ends with a sentence."""
  header = itertools.takewhile(lambda line: line.strip('# '), text.splitlines())
  said = ''
  for line in header:
    said = f'{said} {line.lstrip("# ")}'.strip()
    if said.endswith(('.', '?')):
      break
  return said


def parse(
  gin_files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  flags: Mapping[str, str],
  program: str | None = None,
  hushed: bool = True,
  roots: Collection[str] = (),
) -> None:
  """Reads configs and bindings into gin.

  Args:
    gin_files: paths, looked up where the command is run, in search_paths, and among those shipped.
    bindings: as `arguments.split_gin_arguments` gives them.
    search_paths: folders.
    flags: the flag of each macro that has one of its own.
    program: whose shipped configs an error lists; all, if None.
    hushed: whether to keep back what libraries print when they are loaded.
    roots: the functions that may be called, 'package.module.function': what none of them leads to
      is not used. If there are none, only macros that nothing reads are noticed.

  Raises:
    FileNotFoundError: a config is nowhere on the search path; the message lists shipped ones.
    NotADirectoryError: a folder to look in is none.
    ValueError: a macro that needs a value has none, or one is set that nothing reads, or one of
      T5X's that means something else, or a value is none that its parameter may have; the message
      names it and its flag or line.
  """
  import gin

  folders = ['.', *search_paths, str(shipped_root())]
  for folder in search_paths:
    if not Path(folder).is_dir():
      raise NotADirectoryError(f'--gin_search_paths: no folder {folder}.')
  for name in gin_files:
    if not any((Path(folder) / name).is_file() for folder in folders):
      shipped = '\n  '.join(shipped_configs(program))
      raise FileNotFoundError(f'No config {name} in {", ".join(folders)}. Shipped:\n  {shipped}')
  if bound_arguments not in fingerprints.BINDERS:
    fingerprints.BINDERS.append(bound_arguments)
  gin.clear_config()
  _all.clear()
  reader = Reader(shipped_root())
  # Gin also takes configs/a.gin for a file of a Python package `configs`, and fails where that is
  # a folder without code. Nothing public takes its readers out.
  gin.config._FILE_READERS[:] = [(reader.open, os.path.isfile)]
  # Those of an earlier call, too, stay otherwise.
  gin.config._LOCATION_PREFIXES[:] = ['', *folders[1:]]
  try:
    with _hushed() if hushed else contextlib.nullcontext():
      gin.parse_config_files_and_bindings(gin_files, None, finalize_config=False)
      bindings = [reader.translate(binding) for binding in bindings]
      _bind(bindings)
      text = gin.config_str()
      macros = reader.found.union(set_in(text)) - reader.ours
      t5x_names.check(macros, read_in(text), macro)
      if _keep not in gin.config._FINALIZE_HOOKS:
        gin.config.register_finalize_hook(_keep)
      gin.finalize()
  except ValueError as error:
    unset = _UNSET.match(str(error))
    if unset is None:
      raise
    name = unset[1] or unset[2]
    flag = flags.get(name, f'--gin.{name}')
    raise ValueError(f'{name} is not set: give {flag}=VALUE, or set it in a config.') from None
  _check([*reader.given, *_given(bindings, flags)], reader.read, roots)


@contextlib.contextmanager
def apart() -> Iterator[None]:
  """What is read within leaves the configuration in use as it was, for a run loaded by another."""
  from gin import config

  stores: Any = (config._CONFIG, config._SINGLETONS, config._OPERATIVE_CONFIG, config._IMPORTS)
  kept, locked, everything = [store.copy() for store in stores], config.config_is_locked(), [*_all]
  readers, prefixes = [*config._FILE_READERS], [*config._LOCATION_PREFIXES]
  try:
    yield
  finally:
    for store, content in zip(stores, kept, strict=True):
      store.clear()
      store.update(content)
    config._set_config_is_locked(locked)
    config._FILE_READERS[:], config._LOCATION_PREFIXES[:] = readers, prefixes
    _all[:] = everything


# What gin was told, once it has been read: gin shows it to hooks alone.
_all: list[Bindings] = []


def _keep(config: Any) -> None:
  _all[:] = [Bindings(config)]


def everything() -> Bindings:
  """All that the configuration that was read last sets."""
  return _all[0]


def _check(given: Sequence[Setting], read: Collection[str], roots: Collection[str]) -> None:
  """Raises a ValueError for what is unread, unused or of another kind; says what files set idly."""
  idle = checks.check_use(everything(), given, read, _shipped_names(), roots)
  checks.check_values(everything(), given, function_of)
  if idle:
    listed = ', '.join(f'{setting.name} ({setting.where})' for setting in idle)
    storage.warn(f'Not used as things are configured: {listed}.')


@functools.cache
def _shipped_names() -> frozenset[str]:
  """The macros that shipped building blocks set or read."""
  texts = [path.read_text(encoding='utf-8') for path in shipped_root().glob('gin/**/*.gin')]
  return frozenset().union(*map(set_in, texts), *map(read_in, texts))


def check_call(root: str, given_anyway: Collection[str] = ()) -> None:
  """Raises a ValueError if the configured function, or one that it leads to, lacks an argument."""
  checks.check_arguments(everything(), root, function_of, given_anyway)


def idle_in(bindings: Sequence[str], root: str, ignored: str | None = None) -> list[str]:
  """Names set on the command line that a call of one function does not use.

  Nor is what only the parameter `ignored` leads to, as configs name it.
  """
  return [one.name for one in checks.idle(everything(), _given(bindings, {}), [root], ignored)]


def _given(bindings: Sequence[str], flags: Mapping[str, str]) -> list[Setting]:
  """The bindings of the command line as settings."""
  names = [binding.partition(' = ')[0] for binding in bindings]
  return [Setting(name, flags.get(name, f'--gin.{name}')) for name in names]


def function_of(selector: str) -> Any:
  """The function or class of a selector as it was written, without what gin wraps it in."""
  import gin

  found = inspect.unwrap(gin.get_configurable(selector))
  is_gins = inspect.isclass(found) and type(found).__module__.partition('.')[0] == 'gin'
  return found.__base__ if is_gins else found


def setting_for(parameter: str, value: object) -> str | None:
  """The macro or parameter that gave a function's parameter its value; None if none did."""
  return checks.setting_for(_all[0], parameter, value) if _all else None


def bound_arguments(function: Callable) -> dict[str, Any]:
  """What gin passes to a function it configures beside what the caller does, by parameter."""
  import gin

  scope = ''
  wrapper: Any = function
  while hasattr(wrapper, '__wrapped__'):
    code = getattr(wrapper, '__code__', None)
    if code is not None and 'scope_components' in code.co_freevars:  # As in @scope/function.
      cell = wrapper.__closure__[code.co_freevars.index('scope_components')]
      scope = '/'.join(cell.cell_contents)
    wrapper = wrapper.__wrapped__
  try:
    with gin.config_scope(scope or None):
      return gin.get_bindings(function if not scope else wrapper)
  except ValueError:  # Not configured by gin.
    return {}


def _bind(bindings: Sequence[str]) -> None:
  """Parses bindings over the configs that are parsed."""
  import gin

  top = gin.config_str().partition('\n\n')[0].splitlines()
  imports = [line for line in top if line.startswith(('from ', 'import '))]
  for binding in bindings:
    try:
      gin.parse_config(binding)
    except ValueError:  # No config sets or reads this name yet; but one may import it.
      gin.parse_config([*imports, binding])


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
  """Drops what TensorFlow's libraries print when they are loaded."""
  sys.stderr.flush()
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as said:
    os.dup2(said.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(terminal, 2)
      os.close(terminal)


def macro(name: str) -> Any:
  """A macro's value; None if no config sets it."""
  import gin

  try:
    return gin.query_parameter(f'{name}/macro.value')
  except ValueError:
    return None


def value(name: str) -> Any:
  """What a macro stands for, built: it stays as it is when gin is told something else."""
  import gin

  return _settled(gin.get_configurable(f'{name}/macro')())


def called(function: Callable) -> Any:
  """What a function gives, called with the arguments that the configuration has for it."""
  import gin

  return gin.get_configurable(function)()


def _settled(value: Any) -> Any:
  """A value without gin's wrappers: functions in its fields have their arguments bound."""
  if isinstance(value, list | tuple) and type(value) in (list, tuple):
    return type(value)(map(_settled, value))
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    settled = {name: _settled(field) for name, field in fields.items()}
    changed = {name: field for name, field in settled.items() if field is not fields[name]}
    return dataclasses.replace(value, **changed) if changed else value
  plain = value
  while getattr(plain, '__globals__', {}).get('__name__') == 'gin.config':
    plain = plain.__wrapped__
  if plain is value:
    return value
  bound = {name: _settled(one) for name, one in bound_arguments(value).items()}
  return functools.partial(plain, **bound) if bound else plain


def to_save() -> str:
  """Everything gin was told, as the text of a config.

  Paths become absolute, so that commands that read it find the same files wherever they are called.
  """
  import gin

  with gin.unlock_config():
    for name in _PATHS.findall(gin.config_str()):
      value = macro(name)
      if isinstance(value, str) and value and '://' not in value:
        gin.bind_parameter(f'{name}/macro.value', os.path.abspath(value))
  return gin.config_str()


def save(workdir: str | os.PathLike, text: str) -> None:
  """Writes what `to_save` gave to `workdir`/config.gin, for the commands that come later."""
  storage.write_text(Path(workdir, 'config.gin'), text)


def begun(workdir: str | os.PathLike) -> bool:
  """Whether a run has begun in a folder: then it has kept what `save` writes."""
  return Path(workdir, 'config.gin').is_file()


def save_operative(workdir: str | os.PathLike) -> None:
  """Writes the parameters that were really used to `workdir`/operative_config.gin."""
  import gin

  storage.write_text(Path(workdir, 'operative_config.gin'), gin.operative_config_str())


def in_words(error: BaseException) -> str:
  """An error as the terminal shows it, with the macro that it is of; see `calm.errors`."""
  return errors.in_words(error, setting_for)
