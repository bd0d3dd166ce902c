"""A router's comparison for the report: a Swift and a Super model, every score, one run of each."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from calm import fingerprints
from calm.calibration import consistency, testing
from calm.evaluation.outcomes import Replay, Results
from calm.evaluation.predictor import Row
from calm.evaluation.split import Split, read_split
from calm.reporting.comparison import Judged, Way
from calm.settings import Count, check_fields
from elang import compared, cost
from elang.model import with_evidence
from elang.paths import QuantilePath
from elang.recorded import Recorded, recorded
from elang.routing import Router, evidence_of
from elang.suggestions import FOLDER

LABELS = {
  'passed_on': 'share of inputs passed on',
  'flops': 'FLOPs per input',
  'seconds': 'seconds per input',
  'milliseconds': 'milliseconds per input',
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RouterStudy(Judged):
  """A split, a router of two models, and every score of the first: a `Comparison`.

  Families are scores; of several that order all inputs alike there is one. Thresholds are shares
  of inputs passed on in another split, which is not calibrated on (`QuantilePath`), so that scores
  of any range have one grid. What the models say is kept where `elang thresholds` keeps it.

  Args:
    task: a `seqio.Task`.
    split_name: its split, with references, that trained neither model.
    path_split: the split whose scores make thresholds; only the Swift model is asked.
    router: of two models.
    workdir: folder of the run.
    grid: descending shares; 0.95 to 0 in steps of 0.05 by default.
    dissimilarity: of predictions and references, from 0 to 1.
    limit, path_limit: examples at most.

  Raises:
    ValueError: there are more than two models, or an example has no reference.
  """

  task: seqio.Task
  split_name: str
  path_split: str
  router: Router
  workdir: str
  grid: Sequence[float] = dataclasses.field(default_factory=testing.descending_grid)
  dissimilarity: consistency.Dissimilarity = consistency.exact_match
  limit: Count | None = None
  path_limit: Count | None = 1000
  unit: str = 'input'

  def __post_init__(self) -> None:
    check_fields(self)
    object.__setattr__(self, 'grid', testing.check_grid(self.grid))
    if len(self.router.models) != 2:
      raise ValueError(f'A report is of two models, not {len(self.router.models)}.')

  @functools.cached_property
  def split(self) -> Split:
    """The examples; those without a text, which no model answers, are left out."""
    found = read_split(self.task, self.split_name, limit=self.limit)
    known = [example for example in found.examples if example.texts]
    return dataclasses.replace(found, examples=known)

  @functools.cached_property
  def found(self) -> Recorded:
    """What both models say of the split, and how wrong that is."""
    outcomes = Replay(self.split, self.router.at(None), Path(self.workdir, FOLDER))
    return recorded(outcomes, self.dissimilarity)

  @functools.cached_property
  def measured(self) -> dict[str, np.ndarray]:
    """Scores float64[n] of the Swift model by name, as `elang.compared.scores_of`."""
    said = [row['models'][0] for row in self.found.rows]
    return compared.scores_of(said, self.split.examples, self._own)

  @functools.cached_property
  def groups(self) -> tuple[compared.Family, ...]:
    """Scores that order all inputs alike, together."""
    return compared.families(self.measured, self._own)

  @functools.cached_property
  def values(self) -> dict[str, np.ndarray]:
    """Scores float64[n] by the name of a family."""
    return {family.name: self.measured[family.stands_for] for family in self.groups}

  @property
  def own(self) -> str:
    """The name of the family that the router itself goes by."""
    return next(family.name for family in self.groups if family.is_own)

  @functools.cached_property
  def paths(self) -> dict[str, QuantilePath]:
    """From a share to a threshold, by family; of families without a number in the other split none.

    Only the Swift model is asked.
    """
    examples = read_split(self.task, self.path_split, limit=self.path_limit).examples
    known = [example for example in examples if example.texts]
    asked = with_evidence(self.router.models[0]).ask(known)
    rows = asked.answer(range(len(known)))
    said: list[Row] = [
      {'score': score, 'evidence': evidence_of(row)}
      for score, row in zip(asked.scores.tolist(), rows, strict=True)
    ]
    scores = compared.scores_of(said, known, self._own)
    return {
      family.name: QuantilePath.fit(scores[family.stands_for][None])
      for family in self.groups
      if np.isfinite(scores.get(family.stands_for, np.nan)).any()
    }

  @property
  def families(self) -> list[str]:
    """The scores that are compared."""
    return list(self.paths)

  @property
  def costs(self) -> dict[str, str]:
    """The share passed on, and what both models have a price for."""
    names = ('passed_on', *self.router.priced)
    return {name: LABELS.get(name, f'{name} per input') for name in names}

  @property
  def folder(self) -> str:
    """The workdir."""
    return self.workdir

  @property
  def about(self) -> str:
    """The models."""
    swift, large = (model.name for model in self.router.models)
    return (
      f'a router that lets {swift} answer what it is sure of, by {self.own}, and {large} the rest; '
      f'a threshold is the share of split {self.path_split} that it passes on'
    )

  @property
  def identity(self) -> dict[str, Any]:
    """The split, the models, their prices, and all that is compared."""
    return fingerprints.identity(
      {
        **self.split.identity,
        'data': self.split.data_fingerprint,
        'router': self.router.recording.identity,
        'path_split': {'name': self.path_split, 'limit': self.path_limit},
        'grid': list(self.grid),
        'dissimilarity': self.dissimilarity,
        'code': fingerprints.code('elang'),
      }
    )

  @property
  def full(self) -> Way:
    """The Super model for all."""
    return self._all_passed

  @functools.cached_property
  def _all_passed(self) -> Way:
    # Nobody asks the Swift model then.
    return self.way(self.router.models[1].name, np.ones(len(self.found.rows), bool), asks=False)

  @functools.cached_property
  def static(self) -> list[Way]:
    """The Swift model for all."""
    return [self.way(self.router.models[0].name, np.zeros(len(self.found.rows), bool))]

  oracle = None  # What it would pass on is shown with every share.

  def at(self, family: str, threshold: float) -> Way:
    """A score at a share of the other split."""
    (value,) = self.paths[family](threshold)
    return self.way(family, ~(self.values[family] >= value))

  def way(self, label: str, passed: np.ndarray, *, asks: bool = True) -> Way:
    """What is answered where passed[n] inputs go to the Super model, after the Swift is asked."""
    rows = [
      {**self._answer(row, over), 'units': 1, 'costs': {'passed_on': int(over)}}
      for row, over in zip(self.found.rows, passed.tolist(), strict=True)
    ]
    costs = {name: self.cost_of(name, passed, asks=asks) for name in self.costs}
    return Way(label, Results(rows, Path(self.workdir), 0, 0.0), costs, self.router)

  def cost_of(self, name: str, passed: np.ndarray, *, asks: bool = True) -> np.ndarray:
    """A cost float64[n]; who passes on pays for being asked, unless nobody asks."""
    if name == 'passed_on':
      return passed.astype(np.float64)
    kept, asking, large = self.prices(name)
    return np.where(passed, large + (asking if asks else 0), kept)

  def prices(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each input, float64[n]: the Swift's answer, being asked alone, and the Super's answer."""
    if name == 'passed_on':
      zeros = np.zeros(len(self.found.rows))
      return zeros, zeros, zeros + 1
    swift, large = ([row['models'][i] for row in self.found.rows] for i in (0, 1))
    return (
      np.array([one['costs'][name] for one in swift], np.float64),
      np.array([one['costs_of_asking'].get(name, 0.0) for one in swift], np.float64),
      np.array([one['costs'][name] for one in large], np.float64),
    )

  def seconds(
    self, ways: Mapping[str, Way], *, batch_size: int, num_examples: int, repeats: int
  ) -> dict[str, float]:
    """Seconds per input: the Swift's, the Super's, and of a router the Swift + share x the Super.

    Medians of both models, measured in turns on the first examples.
    """
    small, large = self.timed(batch_size, num_examples, repeats)
    found = {}
    for name, way in ways.items():
      share = float(way.costs['passed_on'].mean())
      found[name] = large if way is self.full else small + share * large
    return found

  def timed(self, batch_size: int, num_examples: int, repeats: int) -> tuple[float, float]:
    """Median seconds per input of the Swift, asked and answering, and of the Super model.

    Measured once.
    """
    asked = (batch_size, num_examples, repeats)
    if asked not in self._timed:
      some = self.split.examples[:num_examples]
      found = cost.time_router(self.router.at(None), some, batch_size=batch_size, repeats=repeats)
      swift, large = (found.models[model.name].p50 for model in self.router.models)
      self._timed[asked] = (swift, large)
    return self._timed[asked]

  @functools.cached_property
  def _timed(self) -> dict[tuple[int, int, int], tuple[float, float]]:
    return {}

  @property
  def _own(self) -> str:
    return getattr(self.router.models[0], 'score_name', compared.OWN)

  def _answer(self, row: Row, passed: bool) -> Row:
    return {'prediction': row['models'][int(passed)]['prediction']}
