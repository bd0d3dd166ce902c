"""Gin configs as a command line names them: where they lie, what is set, what a run saves.

Configs are T5X's: files that include each other, macros in capitals for what is often changed, and
`--gin.NAME=value` over all of them. Those of T5X's macros that mean the same here may be used.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import sys
import tempfile
from pathlib import Path

from calm import earlier_names, fingerprints, storage, t5x_names

PACKAGE = Path(__file__).resolve().parent

# Macros that name a file or folder, by the end of their name.
_PATHS = re.compile(r'^((?:\w+_)?(?:WORKDIR|FILE|PATH|DIR|DIRECTORY|CHECKPOINT)) = ', re.MULTILINE)

# Gin's words for a macro that a config leaves open with %gin.REQUIRED, or reads and never sets.
_UNSET = re.compile(
  r"(\w+)/macro\.value set to `%gin\.REQUIRED`|No bindings specified for '(\w+)/(?:gin\.)?macro'"
)


def shipped_root():
  """The folder that holds `configs/` and `gin/`: beside the package, or inside it once installed.

  Raises:
    FileNotFoundError: neither is there; the installation is incomplete.
  """
  for root in (PACKAGE.parent, PACKAGE):
    if (root / 'configs').is_dir() and (root / 'gin').is_dir():
      return root
  raise FileNotFoundError(f'No configs/ and gin/ beside or inside {PACKAGE}: install calm again.')


def shipped_configs(program=None):
  """Maps paths of shipped configs, as --gin_file takes them, to the first line of their header.

  They are those in the program's own folder, and those in no program's; without one, all.
  """
  root = shipped_root()
  own = f'configs/{program}/**/*.gin' if program else 'configs/**/*.gin'
  configs = {}
  for path in sorted({*root.glob(own), *root.glob('configs/*.gin')}):
    first = path.read_text(encoding='utf-8').partition('\n')[0]
    configs[path.relative_to(root).as_posix()] = first.lstrip('# ')
  return configs


def as_gin_value(text):
  """Gin source for a value from the command line: Gin as it is, anything else quoted.

  `--gin.STEPS=100`, `--gin.TASK=@files.task()` and `--gin.NAME='"a b"'` mean what T5X makes of
  them; `--gin.TRAIN_FILE=data/train.jsonl` need not be quoted twice.
  """
  value = text.strip()
  if value.startswith(('@', '%')):
    return value
  # A container may hold references, as in (@a(), %B).
  plain = re.sub(r'[@%][\w./]+(\(\))?', '0', value) if value.startswith(('[', '(', '{')) else value
  try:
    ast.literal_eval(plain)
  except (ValueError, SyntaxError, TypeError):
    return repr(text)
  return value


def split_gin_arguments(argv):
  """Takes `--gin.NAME=value` out of argv: returns (other arguments, gin bindings).

  Raises:
    ValueError: one of them has no `=value`.
  """
  others, bindings = [], []
  arguments = iter(argv)
  for argument in arguments:
    if not argument.startswith('--gin.'):
      others.append(argument)
      continue
    name, equals, value = argument.removeprefix('--gin.').partition('=')
    if not equals:  # `--gin.NAME value`
      value = next(arguments, None)
    if not name or value is None:
      raise ValueError(f'{argument}: write it as --gin.NAME=value.')
    bindings.append(f'{name.strip()} = {as_gin_value(value)}')
  return others, bindings


def parse(gin_files, bindings, search_paths, flags, program=None, hushed=True):
  """Reads configs and bindings into gin.

  Args:
    gin_files: paths, looked up where the command is run, in search_paths, and among those shipped.
    bindings: as `split_gin_arguments` gives them.
    search_paths: folders.
    flags: the flag of each macro that has one of its own.
    program: whose shipped configs an error lists; all, if None.
    hushed: whether to keep back what libraries print when they are loaded.

  Raises:
    FileNotFoundError: a config is nowhere on the search path; the message lists shipped ones.
    ValueError: a macro that needs a value has none, or one is set that nothing reads, or one of
      T5X's that means something else; the message names it and its flag.
  """
  import gin

  # Modules that configs import may lie where the command is run, but hide none installed.
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  folders = ['.', *search_paths, str(shipped_root())]
  for name in gin_files:
    if not any((Path(folder) / name).is_file() for folder in folders):
      shipped = '\n  '.join(shipped_configs(program))
      raise FileNotFoundError(f'No config {name} in {", ".join(folders)}. Shipped:\n  {shipped}')
  if bound_arguments not in fingerprints.BINDERS:
    fingerprints.BINDERS.append(bound_arguments)
  gin.clear_config()
  reader = _Reader()
  # Gin also takes configs/a.gin for a file of a Python package `configs`, and fails where that is
  # a folder without code. Nothing public takes its readers out.
  gin.config._FILE_READERS[:] = [(reader.open, os.path.isfile)]
  for folder in folders:
    gin.add_config_file_search_path(folder)
  try:
    with _hushed() if hushed else contextlib.nullcontext():
      gin.parse_config_files_and_bindings(gin_files, None, finalize_config=False)
      bindings = [reader.translate(binding) for binding in bindings]
      _bind(bindings)
      text = gin.config_str()
      macros = reader.found.union(_set_in(text)) - reader.ours
      t5x_names.check(macros, _read_in(text), macro)
      gin.finalize()
  except ValueError as error:
    unset = _UNSET.match(str(error))
    if unset is None:
      raise
    name = unset[1] or unset[2]
    flag = flags.get(name, f'--gin.{name}')
    raise ValueError(f'{name} is not set: give {flag}=VALUE, or set it in a config.') from None
  _check_that_all_are_read(bindings, flags)


def bound_arguments(function):
  """What gin passes to a function it configures beside what the caller does, by parameter."""
  import gin

  scope = ''
  wrapper = function
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


class _Reader:
  """Opens configs for gin, in our names.

  `found` are the names of T5X that were set in them, `ours` the macros that shipped building blocks
  set: these mean here what they say there.
  """

  def __init__(self):
    self.found = set()
    self.ours = set()

  def open(self, path):
    source = Path(path).read_text(encoding='utf-8')
    if Path(path).resolve().is_relative_to(shipped_root() / 'gin'):
      self.ours |= _set_in(source)
    file = io.StringIO(self.translate(source))
    file.name = path  # For gin's messages.
    return file

  def translate(self, source):
    source, found = t5x_names.translate(earlier_names.translate(source))
    self.found |= found
    return source


def _set_in(text):
  """Names of the macros that a config sets."""
  return set(re.findall(r'^(\w+) =', text, re.MULTILINE))


def _read_in(text):
  """Names of the macros that a config reads, or this module does."""
  return {'WORKDIR', *re.findall(r'%(\w+)', text)}


def _bind(bindings):
  """Parses bindings over the configs that are parsed."""
  import gin

  top = gin.config_str().partition('\n\n')[0].splitlines()
  imports = [line for line in top if line.startswith(('from ', 'import '))]
  for binding in bindings:
    try:
      gin.parse_config(binding)
    except ValueError:  # No config sets or reads this name yet; but one may import it.
      gin.parse_config([*imports, binding])


def _check_that_all_are_read(bindings, flags):
  """Raises a ValueError if a macro is set on the command line that no config reads."""
  import gin

  read = _read_in(gin.config_str())
  for binding in bindings:
    name = binding.partition(' = ')[0]
    if name.isidentifier() and name not in read:
      like = difflib.get_close_matches(name, read, 1)
      mend = f'did you mean {like[0]}?' if like else f'there are {", ".join(sorted(read))}.'
      raise ValueError(f'{flags.get(name, f"--gin.{name}")}: no config reads {name}; {mend}')


@contextlib.contextmanager
def _hushed():
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


def macro(name):
  """A macro's value; None if no config sets it."""
  import gin

  try:
    return gin.query_parameter(f'{name}/macro.value')
  except ValueError:
    return None


def value(name):
  """What a macro stands for, built: it stays as it is when gin is told something else."""
  import gin

  return _settled(gin.get_configurable(f'{name}/macro')())


def _settled(value):
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


def to_save():
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


def save(workdir, text):
  """Writes what `to_save` gave to `workdir`/config.gin, for the commands that come later."""
  storage.write_text(Path(workdir, 'config.gin'), text)


def save_operative(workdir):
  """Writes the parameters that were really used to `workdir`/operative_config.gin."""
  import gin

  storage.write_text(Path(workdir, 'operative_config.gin'), gin.operative_config_str())


def brief(error):
  """An error in a line, or with the list it came with; Gin's account of its calls is left out."""
  message = re.sub(
    r'\n +In file (".*"), (line \d+)\n +(.*)(?:\n +\^)?', r' (\1 \2: \3)', str(error)
  )
  message = re.sub(r'\n +In bindings string line \d+\n +(.*)(?:\n +\^)?', r' (\1)', message)
  message, *calls = re.split(r"\n  In call to configurable '(\w+)' .*", message)
  if isinstance(error, TypeError) and calls:  # Python's own words, of which function we must say.
    message = f'{message.partition(chr(10))[0]} (in {calls[0]})'
  return f'{type(error).__name__}: {message}'
