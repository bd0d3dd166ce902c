"""What scripts of experiments share: GLUE's tasks in a folder, and runs that are not run twice."""

import argparse
import dataclasses
import fnmatch
import functools
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calm import compilation_cache, storage
from calm.tasks import metrics, wordpiece
from calm.tasks.classification import Classification, Form, Regression
from calm.training import checkpoints

RECORD = 'run.json'
_PAIR = ('sentence1', 'sentence2')


@dataclasses.dataclass(frozen=True)
class GlueTask:
  """Where a task lies, what is asked, and which metric the paper reports."""

  folder: str
  form: Form
  metrics: tuple
  metric: str
  validation: str = 'validation'
  rates_of: str | None = None  # the task whose learning rates it takes; None is its own


TASKS = {
  'sst2': GlueTask(
    'glue_sst2',
    Classification(('sentence',), ('negative', 'positive')),
    (metrics.accuracy,),
    'accuracy',
  ),
  'cola': GlueTask(
    'glue_cola',
    Classification(('sentence',), ('unacceptable', 'acceptable')),
    (metrics.matthews, metrics.accuracy),
    'matthews',
  ),
  'mrpc': GlueTask(
    'glue_mrpc',
    Classification(_PAIR, ('not_equivalent', 'equivalent')),
    (metrics.accuracy, metrics.binary_f1('equivalent')),
    'accuracy',
  ),
  'mnli': GlueTask(
    'glue_mnli_subset',
    Classification(('premise', 'hypothesis'), ('entailment', 'neutral', 'contradiction')),
    (metrics.accuracy,),
    'accuracy',
    'validation_matched',
    rates_of='sst2',
  ),
  'stsb': GlueTask(
    'glue_stsb',
    Regression(_PAIR, lowest=0, highest=5),
    (metrics.pearson_spearman,),
    'pearson',
    rates_of='mrpc',
  ),
}


def find_file(folder: Path, split: str) -> str:
  """The file of a split, packed with gzip or not.

  Raises:
    FileNotFoundError: there is neither.
  """
  for name in (f'{split}.jsonl', f'{split}.jsonl.gz'):
    if (folder / name).is_file():
      return os.fspath(folder / name)
  raise FileNotFoundError(f'{folder} has no {split}.jsonl and no {split}.jsonl.gz: set --data.')


@functools.cache
def tokenizer_in(directory: str) -> wordpiece.Tokenizer:
  """A checkpoint's tokenizer, one object for the process: what it has encoded is remembered."""
  return wordpiece.load(directory)


def matches(run: Any, patterns: Sequence[str]) -> bool:
  """Whether one of the patterns, as of files, is that of the run's name."""
  return any(fnmatch.fnmatch(run.name, pattern) for pattern in patterns)


class Runs:
  """Runs below a folder, by the flags that all share; each leaves a record when it is finished.

  A run has a `name`, its folder, and a `title`. Who inherits says which runs there are (`runs`,
  `next`), what one takes (`work`), does one (`do`), and says what it gave (`said`).
  """

  def __init__(self, flags: argparse.Namespace):
    self.flags = flags
    self.output = Path(flags.output)

  def record(self, run: Any) -> dict[str, Any] | None:
    """What a finished run has left."""
    path = self.output / run.name / RECORD
    return storage.read_record(path) if path.is_file() else None

  def finish(self, run: Any, kept: dict[str, Any], start: float) -> None:
    """Writes the record of a run that began at `start` of the monotonic clock."""
    record = kept | {'seconds': time.monotonic() - start}
    storage.write_record(self.output / run.name / RECORD, record)

  def drop_checkpoints(self, run: Any) -> None:
    """Deletes a run's checkpoints, unless --keep matches its name."""
    if not matches(run, self.flags.keep):
      shutil.rmtree(self.output / run.name / checkpoints.FOLDER, ignore_errors=True)

  def runs(self) -> list[Any]:
    """All of them, in their order."""
    raise NotImplementedError

  def next(self) -> tuple[Any, list[Any]]:
    """The first run to do, and all that is left to do; (None, []) when all is done."""
    raise NotImplementedError

  def work(self, run: Any) -> float:
    """What a run takes, in any unit."""
    raise NotImplementedError

  def do(self, run: Any) -> None:
    """Does a run, and writes its record."""
    raise NotImplementedError

  def said(self, record: dict[str, Any]) -> str:
    """What a record says, in a few words."""
    raise NotImplementedError

  def seconds_left(self, left: Sequence[Any]) -> float:
    """How long runs may take, by what finished ones of their task took; NaN if none has."""
    took: dict[str, list[float]] = {}
    for run in self.runs():
      record = self.record(run)
      if record is not None and 'failed' not in record:
        took.setdefault(run.task, []).append(record['seconds'] / self.work(run))
    every = [rate for rates in took.values() for rate in rates]
    if not every:
      return float('nan')
    return sum(self.work(run) * statistics.median(took.get(run.task, every)) for run in left)


def run_all(experiments: Runs) -> None:
  """Does one run after the other, and says what is left."""
  while True:
    run, left = experiments.next()
    if run is None:
      return
    seconds = experiments.seconds_left(left)
    estimate = '' if seconds != seconds else f', about {seconds / 60:.0f} minutes'
    print(f'== {run.title}; {len(left)} runs left{estimate}', flush=True)
    experiments.do(run)
    record = experiments.record(run) or {}
    said = 'failed' if 'failed' in record else experiments.said(record)
    print(f'   {said}, {record["seconds"]:.0f} s', flush=True)


def begin(experiments: Runs) -> int | None:
  """Plans or runs, as the flags say; the exit code if that is all, None before a report."""
  flags = experiments.flags
  if flags.plan:
    say_plan(experiments)
    return 0
  compilation_cache.use(flags.compilation_cache)
  try:
    if not flags.report:
      run_all(experiments)
  except KeyboardInterrupt:
    print('Interrupted; the same command goes on.', file=sys.stderr)
    return 130
  return None


def say_plan(experiments: Runs) -> None:
  """Prints what is done and what is to be done."""
  for run in experiments.runs():
    print('done' if experiments.record(run) else 'to do', run.title)


def listed(parser: argparse.ArgumentParser) -> Callable[..., None]:
  """Adds flags that take one or more values: (flag, kind, default, help, choices)."""

  def add(flag, kind, default, help, choices=None):
    parser.add_argument(
      flag, type=kind, nargs='+', default=list(default), choices=choices, help=help
    )

  return add


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of all such scripts."""
  parser.add_argument('--checkpoint', required=True, help='directory of the encoder')
  parser.add_argument('--data', required=True, help='folder of the tasks')
  parser.add_argument('--output', required=True, help='folder of all runs')
  parser.add_argument('--num_examples', type=int, default=6000, help='rows trained on')
  parser.add_argument('--num_epochs', type=float, default=2, help='how often each is seen')
  parser.add_argument('--batch_size', type=int, default=16, help='rows of a step')
  parser.add_argument(
    '--keep',
    nargs='*',
    default=[],
    metavar='GLOB',
    help="runs whose checkpoints stay, as in 'sst2/mean/6000/*/seed_0'",
  )
  parser.add_argument('--report', action='store_true', help='write the report, run nothing')
  parser.add_argument('--plan', action='store_true', help='list what is to be done, and stop')
  compilation_cache.add_flag(parser)
