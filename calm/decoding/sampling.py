"""Which token follows, given its logits: the likeliest, or a draw.

A way of choosing is a small frozen dataclass whose numbers may be traced. No vocabulary is sorted
here: on CPU that costs more than the product that makes the logits.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from calm import settings


@flax.struct.dataclass
class Choice:
  """A token per row, and how likely it was, in nats."""

  token: jax.Array  # int32[B]
  log_prob: jax.Array  # float32[B], under the model's softmax at temperature 1
  sampling_log_prob: jax.Array  # float32[B], under the distribution drawn from


class ChoiceRule(Protocol):
  """A way of choosing tokens."""

  num_samples: int  # outputs per input

  def __call__(self, logits: jax.Array, keys: jax.Array | None, position: jax.Array) -> Choice:
    """Chooses for float32 logits[B, V], by keys[B] and the int32 position[B] within the row."""


@flax.struct.dataclass
class Greedy:
  """The likeliest token; the first of several that are equally likely."""

  num_samples: settings.Count = flax.struct.field(pytree_node=False, default=1)

  def __call__(
    self, logits: jax.Array, keys: jax.Array | None = None, position: jax.Array | None = None
  ) -> Choice:
    """Chooses for float32 logits[B, V]; a sure choice has a sampling_log_prob of 0."""
    del keys, position
    token = argmax(logits)
    log_prob = token_log_prob(logits, token)
    return Choice(token, log_prob, jnp.zeros_like(log_prob))


@flax.struct.dataclass
class Sampling:
  """Draws from softmax(logits / temperature), cut to the likeliest tokens if asked for.

  `top_k` keeps the k likeliest, `top_p` the fewest that together reach probability p (Holtzman et
  al., https://arxiv.org/abs/1904.09751), k first; what ties with the last one kept is kept too.
  Temperature 0 is greedy. All three may be traced; None leaves a cut out.
  """

  temperature: Annotated[jax.typing.ArrayLike, settings.Range(0)] = 1.0
  top_k: Annotated[int | jax.Array, settings.Range(1)] | None = None
  top_p: Annotated[jax.typing.ArrayLike, settings.Range(0, 1, above=True)] | None = None
  num_samples: settings.Count = flax.struct.field(pytree_node=False, default=1)

  def __call__(self, logits: jax.Array, keys: jax.Array | None, position: jax.Array) -> Choice:
    """Draws for float32 logits[B, V]; a row's draw depends on its key and position alone."""
    if keys is None:
      raise ValueError('Sampling draws, and needs keys.')
    kept = self.truncated(logits)
    step_keys = jax.vmap(jax.random.fold_in)(keys, position)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:]))(step_keys)
    # The largest of log-probability plus Gumbel noise is a draw from the distribution.
    token = argmax(kept + noise)
    return Choice(token, token_log_prob(logits, token), token_log_prob(kept, token))

  def truncated(self, logits: jax.Array) -> jax.Array:
    """The logits[B, V] of the distribution drawn from; -inf where a token is cut."""
    # From the maximum down: at temperature 0 all but the maximum become -inf.
    logits = logits - logits.max(-1, keepdims=True)
    logits = logits / jnp.maximum(jnp.asarray(self.temperature, jnp.float32), 1e-30)
    if self.top_k is not None:
      logits = keep_top_k(logits, self.top_k)
    if self.top_p is not None:
      logits = keep_top_p(logits, self.top_p)
    return logits


def choice(
  temperature: settings.NonNegative | None = None,
  top_k: settings.Count | None = None,
  top_p: Annotated[float, settings.Range(0, 1, above=True)] | None = None,
  num_samples: settings.Count = 1,
) -> ChoiceRule:
  """The way of choosing that numbers say, as a command line gives them.

  `Greedy` at temperature 0, and where nothing is said; else `Sampling`, at temperature 1 if another
  of the numbers is said and it is not.

  Raises:
    ValueError: a number is none, or out of range, or has no effect at temperature 0; names it.
  """
  _check_number('TEMPERATURE', temperature, 'a number, 0 or more')
  _check_number('TOP_K', top_k, 'a whole number, 1 or more', whole=True)
  _check_number('TOP_P', top_p, 'a number above 0, 1 at most')
  _check_number('NUM_SAMPLES', num_samples, 'a whole number, 1 or more', whole=True)
  others = {
    'TOP_K': top_k,
    'TOP_P': top_p,
    'NUM_SAMPLES': None if num_samples == 1 else num_samples,
  }
  told = [name for name, value in others.items() if value is not None]
  if temperature is None:
    temperature = 1.0 if told else 0.0
  if temperature == 0 and told:
    raise ValueError(
      f'TEMPERATURE is 0, which takes the likeliest token: {", ".join(told)} would have no effect.'
    )
  rule = Sampling(temperature, top_k, top_p, num_samples) if temperature else Greedy()
  check(rule)
  return rule


def _check_number(name: str, value: Any, needed: str, whole: bool = False) -> None:
  kinds = int if whole else int | float
  if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
    raise ValueError(f'{name} is {value!r}, and must be {needed}.')


def check(rule: ChoiceRule) -> None:
  """Raises ValueError for settings outside their range; traced ones are not looked at."""
  if isinstance(rule, Greedy | Sampling):
    settings.check_fields(rule)


def as_arrays(rule: ChoiceRule) -> ChoiceRule:
  """The rule with arrays of one type each for its numbers, so that one compilation serves all."""
  if not isinstance(rule, Sampling):
    return rule
  types = {'temperature': jnp.float32, 'top_k': jnp.int32, 'top_p': jnp.float32}
  given = {name: getattr(rule, name) for name in types}
  arrays: dict[str, Any] = {
    k: jnp.asarray(value, types[k]) for k, value in given.items() if value is not None
  }
  return dataclasses.replace(rule, **arrays)


def argmax(logits: jax.Array) -> jax.Array:
  """Index int32[...] of the largest of logits[..., V], the first if several are equal.

  Two plain reductions, each of which CPUs do eight or more numbers at a time, in place of the
  index-carrying one of `jnp.argmax`.
  """
  size = logits.shape[-1]
  indices = jnp.arange(size, dtype=jnp.int32)
  is_largest = logits == logits.max(-1, keepdims=True)
  # Where nothing equals the maximum it is NaN: stay within the vocabulary, the log-prob tells.
  return jnp.where(is_largest, indices, size - 1).min(-1)


def token_log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
  """Log-probability in nats of int32 token[...] under softmax of logits[..., V]."""
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def keep_top_k(logits: jax.Array, k: jax.typing.ArrayLike) -> jax.Array:
  """-inf for all but the k largest of logits[..., V] and what ties with the least of them."""

  def enough(kept: jax.Array) -> jax.Array:
    return kept.sum(-1, keepdims=True) >= k

  return _cut(logits, enough)


def keep_top_p(logits: jax.Array, p: jax.typing.ArrayLike) -> jax.Array:
  """-inf for all but the fewest of logits[..., V] whose probabilities sum to p or more."""
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  target = jnp.asarray(p, jnp.float32) * weights.sum(-1, keepdims=True)

  def enough(kept: jax.Array) -> jax.Array:
    return jnp.where(kept, weights, 0).sum(-1, keepdims=True) >= target

  return _cut(logits, enough)


def _cut(logits: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
  """Keeps logits[..., V] from the highest threshold on at which `enough(kept)` holds.

  The threshold is found bit by bit in 32 passes over the logits, each a comparison and a sum: a
  tenth of the time of a sort on CPU. Where not even all are enough, all are kept.
  """
  order = _ordered_bits(logits)

  def try_bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
    higher = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
    return jnp.where(enough(order >= higher), higher, threshold)

  lowest = jnp.zeros((*logits.shape[:-1], 1), jnp.uint32)
  threshold = jax.lax.fori_loop(0, 32, try_bit, lowest)
  return jnp.where(order >= threshold, logits, -jnp.inf)


def _ordered_bits(x: jax.Array) -> jax.Array:
  """Maps float32 x to uint32 in the same order."""
  bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
  negative = bits >> 31 == 1
  return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
