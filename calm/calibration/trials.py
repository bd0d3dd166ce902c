"""CALM's protocol: what calibration gives on average, from losses and costs already measured.

Section 5 of https://arxiv.org/abs/2207.07061: 50 random trials, each of which calibrates on 80 % of
the examples and measures on the other 20 %. Nothing is decoded: every example's loss and costs at
every threshold are given.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from calm.calibration import bounds, testing


@dataclasses.dataclass(frozen=True)
class Trials:
  """One entry per trial, in arrays [num_trials].

  `thresholds` are those certified, NaN where the model never exits early; `risks` the mean losses
  on the test part; `costs` and `full_costs` the mean costs on it, by name, of the calibrated and
  of the full model.
  """

  delta: float
  thresholds: np.ndarray
  risks: np.ndarray
  costs: Mapping[str, np.ndarray]
  full_costs: Mapping[str, np.ndarray]

  def summary(self) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over the trials of 'risk' and of each cost, by name."""
    named = {'risk': self.risks, **self.costs}
    return {name: mean_and_std(values) for name, values in named.items()}

  def reduction(self, name: str) -> np.ndarray:
    """full_costs[name] / costs[name] of each trial: how many times cheaper than the full model."""
    return self.full_costs[name] / self.costs[name]

  @property
  def share_exceeding(self) -> float:
    """The share of trials whose risk on the test part is above delta.

    That part has chance of its own: thresholds whose risk is below delta count, too, where it is
    above it among the examples tested.
    """
    return float((self.risks > self.delta).mean())

  @property
  def share_never_exiting(self) -> float:
    """The share of trials that certified no threshold."""
    return float(np.isnan(self.thresholds).mean())


def random_trials(
  losses: np.ndarray,
  costs: Mapping[str, np.ndarray],
  full_costs: Mapping[str, np.ndarray],
  *,
  grid: Sequence[float],
  delta: float,
  epsilon: float = 0.05,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
  weights: np.ndarray | None = None,
  full_weights: np.ndarray | None = None,
  num_trials: int = 50,
  calibration_share: float = 0.8,
  seed: int = 0,
) -> Trials:
  """Calibrates on random parts of the examples and measures risk and costs on the rest.

  The same seed and number of examples give the same parts, whatever the measure or delta.

  Args:
    losses: [k, n] in [0, 1], of n examples at k thresholds.
    costs: by name, [k, n] each: what the example costs at the threshold.
    full_costs: the same names, [n] each: what it costs to never exit early.
    grid: the k thresholds, strictly descending.
    delta: tolerance on the expected loss.
    epsilon: the probability with which a trial may choose a threshold above delta.
    p_value: see `testing.calibrate`.
    procedure: see `testing.calibrate`.
    weights: [k, n], positive: costs are averaged with these, as costs per token with the
      number of tokens; by default every example counts the same.
    full_weights: [n], those of the full model.
    num_trials: how many times.
    calibration_share: the part that calibrates, in (0, 1).
    seed: of the random parts.

  Raises:
    ValueError: shapes or names that do not fit, or parts too small to certify delta or to test.
  """
  grid = testing.check_grid(grid)
  losses = _shaped('losses', losses, (len(grid), *np.shape(losses)[-1:]))
  if set(costs) != set(full_costs):
    raise ValueError(f'costs name {sorted(costs)}, but full_costs {sorted(full_costs)}.')
  if (weights is None) != (full_weights is None):
    raise ValueError('Give both weights and full_weights, or neither.')
  # One more row, for never exiting; it loses nothing.
  all_losses = np.concatenate([losses, np.zeros_like(losses[:1])])
  all_costs = {name: _stacked(name, costs[name], full_costs[name], losses.shape) for name in costs}
  all_weights = np.ones_like(all_losses)
  if weights is not None and full_weights is not None:
    all_weights = _stacked('weights', weights, full_weights, losses.shape)
    if (all_weights <= 0).any():
      raise ValueError('weights must be positive: leave out examples without tokens.')

  parts, tests = random_parts(losses.shape[1], calibration_share, num_trials, seed)
  never = len(grid)
  thresholds, rows = [], []
  for part in parts:
    calibration = testing.calibrate(
      _reader(grid, losses[:, part]),
      grid,
      delta,
      epsilon,
      num_examples=len(part),
      p_value=p_value,
      procedure=procedure,
    )
    threshold = calibration.threshold
    thresholds.append(np.nan if threshold is None else threshold)
    rows.append(never if threshold is None else grid.index(threshold))

  def averages(rows: np.ndarray) -> dict[str, np.ndarray]:
    # rows[num_trials, 1] and tests[num_trials, number of test examples] pick the entries.
    return {
      name: np.average(values[rows, tests], axis=-1, weights=all_weights[rows, tests])
      for name, values in all_costs.items()
    }

  chosen = np.array(rows)[:, None]
  return Trials(
    delta=delta,
    thresholds=np.array(thresholds),
    risks=all_losses[chosen, tests].mean(axis=-1),
    costs=averages(chosen),
    full_costs=averages(np.full_like(chosen, never)),
  )


def random_parts(
  num_examples: int, calibration_share: float, num_trials: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Indices of examples to calibrate on, [num_trials, m], and of all others, [num_trials, n - m].

  Raises:
    ValueError: no trial, or a part that is empty.
  """
  num_calibration = round(calibration_share * num_examples)
  if not 0 < num_calibration < num_examples:
    raise ValueError(
      f'calibration_share = {calibration_share} of {num_examples} examples leaves '
      f'{num_calibration} to calibrate on and {num_examples - num_calibration} to test on.'
    )
  if num_trials < 1:
    raise ValueError(f'num_trials must be positive, not {num_trials}.')
  rng = np.random.default_rng(seed)
  orders = np.array([rng.permutation(num_examples) for _ in range(num_trials)])
  return orders[:, :num_calibration], orders[:, num_calibration:]


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
  """Mean and sample standard deviation (0 for a single value) of values[n]."""
  values = np.asarray(values, np.float64)
  return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0


def _reader(grid: Sequence[float], losses: np.ndarray) -> Callable[[float], np.ndarray]:
  return lambda threshold: losses[grid.index(threshold)]


def _stacked(name: str, early: np.ndarray, full: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """[k + 1, n]: early[k, n], and full[n] as the last row."""
  early = _shaped(name, early, shape)
  return np.concatenate([early, _shaped(f'full {name}', full, shape[1:])[None]])


def _shaped(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.shape != shape:
    raise ValueError(f'{name} have shape {values.shape}, not {shape}.')
  if not np.isfinite(values).all():
    raise ValueError(f'{name} are not all finite.')
  return values
