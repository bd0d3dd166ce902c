"""A table of commands as a program: its flags, help, errors and exit codes.

The command line is T5X's: `--gin_file` (repeatable) names configs, `--gin.NAME=value` sets or
overrides what they say, `--gin_search_paths` says where else to look for them. Each command calls
one function, which is named here and loaded only then, and gin supplies its arguments.
"""

import argparse
import dataclasses
import importlib
import io
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import calm
from calm import (
  arguments,
  compilation_cache,
  configuration,
  imports,
  notices,
  processes,
  storage,
)
from calm.t5x_names import RENAMED


@dataclasses.dataclass(frozen=True)
class Option:
  """A flag of one command, shorthand for a gin macro."""

  flag: str
  macro: str
  help: str
  metavar: str = 'PATH'
  literal: bool = False  # Whether the value is Gin's, as a number, and no text as it stands.


@dataclasses.dataclass(frozen=True)
class Ignored:
  """A parameter whose value a command does not look at, where that hangs on a macro."""

  parameter: str  # as configs name it
  why: str
  beside: str | None = None  # Only where this macro is set.
  without: str | None = None  # Only where this one is not.

  def holds(self) -> bool:
    """Whether it does in the configuration that was read."""
    macro = configuration.macro
    beside = self.beside is None or macro(self.beside) is not None
    return beside and (self.without is None or macro(self.without) is None)


@dataclasses.dataclass(frozen=True)
class Command:
  """What a command is called, the function behind it, and what its help says."""

  name: str
  function: str  # 'package.module:function'
  summary: str
  details: str = ''
  options: tuple[Option, ...] = ()
  ignores: tuple[Ignored, ...] = ()
  shared: bool = False  # Whether several processes can run it together.
  # Whether it keeps its configuration in the workdir, for the others. Then its function takes
  # `accepted`, which one process calls once nothing can refuse the work any more.
  begins_run: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
  """A program: its name, which is also that of its folder in `configs/`, and its commands."""

  name: str
  description: str
  commands: tuple[Command, ...]


WORKDIR = Option('--workdir', 'WORKDIR', 'folder of this run: checkpoints, metrics, results', 'DIR')


def make_parser(program: Program) -> argparse.ArgumentParser:
  """The parser of all commands; their help lists the program's shipped configs."""
  shipped = configuration.shipped_configs(program.name).items()
  listing = 'shipped configs:\n' + '\n'.join(f'  {path}\n      {text}' for path, text in shipped)
  parser = argparse.ArgumentParser(
    prog=program.name,
    description=program.description,
    epilog=listing,
    formatter_class=_formatter,
    allow_abbrev=False,
  )
  parser.add_argument('--version', action='version', version=f'{program.name} {calm.__version__}')
  commands = parser.add_subparsers(
    title='commands', dest='command', metavar='COMMAND', required=True
  )
  for command in program.commands:
    sub = commands.add_parser(
      command.name,
      help=command.summary,
      description=textwrap.fill(_description(program, command), _help_width()),
      epilog=listing,
      formatter_class=_formatter,
      allow_abbrev=False,
    )
    _add_gin_flags(sub)
    for option in (WORKDIR, *command.options):
      sub.add_argument(
        option.flag,
        dest=option.macro,
        metavar=option.metavar,
        help=f'{option.help} (the macro {option.macro})',
      )
    compilation_cache.add_flag(sub)
    processes.add_flags(sub, shown=command.shared)
    sub.add_argument('--traceback', action='store_true', help='show where an error came from')
  return parser


def _help_width() -> int:
  return min(shutil.get_terminal_size().columns, 100) - 2


def _formatter(prog: str) -> argparse.HelpFormatter:
  return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=_help_width())


def _description(program: Program, command: Command) -> str:
  text = f'{command.summary[:1].upper()}{command.summary[1:]}. {command.details}'.rstrip()
  begin = [f'`{program.name} {one.name}`' for one in program.commands if one.begins_run]
  if command.begins_run:
    text += ' Without --gin_file, the run in the workdir goes on with the config that it has saved.'
  elif begin:
    text += f' Without --gin_file, what {" or ".join(begin)} saved in the workdir is the config.'
  return text


def _add_gin_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='PATH',
    help='config to read, later ones over earlier ones; shipped ones as listed below',
  )
  parser.add_argument(
    '--gin.NAME',
    dest='gin_binding',
    metavar='VALUE',
    help='set a macro (--gin.WORKDIR=runs/mine), or a parameter as configs name it',
  )
  parser.add_argument(
    '--gin_search_paths',
    action='append',
    default=[],
    metavar='DIRS',
    help='comma-separated folders in which --gin_file and include are looked up, too',
  )
  parser.add_argument(
    '--import_from',
    action='append',
    default=[],
    metavar='DIR',
    help="folder whose modules configs may import, such as '.'; they can run any code",
  )


def run(program: Program, args: argparse.Namespace, bindings: list[str]) -> Any:
  """Reads the configuration and calls the command's function with what gin supplies.

  Args:
    args: of `make_parser`.
    bindings: as `arguments.split_gin_arguments` gives them.

  Returns:
    What the function returns.

  Raises:
    FileNotFoundError, ValueError: a config is missing, or does not say all that is needed.
    Exception: what the function raises.
  """
  command = _command(program, args)
  processes.join(args, command.shared)
  with imports.only_from(args.import_from):
    read(program, args, bindings)
    compilation_cache.use(args.compilation_cache)
    with notices.command(f'{program.name} {command.name}'):
      return call(command)


def call(command: Command) -> Any:
  """Calls the function of a command whose configuration has been read; returns what it returns."""
  import gin

  module, name = command.function.split(':')
  function = gin.get_configurable(getattr(importlib.import_module(module), name))
  workdir = configuration.macro('WORKDIR')
  return _begin(function, workdir) if command.begins_run and workdir else function()


def read(program: Program, args: argparse.Namespace, bindings: list[str]) -> None:
  """Reads the configuration of a command and checks all that can be before anything is called.

  Args:
    args: of `make_parser`.
    bindings: as `arguments.split_gin_arguments` gives them.

  Raises:
    FileNotFoundError, ValueError: a config is missing, says too little, or what cannot be.
  """
  command = _command(program, args)
  search_paths = [folder for listed in args.gin_search_paths for folder in listed.split(',')]
  flags = {
    option.macro: option.flag for one in program.commands for option in (WORKDIR, *one.options)
  }
  given = bindings  # as --gin.NAME
  for option in (WORKDIR, *command.options):
    value = getattr(args, option.macro)
    if value is not None:
      same = (option.macro, *(t5x for t5x, ours in RENAMED.items() if ours == option.macro))
      for name in (binding.partition(' = ')[0] for binding in given):
        if name in same:
          raise ValueError(f'{option.flag} and --gin.{name} are the same: give one of them.')
      written = arguments.as_gin_number(value) if option.literal else repr(value)
      bindings = [*bindings, f'{option.macro} = {written}']
  configuration.parse(
    _gin_files(program, command, args),
    bindings,
    search_paths,
    flags,
    program.name,
    hushed=not args.traceback,
    roots=[_selector(one) for one in program.commands],
  )
  if configuration.macro('WORKDIR') == '':
    raise ValueError("--workdir is empty: name a folder; '.' is the current one.")
  configuration.check_call(_selector(command), ('accepted',) if command.begins_run else ())
  # Beside a config, what is set as --gin.NAME may be for any command.
  own = bindings[len(given) :] if args.gin_file else bindings
  for line in _unused(command, own, {binding.partition(' = ')[0] for binding in given}, flags):
    print(f'{program.name} {command.name} does not use {line}.', file=sys.stderr)


def _unused(
  command: Command, bindings: Sequence[str], by_gin: Collection[str], flags: Mapping[str, str]
) -> Iterator[str]:
  """Yields what a command does not use of what the command line sets, with the reason if it knows.

  Names are those of macros and parameters in `by_gin`, else of flags.
  """

  def named(idle: Sequence[str]) -> str:
    return ', '.join(name if name in by_gin else flags[name] for name in idle)

  root = _selector(command)
  idle = configuration.idle_in(bindings, root)
  if idle:
    yield named(idle)
  for one in command.ignores:
    more = configuration.idle_in(bindings, root, one.parameter) if one.holds() else ()
    more = [name for name in more if name not in idle]
    if more:
      yield f'{named(more)}: {one.why}'


def _selector(command: Command) -> str:
  return command.function.replace(':', '.')


def _begin(function: Callable[..., Any], workdir: str) -> Any:
  """Calls a function that begins a run; the configuration is kept as soon as that is accepted."""
  base = configuration.macro('BASE_WORKDIR')
  if base and Path(base).resolve() == Path(workdir).resolve():
    raise ValueError(f'{workdir} is BASE_WORKDIR: give this run a --workdir of its own.')
  text, begun = configuration.to_save(), []

  def accepted() -> None:
    configuration.save(workdir, text)
    begun.append(workdir)

  result = function(accepted=accepted)
  if begun:
    configuration.save_operative(workdir)
  return result


def _command(program: Program, args: argparse.Namespace) -> Command:
  return next(command for command in program.commands if command.name == args.command)


def _gin_files(program: Program, command: Command, args: argparse.Namespace) -> list[str]:
  """The configs to read: those that are named, or the one that the run in the workdir has saved."""
  if args.gin_file:
    return list(args.gin_file)
  if args.WORKDIR:
    saved = Path(args.WORKDIR, 'config.gin')
    if saved.is_file():
      return [str(saved)]
    if not command.begins_run:
      raise FileNotFoundError(f'No {saved}: name a config with --gin_file, or a trained workdir.')
  raise ValueError(
    f'Name a config with --gin_file; `{program.name} {command.name} --help` lists those shipped.'
  )


def main(program: Program, argv: list[str] | None = None) -> int:
  """Runs the command that `argv` (the process's own arguments, if None) names.

  Returns:
    The exit code: 0; 1 after an error, of which one line tells; 130 after Ctrl-C; 141 if nobody
    reads the output any more.

  Raises:
    SystemExit: help was asked for (0), or the command line cannot be read (2).
  """
  # TensorFlow only reads data here; its start-up chatter hides what matters.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  _write_utf8()
  try:
    try:
      return _main(program, list(sys.argv[1:] if argv is None else argv))
    finally:
      sys.stdout.flush()
  except BrokenPipeError:  # `calm decode ... | head` ends quietly.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _write_utf8() -> None:
  """What goes to standard output is data in UTF-8, whatever the terminal's language."""
  for stream, errors in ((sys.stdout, 'strict'), (sys.stderr, 'backslashreplace')):
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ('utf-8', 'utf8'):
      stream.reconfigure(encoding='utf-8', errors=errors)


def _main(program: Program, argv: list[str]) -> int:
  parser = make_parser(program)
  try:
    others, bindings = arguments.split_gin_arguments(argv)
  except ValueError as error:
    parser.error(str(error))
  args = parser.parse_args(others)
  called = f'{program.name} {args.command}'
  try:
    run(program, args, bindings)
  except KeyboardInterrupt:
    print(f'{called}: interrupted; the same command goes on.', file=sys.stderr)
    return 130
  except BrokenPipeError:
    raise
  except Exception as error:
    if args.traceback:
      raise
    storage.warn(f'{called}: {configuration.in_words(error)}')
    return 1
  return 0
