"""What keeps a run from being lost: non-finite losses are found, signals end it saved."""

import collections
import contextlib
import dataclasses
import hashlib
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from calm import processes, storage

LOCK = '.train.lock'


class NonFiniteError(FloatingPointError):
  """A loss or gradient was NaN or infinite."""


class WorkdirError(OSError):
  """Something cannot be written to the workdir."""


def reason(error: BaseException) -> str:
  """The first line of an error's message, without the specification that TensorStore adds."""
  line = str(error).strip().partition('\n')[0]
  return re.split(r' \[tensorstore_spec=| See full TensorStore details', line)[0]


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Raises WorkdirError, with `path` and the mend, for whatever fails inside.

  Raises:
    ProcessError: what fails is that another process of the run does not answer.
  """
  try:
    with processes.answering():
      yield
  except (WorkdirError, processes.ProcessError):
    raise
  except Exception as error:  # Orbax and TensorStore raise many kinds for a full disk.
    raise WorkdirError(
      f'{path} cannot be written: {reason(error)}. Make room there, or give another --workdir; the '
      'same command goes on from the newest checkpoint.'
    ) from error


def make_workdir(workdir: str | os.PathLike) -> None:
  """Makes the folder of a run.

  Raises:
    WorkdirError: it cannot be made, or checkpoints could not be found again in it.
  """
  patterns = sorted(set('*?[\\') & set(os.path.abspath(workdir)))
  if patterns:
    raise WorkdirError(
      f'{workdir} cannot be a workdir: {" ".join(patterns)} in the name of a folder is taken for a '
      'pattern when checkpoints are saved. Give another --workdir.'
    )
  with writing(workdir):
    Path(workdir).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def alone(workdir: str | os.PathLike) -> Iterator[None]:
  """Keeps others from training in `workdir` while the block runs; process 0 holds the lock.

  Raises:
    BusyError: another run is at work there; so in all processes of this one.
  """
  with contextlib.ExitStack() as stack:
    error = None
    if jax.process_index() == 0:
      try:
        stack.enter_context(storage.lock(Path(workdir, LOCK), str(workdir)))
      except OSError as caught:
        error = caught
    if not all_processes(error is None):
      raise error or storage.BusyError(f'{workdir} cannot be locked; process 0 says why.')
    yield


def all_processes(succeeded: bool) -> bool:
  """Whether all processes of the run succeeded; each says whether it did, and waits for all."""
  if jax.process_count() == 1:
    return succeeded
  return bool(multihost_utils.process_allgather(np.array(succeeded)).all())


def fingerprint(batch: Mapping[str, np.ndarray]) -> str:
  """A short hexadecimal digest of a batch's arrays, to find it again."""
  digest = hashlib.sha256()
  for name in sorted(batch):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(batch[name]).tobytes())
  return digest.hexdigest()[:16]


@dataclasses.dataclass
class PendingSteps:
  """Steps that were started and not yet looked at, so that the device need not wait for us."""

  workdir: str
  waiting: collections.deque = dataclasses.field(default_factory=collections.deque)

  def add(
    self,
    step: int,
    metrics: Mapping[str, jax.Array],
    batch: Mapping[str, np.ndarray],
    saved_step: int | None,
  ) -> None:
    self.waiting.append((step, metrics, batch, saved_step))
    if len(self.waiting) > 2:
      self._check(*self.waiting.popleft())

  def check_all(self) -> None:
    while self.waiting:
      self._check(*self.waiting.popleft())

  def _check(
    self,
    step: int,
    metrics: Mapping[str, jax.Array],
    batch: Mapping[str, np.ndarray],
    saved_step: int | None,
  ) -> None:
    values = {name: float(metrics[name]) for name in ('loss', 'gradient_norm')}
    if all(np.isfinite(value) for value in values.values()):
      return
    shown = ', '.join(f'{name} {value}' for name, value in values.items())
    good = 'none was saved' if saved_step is None else f'step {saved_step} in {self.workdir}'
    raise NonFiniteError(
      f'Step {step}: {shown}. Batch {fingerprint(batch)}; last good checkpoint: {good}. Try a '
      'lower learning rate, a longer warm-up, or float32.'
    )


class Says(Protocol):
  """What a run tells its user through."""

  def say(self, text: str) -> None:
    """Prints a line."""


class Signals:
  """Lets Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint.

  A second Ctrl-C ends it at once. With several processes SIGTERM is left to JAX's preemption
  service, which has all of them stop after the same step; Ctrl-C in one of them is handed to it.
  """

  def __init__(self) -> None:
    self._received: int | None = None
    self._preempted = False
    self._previous: dict = {}

  def __enter__(self) -> Self:
    if threading.current_thread() is threading.main_thread():
      wanted = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
      self._previous = {number: signal.signal(number, self._receive) for number in wanted}
    return self

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _receive(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    if self._received == signal.SIGINT == number:
      raise KeyboardInterrupt
    self._received = number
    if jax.process_count() > 1:
      signal.raise_signal(signal.SIGTERM)

  def stop(self, step: int) -> bool:
    """Whether to stop before the next step."""
    if jax.process_count() > 1:
      self._preempted = multihost_utils.reached_preemption_sync_point(step)
      return self._preempted
    return self._received is not None

  def leave(self, step: int, progress: Says) -> None:
    """Passes the signal on, once everything is saved."""
    if self._received is None and not self._preempted:
      return
    progress.say(f'Stopped after step {step}, which is saved; the same command goes on.')
    if self._received == signal.SIGINT:
      raise KeyboardInterrupt
    sys.exit(128 + signal.SIGTERM)
