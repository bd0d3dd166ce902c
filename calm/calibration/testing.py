"""Learn then Test: from losses at each threshold of a grid to the lowest one that is certified.

Angelopoulos et al., https://arxiv.org/abs/2110.01052; CALM, sections 4.1 and 4.3.
Grid, delta, epsilon, p-value and procedure must be chosen before the calibration losses are seen.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calm import fingerprints, settings
from calm.calibration import bounds

PValue = Callable[[np.ndarray, float], np.ndarray]
Procedure = Callable[[np.ndarray, float], np.ndarray]

# Beyond this no one collects calibration examples.
MAX_EXAMPLES = 2**21


def fixed_sequence(p_values: np.ndarray, epsilon: float) -> np.ndarray:
  """Which hypotheses bool[..., k] are rejected: all before the first of p_values[..., k] > epsilon.

  Fixed sequence testing, CALM section 4.3: the whole epsilon for each, in an order fixed before.
  """
  return np.logical_and.accumulate(np.asarray(p_values) <= epsilon, axis=-1)


def bonferroni(p_values: np.ndarray, epsilon: float) -> np.ndarray:
  """Which hypotheses bool[..., k] are rejected: those of p_values[..., k] at most epsilon / k."""
  p_values = np.asarray(p_values)
  return p_values <= epsilon / p_values.shape[-1]


# The procedures by the names that certificates carry.
PROCEDURES = {'fixed_sequence': fixed_sequence, 'bonferroni': bonferroni}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
  """What was tested and what came of it.

  `p_values` and `mean_losses` belong to the first thresholds of the descending `grid`, as far as
  testing went. `threshold` is the lowest that is certified: with probability at least 1 - epsilon
  over the calibration examples its expected loss is at most delta. None stands for never exiting.
  `bound` and `procedure` are names as `name_of` gives them, with the arguments bound to them.
  `losses` are those at each tested threshold, where p-values need more than their mean.
  """

  delta: float
  epsilon: float
  bound: str
  procedure: str
  grid: tuple[float, ...]
  p_values: tuple[float, ...]
  mean_losses: tuple[float, ...]
  threshold: float | None
  num_examples: int
  bound_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  procedure_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  losses: tuple[tuple[float, ...], ...] | None = None

  def __post_init__(self) -> None:
    for field in ('delta', 'epsilon'):
      object.__setattr__(self, field, float(getattr(self, field)))
    _check_levels(self.delta, self.epsilon)
    object.__setattr__(self, 'grid', check_grid(self.grid))
    for field in ('p_values', 'mean_losses'):
      numbers = tuple(float(number) for number in getattr(self, field))
      object.__setattr__(self, field, numbers)
      if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f'{field} must lie in [0, 1]: {numbers}.')
    if not len(self.p_values) == len(self.mean_losses) <= len(self.grid):
      raise ValueError(
        f'{len(self.p_values)} p_values and {len(self.mean_losses)} mean_losses do not fit '
        f'a grid of {len(self.grid)}.'
      )
    if self.threshold is not None and self.threshold not in self.grid[: len(self.p_values)]:
      raise ValueError(f'threshold {self.threshold} is not one of those that were tested.')
    object.__setattr__(self, 'num_examples', operator.index(self.num_examples))
    if self.num_examples < 1:
      raise ValueError(f'num_examples must be positive, not {self.num_examples}.')
    if self.losses is not None:
      losses = tuple(tuple(float(loss) for loss in row) for row in self.losses)
      object.__setattr__(self, 'losses', losses)
      if [len(row) for row in losses] != [self.num_examples] * len(self.mean_losses):
        raise ValueError('losses are not one for each example at each tested threshold.')


def calibrate(
  losses_at: Callable[[float], np.ndarray],
  grid: Sequence[float],
  delta: float,
  epsilon: float = 0.05,
  *,
  num_examples: int,
  p_value: PValue = bounds.hoeffding_bentkus,
  procedure: Procedure = fixed_sequence,
) -> Calibration:
  """Walks down the grid and certifies the lowest threshold it can.

  Args:
    losses_at: gives losses[num_examples] in [0, 1] at a threshold of the grid. Called once for
      each threshold, from the highest down, and no further than the procedure can still reject:
      fixed sequence testing stops at the first failure.
    grid: strictly descending thresholds, safest first.
    delta: tolerance on the expected loss, in (0, 1).
    epsilon: the probability with which the certificate may be wrong, in (0, 1).
    num_examples: how many losses `losses_at` gives.
    p_value: maps losses[n] and delta to a super-uniform p-value; see `bounds`.
    procedure: maps p_values[k], in the grid's order, and epsilon to bool[k], the rejected
      hypotheses, with the family-wise error rate at most epsilon. A smaller p-value must never
      make it reject fewer.

  Raises:
    ValueError: so few examples that even zero losses certify nothing (raised before `losses_at`
      is called; says how many could), a grid that does not descend, levels outside (0, 1), or
      losses of another length or outside [0, 1].
  """
  grid = check_grid(grid)
  check_sample_size(num_examples, delta, epsilon, p_value, procedure, len(grid))
  p_values: list[float] = []
  mean_losses: list[float] = []
  tested: list[tuple[float, ...]] = []
  for threshold in grid:
    # Could any of the rest be rejected, were its p-values zero?
    hopeful = procedure(_completed(p_values, 0.0, len(grid)), epsilon)
    if not hopeful[len(p_values) :].any():
      break
    losses = np.asarray(losses_at(threshold), np.float64)
    if losses.shape != (num_examples,):
      raise ValueError(
        f'Losses at threshold {threshold} have shape {losses.shape}, not ({num_examples},).'
      )
    p_values.append(float(p_value(losses, delta)))
    mean_losses.append(float(losses.mean()))
    tested.append(tuple(losses.tolist()))
  return Calibration(
    delta=delta,
    epsilon=epsilon,
    bound=name_of(p_value),
    bound_arguments=arguments_of(p_value),
    procedure=name_of(procedure),
    procedure_arguments=arguments_of(procedure),
    losses=None if name_of(p_value) in bounds.BOUNDS_OF_MEAN else tuple(tested),
    grid=grid,
    p_values=tuple(p_values),
    mean_losses=tuple(mean_losses),
    threshold=lowest_certified(grid, p_values, epsilon, procedure),
    num_examples=num_examples,
  )


def lowest_certified(
  grid: Sequence[float],
  p_values: Sequence[float],
  epsilon: float,
  procedure: Procedure = fixed_sequence,
) -> float | None:
  """The lowest threshold of a descending grid whose hypothesis is rejected; None if there is none.

  `p_values` belong to the first thresholds of the grid; the rest were not tested and stand.
  """
  found = certified(grid, p_values, epsilon, procedure)
  return found[-1] if found else None


def certified(
  grid: Sequence[float],
  p_values: Sequence[float],
  epsilon: float,
  procedure: Procedure = fixed_sequence,
) -> tuple[float, ...]:
  """All thresholds of a descending grid whose hypothesis is rejected: the valid ones of Eq. 7.

  With probability at least 1 - epsilon the expected loss at none of them exceeds delta, so that any
  may be used. By `fixed_sequence` they are the lowest and all of the grid above it; of thresholds
  between those of the grid nothing is known, since losses need not fall as thresholds rise.
  """
  rejected = procedure(_completed(p_values, 1.0, len(grid)), epsilon)
  return tuple(float(grid[int(i)]) for i in np.flatnonzero(rejected))


def descending_grid(
  highest: settings.Finite = 0.95,
  lowest: settings.Finite = 0.0,
  step: settings.Positive = 0.05,
  stricter: Sequence[settings.Finite] = (),
) -> tuple[float, ...]:
  """Thresholds from `highest` to `lowest`, `step` apart, free of float noise (0.85 is 0.85).

  `stricter` ones come before them: small tolerances are decided close to 1.
  """
  settings.check(descending_grid, highest=highest, lowest=lowest, step=step, stricter=stricter)
  if lowest > highest:
    raise settings.SettingError('lowest', lowest, f'at most highest, {highest:g}')
  count = math.floor((highest - lowest) / step + 1e-9) + 1
  # -0.0 becomes 0.0.
  return check_grid([*stricter, *(round(highest - i * step, 12) + 0.0 for i in range(count))])


def check_grid(grid: Sequence[float]) -> tuple[float, ...]:
  """The grid as a tuple of floats; ValueError unless it descends strictly and is finite."""
  grid = tuple(float(threshold) for threshold in grid)
  if not grid:
    raise ValueError('The grid is empty: name at least one threshold.')
  if not all(math.isfinite(threshold) for threshold in grid):
    raise ValueError(f'Thresholds must be finite: {grid}.')
  for before, after in itertools.pairwise(grid):
    if not before > after:
      raise ValueError(
        f'The grid must descend strictly, but {after} follows {before}: '
        'sort it from the highest (safest) threshold down, without repetitions.'
      )
  return grid


def can_certify(
  num_examples: int,
  delta: float,
  epsilon: float = 0.05,
  p_value: PValue = bounds.hoeffding_bentkus,
  procedure: Procedure = fixed_sequence,
  grid_size: int = 1,
) -> bool:
  """Whether `num_examples` losses of zero at each of `grid_size` thresholds certify any of them."""
  _check_levels(delta, epsilon)
  if num_examples < 1:
    return False
  best = float(p_value(np.zeros(num_examples), delta))
  return bool(np.any(procedure(np.full(grid_size, best), epsilon)))


def smallest_sample_size(
  delta: float,
  epsilon: float = 0.05,
  p_value: PValue = bounds.hoeffding_bentkus,
  procedure: Procedure = fixed_sequence,
  grid_size: int = 1,
) -> int:
  """The least number of examples that can certify (delta, epsilon), if their losses are all zero.

  Raises:
    ValueError: not even MAX_EXAMPLES can.
  """
  enough = functools.partial(
    can_certify,
    delta=delta,
    epsilon=epsilon,
    p_value=p_value,
    procedure=procedure,
    grid_size=grid_size,
  )
  high = 1
  while not enough(high):
    if high >= MAX_EXAMPLES:
      raise ValueError(
        f'Not even {high} examples without loss certify delta = {delta} at epsilon = {epsilon} '
        f'by {name_of(p_value)}: allow a larger delta or epsilon.'
      )
    high *= 2
  low = high // 2  # Too few, or none.
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if enough(middle) else (middle, high)
  return high


def check_sample_size(
  num_examples: int,
  delta: float,
  epsilon: float = 0.05,
  p_value: PValue = bounds.hoeffding_bentkus,
  procedure: Procedure = fixed_sequence,
  grid_size: int = 1,
  macro: str = 'DELTAS',
  whole: int | None = None,
) -> None:
  """Raises ValueError, with the number that could, if so few examples can never certify.

  It names the macro that delta stands in, and of how many they are a part, if they are.
  """
  if can_certify(num_examples, delta, epsilon, p_value, procedure, grid_size):
    return
  needed = smallest_sample_size(delta, epsilon, p_value, procedure, grid_size)
  part = '' if whole is None else f' of {whole}'
  raise ValueError(
    f'{num_examples} examples{part} can never certify delta = {delta} at epsilon = {epsilon} by '
    f'{name_of(p_value)} and {name_of(procedure)}, not even with zero loss; {needed} could. '
    f'Calibrate on more examples, or allow a larger delta ({macro}) or epsilon (EPSILON).'
  )


def name_of(function: Callable) -> str:
  """What a certificate calls a function: bare if it is of this package, else with its module."""
  name = fingerprints.name_of(function)
  module = name.rpartition('.')[0]
  return name.removeprefix(f'{module}.') if module.startswith('calm.calibration') else name


def arguments_of(function: Callable) -> dict[str, Any]:
  """The arguments bound to a function, as JSON takes them."""
  return fingerprints.identity(function).get('bound', {})


def _completed(p_values: Sequence[float], value: float, size: int) -> np.ndarray:
  """The p-values known so far, then `value` up to `size` of them."""
  return np.array([*p_values, *[value] * (size - len(p_values))])


def _check_levels(delta: float, epsilon: float) -> None:
  for name, value in (('delta', delta), ('epsilon', epsilon)):
    if not 0 < value < 1:
      raise ValueError(f'{name} must lie between 0 and 1, not at {value}.')
