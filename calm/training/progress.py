"""What a run says about itself: a bar or lines on the terminal, metrics.jsonl, TensorBoard."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from calm import storage
from calm.training.guards import writing

METRICS = 'metrics.jsonl'


class Progress:
  """Reports a run's metrics; only process 0 shows and writes anything.

  On a terminal a bar with loss, speed and time left; elsewhere a line for each report. Each report
  is a line of `workdir/metrics.jsonl` and a point in TensorBoard. What these hold of steps after
  `first_step` was reported after the checkpoint that the run goes on from, and comes again: `open`,
  or the first report, drops it.
  """

  def __init__(self, workdir: str | os.PathLike, num_steps: int, first_step: int = 0):
    self._num_steps = num_steps
    self._writes = jax.process_index() == 0
    self._file: Any = None
    self._tensorboard: Any = None
    self._bar = tqdm(
      total=num_steps,
      initial=first_step,
      unit='step',
      dynamic_ncols=True,
      disable=None if self._writes else True,  # None: where standard error is no terminal.
    )
    self._workdir = workdir
    self._started, self._first_step = time.monotonic(), first_step
    with writing(workdir):
      self._kept = _lines_until(Path(workdir, METRICS), first_step) if self._writes else b''

  def open(self) -> None:
    """Begins to write; until then the workdir stays as it is."""
    if not self._writes or self._file is not None:
      return
    with writing(self._workdir):
      path = Path(self._workdir, METRICS)
      storage.write_bytes(path, self._kept)
      self._file = path.open('a', encoding='utf-8')
      self._tensorboard = _Events(self._workdir, self._first_step)

  def advance(self, step: int) -> None:
    """Shows that `step` steps are done."""
    self._bar.update(step - self._bar.n)

  def report(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records `metrics`, a dict of numbers, as those of `step`; all are on disk on return."""
    if not self._writes:
      return
    self.open()
    with writing(self._workdir):
      self._file.write(json.dumps({'step': step, **metrics}) + '\n')
      self._file.flush()
      for name, value in metrics.items():
        self._tensorboard.add_scalar(name, value, step)
    shown = {name: _shown(value) for name, value in metrics.items() if name in SHOWN}
    if self._bar.disable:
      pairs = ' '.join(f'{name}={value}' for name, value in shown.items())
      self.say(f'step {step}/{self._num_steps} {pairs} left={self._time_left(step)}')
    else:
      self._bar.set_postfix(shown)

  def say(self, text: str) -> None:
    """Prints a line to standard error, above the bar."""
    if self._writes:
      tqdm.write(text, file=sys.stderr)
      sys.stderr.flush()

  def close(self) -> None:
    """Ends the bar and writes out what is left."""
    self._bar.close()
    with writing(self._workdir):
      for opened in (self._file, self._tensorboard):
        if opened is not None:
          opened.close()

  def _time_left(self, step: int) -> str:
    done = max(step - self._first_step, 1)
    seconds = (time.monotonic() - self._started) / done * (self._num_steps - step)
    return tqdm.format_interval(seconds)


def _shown(value: float) -> str:
  """A number in four digits, or in whole ones from a thousand to a billion."""
  return f'{value:,.0f}' if 1e3 <= abs(value) < 1e9 else f'{value:.4g}'


class Meter:
  """Means of metrics between two reports, and how fast the steps went.

  What has been added up is part of a checkpoint, so that a run that goes on between two reports
  reports what it would have without the break.
  """

  def __init__(self, unit: str = 'token'):
    self._speed = f'{unit}s_per_second'  # Of what weights count.
    self._waiting: list = []  # Not looked at yet, so that the device need not wait for us.
    self._totals: dict[str, float] = {}
    self._before: dict[str, float] = {}  # Totals of steps that were not timed.
    self.restart_clock()

  def restart_clock(self) -> None:
    self._since = time.monotonic()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Takes what is done inside for no part of the steps' time."""
    paused_at = time.monotonic()
    yield
    self._since += time.monotonic() - paused_at

  def add(self, metrics: Mapping[str, jax.Array]) -> None:
    self._waiting.append(metrics)

  def get_state(self) -> dict[str, float]:
    """What was added since the last report, as JSON takes it."""
    for item in jax.device_get(self._waiting):
      weight = float(item['weight'])
      for name, value in item.items():
        share = float(value) if name in UNWEIGHTED else float(value) * weight
        self._totals[name] = self._totals.get(name, 0.0) + share
      self._totals['steps'] = self._totals.get('steps', 0) + 1
    self._waiting = []
    return dict(self._totals)

  def set_state(self, state: Mapping[str, float]) -> None:
    """Goes on from where `get_state` was called."""
    self._totals, self._before = dict(state), dict(state)

  def report(self) -> dict[str, float]:
    """Means over the steps since the last report, those of losses by their weights."""
    totals = self.get_state()
    weight, steps = totals.pop('weight'), totals.pop('steps')
    report = {
      name: total / (steps if name in UNWEIGHTED else max(weight, 1e-9))
      for name, total in totals.items()
    }
    elapsed = time.monotonic() - self._since
    report[self._speed] = (weight - self._before.get('weight', 0.0)) / elapsed
    report['seconds_per_step'] = elapsed / (steps - self._before.get('steps', 0))
    self._totals, self._before = {}, {}
    self.restart_clock()
    return report


# Metrics that are of the step, not of its tokens or examples.
UNWEIGHTED = ('weight', 'gradient_norm', 'learning_rate')
# Metrics that have a place on the terminal.
SHOWN = ('loss', 'accuracy', 'validation_loss', 'tokens_per_second', 'examples_per_second')


class _Events:
  """TensorBoard's events of a run that goes on after `first_step`."""

  def __init__(self, workdir: str | os.PathLike, first_step: int):
    # Brings TensorFlow with it, hence not at the top.
    from tensorboard.compat.proto import event_pb2
    from tensorboard.plugins.scalar import summary_v2
    from tensorboard.summary.writer import event_file_writer

    self._event, self._summary = event_pb2.Event, summary_v2.scalar_pb
    self._writer = event_file_writer.EventFileWriter(str(workdir))
    self.close = self._writer.close
    # Has TensorBoard forget what earlier files say of this step and later ones.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(first_step + 1, session_log=start)

  def add_scalar(self, name: str, value: float, step: int) -> None:
    self._add(step, summary=self._summary(name, value))

  def _add(self, step: int, **content: Any) -> None:
    self._writer.add_event(self._event(wall_time=time.time(), step=step, **content))


def _lines_until(path: Path, last_step: int) -> bytes:
  """The lines of a metrics file of steps up to `last_step`, as they are; damaged ones left out."""
  try:
    lines = path.read_bytes().split(b'\n')
  except FileNotFoundError:
    return b''
  kept = []
  for line in lines:
    try:
      if json.loads(line)['step'] <= last_step:
        kept.append(line + b'\n')
    except (ValueError, KeyError, TypeError, RecursionError):
      continue  # Cut off by whatever ended the run, or damaged.
  return b''.join(kept)
