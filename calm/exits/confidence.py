"""How sure is a layer of its prediction? CALM's measures (section 3.5) and their kin.

A measure is a function over the last axis that returns float32[...] in [0, 1], higher for surer.
The names of its parameters say what it looks at, any of

  logits[..., V]         the shared head's, on this layer's state; the costliest thing to ask for
  shortlist_logits[..., K]  the head's, for a shortlist made by the first layer that asked
  hidden[..., D]         the state after this layer
  previous[..., D]       the state before it: the layer before's, or the embedding's
  exit_score[...]        the exit classifier's logit of this layer's state

and nothing that it does not name is computed. A measure of your own is a function like these.
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from calm import settings

Measure = Callable[..., jax.Array]
EVIDENCE = ('logits', 'shortlist_logits', 'hidden', 'previous', 'exit_score')


def within(ends: Callable[[int], tuple[float, float]]) -> Callable[[Measure], Measure]:
  """Marks a measure whose range is not [0, 1]: `ends` gives it for a number of logits."""

  def mark(measure: Measure) -> Measure:
    measure.ends = ends  # type: ignore[attr-defined]
    return measure

  return mark


def needs(measure: Measure) -> tuple[str, ...]:
  """What `measure` looks at: the names of its parameters that have no default.

  Raises:
    ValueError: a name that is none of EVIDENCE.
  """
  if isinstance(measure, Gated):
    return tuple(dict.fromkeys((*needs(measure.gate), *needs(measure.measure))))
  parameters = inspect.signature(measure).parameters.values()
  names = tuple(p.name for p in parameters if p.default is inspect.Parameter.empty)
  unknown = [name for name in names if name not in EVIDENCE]
  if unknown or not names:
    raise ValueError(
      f'{name_of(measure)} asks for {", ".join(unknown) or "nothing"}: a '
      f'measure names what it looks at, any of {", ".join(EVIDENCE)}.'
    )
  return names


def name_of(measure: Measure) -> str:
  """What a measure is called in tables and paths; of a partial, with the arguments it has."""
  if isinstance(measure, functools.partial):
    given = [*measure.args, *(part for pair in measure.keywords.items() for part in pair)]
    return re.sub(r'[^\w.-]+', '_', '_'.join([name_of(measure.func), *map(str, given)]))
  return getattr(measure, '__name__', type(measure).__name__)


def softmax_margin(logits: jax.Array) -> jax.Array:
  """Gap between the two largest probabilities of logits[..., V].

  The softmax response of CALM, section 3.5, https://arxiv.org/abs/2207.07061. Two maxima and a
  sum: sorting the vocabulary costs more than the layers saved. In float32 it reaches 1 at a gap of
  about 20 in the logits: a threshold of 1 is not the full model.
  """
  logits = logits.astype(jnp.float32)
  best = logits.max(-1, keepdims=True)
  is_best = logits == best
  second = jnp.where(is_best, -jnp.inf, logits).max(-1, keepdims=True)
  tied = is_best.sum(-1) > 1
  total = jnp.exp(logits - best).sum(-1)
  return jnp.where(tied, 0.0, (1 - jnp.exp(second - best)[..., 0]) / total)


def shortlist_margin(shortlist_logits: jax.Array) -> jax.Array:
  """`softmax_margin` within a shortlist: words that the first layer asked found likely.

  What the other words would take of the probability is left out, so that it is a little higher
  than the exact margin; the vocabulary is paid for once per token instead of once per layer.
  """
  return softmax_margin(shortlist_logits)


@within(lambda num_outputs: (1 / num_outputs, 1.0))
def largest_probability(logits: jax.Array) -> jax.Array:
  """The largest probability of logits[..., V], in [1/V, 1]."""
  logits = logits.astype(jnp.float32)
  return 1 / jnp.exp(logits - logits.max(-1, keepdims=True)).sum(-1)


@within(lambda num_outputs: (-math.log(num_outputs), 0.0))
def negative_entropy(logits: jax.Array) -> jax.Array:
  """Minus the entropy of softmax(logits[..., V]), in nats: 0 at most, -log V at least."""
  log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
  # A word of probability 0 adds nothing, where 0 * -inf would be NaN.
  return jnp.where(jnp.isneginf(log_probs), 0.0, jnp.exp(log_probs) * log_probs).sum(-1)


def entropy_confidence(logits: jax.Array) -> jax.Array:
  """1 less the entropy of softmax(logits[..., V]) as a share of log V, the largest possible."""
  return jnp.clip(1 + negative_entropy(logits) / jnp.log(logits.shape[-1]), 0, 1)


@within(lambda num_outputs: (-math.inf, math.inf))
def negative_energy(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Minus the free energy of logits[..., V], T log sum exp(logits / T); any real number.

  E-LANG, Eq. 3, https://arxiv.org/abs/2203.00748. It looks at how large logits are, which
  probabilities do not tell: of normalised log-probabilities it is 0 throughout.
  """
  logits = logits.astype(jnp.float32)
  return temperature * jax.nn.logsumexp(logits / temperature, axis=-1)


def state_saturation(hidden: jax.Array, previous: jax.Array) -> jax.Array:
  """Cosine between the states after and before a layer, both [..., D], negative ones taken as 0.

  CALM's hidden-state saturation, section 3.5. It compares layers, so that layer 1, whose input is
  an embedding, has none: rules ask from layer 2 on (`calm.exits.rules.Confident`).
  """
  hidden, previous = hidden.astype(jnp.float32), previous.astype(jnp.float32)
  product = (hidden * previous).sum(-1)
  # The product of squares may overflow where that of the lengths does not.
  lengths = jnp.linalg.norm(hidden, axis=-1) * jnp.linalg.norm(previous, axis=-1)
  return jnp.clip(product / jnp.maximum(lengths, jnp.finfo(jnp.float32).tiny), 0, 1)


def classifier(exit_score: jax.Array) -> jax.Array:
  """Probability that this layer predicts what the last one does, from the classifier's logit.

  CALM's early exit classifier, section 3.5; `calm.training.exit_classifier` trains it.
  """
  return jax.nn.sigmoid(exit_score.astype(jnp.float32))


def ends(measure: Measure, num_outputs: int) -> tuple[float, float]:
  """The range of a measure of `num_outputs` logits: [0, 1], if `within` marks no other."""
  while isinstance(measure, functools.partial):
    measure = measure.func
  return getattr(measure, 'ends', lambda _: (0.0, 1.0))(num_outputs)


@dataclasses.dataclass(frozen=True)
class Gated:
  """A measure over logits that is looked at only where a cheap one opens the gate; 0 elsewhere.

  The paper asks its softmax response after every layer, and pays for the vocabulary each time. Here
  a row stops only where `gate`, of states or the exit classifier, reaches `gate_threshold`, and
  where it does not, no logits are made. Of `shortlist_margin` it also says when the shortlist is
  made: not by the first layer, but by the first that has settled to that degree.

  Raises:
    ValueError: the gate itself looks at logits.
  """

  measure: Measure = shortlist_margin
  gate: Measure = state_saturation
  gate_threshold: settings.Share = 0.9

  def __post_init__(self) -> None:
    settings.check_fields(self)
    costly = [name for name in needs(self.gate) if name in ('logits', 'shortlist_logits')]
    if costly:
      raise ValueError(
        f'Gated: {name_of(self.gate)} asks for {costly[0]}, which the gate is to save: give a gate '
        'that looks at states or the exit classifier.'
      )

  @property
  def __name__(self) -> str:
    """What it is called in tables and paths."""
    return f'gated_{name_of(self.measure)}'

  def gate_open(self, **evidence: jax.Array) -> jax.Array:
    """Where the measure is to be looked at, bool[...]; `evidence` is what the gate needs."""
    return self.gate(**evidence) >= self.gate_threshold

  def __call__(self, **evidence: jax.Array) -> jax.Array:
    """The measure, from all of `needs`."""
    cheap, dear = ({k: evidence[k] for k in needs(each)} for each in (self.gate, self.measure))
    return jnp.where(self.gate_open(**cheap), self.measure(**dear), 0.0)
