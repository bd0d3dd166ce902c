"""What tables, curves and the page read: systems compared on a split, whatever they are made of."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from calm.calibration import consistency
from calm.evaluation.losses import losses_of_results, objectives_of
from calm.evaluation.outcomes import Results
from calm.evaluation.predictor import Identity, Predictor
from calm.evaluation.split import Split


@dataclasses.dataclass(frozen=True)
class Way:
  """One way of answering: what it said of each example, and what that cost."""

  label: str
  results: Results
  costs: Mapping[str, np.ndarray]  # float64[n] of each example, per unit, by name
  predictor: Predictor  # to be timed

  @property
  def units(self) -> np.ndarray:
    """Units float64[n] of each example."""
    return self.results.units

  def cost(self, name: str) -> float:
    """A cost per unit, over all units."""
    return float(np.average(self.costs[name], weights=self.units))


class Judged:
  """Losses and metrics of a comparison's ways, by its split, full system and dissimilarity."""

  dissimilarity: consistency.Dissimilarity

  @property
  def split(self) -> Split:
    """The examples."""
    raise NotImplementedError

  @property
  def full(self) -> Way:
    """The full system."""
    raise NotImplementedError

  @property
  def objectives(self) -> tuple[str, ...]:
    """What the dissimilarity can say something of: of tokens there are no references."""
    return objectives_of(self.dissimilarity)

  def losses(self, way: Way, objective: str) -> np.ndarray:
    """Losses float64[n] by one of `objectives`."""
    return self._losses[objective](way.results)

  def scores(self, way: Way) -> dict[str, float]:
    """The task's metrics."""
    return self.split.score(way.results.predictions)

  @functools.cached_property
  def _losses(self) -> dict[str, Callable[[Results], np.ndarray]]:
    full = self.full.results
    return {
      objective: losses_of_results(self.split, full, objective, self.dissimilarity)
      for objective in self.objectives
    }


class Comparison(Protocol):
  """The full system, static ones, an oracle if there is one, and families with a threshold."""

  @property
  def split(self) -> Split:
    """The examples."""

  @property
  def dissimilarity(self) -> consistency.Dissimilarity:
    """From which losses are made."""

  @property
  def objectives(self) -> tuple[str, ...]:
    """What `losses` knows: 'textual', or 'risk' too."""

  @property
  def grid(self) -> Sequence[float]:
    """Descending thresholds at which families are compared."""

  @property
  def unit(self) -> str:
    """What costs are counted per, in the singular."""

  @property
  def costs(self) -> Mapping[str, str]:
    """Costs and their labels for axes; systems are ordered by the first."""

  @property
  def families(self) -> Sequence[str]:
    """The names of what is calibrated."""

  @property
  def about(self) -> str:
    """The systems in a sentence, without its end."""

  @property
  def folder(self) -> str:
    """Where what is made of it is written."""

  @property
  def identity(self) -> Identity:
    """All that it depends on."""

  @property
  def full(self) -> Way:
    """The full system."""

  @property
  def static(self) -> Sequence[Way]:
    """Systems that always cost the same, cheapest first, without the full one."""

  @property
  def oracle(self) -> Way | None:
    """What foresight would give."""

  def at(self, family: str, threshold: float) -> Way:
    """A family at a threshold."""

  def losses(self, way: Way, objective: str) -> np.ndarray:
    """Losses float64[n] in [0, 1] by one of `objectives`."""

  def scores(self, way: Way) -> dict[str, float]:
    """The task's metrics."""

  def seconds(
    self, ways: Mapping[str, Way], *, batch_size: int, num_examples: int, repeats: int
  ) -> dict[str, float]:
    """Seconds per unit of each of `ways`, measured in turn on the first examples."""
