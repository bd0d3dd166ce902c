"""One evaluation of each model on a split: what a router says of it at any threshold, as arrays."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from calm.calibration import consistency
from calm.evaluation.outcomes import Replay
from calm.evaluation.predictor import Row
from elang.routing import Router, choose, recorded_scores

Threshold = float | Sequence[float] | None


@dataclasses.dataclass(frozen=True)
class Recorded:
  """What all models of a router said of a split, and how wrong each was."""

  router: Router
  rows: Sequence[Row]
  risks: np.ndarray  # float64[K, n] in [0, 1], each model's dissimilarity to the references

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """float64[K - 1, n], -inf where there is no number."""
    return recorded_scores([row['models'] for row in self.rows], len(self.router.models))

  @property
  def right(self) -> np.ndarray:
    """What the first model gets right, bool[n]: its risk is 0.

    Where risks are degrees and not only 0 and 1, as of translations: no larger than the last one's.
    """
    if np.isin(self.risks, (0, 1)).all():
      return self.risks[0] == 0
    return self.risks[0] <= self.risks[-1]

  def answered(self, threshold: Threshold) -> np.ndarray:
    """The number int[n] of the model that answers each example at a threshold."""
    return choose(self.scores, self.router.at(threshold).thresholds)

  def risks_at(self, threshold: Threshold) -> np.ndarray:
    """Risks float64[n] of the router at a threshold."""
    return self.risks[self.answered(threshold), np.arange(len(self.rows))]

  def costs_at(self, name: str, threshold: Threshold) -> np.ndarray:
    """What each example costs at a threshold, float64[n]; 'passed_on' counts models passed.

    Raises:
      ValueError: not all models have a price of that name.
    """
    answered = self.answered(threshold)
    if name == 'passed_on':
      return answered.astype(np.float64)
    if name not in self.router.priced:
      known = ', '.join(('passed_on', *self.router.priced))
      raise ValueError(f'{name!r} has no price at all models; there are {known}.')
    answers = self._prices('costs', name)[answered, np.arange(len(self.rows))]
    limits = self.router.at(threshold).thresholds
    before = (np.arange(len(limits))[:, None] < answered) & (limits[:, None] < math.inf)
    return answers + np.where(before, self._prices('costs_of_asking', name)[: len(limits)], 0).sum(
      0
    )

  def _prices(self, kind: str, name: str) -> np.ndarray:
    """float64[K, n]; 0 where there is none, as of asking the last model."""
    said = [[one.get(kind, {}).get(name, 0.0) for one in row['models']] for row in self.rows]
    return np.array(said, np.float64).T


def recorded(
  outcomes: Replay, dissimilarity: consistency.Dissimilarity = consistency.exact_match
) -> Recorded:
  """What a router's models said of a split, run at most once; the split needs references.

  Predictions and references are compared after the task's postprocessing, as in a calibration of
  risk. Examples without a text are left out: no model answers them.

  Raises:
    ValueError: an example has no reference.
  """
  router = cast(Router, outcomes.predictor)
  rows, references = outcomes.recorded.rows, outcomes.split.references()
  known = np.array([bool(row['models']) for row in rows])
  risks = []
  for number in range(len(router.models)):
    said = [row['models'][number]['prediction'] if row['models'] else '' for row in rows]
    outputs = outcomes.split.postprocessed(said)
    risks.append(consistency.risks(outputs, references, dissimilarity)[known])
  return Recorded(router, [row for row in rows if row['models']], np.array(risks))
