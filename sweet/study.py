"""A run's comparison for tables of trials: each classifier alone, an oracle, and every threshold.

What SWEET's classifiers save at a tolerance is measured as CALM's exits are, by
`calm.reporting.efficiency.trials`: https://arxiv.org/abs/2207.07061, section 5.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from calm import fingerprints
from calm.calibration import consistency, testing
from calm.evaluation.calibrate import FOLDER
from calm.evaluation.outcomes import Replay, Results
from calm.evaluation.split import Split, read_split
from calm.exits import stopping
from calm.reporting.comparison import Judged, Way
from calm.settings import Count, check_fields
from sweet import timing
from sweet.multi_model import MultiModel
from sweet.predictor import ExitsPredictor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierStudy(Judged):
  """A split of a task and the classifiers of a run: a `Comparison`.

  The full system is the last classifier, static ones are the others alone, each run as the model
  that ends there. The oracle lets each example leave at the first classifier that says what the
  last one does. The split is predicted once, where `sweet calibrate` keeps it.

  Args:
    task: of labelled texts.
    split_name: its split, of rows that were not trained on.
    predictor: of the run; its measure is the one family, unless there are `measures`.
    workdir: of the run.
    measures: of `calm.exits.stopping`, which are compared.
    grid: descending thresholds; 0.95 to 0 in steps of 0.05 by default.
    dissimilarity: of labels, from 0 to 1.
    limit: examples at most.

  Raises:
    ValueError: two measures of one name, or one that the classifiers' outputs do not allow.
  """

  task: seqio.Task
  split_name: str
  predictor: ExitsPredictor
  workdir: str
  measures: Sequence[stopping.ExampleMeasure] | None = None
  grid: Sequence[float] = dataclasses.field(default_factory=testing.descending_grid)
  dissimilarity: consistency.Dissimilarity = consistency.exact_match
  limit: Count | None = None
  unit: str = 'example'
  costs: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {'layers': 'layers per example'}
  )

  def __post_init__(self) -> None:
    check_fields(self)
    object.__setattr__(self, 'grid', testing.check_grid(self.grid))
    measures = (self.predictor.measure,) if self.measures is None else tuple(self.measures)
    names = [measure.name for measure in measures]
    if len(set(names)) < len(names) or not names:
      raise ValueError(f'measures (MEASURES) are {", ".join(names) or "none"}: name each once.')
    for measure in measures:
      measure.check(self.predictor.model.config.num_outputs)
    object.__setattr__(self, 'measures', measures)

  @functools.cached_property
  def split(self) -> Split:
    """The examples."""
    return read_split(self.task, self.split_name, limit=self.limit)

  @functools.cached_property
  def outcomes(self) -> dict[str, Replay]:
    """The split at any threshold, by each measure; one run of all classifiers tells it."""
    folder = Path(self.workdir, FOLDER)
    by_name = {measure.name: self._with(measure) for measure in self.measures or ()}
    return {name: Replay(self.split, one, folder) for name, one in by_name.items()}

  @property
  def families(self) -> list[str]:
    """The measures by their names in paths."""
    return list(self.outcomes)

  @property
  def exits(self) -> tuple[int, ...]:
    """The layers after which there are classifiers."""
    return self.predictor.model.exits

  @functools.cached_property
  def full(self) -> Way:
    """The last classifier, for all."""
    return self._alone(len(self.exits))

  @functools.cached_property
  def static(self) -> list[Way]:
    """Each earlier classifier, for all."""
    return [self._alone(k) for k in range(1, len(self.exits))]

  @functools.cached_property
  def oracle(self) -> Way:
    """Each example leaves at the first classifier that agrees with the last."""
    by_exit = [self._rows_of(k) for k in range(1, len(self.exits) + 1)]
    said = np.array([[row['prediction'] for row in rows] for rows in by_exit])
    first = (said == said[-1]).argmax(0)
    rows = [by_exit[exit][i] for i, exit in enumerate(first.tolist())]
    return self._way('oracle', rows, self.predictor)

  def at(self, family: str, threshold: float) -> Way:
    """A measure at a threshold."""
    outcomes = self.outcomes[family]
    found = self._with(outcomes.predictor.measure)  # type: ignore[attr-defined]
    return self._way(family, outcomes.at(threshold).rows, found.at(threshold))

  def seconds(
    self, ways: Mapping[str, Way], *, batch_size: int, num_examples: int, repeats: int
  ) -> dict[str, float]:
    """Seconds per example of each way, measured in turn on the first examples."""
    known = [example for example in self.split.examples if example.texts][:num_examples]
    systems = [way.predictor for way in ways.values()]
    found = timing.seconds_in_turn(
      systems,  # type: ignore[arg-type]
      known,
      batch_size=batch_size,
      repeats=repeats,
    )
    return dict(zip(ways, found, strict=True))

  @property
  def folder(self) -> str:
    """The workdir."""
    return self.workdir

  @property
  def about(self) -> str:
    """The sizes of the model."""
    cfg = self.predictor.model.config.encoder
    exits = ', '.join(map(str, self.exits))
    return f'an encoder of {cfg.num_layers} layers, {cfg.emb_dim} wide, with exits after {exits}'

  @property
  def identity(self) -> dict[str, Any]:
    """The split, the classifiers, and all that is compared."""
    return fingerprints.identity(
      {
        **self.split.identity,
        'data': self.split.data_fingerprint,
        'families': {name: one.predictor.family for name, one in self.outcomes.items()},
        'grid': list(self.grid),
        'dissimilarity': self.dissimilarity,
      }
    )

  def _with(self, measure: stopping.ExampleMeasure) -> ExitsPredictor:
    return dataclasses.replace(self.predictor, measure=measure, threshold=None)

  def _rows_of(self, k: int) -> list[dict[str, Any]]:
    recorded = next(iter(self.outcomes.values())).recorded
    return self._with(stopping.FixedExit()).replay(recorded.rows, float(k))

  def _alone(self, k: int) -> Way:
    layers = self.exits[k - 1]
    rows = [{**row, 'costs': {'layers': layers}} for row in self._rows_of(k)]
    label = '1 layer' if layers == 1 else f'{layers} layers'
    return self._way(label, rows, self._model_that_ends_at(k))

  def _model_that_ends_at(self, k: int) -> ExitsPredictor:
    model, found = self.predictor.model, self._with(stopping.FixedExit())
    if not isinstance(model, MultiModel):
      return found.at(float(k))
    own = {'model': model.models[k - 1], 'params': found.params[f'model_{k}']}
    by = None if found.temperatures is None else (found.temperatures[k - 1],)
    return dataclasses.replace(found, **own, temperatures=by)

  def _way(self, label: str, rows: Sequence[Mapping[str, Any]], predictor: ExitsPredictor) -> Way:
    results = Results(list(map(dict, rows)), Path(self.workdir), 0, 0.0)
    return Way(label, results, {name: results.cost(name) for name in self.costs}, predictor)
