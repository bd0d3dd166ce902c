"""One command for everything: `calm train | evaluate | calibrate | trials | decode | ...`.

The command line is T5X's: `--gin_file` (repeatable) names configs, `--gin.NAME=value` sets or
overrides what they say, `--gin_search_paths` says where else to look for them. This module and the
gin files are the only places where all rooms meet; each command calls one function, and gin
supplies its arguments.
"""

import argparse
import dataclasses
import importlib
import os
import signal
import sys
import textwrap
from pathlib import Path

from calm import configuration, processes


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
  shared: bool = False  # Whether several processes can run it together.


WORKDIR = Option('--workdir', 'WORKDIR', 'folder of this run: checkpoints, metrics, results', 'DIR')

COMMANDS = (
  Command(
    'train',
    'calm.training.loop:train',
    'train a model, or go on where a run stopped',
    'Writes checkpoints, metrics.jsonl, TensorBoard events and the configuration into the '
    'workdir. The same command again goes on from the newest checkpoint there.',
    shared=True,
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
    'calm.evaluation.evaluate:evaluate',
    "decode a split of the task and print the task's metrics",
    'Without --gin_file the configuration saved in the workdir by `calm train` is used. '
    'Interrupted, the same command goes on where it stopped.',
    (
      Option('--split', 'EVALUATION_SPLIT', "split of the task, as in 'test'", 'NAME'),
      Option('--certificate', 'CERTIFICATE', 'certificate whose threshold is to be used'),
    ),
  ),
  Command(
    'calibrate',
    'calm.evaluation.calibrate:calibrate',
    'find the lowest exit threshold that keeps the text within a tolerance, and certify it',
    'Decodes a split with the full model and at one threshold after the other, and writes a '
    'certificate for each tolerance (DELTAS). Without --gin_file the configuration saved in the '
    'workdir by `calm train` is used. Interrupted, the same command goes on where it stopped.',
    (Option('--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'),),
  ),
  Command(
    'trials',
    'calm.reporting.efficiency:trials',
    'say what each confidence measure saves at each tolerance, and how sure that is',
    'Decodes a split with each of MEASURES at all thresholds, at fixed depths and with an oracle, '
    'calibrates on many random parts of it, and writes a table into the workdir. Without '
    '--gin_file the configuration saved in the workdir by `calm train` is used. Interrupted, the '
    'same command goes on where it stopped.',
    (Option('--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'),),
  ),
  Command(
    'report',
    'calm.reporting.report:report',
    'write a page of figures, tables and examples: what early exits cost and give',
    'Decodes what `calm calibrate` and `calm trials` have not decoded yet and writes report.html, '
    'PNG and CSV files into the workdir. Without --gin_file the configuration saved in the workdir '
    'by `calm train` is used. Interrupted, the same command goes on where it stopped.',
    (Option('--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'),),
  ),
  Command(
    'decode',
    'calm.evaluation.predict:predict',
    'decode lines, JSON Lines or a split of the task to JSON Lines',
    'Without --gin_file the configuration saved in the workdir by `calm train` is used. '
    'Interrupted, the same command with the same --output goes on where it stopped.',
    (
      Option('--input', 'DECODE_INPUT', "file of lines or JSON Lines; '-' is standard input"),
      Option('--output', 'DECODE_OUTPUT', "file of JSON Lines to write; '-' is standard output"),
      Option('--certificate', 'CERTIFICATE', 'certificate whose threshold is to be used'),
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


def make_parser():
  """The parser of all commands; their help lists the shipped configs."""
  shipped = configuration.shipped_configs().items()
  listing = 'shipped configs:\n' + '\n'.join(f'  {path}\n      {text}' for path, text in shipped)
  parser = argparse.ArgumentParser(
    prog='calm',
    description='Early-exit T5: train, evaluate, decode.',
    epilog=listing,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
  for command in COMMANDS:
    sub = commands.add_parser(
      command.name,
      help=command.summary,
      description=textwrap.fill(f'{command.summary.capitalize()}. {command.details}', 88),
      epilog=listing,
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
    processes.add_flags(sub)
    sub.add_argument('--traceback', action='store_true', help='show where an error came from')
  return parser


def run(command, args, bindings):
  """Reads the configuration and calls the command's function with what gin supplies."""
  processes.join(args, command.shared)
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
  options = (WORKDIR, *(option for command in COMMANDS for option in command.options))
  flags = {option.macro: option.flag for option in options}
  configuration.parse(gin_files, bindings, search_paths, flags, hushed=not args.traceback)

  import gin

  module, name = command.function.split(':')
  function = gin.get_configurable(getattr(importlib.import_module(module), name))
  workdir = configuration.macro('WORKDIR')
  records = command.name == 'train' and workdir and processes.is_first()
  if records:
    base = configuration.macro('BASE_WORKDIR')
    if base and Path(base).resolve() == Path(workdir).resolve():
      raise ValueError(f'{workdir} is BASE_WORKDIR: give this run a --workdir of its own.')
    configuration.save(workdir)
  result = function()
  if records:
    configuration.save_operative(workdir)
  return result


def main(argv=None):
  """Entry point of the `calm` command; returns the exit code."""
  # TensorFlow only reads data here; its start-up chatter hides what matters.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  try:
    try:
      return _main(list(sys.argv[1:] if argv is None else argv))
    finally:
      sys.stdout.flush()
  except BrokenPipeError:  # `calm decode ... | head` ends quietly.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _main(argv):
  parser = make_parser()
  try:
    others, bindings = configuration.split_gin_arguments(argv)
  except ValueError as error:
    parser.error(str(error))
  args = parser.parse_args(others)
  command = next(command for command in COMMANDS if command.name == args.command)
  try:
    run(command, args, bindings)
  except KeyboardInterrupt:
    print(f'calm {command.name}: interrupted; the same command goes on.', file=sys.stderr)
    return 130
  except BrokenPipeError:
    raise
  except Exception as error:
    if args.traceback:
      raise
    print(f'calm {command.name}: {configuration.brief(error)}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
