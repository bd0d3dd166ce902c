"""Checkpoints of a run: state and progress, saved by Orbax while training goes on.

`workdir/checkpoints/<step>/` holds `state` (step, parameters, optimizer) and `progress` (JSON:
where the data stands, training time). A checkpoint that cannot be read is reported, set aside
under another name, and the one before it used; if none can be, all stay where they are.
"""

import contextlib
import itertools
import logging
import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from calm.models import parameters, pretrained
from calm.training.guards import reason, writing

FOLDER = 'checkpoints'


class CheckpointError(ValueError):
  """There is no usable checkpoint, or it does not fit what is to be restored."""


def steps(workdir):
  """Steps of the finished checkpoints in `workdir`, ascending; empty if there are none."""
  folder = Path(workdir, FOLDER)
  if not folder.is_dir():
    return []
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


class Checkpoints:
  """Saves and restores one run's checkpoints, keeping the newest `keep`.

  Saving returns as soon as the arrays are copied; `close` waits until all are on disk.
  """

  def __init__(self, workdir, keep=3):
    if keep < 1:
      raise ValueError(f'keep must be at least 1, not {keep}.')
    self._folder = Path(workdir).absolute() / FOLDER
    with writing(self._folder):
      self._folder.mkdir(parents=True, exist_ok=True)
    self._keep = keep
    self._manager = None
    self._hushed = contextlib.ExitStack()

  @property
  def manager(self):
    """Orbax's manager, made when first needed: it lists the folder as it finds it."""
    if self._manager is None:
      self._hushed.enter_context(_quiet())
      options = ocp.CheckpointManagerOptions(
        max_to_keep=self._keep, enable_async_checkpointing=True, create=True
      )
      self._manager = ocp.CheckpointManager(
        self._folder, options=options, item_names=('state', 'progress')
      )
    return self._manager

  def save(self, step, state, progress):
    """Starts saving `state` (arrays) and `progress` (JSON) as checkpoint `step`.

    Raises:
      WorkdirError: it cannot be saved, or the one before could not; so do `wait` and `close`.
    """
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
    )
    with writing(self._folder):
      self.manager.save(step, args=items, force=True)

  def restore(self, abstract_state):
    """Reads the newest checkpoint that can be read.

    Args:
      abstract_state: shapes, types and shardings of what is to be restored.

    Returns:
      (state, progress), or None if there is no checkpoint at all.

    Raises:
      CheckpointError: there are checkpoints and none can be read, or the newest readable one has
        other arrays than abstract_state.
    """
    failures: dict[int, str] = {}
    for step in reversed(steps(self._folder.parent)):
      try:
        restored, error = self._read(step, abstract_state), None
      except CheckpointError:
        raise
      except Exception as caught:  # Orbax and TensorStore raise many kinds for unreadable files.
        restored, error = None, caught
      if _all_processes(error is None):
        self._set_aside(failures)
        return restored
      why = reason(error) if error else 'another process cannot read it'
      failures[step] = f'{self._folder / str(step)} cannot be read: {why}'
      if jax.process_index() == 0:
        print(f'{failures[step]}; trying the one before.', file=sys.stderr)
    if failures:
      listed = '\n  '.join(failures.values())
      raise CheckpointError(f'Move these away to start anew; all are damaged:\n  {listed}')
    return None

  def wait(self):
    """Returns once all that was saved is on disk."""
    if self._manager is not None:
      with writing(self._folder):
        self._manager.wait_until_finished()

  def close(self):
    """Waits as `wait` does, and frees what Orbax holds."""
    if self._manager is not None:
      manager, self._manager = self._manager, None
      with self._hushed, writing(self._folder):
        manager.close()

  def _read(self, step, abstract_state):
    folder = self._folder / str(step)
    # Each process reads for itself: one that fails must not leave the others waiting in Orbax.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    with _quiet(), ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
      metadata = checkpointer.metadata(folder / 'state').item_metadata
      if metadata is None:
        raise FileNotFoundError('its metadata is lost or damaged')
      check_fit(abstract_state, metadata.tree, folder)
      state = checkpointer.restore(folder / 'state', abstract_state)
    handler = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
      progress = checkpointer.restore(folder / 'progress')
    return state, progress

  def _set_aside(self, unreadable):
    """Renames checkpoints that an older one takes the place of."""
    if jax.process_index() != 0:
      return
    for step in unreadable:
      names = (self._folder / f'unreadable-{step}-{number}' for number in itertools.count())
      with writing(self._folder):
        os.replace(self._folder / str(step), next(name for name in names if not name.exists()))


def restore_params(workdir, model=None, step=None, fresh=None, seed=0):
  """Parameters of a run's checkpoint, the newest by default, as numpy arrays.

  Args:
    workdir: folder of the run.
    model: if given, the network whose parameters they must be.
    step: a certain checkpoint.
    fresh: a pattern, as 'exit_classifier/'. Parameters in whose '/'-joined path it is found begin
      as they do in a new `model`, whether or not the checkpoint has them.
    seed: of these.

  Raises:
    FileNotFoundError: there is no such checkpoint; the message lists those that are there.
    CheckpointError: it cannot be read, or does not fit the model.
    ValueError: `fresh` is found in no parameter of the model, or there is no model.
  """
  if fresh and model is None:
    raise ValueError(f'fresh: {fresh!r} needs a model, to take new parameters from.')
  begun = parameters.fresh(model, fresh, seed)
  present = steps(workdir)
  if not present or (step is not None and step not in present):
    wanted = 'checkpoint' if step is None else f'checkpoint {step}'
    listed = f'there are {present}' if present else 'train first'
    raise FileNotFoundError(f'No {wanted} in {Path(workdir, FOLDER)}; {listed}.')
  folder = Path(workdir).absolute() / FOLDER / str(present[-1] if step is None else step)
  try:
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      found = checkpointer.metadata(folder / 'state').item_metadata.tree['params']
      item = {'params': jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)}
      how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
      arguments = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
      params = checkpointer.restore(folder / 'state', args=arguments)['params']
  except Exception as error:  # Orbax and TensorStore raise many kinds for unreadable files.
    raise CheckpointError(f'{folder} cannot be read: {reason(error)}') from error
  if begun:
    flat = parameters.flatten(params)
    kept = {name: flat[name] for name in flat if not re.search(fresh, name)}
    params = parameters.unflatten({**kept, **begun})
  if model is not None:
    expected = jax.eval_shape(model.init_params, jax.random.key(0))
    check_fit(expected, params, folder)
  return params


def initial_params(directory, model, step=None, fresh=None, seed=0):
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


def check_fit(expected, found, source):
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


def _shapes(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in leaves
    if hasattr(leaf, 'shape')
  }


def _all_processes(succeeded):
  if jax.process_count() == 1:
    return succeeded
  return bool(multihost_utils.process_allgather(np.array(succeeded)).all())


@contextlib.contextmanager
def _quiet():
  """Hides what Orbax logs: remarks, and several tracebacks of whatever it raises besides."""
  logger = logging.getLogger('absl')
  logger.addFilter(_is_not_of_orbax)
  try:
    yield
  finally:
    logger.removeFilter(_is_not_of_orbax)


def _is_not_of_orbax(record):
  return f'{os.sep}orbax{os.sep}' not in record.pathname
