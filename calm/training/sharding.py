"""Where arrays live: a ('data', 'model') mesh, rows over 'data', parameters by rules over 'model'.

Everything beyond placing the inputs is left to XLA's partitioner (GSPMD).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh(model_parallelism: int = 1) -> Mesh:
  """A mesh of all devices of all processes, `model_parallelism` of them sharing each parameter.

  Raises:
    ValueError: the number of devices is not a multiple of model_parallelism.
  """
  count = jax.device_count()
  if model_parallelism < 1 or count % model_parallelism:
    raise ValueError(f'model_parallelism {model_parallelism} does not divide {count} devices.')
  kinds = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh((count // model_parallelism, model_parallelism), ('data', 'model'), kinds)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
  """The sharding of batches: rows over 'data'."""
  return NamedSharding(mesh, PartitionSpec('data'))


def by_rules(mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]], tree: Any) -> Any:
  """Shardings for a tree of arrays or shapes, by the first of `rules` found in an array's path.

  Made for parameters and the optimizer's copies of them alike. What no rule fits is replicated,
  as is an array of another rank than the rule's (Adafactor's factors) and an axis that the mesh
  does not divide.
  """

  def sharding(path: jax.tree_util.KeyPath, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    for pattern, spec in rules:
      if re.search(pattern, name) and len(spec) == len(leaf.shape):
        axes = zip(spec, leaf.shape, strict=True)
        fits = (a if a and size % mesh.shape[a] == 0 else None for a, size in axes)
        return NamedSharding(mesh, PartitionSpec(*fits))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def place_batch(
  mesh: Mesh, batch: Mapping[str, np.ndarray], num_microbatches: int = 1
) -> dict[str, jax.Array]:
  """Puts this process's rows of a batch on its devices: global arrays, rows over 'data'.

  Processes whose devices hold other rows than their own, as when 'model' reaches over several of
  them, exchange them first.

  Raises:
    ValueError: all processes' rows cannot be cut evenly over devices and micro-batches.
  """
  num_rows = len(next(iter(batch.values()))) * jax.process_count()
  parts = mesh.shape['data'] * num_microbatches
  if num_rows % parts:
    raise ValueError(
      f'BATCH_SIZE {num_rows} must be a multiple of {parts}: {mesh.shape["data"]} devices along '
      f"'data' times {num_microbatches} micro-batches."
    )
  sharding = rows(mesh)
  if _rows_stay(mesh):
    return {
      name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
      for name, value in batch.items()
    }
  batch = multihost_utils.process_allgather(batch, tiled=True)
  return {
    name: jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
    for name, value in batch.items()
  }


def gathered(tree: Any) -> Any:
  """A tree of arrays, each whole in every process, which can then compute with it alone.

  All processes call it together.
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


@functools.cache
def _rows_stay(mesh: Mesh) -> bool:
  """Whether the p-th part of the rows belongs on the devices of process p, and on no others."""
  owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
  in_order = np.arange(mesh.shape['data']) * jax.process_count() // mesh.shape['data']
  return bool((owners == in_order[:, None]).all())
