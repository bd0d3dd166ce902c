"""How sure is a model of an input? E-LANG's energy, and what it is compared with.

Akbari et al., sections 3.1 to 3.3, https://arxiv.org/abs/2203.00748. A score is a number for each
row, higher for surer; its range is its own affair. Of two classes all scores of this file but the
energy say the same, in other numbers: each grows with the gap between the two logits. The energy
sees how large they are besides, and cross entropy does not: whatever is added to all logits of a
row leaves it as it is. So a linear head of two classes that starts from zero keeps the sum of its
weights at zero, and its energy, too, grows with the gap alone.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from calm.exits import confidence

# Of logits[..., C], as `calm.exits` measures them: Eq. 10, Eq. 13 (in nats, and in [0, 1]), and the
# margin.
largest_probability = confidence.largest_probability
negative_entropy = confidence.negative_entropy
entropy_confidence = confidence.entropy_confidence
softmax_margin = confidence.softmax_margin

# Log-sum-exp of this much or less is taken for rounding: probabilities summed to 1 before.
NORMALISED = 1e-4


def negative_energy(logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
  """Minus the free energy of logits[..., C], T log sum exp(logits / T); any real number.

  Eq. 3, and Eq. 7 where the logits are those of a head on the encoder. The temperature is Liu et
  al.'s, https://arxiv.org/abs/2010.03759: the lower it is, the more the largest logit counts alone.

  Raises:
    ValueError: the temperature is not above 0, or logits of several rows, if known by now, are
      log-probabilities.
  """
  if not isinstance(temperature, jax.core.Tracer) and not float(temperature) > 0:
    raise ValueError(f'The temperature of an energy must be above 0, not {temperature}.')
  check_logits(logits)
  return confidence.negative_energy(logits, temperature)


def mean_negative_energy(
  logits: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
  """Minus the free energy of logits[..., M, C], averaged over the positions that mask[..., M] has.

  Eq. 8: a text as M classifications, each of C words. Minus infinity where there is no position.

  Raises:
    ValueError: as `negative_energy`.
  """
  return mean_over(negative_energy(logits, temperature), mask)


def negative_perplexity(logits: jax.Array) -> jax.Array:
  """Minus the perplexity of softmax(logits[..., C]), exp of its entropy: from -C to -1.

  It orders rows as the entropy does.
  """
  return -jnp.exp(-negative_entropy(logits))


def log_sum_exp_of_probabilities(logits: jax.Array) -> jax.Array:
  """log sum exp(softmax(logits[..., C])), what the authors' published code calls the energy.

  From log C + 1 / C to log(C - 1 + e): it sees no more of the logits than probabilities do, and is
  no energy of Eq. 3.
  """
  probabilities = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
  return jax.nn.logsumexp(probabilities, axis=-1)


def of_logits(logits: jax.Array, seed: int = 0) -> dict[str, np.ndarray]:
  """All scores of logits[n, C] that routers are compared by, float64[n] by name.

  'energy', 'softmax', 'entropy', 'margin', 'published', and 'random', which knows nothing.
  """
  measures: dict[str, Callable[[jax.Array], jax.Array]] = {
    'energy': negative_energy,
    'softmax': largest_probability,
    'entropy': negative_entropy,
    'margin': softmax_margin,
    'published': log_sum_exp_of_probabilities,
  }
  logits = jnp.asarray(logits)
  found = {name: np.asarray(one(logits), np.float64) for name, one in measures.items()}
  return {**found, 'random': np.random.default_rng(seed).random(len(logits))}


def check_logits(logits: jax.Array) -> None:
  """Refuses log-probabilities in place of logits[..., C] for an energy.

  Looked at where the numbers are known (not while compiling) and there are two rows at least: of a
  single one it may be chance.

  Raises:
    ValueError: each row's exponentials sum to 1.
  """
  if isinstance(logits, jax.core.Tracer):
    return
  rows = np.asarray(logits, np.float64).reshape(-1, np.shape(logits)[-1])
  if len(rows) < 2:
    return
  if np.all(np.abs(np.logaddexp.reduce(rows, axis=-1)) <= NORMALISED):
    raise ValueError(
      'These are log-probabilities: their exponentials sum to 1, so that the free energy is 0'
      ' whatever the input, and tells nothing. Give the logits as they are before softmax, or'
      ' choose a score of probabilities, such as largest_probability or negative_entropy.'
    )


def mean_over(values: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean of values[..., T] over the tokens that mask[..., T] has; -inf where there is none.

  Of log-probabilities it is a sequence's own, per token; of energies Eq. 8 on the decoder.
  """
  mask = jnp.asarray(mask, bool)
  count = mask.sum(-1)
  total = jnp.where(mask, values, 0.0).sum(-1)
  return jnp.where(count > 0, total / jnp.maximum(1, count), -jnp.inf)


def quantile_over(values: jax.Array, mask: jax.Array, quantile: float = 0.25) -> jax.Array:
  """A quantile of values[..., T] over the tokens that mask[..., T] has; -inf where there is none.

  A sequence may be as wrong as its worst tokens are, however many others are sure: Gupta et al.,
  https://arxiv.org/abs/2404.10136. 0 is the least of all, 0.5 the median.

  Raises:
    ValueError: the quantile is not in [0, 1].
  """
  if not 0 <= quantile <= 1:
    raise ValueError(f'quantile must lie in [0, 1], not at {quantile}.')
  mask = jnp.asarray(mask, bool)
  known = jnp.where(mask, values, jnp.nan)
  return jnp.where(mask.any(-1), jnp.nanquantile(known, quantile, axis=-1), -jnp.inf)


def negative_perplexity_of_tokens(log_probs: jax.Array, mask: jax.Array) -> jax.Array:
  """Minus exp of minus the mean log-probability of a sequence's tokens; -inf where there is none.

  It orders sequences as that mean does.
  """
  return -jnp.exp(-mean_over(log_probs, mask))


def negative_length(
  texts: Sequence[str], length_of: Callable[[str], int] | None = None
) -> np.ndarray:
  """Minus the length of each text, float64[n]: the shorter, the easier. A score to be beaten.

  `length_of` counts; white-space separated words by default.
  """
  count = length_of or (lambda text: len(text.split()))
  return np.array([-count(text) for text in texts], np.float64)
