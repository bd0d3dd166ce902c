"""How far early answers fall from the full system's: the losses that a calibration bounds.

CALM, section 4, Definitions 1 and 2, https://arxiv.org/abs/2207.07061.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from calm.calibration import consistency
from calm.evaluation.outcomes import Outcomes, Results
from calm.evaluation.split import Split

OBJECTIVES = ('textual', 'risk')


def objectives_of(dissimilarity: consistency.Dissimilarity) -> tuple[str, ...]:
  """Which objectives a dissimilarity can serve: of tokens there are no references."""
  return ('textual',) if _compares_tokens(dissimilarity) else OBJECTIVES


def check_objective(objective: str, dissimilarity: consistency.Dissimilarity) -> None:
  """Raises ValueError for an objective that is none of OBJECTIVES, or not the dissimilarity's."""
  if objective not in OBJECTIVES:
    raise ValueError(f'objective: {objective!r} is not one of {", ".join(OBJECTIVES)}.')
  if objective not in objectives_of(dissimilarity):
    raise ValueError('token_disagreement compares tokens, and references are texts.')


def losses_of(
  outcomes: Outcomes, objective: str, dissimilarity: consistency.Dissimilarity
) -> Callable[[float], np.ndarray]:
  """Maps a threshold to losses float64[n] of Definition 1 ('textual') or 2 ('risk')."""
  losses = losses_of_results(outcomes.split, outcomes.full(), objective, dissimilarity)
  return lambda threshold: losses(outcomes.at(threshold))


def losses_of_results(
  split: Split, full: Results, objective: str, dissimilarity: consistency.Dissimilarity
) -> Callable[[Results], np.ndarray]:
  """Maps any results to losses float64[n] of Definition 1 ('textual') or 2 ('risk').

  Definition 1 compares what the two systems say. Definition 2 compares each with the references,
  all of them after the task's postprocessing, as its metrics do: where that maps a text to a label,
  a text beside a label would be as wrong as another, and no risk would ever increase.

  Raises:
    ValueError: the objective is none of OBJECTIVES, or not the dissimilarity's.
  """
  check_objective(objective, dissimilarity)
  if objective == 'textual':
    compared = _tokens if _compares_tokens(dissimilarity) else _texts
    return lambda results: consistency.textual_consistency(
      compared(results), compared(full), dissimilarity
    )
  references = split.references()

  def risks(results: Results) -> np.ndarray:
    return consistency.risks(split.postprocessed(results.predictions), references, dissimilarity)

  full_risks = risks(full)
  return lambda results: consistency.risk_increase(risks(results), full_risks)


def _compares_tokens(dissimilarity: consistency.Dissimilarity) -> bool:
  return inspect.unwrap(dissimilarity) is consistency.token_disagreement  # gin wraps it.


def _texts(results: Results) -> list[Any]:
  return results.predictions


def _tokens(results: Results) -> list[Any]:
  return [np.array(row['tokens'], np.int32) for row in results.rows]
