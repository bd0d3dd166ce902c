"""One training step, compiled for a mesh: loss and gradients, micro-batches, the update."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from calm.training import losses, sharding
from calm.training.optimizers import Optimizer


@flax.struct.dataclass
class TrainState:
  """What training changes."""

  step: jax.Array  # int32[], steps done
  params: Any
  opt_state: Any


def init_state(
  objective: losses.Objective, optimizer: Optimizer, key: jax.Array, params: Any = None
) -> TrainState:
  """A TrainState at step 0, with fresh parameters unless `params` are given."""
  params = objective.init(key) if params is None else params
  return TrainState(jnp.int32(0), params, optimizer.transformation.init(params))


def train_step(
  objective: losses.Objective,
  optimizer: Optimizer,
  num_microbatches: int,
  state: TrainState,
  batch: losses.Batch,
  key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update from a batch of arrays[B, ...]; returns (state, metrics), to be jitted.

  Gradients of summed losses are summed over micro-batches and devices and divided once by the
  summed weight. `key` is the run's; the step's own is folded from it.
  """
  step_key = jax.random.fold_in(key, state.step)
  gradient = jax.value_and_grad(objective, has_aux=True)

  def one(microbatch: losses.Batch, number: jax.typing.ArrayLike) -> Any:
    return gradient(state.params, microbatch, jax.random.fold_in(step_key, number))

  if num_microbatches == 1:
    (loss, sums), grads = one(batch, 0)
  else:
    # Row r goes to micro-batch r mod M, so that each keeps its rows on the devices they are on.
    cut = jax.tree.map(
      lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    numbers = jnp.arange(num_microbatches)
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], cut), 0)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    ((loss, sums), grads), _ = jax.lax.scan(
      lambda total, item: (jax.tree.map(jnp.add, total, one(*item)), None), zeros, (cut, numbers)
    )
  # A batch of padding only changes nothing rather than dividing by 0.
  weight = jnp.maximum(sums['weight'], 1e-9)
  grads = jax.tree.map(lambda g: g / weight, grads)
  updates, opt_state = optimizer.transformation.update(grads, state.opt_state, state.params)
  metrics = {
    'loss': loss / weight,
    **{name: value / weight for name, value in sums.items() if name != 'weight'},
    'weight': sums['weight'],
    'gradient_norm': optax.global_norm(grads),
    'learning_rate': jnp.asarray(optimizer.learning_rate(state.step), jnp.float32),
  }
  return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics


class Trainer:
  """The compiled step and initial state of one objective and optimizer on one mesh."""

  def __init__(
    self,
    objective: losses.Objective,
    optimizer: Optimizer,
    *,
    mesh: Mesh,
    num_microbatches: int = 1,
    seed: int = 0,
  ):
    self.mesh = mesh
    self._objective, self._optimizer, self._seed = objective, optimizer, seed
    self._num_microbatches = num_microbatches
    init = functools.partial(init_state, objective, optimizer)
    shapes = jax.eval_shape(init, jax.random.key(seed))
    self._shardings = sharding.by_rules(mesh, objective.partition_rules, shapes)
    self.abstract_state = jax.tree.map(
      lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
      shapes,
      self._shardings,
    )
    whole, rows = sharding.replicated(mesh), sharding.rows(mesh)
    self._frozen = getattr(objective, 'frozen', None)
    if self._frozen is not None:
      held = sharding.by_rules(mesh, objective.partition_rules, self._frozen)
      self._frozen = _placed(self._frozen, held)

    def step(
      objective: losses.Objective, state: TrainState, batch: losses.Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
      return train_step(objective, optimizer, num_microbatches, state, batch, key)

    step.__name__ = train_step.__name__  # Which the terminal shows when it is compiled.

    def validation_sums(
      objective: losses.Objective, params: Any, batch: losses.Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
      return objective(params, batch)

    params = self._shardings.params
    self.step = self._compiled(step, (self._shardings, rows, whole), (self._shardings, whole), 0)
    self.sums = self._compiled(validation_sums, (params, rows), whole)
    # Compiled, since keys cannot be put on the devices of other processes.
    self.key = jax.jit(lambda: jax.random.fold_in(jax.random.key(seed), 1), out_shardings=whole)()

  def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch of numpy arrays where `step` and `sums` take them."""
    return sharding.place_batch(self.mesh, batch, self._num_microbatches)

  def check(
    self,
    state: TrainState,
    batch: losses.Batch,
    validation: Sequence[Mapping[str, np.ndarray]] | None = None,
  ) -> None:
    """Raises whatever the first step and validation would for settings or batches that cannot be.

    Args:
      state: of the first step.
      batch: its batch, from `place`.
      validation: the batches to be validated on, not placed; None if there are none.
    """
    rate = float(np.asarray(self._optimizer.learning_rate(int(state.step))))
    if not np.isfinite(rate):
      raise ValueError(f'The learning rate after {int(state.step)} steps is {rate}.')
    self.step.eval_shape(state, batch, self.key)
    for held in validation or ():
      self.sums.eval_shape(state.params, self.place(held))

  def _compiled(
    self, function: Callable, shardings: tuple, out_shardings: Any, donated: int | None = None
  ) -> Any:
    """`function` of the objective and of what has `shardings`, compiled for the latter.

    What the objective holds frozen is an argument of the program, not a constant in it.
    """
    objective: Any = self._objective  # With `holding` where it holds anything.
    if self._frozen is None:
      return jax.jit(
        functools.partial(function, objective),
        in_shardings=shardings,
        out_shardings=out_shardings,
        donate_argnums=donated,
      )

    def given(frozen: Any, *rest: Any) -> Any:
      return function(objective.holding(frozen), *rest)

    given.__name__ = function.__name__
    program = jax.jit(
      given,
      in_shardings=(jax.tree.map(lambda leaf: leaf.sharding, self._frozen), *shardings),
      out_shardings=out_shardings,
      donate_argnums=None if donated is None else donated + 1,
    )
    return _Given(program, self._frozen)

  def init(self, params: Any = None) -> TrainState:
    """State at step 0, made on the devices it belongs on; `params` take the place of fresh ones."""
    if params is not None:
      params = _placed(params, self._shardings.params)
    init = functools.partial(init_state, self._objective, self._optimizer)
    return jax.jit(init, out_shardings=self._shardings)(jax.random.key(self._seed), params)


@dataclasses.dataclass(frozen=True)
class _Given:
  """A compiled function whose first argument is the same each time."""

  program: Any
  first: Any

  def __call__(self, *rest: Any) -> Any:
    return self.program(self.first, *rest)

  def eval_shape(self, *rest: Any) -> Any:
    return self.program.eval_shape(self.first, *rest)


def _placed(tree: Any, shardings: Any) -> Any:
  """Arrays of the host, put where `shardings` say."""
  return jax.tree.map(
    lambda value, where: jax.make_array_from_callback(
      value.shape, where, lambda index: np.asarray(value)[index]
    ),
    tree,
    shardings,
  )
