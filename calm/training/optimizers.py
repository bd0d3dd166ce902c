"""Optimizers and learning-rate schedules, as T5 trains and as most others do: optax, by name."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from calm import settings

Schedule = Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation and the schedule in it, which the loop reports."""

  transformation: optax.GradientTransformation
  learning_rate: Schedule


def constant(
  learning_rate: settings.NonNegative = 1e-3, warmup_steps: settings.Natural = 0
) -> Schedule:
  """A schedule that rises linearly from 0 over `warmup_steps`, then stays."""
  settings.check(constant, learning_rate=learning_rate, warmup_steps=warmup_steps)
  return optax.join_schedules(
    [optax.linear_schedule(0.0, learning_rate, warmup_steps), lambda _: learning_rate],
    [warmup_steps],
  )


def inverse_square_root(
  learning_rate: settings.NonNegative = 1.0, warmup_steps: settings.Count = 10_000
) -> Schedule:
  """T5's pre-training schedule: learning_rate / sqrt(max(step, warmup_steps))."""
  settings.check(inverse_square_root, learning_rate=learning_rate, warmup_steps=warmup_steps)

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    return learning_rate / jnp.sqrt(jnp.maximum(step, warmup_steps))

  return schedule


def warmup_cosine(
  learning_rate: settings.NonNegative = 1e-3,
  *,
  num_steps: settings.Count,
  warmup_steps: settings.Natural = 0,
  final: settings.NonNegative = 0.0,
) -> Schedule:
  """Rises linearly from 0 over `warmup_steps`, falls along a cosine to `final` at `num_steps`.

  Raises:
    ValueError: num_steps does not exceed warmup_steps.
  """
  _check_schedule(warmup_cosine, learning_rate, num_steps, warmup_steps, final)
  return optax.warmup_cosine_decay_schedule(
    0.0 if warmup_steps else learning_rate, learning_rate, warmup_steps, num_steps, final
  )


def warmup_linear(
  learning_rate: settings.NonNegative = 1e-3,
  *,
  num_steps: settings.Count,
  warmup_steps: settings.Natural = 0,
  final: settings.NonNegative = 0.0,
) -> Schedule:
  """Rises linearly from 0 over `warmup_steps`, falls linearly to `final` at `num_steps`.

  Raises:
    ValueError: num_steps does not exceed warmup_steps.
  """
  _check_schedule(warmup_linear, learning_rate, num_steps, warmup_steps, final)
  rise = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  fall = optax.linear_schedule(learning_rate, final, num_steps - warmup_steps)
  return optax.join_schedules([rise, fall], [warmup_steps])


def adafactor(
  learning_rate: settings.NonNegative | Schedule = 1e-3,
  *,
  decay_rate: settings.Share = 0.8,
  multiply_by_parameter_scale: bool = True,
  clipping_threshold: settings.Positive | None = 1.0,
  weight_decay: settings.NonNegative = 0.0,
) -> Optimizer:
  """Adafactor with T5's settings: factored second moments, no momentum, updates clipped by RMS.

  Shazeer and Stern, https://arxiv.org/abs/1804.04235. With `multiply_by_parameter_scale` the
  learning rate is relative to each parameter's own root mean square. `learning_rate` is a number
  or a schedule.
  """
  settings.check(
    adafactor,
    learning_rate=learning_rate,
    decay_rate=decay_rate,
    multiply_by_parameter_scale=multiply_by_parameter_scale,
    clipping_threshold=clipping_threshold,
    weight_decay=weight_decay,
  )
  schedule = _as_schedule(learning_rate)
  transformation = optax.adafactor(
    schedule,
    decay_rate=decay_rate,
    multiply_by_parameter_scale=multiply_by_parameter_scale,
    clipping_threshold=clipping_threshold,
    weight_decay_rate=weight_decay or None,
    weight_decay_mask=_is_matrix,
  )
  return Optimizer(transformation, schedule)


def adamw(
  learning_rate: settings.NonNegative | Schedule = 1e-3,
  *,
  b1: settings.ShareBelow1 = 0.9,
  b2: settings.ShareBelow1 = 0.98,
  epsilon: settings.Positive = 1e-9,
  weight_decay: settings.NonNegative = 0.01,
  max_gradient_norm: settings.Positive | None = 1.0,
) -> Optimizer:
  """AdamW with gradients clipped by global norm; vectors (norms, biases) do not decay.

  Loshchilov and Hutter, https://arxiv.org/abs/1711.05101. b2 and epsilon are the Transformer's.
  `learning_rate` is a number or a schedule; `max_gradient_norm` None clips nothing.
  """
  numbers = {'b1': b1, 'b2': b2, 'epsilon': epsilon, 'weight_decay': weight_decay}
  settings.check(adamw, learning_rate=learning_rate, max_gradient_norm=max_gradient_norm, **numbers)
  schedule = _as_schedule(learning_rate)
  clip = (
    optax.identity() if max_gradient_norm is None else optax.clip_by_global_norm(max_gradient_norm)
  )
  adam = optax.adamw(schedule, b1, b2, epsilon, weight_decay=weight_decay, mask=_is_matrix)
  return Optimizer(optax.chain(clip, adam), schedule)


def train_only(optimizer: Optimizer, pattern: str) -> Optimizer:
  """Trains the parameters in whose '/'-joined path `pattern` is found, and no others.

  `optimizer` sees, clips and keeps state for these alone; the others stay as they are.

  Raises:
    ValueError: when the state is made, if the pattern is found in no path.
  """

  def names(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: jax.tree_util.keystr(path, simple=True, separator='/'), tree
    )

  def labels(tree: Any) -> Any:
    return jax.tree.map(
      lambda name: 'trained' if re.search(pattern, name) else 'frozen', names(tree)
    )

  partition = optax.partition(
    {'trained': optimizer.transformation, 'frozen': optax.set_to_zero()}, labels
  )

  def init(params: Any) -> Any:
    if 'trained' not in jax.tree.leaves(labels(params)):
      listed = ', '.join(jax.tree.leaves(names(params)))
      raise ValueError(f'only: {pattern!r} is found in no parameter; there are {listed}.')
    return partition.init(params)

  return Optimizer(optax.GradientTransformation(init, partition.update), optimizer.learning_rate)


def _check_schedule(
  function: Callable, learning_rate: float, num_steps: int, warmup_steps: int, final: float
) -> None:
  numbers = {'num_steps': num_steps, 'warmup_steps': warmup_steps, 'final': final}
  settings.check(function, learning_rate=learning_rate, **numbers)
  if num_steps <= warmup_steps:
    raise settings.SettingError('warmup_steps', warmup_steps, f'below num_steps, {num_steps}')


def _as_schedule(learning_rate: float | Schedule) -> Schedule:
  return learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)


def _is_matrix(params: Any) -> Any:
  return jax.tree.map(lambda value: value.ndim > 1, params)
