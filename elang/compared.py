"""Every score that a router's Swift model could be routed by, of what it said of a split."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from calm.evaluation.predictor import Row
from calm.tasks.examples import Example
from elang import energy
from elang.head_score import EncoderScored

OWN = 'score'  # what the router itself goes by
LENGTH = 'length'
QUANTILE = 0.25
ROUNDING = 1e-5  # of a score's range, below which two values of it count as one
MEANINGS = {
  OWN: 'what the router goes by',
  EncoderScored.score_name: "minus the free energy of a head on the encoder's states (Eq. 7 and 8)",
  'energy': 'minus the free energy of the logits (Eq. 3)',
  'softmax': 'the largest probability (Eq. 10)',
  'entropy': 'minus the entropy of the probabilities (Eq. 13)',
  'margin': 'the largest probability less the second',
  'published': "log-sum-exp of probabilities, which the authors' code calls energy",
  'log-probability': "the mean over the answer's tokens",
  'log-probability, quartile': "the lower quartile over the answer's tokens",
  'decoder energy': "minus the free energy at the answer's tokens, their mean (Eq. 8)",
  'decoder energy, quartile': 'likewise, their lower quartile',
  LENGTH: 'minus the number of words: a score to be beaten',
}


def scores_of(
  said: Sequence[Row], examples: Sequence[Example], own: str = OWN
) -> dict[str, np.ndarray]:
  """Scores float64[n] by name, higher for surer; -inf where there is no number.

  The router's own; of logits those of `elang.energy.of_logits` ('energy', 'softmax',
  'entropy', 'margin', 'published'); of a sequence's tokens the mean and the lower quartile of their
  log-probabilities and negative energies ('log-probability', 'decoder energy', and with
  ', quartile'); and 'length', minus the number of words.

  Args:
    said: what the model said of each example: its `score`, and `evidence` as `elang.routing` keeps.
    examples: the same.
    own: what the router's own score is called.
  """
  found = {own: _finite([row['score'] for row in said])}
  evidence = [row.get('evidence', {}) for row in said]
  if all('logits' in one for one in evidence):
    logits = np.array([one['logits'] for one in evidence], np.float32)
    if logits.shape[-1] > 1:
      measured = energy.of_logits(jnp.asarray(logits))
      found |= {name: values for name, values in measured.items() if name != 'random'}
  for field, name in (
    ('token_log_probs', 'log-probability'),
    ('negative_energies', 'decoder energy'),
  ):
    if all(field in one for one in evidence):
      tokens = [_finite(one[field]) for one in evidence]
      found[name] = np.array([row.mean() if len(row) else -np.inf for row in tokens])
      lower = [
        np.quantile(row, QUANTILE, method='lower') if len(row) else -np.inf for row in tokens
      ]
      found[f'{name}, quartile'] = np.array(lower)
  texts = [' '.join(example.texts.values()) for example in examples]
  return {**found, LENGTH: energy.negative_length(texts)}


@dataclasses.dataclass(frozen=True)
class Family:
  """Scores that order all inputs alike: at any share they pass on the same."""

  members: tuple[str, ...]
  stands_for: str  # the member that tells most inputs apart
  is_own: bool  # whether the router itself goes by it

  @property
  def name(self) -> str:
    """Its members' names; a router's own score without a name only where it is like no other."""
    others = [name for name in self.members if name != OWN]
    return ' = '.join(others or self.members)


def families(scores: Mapping[str, np.ndarray], own: str = OWN) -> tuple[Family, ...]:
  """Scores that order all inputs alike, together; of two classes all of probabilities are.

  Rounding does not count as an order.
  """
  groups: list[list[str]] = []
  for name, values in scores.items():
    for group in groups:
      if alike(scores[group[0]], values):
        group.append(name)
        break
    else:
      groups.append([name])
  finest = [max(group, key=lambda name: len(np.unique(scores[name]))) for group in groups]
  pairs = zip(groups, finest, strict=True)
  return tuple(Family(tuple(group), one, own in group) for group, one in pairs)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
  """Whether no two rows are ordered one way by a score and the other way by another."""
  if not np.array_equal(np.isfinite(one), np.isfinite(other)):
    return False
  known = np.isfinite(one)
  pairs = ((one[known], other[known]), (other[known], one[known]))
  return all(_rises(by, values) for by, values in pairs)


def _rises(by: np.ndarray, values: np.ndarray) -> bool:
  if not len(values):
    return True
  ordered = values[np.lexsort((values, by))]
  falls = np.maximum.accumulate(ordered) - ordered
  spread = float(np.ptp(values))
  # A score that tells no rows apart is like none that does.
  constant = spread == 0 and float(np.ptp(by)) > 0
  return not constant and float(falls.max()) <= ROUNDING * spread


def _finite(values: Sequence[float | None]) -> np.ndarray:
  return np.array([-np.inf if value is None else value for value in values], np.float64)
