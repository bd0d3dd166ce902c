"""One command for everything: `calm train | vocab | evaluate | decode | export`.

The command line is T5X's: `--gin_file` (repeatable) names configs, `--gin.NAME=value` sets or
overrides what they say, `--gin_search_paths` says where else to look for them. This module and the
gin files are the only places where all rooms meet; each command calls one function, and gin
supplies its arguments.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import os
import re
import signal
import sys
import tempfile
import textwrap
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Option:
  """A flag of one command, shorthand for a gin macro."""

  flag: str
  macro: str
  help: str
  metavar: str = 'PATH'


@dataclasses.dataclass(frozen=True)
class Command:
  """What a command is called, the function behind it, and what its help says."""

  name: str
  function: str  # 'package.module:function'
  summary: str
  details: str
  options: tuple[Option, ...] = ()


WORKDIR = Option('--workdir', 'WORKDIR', 'folder of this run: checkpoints, metrics, results', 'DIR')

COMMANDS = (
  Command(
    'train',
    'calm.training.loop:train',
    'train a model, or go on where a run stopped',
    'Writes checkpoints, metrics.jsonl, TensorBoard events and the configuration into the '
    'workdir. The same command again goes on from the newest checkpoint there.',
  ),
  Command(
    'vocab',
    'calm.tasks.vocabularies:write_vocabulary',
    "train a SentencePiece vocabulary from a task's text",
    'Reads the inputs and targets of the configured task and writes the vocabulary where the '
    'configuration looks for it.',
  ),
  Command(
    'evaluate',
    'calm.decoding.evaluation:evaluate',
    "decode a split of the task and print the task's metrics",
    'Without --gin_file the configuration saved in the workdir by `calm train` is used. '
    'Interrupted, the same command goes on where it stopped.',
    (Option('--split', 'EVALUATION_SPLIT', "split of the task, as in 'test'", 'NAME'),),
  ),
  Command(
    'decode',
    'calm.decoding.corpus:decode',
    'decode lines, JSON Lines or a split of the task to JSON Lines',
    'Without --gin_file the configuration saved in the workdir by `calm train` is used. '
    'Interrupted, the same command with the same --output goes on where it stopped.',
    (
      Option('--input', 'DECODE_INPUT', "file of lines or JSON Lines; '-' is standard input"),
      Option('--output', 'DECODE_OUTPUT', "file of JSON Lines to write; '-' is standard output"),
    ),
  ),
  Command(
    'export',
    'calm.models.pretrained:save_huggingface',
    'write the weights as a directory that Hugging Face transformers loads',
    'Without --gin_file the configuration saved in the workdir by `calm train` is used.',
    (Option('--output', 'EXPORT_DIRECTORY', 'directory to write', 'DIR'),),
  ),
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


def shipped_configs():
  """Maps each shipped config's path, as --gin_file takes it, to the first line of its header."""
  root = shipped_root()
  configs = {}
  for path in sorted((root / 'configs').rglob('*.gin')):
    first = path.read_text(encoding='utf-8').partition('\n')[0]
    configs[path.relative_to(root).as_posix()] = first.lstrip('# ')
  return configs


def as_gin_value(text):
  """Gin source for a value from the command line: Gin as it is, anything else quoted.

  `--gin.STEPS=100`, `--gin.TASK=@files.task()` and `--gin.NAME='"a b"'` mean what T5X makes of
  them; `--gin.TRAIN_FILE=data/train.jsonl` need not be quoted twice.
  """
  if not text or re.match(r'[@%]', text):
    return text or "''"
  try:
    ast.literal_eval(text)
    return text
  except (ValueError, SyntaxError):
    if re.match(r'[\[({].*[@%]', text):  # A container with references inside, as in (@a(), %B).
      return text
    return repr(text)


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
    bindings.append(f'{name.strip()} = {as_gin_value(value.strip())}')
  return others, bindings


def make_parser():
  """The parser of all commands; their help lists the shipped configs."""
  parser = argparse.ArgumentParser(
    prog='calm', description='Early-exit T5: train, evaluate, decode.', allow_abbrev=False
  )
  commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
  listing = '\n'.join(f'  {path}\n      {header}' for path, header in shipped_configs().items())
  for command in COMMANDS:
    sub = commands.add_parser(
      command.name,
      help=command.summary,
      description=textwrap.fill(f'{command.summary.capitalize()}. {command.details}', 88),
      epilog=f'shipped configs:\n{listing}',
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    sub.add_argument(
      '--gin_file',
      action='append',
      default=[],
      metavar='PATH',
      help='config to read, later ones over earlier ones; shipped ones as listed below',
    )
    sub.add_argument(
      '--gin.NAME',
      dest='gin_binding',
      metavar='VALUE',
      help='set a macro (--gin.NUM_STEPS=1000) or a parameter (--gin.loop.train.seed=1)',
    )
    sub.add_argument(
      '--gin_search_paths',
      action='append',
      default=[],
      metavar='DIRS',
      help='comma-separated folders in which --gin_file and include are looked up, too',
    )
    for option in (WORKDIR, *command.options):
      sub.add_argument(
        option.flag,
        dest=option.macro,
        metavar=option.metavar,
        help=f'{option.help} (the macro {option.macro})',
      )
    sub.add_argument('--traceback', action='store_true', help='show where an error came from')
  return parser


def parse_config(gin_files, bindings, search_paths):
  """Reads configs and bindings into gin.

  Raises:
    FileNotFoundError: a config is nowhere on the search path; the message lists shipped ones.
    ValueError: a macro that needs a value has none; the message names it and its flag.
  """
  import gin

  # Modules that configs import may lie beside where the command is run.
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  folders = ['.', *search_paths, str(shipped_root())]
  for name in gin_files:
    if not any((Path(folder) / name).is_file() for folder in folders):
      shipped = '\n  '.join(shipped_configs())
      raise FileNotFoundError(f'No config {name} in {", ".join(folders)}. Shipped:\n  {shipped}')
  for folder in folders:
    gin.add_config_file_search_path(folder)
  try:
    with _hushed():
      gin.parse_config_files_and_bindings(gin_files, bindings, skip_unknown=False)
  except ValueError as error:
    # Gin's words for a macro that a config leaves open with %gin.REQUIRED.
    unset = re.match(r'(\w+)/macro\.value set to `%gin\.REQUIRED`', str(error))
    if unset is None:
      raise
    flags = {option.macro: option.flag for command in COMMANDS for option in command.options}
    flag = {**flags, WORKDIR.macro: WORKDIR.flag}.get(unset[1], f'--gin.{unset[1]}')
    raise ValueError(f'{unset[1]} is not set: give {flag}=VALUE, or set it in a config.') from None


@contextlib.contextmanager
def _hushed():
  """Keeps what TensorFlow's libraries print when they are loaded, unless something goes wrong."""
  sys.stderr.flush()
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as said:
    os.dup2(said.fileno(), 2)
    try:
      yield
    except BaseException:
      sys.stderr.flush()
      said.seek(0)
      os.write(terminal, said.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(terminal, 2)
      os.close(terminal)


def save_config(workdir):
  """Writes everything gin was told to `workdir`/config.gin, for the commands that come later."""
  import gin

  folder = Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  temporary = folder / f'config.gin.{os.getpid()}'
  temporary.write_text(gin.config_str(), encoding='utf-8')
  temporary.replace(folder / 'config.gin')


def save_operative_config(workdir):
  """Writes the parameters that were really used to `workdir`/operative_config.gin."""
  import gin

  Path(workdir, 'operative_config.gin').write_text(gin.operative_config_str(), encoding='utf-8')


def run(command, args, bindings):
  """Reads the configuration and calls the command's function with what gin supplies."""
  gin_files = list(args.gin_file)
  if not gin_files and args.WORKDIR and command.name != 'train':
    saved = Path(args.WORKDIR, 'config.gin')
    if not saved.is_file():
      raise FileNotFoundError(f'No {saved}: name a config with --gin_file, or a trained workdir.')
    gin_files = [str(saved)]
  if not gin_files:
    raise ValueError('Name a config with --gin_file; `calm train --help` lists those shipped.')
  for option in (WORKDIR, *command.options):
    value = getattr(args, option.macro)
    if value is not None:
      bindings = [*bindings, f'{option.macro} = {value!r}']
  search_paths = [folder for listed in args.gin_search_paths for folder in listed.split(',')]
  parse_config(gin_files, bindings, search_paths)

  import gin

  module, name = command.function.split(':')
  function = gin.get_configurable(getattr(importlib.import_module(module), name))
  workdir = gin.query_parameter('WORKDIR/macro.value') if _has_macro('WORKDIR') else None
  if command.name == 'train' and workdir:
    save_config(workdir)
  result = function()
  if command.name == 'train' and workdir:
    save_operative_config(workdir)
  return result


def _has_macro(name):
  import gin

  try:
    gin.query_parameter(f'{name}/macro.value')
  except ValueError:
    return False
  return True


def main(argv=None):
  """Entry point of the `calm` command; returns the exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `calm decode ... | head` ends quietly.
  # TensorFlow only reads data here; its start-up chatter hides what matters.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  parser = make_parser()
  try:
    others, bindings = split_gin_arguments(argv)
  except ValueError as error:
    parser.error(str(error))
  args = parser.parse_args(others)
  command = next(command for command in COMMANDS if command.name == args.command)
  try:
    run(command, args, bindings)
  except KeyboardInterrupt:
    print(f'calm {command.name}: interrupted; the same command goes on.', file=sys.stderr)
    return 130
  except Exception as error:
    if args.traceback:
      raise
    print(f'calm {command.name}: {type(error).__name__}: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
