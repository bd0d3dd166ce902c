"""Checkpoints of a run: state and progress, saved by Orbax while training goes on.

`workdir/checkpoints/<step>/` holds `state` (step, parameters, optimizer) and `progress` (JSON:
where the data stands, training time), with a digest of each file beside them. Only what has been
found readable gets its name, and only then an older one is deleted. A checkpoint that cannot be
read, or is not what was written, is reported and the one before it used; a run that goes on then
sets it aside under another name. If none can be read, all stay where they are.
"""

import contextlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from calm import settings, storage
from calm.models import parameters, pretrained
from calm.training import digests
from calm.training.guards import all_processes, reason, writing

FOLDER = 'checkpoints'
_UNCHECKED = f'{{}} has no {digests.FILE}, as of earlier versions: it is read unchecked.'


class CheckpointError(ValueError):
  """There is no usable checkpoint, or it does not fit what is to be restored."""


def steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the finished checkpoints in `workdir`, ascending; empty if there are none."""
  folder = Path(workdir, FOLDER)
  if not folder.is_dir():
    return []
  return sorted(int(path.name) for path in folder.iterdir() if re.fullmatch('[0-9]+', path.name))


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, which asks nobody whether the run is to stop.

  JAX has all processes stop one step after the latest that any of them asked about last. Orbax asks
  about a checkpoint's own step once that is written, in a thread of process 0 and when its loop is
  further on: the others would then stop at a step that process 0 has left behind, and each wait for
  the other.
  """

  def reached_preemption(self, step: int) -> bool:
    """False: `Signals` alone asks."""
    del step
    return False


class Checkpoints:
  """Saves and restores one run's checkpoints, keeping the newest `keep`.

  Saving returns as soon as the arrays are copied; `close` waits until all are on disk.
  """

  def __init__(self, workdir: str | os.PathLike, keep: int = 3):
    if keep < 1:
      raise ValueError(f'keep must be at least 1, not {keep}.')
    self._folder = Path(workdir).absolute() / FOLDER
    with writing(self._folder):
      self._folder.mkdir(parents=True, exist_ok=True)
    self._keep = keep
    self._manager: ocp.CheckpointManager | None = None
    self._unreadable: list[int] = []
    self._hushed = contextlib.ExitStack()

  @property
  def manager(self) -> ocp.CheckpointManager:
    """Orbax's manager, made when first needed: it lists the folder as it finds it."""
    if self._manager is None:
      self._hushed.enter_context(_quiet())
      options = ocp.CheckpointManagerOptions(
        max_to_keep=self._keep,
        enable_async_checkpointing=True,
        create=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
      )
      self._manager = _Manager(self._folder, options=options, item_names=('state', 'progress'))
    return self._manager

  def save(self, step: int, state: Any, progress: Any) -> None:
    """Starts saving `state` (arrays) and `progress` (JSON) as checkpoint `step`.

    Raises:
      WorkdirError: it cannot be saved, or the one before could not; so do `wait` and `close`.
    """
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
    )
    self.wait()
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    self._saving = step, arrays, progress
    with writing(self._folder):
      self.manager.save(step, args=items, force=True)

  def restore(
    self, abstract_state: Any, check: Callable[[Any], None] = lambda progress: None
  ) -> tuple[Any, Any] | None:
    """Reads the newest checkpoint that can be read; changes nothing.

    Args:
      abstract_state: shapes, types and shardings of what is to be restored.
      check: raises ValueError for progress that cannot be; such a checkpoint is not readable.

    Returns:
      (state, progress), or None if there is no checkpoint at all.

    Raises:
      CheckpointError: there are checkpoints and none can be read, or the newest readable one has
        other arrays than abstract_state.
    """
    failures: dict[int, str] = {}
    for step in reversed(steps(self._folder.parent)):
      try:
        restored, error = self._read(step, abstract_state, check), None
      except CheckpointError:
        raise
      except Exception as caught:  # Orbax and TensorStore raise many kinds for unreadable files.
        restored, error = None, caught
      if all_processes(error is None):
        self._unreadable = list(failures)
        return restored
      why = reason(error) if error else 'another process cannot read it'
      failures[step] = f'{self._folder / str(step)} cannot be read: {why}'
      if jax.process_index() == 0:
        storage.warn(f'{failures[step]}; trying the one before.')
    if failures:
      listed = '\n  '.join(failures.values())
      raise CheckpointError(f'Move these away to start anew; all are damaged:\n  {listed}')
    return None

  def set_aside(self) -> None:
    """Renames the checkpoints that `restore` found unreadable: an older one takes their place."""
    unreadable, self._unreadable = self._unreadable, []
    if jax.process_index() != 0:
      return
    for step in unreadable:
      names = (self._folder / f'unreadable-{step}-{number}' for number in itertools.count())
      with writing(self._folder):
        os.replace(self._folder / str(step), next(name for name in names if not name.exists()))

  def wait(self) -> None:
    """Returns once all that was saved is on disk."""
    if self._manager is not None:
      with writing(self._folder):
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits as `wait` does, and frees what Orbax holds."""
    if self._manager is not None:
      manager, self._manager = self._manager, None
      with self._hushed, writing(self._folder):
        manager.close()

  def _read(self, step: int, abstract_state: Any, check: Callable[[Any], None]) -> tuple[Any, Any]:
    folder = self._folder / str(step)
    checked = jax.process_index() != 0 or digests.verify(folder)
    # Each process reads for itself: one that fails must not leave the others waiting in Orbax.
    alone = _this_process()
    with _quiet(), ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
      check_fit(abstract_state, _arrays(checkpointer, folder), folder)
      state = checkpointer.restore(folder / 'state', abstract_state)
    handler = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
      progress = checkpointer.restore(folder / 'progress')
    check(progress)
    if not checked:
      storage.warn(_UNCHECKED.format(folder))
    return state, progress

  def _seal(self) -> None:
    """Reads what has been written, and adds the digests; if that fails it never gets its name.

    Orbax calls this in each process once all is written, before the folder is renamed.
    """
    if jax.process_index() != 0:
      return
    step, arrays, progress = self._saving
    (folder,) = (path for path in self._folder.iterdir() if path.name.startswith(f'{step}.'))
    try:
      with ocp.StandardCheckpointer(multiprocessing_options=_this_process()) as checkpointer:
        check_fit(arrays, _arrays(checkpointer, folder), folder)
      saved = json.loads((folder / 'progress' / 'metadata').read_bytes())
    except Exception as error:  # Orbax and TensorStore raise many kinds for unreadable files.
      raise CheckpointError(f'checkpoint {step} cannot be read back: {reason(error)}') from error
    if json.dumps(saved) != json.dumps(progress):
      raise CheckpointError(f'the progress of checkpoint {step} is read back as another')
    digests.write(folder)


def restore_params(
  workdir: str | os.PathLike,
  model: parameters.Network | None = None,
  step: settings.Natural | None = None,
  fresh: str | None = None,
  seed: settings.Seed = 0,
) -> Any:
  """Parameters of a run's checkpoint, the newest readable one by default, as numpy arrays.

  A newer one that cannot be read is reported and left as it is.

  Args:
    workdir: folder of the run.
    model: if given, the network whose parameters they must be.
    step: a certain checkpoint, and no other.
    fresh: a pattern, as 'exit_classifier/'. Parameters in whose '/'-joined path it is found begin
      as they do in a new `model`, whether or not the checkpoint has them.
    seed: of these.

  Raises:
    FileNotFoundError: there is no such checkpoint; the message lists those that are there.
    CheckpointError: none can be read, or it does not fit the model.
    ValueError: `fresh` is found in no parameter of the model, or there is no model.
  """
  if fresh and model is None:
    raise ValueError(f'fresh: {fresh!r} needs a model, to take new parameters from.')
  begun = {} if model is None else parameters.fresh(model, fresh, seed)
  present = steps(workdir)
  if not present or (step is not None and step not in present):
    wanted = 'checkpoint' if step is None else f'checkpoint {step}'
    listed = f'there are {present}' if present else 'train first'
    raise FileNotFoundError(f'No {wanted} in {Path(workdir, FOLDER)}; {listed}.')
  folder, params = _newest_params(workdir) if step is None else _params(workdir, step)
  if begun:
    flat = parameters.flatten(params)
    kept = {name: flat[name] for name in flat if not re.search(str(fresh), name)}
    params = parameters.unflatten({**kept, **begun})
  if model is not None:
    expected = jax.eval_shape(model.init_params, jax.random.key(0))
    check_fit(expected, params, folder)
  return params


def _newest_params(workdir: str | os.PathLike) -> tuple[Path, Any]:
  """(folder, parameters) of the newest checkpoint that can be read."""
  failures: dict[int, str] = {}
  # Listed anew each time: a run that is going on may have put others in their place.
  while untried := [step for step in steps(workdir) if step not in failures]:
    try:
      return _params(workdir, untried[-1])
    except CheckpointError as error:
      failures[untried[-1]] = str(error)
      if len(untried) > 1:
        storage.warn(f'{error}; taking the one before.')
  raise CheckpointError('\n  '.join(failures.values()))


def _params(workdir: str | os.PathLike, step: int) -> tuple[Path, Any]:
  """(folder, parameters) of a checkpoint."""
  folder = Path(workdir).absolute() / FOLDER / str(step)
  try:
    checked = digests.verify(folder)
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      found = _arrays(checkpointer, folder)['params']
      item = {'params': jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)}
      how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
      arguments = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
      params = checkpointer.restore(folder / 'state', args=arguments)['params']
  except Exception as error:  # Orbax and TensorStore raise many kinds for unreadable files.
    raise CheckpointError(f'{folder} cannot be read: {reason(error)}') from error
  if not checked:
    storage.warn(_UNCHECKED.format(folder))
  return folder, params


def _arrays(checkpointer: Any, folder: Path) -> Any:
  """Shapes and types of a checkpoint's arrays, each of which is opened."""
  metadata = checkpointer.metadata(folder / 'state').item_metadata
  if metadata is None:
    raise FileNotFoundError('its metadata is lost or damaged')
  return metadata.tree


def _this_process() -> ocp.options.MultiprocessingOptions:
  """Has Orbax wait for no other process."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def initial_params(
  directory: str | os.PathLike,
  model: parameters.Network,
  step: settings.Natural | None = None,
  fresh: str | None = None,
  seed: settings.Seed = 0,
) -> Any:
  """Parameters to begin training `model` with: those of a run, or of a checkpoint from elsewhere.

  Args:
    directory: the workdir of a run, or a directory that `calm.models.pretrained.load` reads.
    model, step, fresh, seed: as `restore_params` takes them; only a run has steps.

  Returns:
    A nested dict of NumPy arrays.

  Raises:
    FileNotFoundError: there is no such directory or checkpoint.
    ValueError: it cannot be read, or does not fit the model but for what is fresh; or `fresh` is
      found in no parameter of the model.
  """
  if Path(directory, FOLDER).is_dir():
    return restore_params(directory, model, step, fresh, seed)
  if step is not None:
    raise FileNotFoundError(f'{directory} is no workdir of a run: there is no checkpoint {step}.')
  return pretrained.initial_params(directory, model, fresh=fresh, seed=seed)


def check_fit(expected: Any, found: Any, source: str | os.PathLike) -> None:
  """Raises CheckpointError unless two trees hold arrays of the same names and shapes.

  The message lists what is missing in `found`, what is unexpected, and every shape that differs.
  """
  expected, found = _shapes(expected), _shapes(found)
  problems = [f'missing: {name} {expected[name]}' for name in expected if name not in found]
  problems += [f'unexpected: {name} {found[name]}' for name in found if name not in expected]
  problems += [
    f'shape differs: {name} is {found[name]}, needed is {shape}'
    for name, shape in expected.items()
    if found.get(name, shape) != shape
  ]
  if problems:
    raise CheckpointError(f'{source} does not fit:\n  ' + '\n  '.join(problems))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in leaves
    if hasattr(leaf, 'shape')
  }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Hides what Orbax logs: remarks, and several tracebacks of whatever it raises besides."""
  logger = logging.getLogger('absl')
  logger.addFilter(_is_not_of_orbax)
  try:
    yield
  finally:
    logger.removeFilter(_is_not_of_orbax)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
  return f'{os.sep}orbax{os.sep}' not in record.pathname
