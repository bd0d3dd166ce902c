"""When an example stops: what classifiers that are asked one after the other are sure of.

A measure of examples is asked at each exit for a confidence, and the example stops where that
reaches a threshold. It may remember what it has seen of an example. Its two ends are exact: at the
loose end all stop at the first classifier, at the strict end none stops before the last, whatever
rounding says of a confidence (a float32 probability is 1 from a gap of 17 between logits on).
"""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calm.exits import confidence
from calm.settings import Positive


class ExampleMeasure(Protocol):
  """How sure the classifiers asked so far are; all of it is traced."""

  @property
  def name(self) -> str:
    """What it is called in tables and paths."""

  def check(self, num_outputs: int) -> None:
    """Raises a ValueError if no threshold of it means anything for so many outputs."""

  def ends(self, num_outputs: int) -> tuple[float, float]:
    """The thresholds at which all stop at the first classifier, and none before the last."""

  def init(self, num_rows: int) -> Any:
    """What is known of rows before any classifier is asked: arrays with rows first, or ()."""

  def __call__(
    self, seen: Any, outputs: jax.Array, exit_score: jax.Array | None
  ) -> tuple[Any, jax.Array]:
    """What is known after a classifier's outputs[B, C] and exit_score[B], and confidence[B]."""


@dataclasses.dataclass(frozen=True)
class Confidence:
  """A measure of `calm.exits.confidence` by what one classifier says.

  Largest probability (SWEET), entropy (DeeBERT), margin, negative energy (E-LANG), or, with
  `confidence.classifier`, what a module that learns to exit says (BERxiT).
  """

  measure: confidence.Measure = confidence.largest_probability

  @property
  def name(self) -> str:
    """The measure's."""
    return confidence.name_of(self.measure)

  def check(self, num_outputs: int) -> None:
    """Refuses a measure of logits for a regression."""
    if num_outputs == 1 and 'logits' in confidence.needs(self.measure):
      raise ValueError(
        f'{self.name} compares labels, and a regression has none: give Patience(tolerance), or'
        ' train with LEARNING_TO_EXIT.'
      )

  def ends(self, num_outputs: int) -> tuple[float, float]:
    """The measure's range."""
    return confidence.ends(self.measure, num_outputs)

  def init(self, num_rows: int) -> Any:
    """Nothing."""
    del num_rows
    return ()

  def __call__(
    self, seen: Any, outputs: jax.Array, exit_score: jax.Array | None
  ) -> tuple[Any, jax.Array]:
    """The measure of these outputs alone.

    Raises:
      ValueError: it asks for an exit score, and nothing has learned to exit.
    """
    evidence = {'logits': outputs, 'exit_score': exit_score}
    needs = confidence.needs(self.measure)
    for name in needs:
      if evidence.get(name) is None:
        raise ValueError(
          f'{self.name} asks for {name}, which these classifiers do not have'
          f'{": train with LEARNING_TO_EXIT" if name == "exit_score" else ""}.'
        )
    return seen, self.measure(**{name: evidence[name] for name in needs})


@dataclasses.dataclass(frozen=True)
class Patience:
  """How many classifiers in a row have agreed with the one before; a threshold of p needs p + 1.

  PABEE, Zhou et al., section 3.2, https://arxiv.org/abs/2006.04152. The count starts again where
  two disagree. A regression agrees where two answers lie closer than `tolerance`.

  Raises:
    ValueError: the tolerance is not above 0.
  """

  tolerance: Positive | None = None  # of a regression; None compares labels

  name = 'patience'

  def __post_init__(self) -> None:
    if self.tolerance is not None and not self.tolerance > 0:
      raise ValueError(f'tolerance must be above 0, not {self.tolerance}.')

  def check(self, num_outputs: int) -> None:
    """Wants a tolerance for a regression, and none for labels."""
    if (num_outputs == 1) != (self.tolerance is not None):
      raise ValueError(
        'A regression needs Patience(tolerance), which says when two answers agree: set TOLERANCE.'
        if num_outputs == 1
        else f'tolerance (TOLERANCE) is {self.tolerance}, and labels agree or not: it is for a'
        ' regression.'
      )

  def ends(self, num_outputs: int) -> tuple[float, float]:
    """No agreement at all, and more than there can be."""
    del num_outputs
    return 0.0, math.inf

  def init(self, num_rows: int) -> Any:
    """No answer yet."""
    answer = np.full(num_rows, -1 if self.tolerance is None else np.nan, np.float32)
    return {'answer': answer, 'count': np.full(num_rows, -1, np.float32)}

  def __call__(
    self, seen: Any, outputs: jax.Array, exit_score: jax.Array | None
  ) -> tuple[Any, jax.Array]:
    """The number of agreements that end with these outputs, from 0."""
    del exit_score
    if self.tolerance is None:
      answer = outputs.argmax(-1).astype(jnp.float32)
      agrees = answer == seen['answer']
    else:
      answer = outputs[..., 0].astype(jnp.float32)
      agrees = jnp.abs(answer - seen['answer']) < self.tolerance  # Not with NaN: there is none.
    count = jnp.where(agrees, seen['count'] + 1, 0.0)
    return {'answer': answer, 'count': count}, count


@dataclasses.dataclass(frozen=True)
class FixedExit:
  """The number of classifiers asked: with a threshold of k, all stop at the k-th."""

  name = 'fixed_exit'

  def check(self, num_outputs: int) -> None:
    """Counts whatever it is."""

  def ends(self, num_outputs: int) -> tuple[float, float]:
    """The first, and one behind all."""
    del num_outputs
    return 1.0, math.inf

  def init(self, num_rows: int) -> Any:
    """None asked yet."""
    return np.zeros(num_rows, np.float32)

  def __call__(
    self, seen: Any, outputs: jax.Array, exit_score: jax.Array | None
  ) -> tuple[Any, jax.Array]:
    """One more."""
    del outputs, exit_score
    return seen + 1, seen + 1


def confidences(
  measure: ExampleMeasure,
  outputs: jax.typing.ArrayLike,
  exit_scores: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  """Confidences[B, M] of a measure asked at M exits, of outputs[B, M, C] and exit_scores[B, M]."""
  outputs = jnp.asarray(outputs)
  scores = None if exit_scores is None else jnp.asarray(exit_scores)
  seen, found = measure.init(len(outputs)), []
  for k in range(outputs.shape[1]):
    score = None if scores is None else scores[:, k]
    seen, confidence = measure(seen, outputs[:, k], score)
    found.append(confidence)
  return jnp.stack(found, axis=1)


def as_threshold(threshold: float | None) -> np.float32:
  """A threshold as measures are compared with it; None, which none reaches, is infinity.

  Raises:
    ValueError: it is NaN.
  """
  if threshold is not None and math.isnan(threshold):
    raise ValueError('The threshold is NaN: give a number, or None to never exit early.')
  return np.float32(math.inf if threshold is None else threshold)


def may_exit(confidences: Any, threshold: Any, ends: tuple[float, float]) -> Any:
  """Where confidences[...] reach a threshold between the two `ends`; bool[...].

  At or below the loose end everywhere, at or above the strict end nowhere; NaN reaches nothing.
  """
  loose, strict = ends
  return ((confidences >= threshold) & (threshold < strict)) | (threshold <= loose)
