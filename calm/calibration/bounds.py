"""p-values for the null hypothesis that an expected loss exceeds a tolerance.

Each function takes losses[..., n] in [0, 1] and the tolerance delta in (0, 1), and gives p[...] in
[0, 1]. Leading axes are separate samples. If the n losses are independent with one expectation and
that expectation is at least delta, then P(p <= u) <= u for every u (CALM, section 4.2): a small p
says that the expected loss is below delta.

`hoeffding` is CALM's Eq. 9; `hoeffding_bentkus` is what the paper uses in practice; `betting`
knows the losses' spread: about as strong as Hoeffding-Bentkus when each loss is 0 or 1, and far
stronger when most lie in between.
"""

import math
from typing import Annotated

import numpy as np
from scipy import special

from calm import settings


def hoeffding(losses: np.ndarray, delta: float) -> np.ndarray:
  """p[...] by Hoeffding's inequality, exp(-2 n max(0, delta - mean)^2), for losses[..., n].

  CALM, Eq. 9.

  Raises:
    ValueError: no losses, one that is NaN or outside [0, 1], or delta outside (0, 1).
  """
  losses = _checked(losses, delta)
  return hoeffding_of_mean(losses.mean(axis=-1), losses.shape[-1], delta)


def hoeffding_of_mean(mean: np.ndarray, num_examples: int, delta: float) -> np.ndarray:
  """`hoeffding` of `num_examples` losses of which only the mean[...] is known."""
  gap = np.maximum(0, delta - np.asarray(mean, np.float64))
  return np.exp(-2 * num_examples * gap**2)


def hoeffding_bentkus(losses: np.ndarray, delta: float) -> np.ndarray:
  """p[...] by the better of Hoeffding's inequality in its KL form and Bentkus's.

  Bates et al., https://arxiv.org/abs/2101.02703; Angelopoulos et al. (Learn then Test),
  https://arxiv.org/abs/2110.01052:

    min(exp(-n KL(min(mean, delta), delta)), e P(Binomial(n, delta) <= ceil(n mean)))

  Zero losses give (1 - delta)^n. A total n mean is rounded to nine decimals before its ceiling, so
  that 0.1 + 0.2 + 0.7 counts as 1 and not, by float noise, as 2: a total is taken for a count that
  it exceeds by 5e-10 or less. Noisier losses (float32) may count one more, which is only cautious.

  Raises:
    ValueError: no losses, one that is NaN or outside [0, 1], or delta outside (0, 1).
  """
  losses = _checked(losses, delta)
  return hoeffding_bentkus_of_mean(losses.mean(axis=-1), losses.shape[-1], delta)


def hoeffding_bentkus_of_mean(mean: np.ndarray, num_examples: int, delta: float) -> np.ndarray:
  """`hoeffding_bentkus` of `num_examples` losses of which only the mean[...] is known."""
  mean = np.asarray(mean, np.float64)
  low = np.minimum(mean, delta)
  # xlogy is 0 at 0: no loss at all is the best evidence, not NaN.
  divergence = special.xlogy(low, low / delta) + special.xlogy(1 - low, (1 - low) / (1 - delta))
  counts = np.ceil(np.round(num_examples * mean, 9))
  bentkus = math.e * special.bdtr(counts, num_examples, delta)
  # Rounding can leave the divergence a hair below 0 at mean = delta.
  return np.minimum(np.exp(-num_examples * np.maximum(0, divergence)), bentkus)


def betting(
  losses: np.ndarray,
  delta: settings.Level,
  *,
  epsilon: settings.Level = 0.05,
  cap: Annotated[float, settings.Range(0, 1, above=True)] = 0.9,
) -> np.ndarray:
  """p[...] = 1 / (the highest capital reached by betting that losses lie below delta), at most 1.

  Waudby-Smith and Ramdas, https://arxiv.org/abs/2010.09686: the one-sided capital process

    K_t = prod_{i <= t} (1 + bet_i (delta - loss_i)),
    bet_i = min(sqrt(2 log(1 / epsilon) / (n var_{i-1})), cap / (1 - delta)),

  whose bets are the paper's predictable plug-in for a fixed n, with var_{i-1} estimated from the
  losses before i. Under the null K is a nonnegative supermartingale, so that Ville's inequality
  bounds its maximum. The losses are read in the order given, which must not depend on them.

  Args:
    losses: [..., n] in [0, 1].
    delta: the tolerance, in (0, 1).
    epsilon: the level that the bets aim at; p is valid at every level.
    cap: the share of the capital that one loss of 1 may cost, in (0, 1]. The paper suggests 1/2
      and 3/4; more makes the most of losses that are rarely close to 1, and needs fewer examples.

  Raises:
    ValueError: no losses, one that is NaN or outside [0, 1], or a number outside its range.
  """
  losses = _checked(losses, delta)
  settings.check(betting, epsilon=epsilon, cap=cap)
  n = losses.shape[-1]
  seen = np.arange(1, n + 1)
  means = (0.5 + np.cumsum(losses, axis=-1)) / (seen + 1)
  variances = (0.25 + np.cumsum((losses - means) ** 2, axis=-1)) / (seen + 1)
  # What was known before each loss.
  known = np.concatenate([np.full_like(variances[..., :1], 0.25), variances[..., :-1]], axis=-1)
  bets = np.minimum(np.sqrt(2 * math.log(1 / epsilon) / (n * known)), cap / (1 - delta))
  with np.errstate(divide='ignore'):  # With cap = 1, a loss of 1 may ruin.
    growth = np.log(np.maximum(0, 1 + bets * (delta - losses)))
  best = np.cumsum(growth, axis=-1).max(axis=-1)
  return np.exp(-np.maximum(0, best))


# The functions by the names that certificates carry.
BOUNDS = {
  'hoeffding': hoeffding,
  'hoeffding_bentkus': hoeffding_bentkus,
  'betting': betting,
}

# Those that need no more of the losses than their mean.
BOUNDS_OF_MEAN = {
  'hoeffding': hoeffding_of_mean,
  'hoeffding_bentkus': hoeffding_bentkus_of_mean,
}


def _checked(losses: np.ndarray, delta: float) -> np.ndarray:
  """The losses as float64[..., n], n >= 1, all in [0, 1]."""
  if not 0 < delta < 1:
    raise ValueError(f'delta must lie between 0 and 1, not at {delta}.')
  losses = np.asarray(losses, np.float64)
  if losses.ndim < 1 or not losses.shape[-1]:
    raise ValueError(f'A p-value needs at least one loss; the losses have shape {losses.shape}.')
  outside = ~((losses >= 0) & (losses <= 1))  # NaN is outside, too.
  if outside.any():
    raise ValueError(
      f'Losses must lie in [0, 1]: {outside.sum()} of {losses.size} do not; '
      f'the first is {losses[outside][0]}.'
    )
  return losses
