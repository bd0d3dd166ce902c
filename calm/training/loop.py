"""The training loop, for any objective, optimizer and stream of batches.

A step is one compiled function of (state, batch); everything random in it follows from the seed
and the step's number, and the data's position is saved with the state, so a run that was killed
and started again is the run that was not.
"""

import collections
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from calm import notices, processes, settings
from calm.training import losses, resuming, sharding
from calm.training.checkpoints import Checkpoints
from calm.training.guards import PendingSteps, Signals, alone, make_workdir
from calm.training.optimizers import Optimizer
from calm.training.progress import Meter, Progress
from calm.training.step import Trainer


def train(
  *,
  workdir: str | os.PathLike,
  objective: losses.Objective,
  optimizer: Optimizer,
  batches: resuming.Stream | Callable[[], resuming.Stream],
  num_steps: settings.Count,
  initial_params: Any = None,
  validation_batches: resuming.Stream | Callable[[], resuming.Stream | None] | None = None,
  num_validation_batches: settings.Count = 10,
  seed: settings.Seed = 0,
  model_parallelism: settings.Count = 1,
  num_microbatches: settings.Count = 1,
  steps_per_report: settings.Count = 50,
  steps_per_checkpoint: settings.Count = 500,
  steps_per_validation: settings.Count = 500,
  keep_checkpoints: settings.Count = 2,
  stop_after_seconds: float | None = None,
  accepted: Callable[[], None] | None = None,
) -> tuple[Any, dict[str, float]]:
  """Trains for `num_steps` steps in all, going on from the newest checkpoint in `workdir`.

  One run at a time works in a workdir. Until nothing is left that could refuse this one, what the
  workdir holds stays as it is. If the stream's `settings` are not those of the run so far, it goes
  on with a new epoch from the stream's beginning, and says what has changed.

  Args:
    workdir: folder for checkpoints, metrics.jsonl and TensorBoard events, one for all processes.
    objective: a `calm.training.losses.Objective`.
    optimizer: a `calm.training.optimizers.Optimizer`.
    batches: an endless iterator of this process's rows, dicts of numpy arrays, with
      `get_state()` and `set_state(state)`; states are JSON and the same in all processes. It may
      have `settings`, a dict in JSON of what its states depend on. Or a function that gives one,
      and is called when the parameters are at hand: reading data may take hours.
    initial_params: parameters to begin with instead of fresh ones, or a function that reads them
      and is called only where there is no checkpoint to go on from.
    validation_batches: like `batches`; the first `num_validation_batches` are scored every
      `steps_per_validation` steps and at the end, without dropout. None: there are none.
    seed: of fresh parameters, dropout and whatever else the objective draws.
    model_parallelism: devices that share each parameter; the others share the rows.
    num_microbatches: parts of a batch whose gradients are computed one after the other.
    keep_checkpoints: how many of the newest stay.
    stop_after_seconds: save and return when this run, its earlier parts included, has trained
      that long.
    accepted: called in process 0, once, before the first step or whatever else changes the workdir;
      not at all if there is nothing to do.

  Returns:
    (params, metrics of the last report).

  Raises:
    NonFiniteError: a loss or gradient is NaN or infinite; names step, batch and checkpoint.
    KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a checkpoint has been saved.
    WorkdirError: the workdir cannot be written, as when the disk is full.
    BusyError: another process trains in the workdir; names it.
    ProcessError: another process of this run has ended, or lags far behind.
    CheckpointError: checkpoints that do not fit, or of which none can be read.
    ValueError: settings that cannot be.
  """
  settings.check(
    train,
    num_steps=num_steps,
    num_validation_batches=num_validation_batches,
    seed=seed,
    model_parallelism=model_parallelism,
    num_microbatches=num_microbatches,
    steps_per_report=steps_per_report,
    steps_per_checkpoint=steps_per_checkpoint,
    steps_per_validation=steps_per_validation,
    keep_checkpoints=keep_checkpoints,
    stop_after_seconds=stop_after_seconds,
  )
  make_workdir(workdir)
  with contextlib.ExitStack() as resources:
    resources.enter_context(processes.answering())
    resources.enter_context(alone(workdir))
    trainer = Trainer(
      objective,
      optimizer,
      mesh=sharding.make_mesh(model_parallelism),
      num_microbatches=num_microbatches,
      seed=seed,
    )
    checkpoints = resources.enter_context(
      contextlib.closing(Checkpoints(workdir, keep_checkpoints))
    )
    restored = checkpoints.restore(trainer.abstract_state, resuming.check)
    meter = Meter(objective.unit)
    held = resuming.held_by(objective)
    given = _made(initial_params) if restored is None else None
    stream: resuming.Stream = _made(batches)
    held_out: resuming.Stream | None = _made(validation_batches)
    notices.devices()
    new_epoch = None
    if restored is None:
      state, seconds_before = trainer.init(given), 0.0
    else:
      state, saved = restored
      resuming.check_held(saved, held)
      new_epoch = resuming.find_place(stream, saved)
      meter.set_state(saved.get('meter', {}))
      seconds_before = saved['seconds']
    step = first_step = int(state.step)
    notices.parameters(state.params)
    saved_step = step if restored is not None else None
    progress = resources.enter_context(contextlib.closing(Progress(workdir, num_steps, step)))
    if step:
      goes_on = 'Going on from' if step < num_steps else 'Nothing to do:'
      progress.say(f'{goes_on} step {step} of {num_steps} in {workdir}.')
    if new_epoch and step < num_steps:
      progress.say(f'The stream of examples is another, so a new epoch begins: {new_epoch}.')
    validation = None
    if held_out is not None:
      validation = [next(held_out) for _ in range(num_validation_batches)]
    steps = PendingSteps(str(workdir))
    started = time.monotonic()
    last_report: dict[str, float] = {}

    def begin() -> None:
      if accepted is not None and jax.process_index() == 0:
        accepted()
      checkpoints.set_aside()
      progress.open()

    def seconds() -> float:
      return seconds_before + time.monotonic() - started

    def save() -> None:
      steps.check_all()
      standing = resuming.standing(stream, meter.get_state(), seconds(), held)
      checkpoints.save(step, state, standing)

    with Signals() as signals:
      meter.restart_clock()
      while step < num_steps and not signals.stop(step):
        if stop_after_seconds is not None and _first_process(seconds()) >= stop_after_seconds:
          progress.say(f'Stopping at step {step}: {seconds():.0f} s of training.')
          break
        batch = next(stream)
        placed = trainer.place(batch)
        if step == first_step:
          trainer.check(state, placed, validation)
          begin()
          notices.once('compiling', 'Compiling the training step.')
        state, metrics = trainer.step(state, placed, trainer.key)
        step += 1
        if step == first_step + 1:
          _say_first(step, metrics, started)
        steps.add(step, metrics, batch, saved_step)
        meter.add(metrics)
        progress.advance(step)
        report = {}
        if step % steps_per_report == 0 or step == num_steps:
          steps.check_all()
          report = meter.report()
        if validation and (step % steps_per_validation == 0 or step == num_steps):
          with meter.paused():
            report |= evaluate_loss(trainer, state.params, validation)
        if report:
          progress.report(step, {**report, 'seconds': seconds()})
          last_report |= report
        if step % steps_per_checkpoint == 0 and step < num_steps:
          save()
          saved_step = step
      if step != saved_step:
        if step == first_step:
          begin()
        save()
      checkpoints.wait()
    signals.leave(step, progress)
  return state.params, last_report


def evaluate_loss(
  trainer: Trainer, params: Any, batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, float]:
  """Metrics over `batches` without dropout, each named 'validation_...', by their weights."""
  total: collections.Counter = collections.Counter()
  for batch in batches:
    loss, sums = trainer.sums(params, trainer.place(batch))
    total.update({'loss': float(loss), **{name: float(value) for name, value in sums.items()}})
  weight = max(total.pop('weight'), 1e-9)
  return {f'validation_{name}': value / weight for name, value in total.items()}


def _made(given: Any) -> Any:
  """What is given, or what the function gives that is given in its place."""
  return given() if callable(given) else given


def _say_first(step: int, metrics: Mapping[str, jax.Array], started: float) -> None:
  loss = float(metrics['loss'])  # Waits for the device.
  seconds = time.monotonic() - started
  notices.once('first', f'First loss: {loss:.4g}, at step {step}, after {seconds:.1f} s.')


def _first_process(value: float) -> float:
  """Process 0's `value`, in all processes, so that they decide alike."""
  return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(value)
