"""The joint inference of Eq. 6 and 9: the cheapest model that is sure answers.

J(x) is f(x) if the score of the Swift model f reaches the threshold t, and else g(x), the Super
model's answer (https://arxiv.org/abs/2203.00748, section 3.2). Here of any number of models in
order of cost, each of which passes on what it is not sure of. Scores of different models need not
be alike: a `Path` gives each its own threshold, all moved by one knob.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from calm import fingerprints, storage
from calm.evaluation.predictor import Identity, Row
from calm.exits import stopping
from calm.settings import Count
from calm.tasks.examples import Example
from elang.model import EVIDENCE, Model, with_evidence

# Whose code decides which model answers.
CODE = (
  'elang.black_box',
  'elang.endpoint',
  'elang.energy',
  'elang.head_score',
  'elang.heads',
  'elang.model',
  'elang.routing',
  'calm.exits.stopping',
)
ENDS = (-math.inf, math.inf)


class Path(Protocol):
  """From a knob to thresholds: the higher, the more is passed on."""

  def __call__(self, knob: float) -> Sequence[float]:
    """A threshold for each model but the last."""


def choose(scores: Any, thresholds: Any) -> Any:
  """The number int[B] of the model that answers, from 0: the first whose score is high enough.

  scores[K - 1, B] are those of all models but the last, thresholds[K - 1] of theirs, NumPy's or
  JAX's, traced or not. A score equal to the threshold is enough. At -inf a model keeps all, at inf
  nothing, whatever scores are; a score that is NaN is never enough.
  """
  keeps = stopping.may_exit(scores, thresholds[:, None], ENDS)
  kept = keeps.any(0)
  return keeps.argmax(0) * kept + len(keeps) * ~kept


@dataclasses.dataclass(frozen=True)
class Router:
  """Answers each example by the first of its models that is sure; a `Predictor` and `Replayable`.

  A row has `prediction`, `units` (1), `model` (the name of the one that answered), `scores` (of all
  models but the last, None where one was not asked or had no number) and `costs`: 'passed_on', by
  how many models, and in total whatever all models have a price for, such as 'flops' or 'seconds'.
  Who passes on is paid for, too. Only what is passed on reaches the next model, all of it together;
  a model that can keep nothing is not asked. Thresholds are plain numbers: no change of them
  compiles anything.

  Raises:
    ValueError: fewer than two models, two of one name, or thresholds that are not one for each
      model but the last.
  """

  models: Sequence[Model]  # The cheapest first.
  threshold: float | Sequence[float] | None = None  # None: the last model answers all.
  path: Path | None = None  # From one threshold to those of all models but the last.
  batch_size: Count = 256  # Examples whose rows are passed on together.
  recorded: bool = False  # Whether rows hold what every model says.

  unit = 'example'
  flags: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    object.__setattr__(self, 'models', tuple(self.models))
    names = [model.name for model in self.models]
    if len(names) < 2 or len(set(names)) < len(names):
      raise ValueError(f'A router needs two models or more, all named differently, not {names}.')
    if isinstance(self.threshold, np.ndarray | list | tuple):
      object.__setattr__(self, 'threshold', tuple(map(float, self.threshold)))
    _ = self.thresholds

  @property
  def name(self) -> str:
    """The models' names, joined."""
    return '-'.join(model.name for model in self.models)

  @property
  def results(self) -> tuple[str, ...]:
    """All names that a row may have."""
    said = ('prediction', 'units', 'costs', 'model', 'scores')
    return (*said, 'models') if self.recorded else said

  @property
  def identity(self) -> Identity:
    """Models, path, prices and threshold, by content; a model's is its version where it has one."""
    prices = {model.name: model.pricing for model in self.models}
    if self.recorded:
      return {**self.family, 'prices': prices, 'recorded': True}
    threshold = fingerprints.identity(self.threshold)
    return {**self.family, 'prices': prices, 'threshold': threshold}

  @property
  def family(self) -> Identity:
    """The models in order, and the path: what a certificate holds for."""
    identities = {model.name: dict(model.identity) for model in self.models}
    codes = [identity.pop('code', None) for identity in identities.values()]
    path = {} if self.path is None else {'path': fingerprints.identity(self.path)}
    return {
      'order': [model.name for model in self.models],
      'models': identities,
      **path,
      'code': fingerprints.fingerprint([fingerprints.code(*CODE), *codes]),
    }

  @property
  def thresholds(self) -> np.ndarray:
    """float64[K - 1], one for each model but the last."""
    return self._thresholds(self.threshold)

  @property
  def recording(self) -> 'Router':
    """The same with rows that hold what every model says."""
    return dataclasses.replace(self, threshold=None, recorded=True)

  def at(self, threshold: float | Sequence[float] | None) -> 'Router':
    """The same at a threshold; None is the last model for all."""
    return dataclasses.replace(self, threshold=threshold, recorded=False)

  def check(self, examples: Iterable[Example]) -> None:
    """Raises a ValueError that names the first example that one of the models cannot read."""
    known = [example for example in examples if example.texts]
    for model in self.models:
      model.check(known)

  def __call__(self, examples: Sequence[Example]) -> list[Row]:
    """The rows of examples, in their order; of one without a text an empty answer."""
    known = [example for example in examples if example.texts]
    rows = iter(self._record(known) if self.recorded else self._route(known))
    return [next(rows) if example.texts else self._nothing() for example in examples]

  def replay(self, rows: Sequence[Row], threshold: float | Sequence[float] | None) -> list[Row]:
    """The rows that `at(threshold)` gives, of those of `recording`."""
    thresholds = self._thresholds(threshold)
    known = [row['models'] for row in rows if row['models']]
    scores = recorded_scores(known, len(self.models))
    answered = iter(choose(scores, thresholds).tolist())
    return [
      self._looked_up(row['models'], next(answered), thresholds)
      if row['models']
      else self._nothing()
      for row in rows
    ]

  def _thresholds(self, threshold: float | Sequence[float] | None) -> np.ndarray:
    count = len(self.models) - 1
    if threshold is None:
      return np.full(count, math.inf)
    values = [float(value) for value in np.ravel(threshold)]
    if np.ndim(threshold) == 0:
      values = values * count if self.path is None else list(self.path(values[0]))
    found = np.array(values, np.float64)
    if found.shape != (count,) or np.isnan(found).any():
      raise ValueError(
        f'The threshold is {threshold}: {count} are needed, one for each model but the last, and'
        ' none of them NaN.'
      )
    return found

  def _route(self, examples: Sequence[Example]) -> list[Row]:
    """Asks one model after the other, each for what those before it have passed on."""
    trails = [_Trail(len(self.models)) for _ in examples]
    pending = list(range(len(examples)))
    for number, threshold in enumerate(self.thresholds.tolist()):
      if pending and threshold < math.inf:
        pending = self._ask(number, threshold, examples, pending, trails)
    last = self.models[-1]
    rows = last.answer([examples[i] for i in pending]) if pending else []
    for index, row in zip(pending, rows, strict=True):
      trails[index].answer(len(self.models) - 1, row, last.costs(examples[index], row))
    return [self._row(trail) for trail in trails]

  def _ask(
    self,
    number: int,
    threshold: float,
    examples: Sequence[Example],
    pending: Sequence[int],
    trails: Sequence['_Trail'],
  ) -> list[int]:
    """Lets a model answer what it keeps of the pending examples; gives what it passes on."""
    model = self.models[number]
    asked = model.ask([examples[i] for i in pending])
    keeps = choose(asked.scores[None], np.array([threshold])) == 0
    places = np.flatnonzero(keeps).tolist()
    answers = dict(zip(places, asked.answer(places) if places else [], strict=True))
    for place, index in enumerate(pending):
      trail, example = trails[index], examples[index]
      trail.scores[number] = storage.number(asked.scores[place])
      if place in answers:
        trail.answer(number, answers[place], model.costs(example, answers[place]))
      else:
        trail.costs.append(model.costs_of_asking(example, asked.row(place)))
    return [pending[place] for place in np.flatnonzero(~keeps).tolist()]

  def _record(self, examples: Sequence[Example]) -> list[Row]:
    """What every model says of every example, under the last model's answer."""
    if not examples:
      return []
    everything: list[list[Row]] = [[] for _ in examples]
    for model in map(with_evidence, self.models[:-1]):
      asked = model.ask(examples)
      rows = asked.answer(range(len(examples)))
      scores = map(storage.number, asked.scores.tolist())
      for example, said, row, score in zip(examples, everything, rows, scores, strict=True):
        asking = model.costs_of_asking(example, row)
        scored = {'score': score, 'costs_of_asking': asking, 'evidence': evidence_of(row)}
        said.append({**_said(model, example, row), **scored})
    last = self.models[-1]
    for example, said, row in zip(examples, everything, last.answer(examples), strict=True):
      said.append(_said(last, example, row))
    nobody = np.full(len(self.models) - 1, math.inf)
    rows = [self._looked_up(said, len(self.models) - 1, nobody) for said in everything]
    return [{**row, 'models': said} for row, said in zip(rows, everything, strict=True)]

  def _looked_up(self, said: Sequence[Row], answered: int, thresholds: np.ndarray) -> Row:
    """The row of an example that model number `answered` answers, of what all models said."""
    trail = _Trail(len(self.models))
    for number in range(answered):
      if thresholds[number] < math.inf:
        trail.scores[number] = said[number]['score']
        trail.costs.append(said[number]['costs_of_asking'])
    if answered < len(thresholds):
      trail.scores[answered] = said[answered]['score']
    trail.answer(answered, said[answered], said[answered]['costs'])
    return self._row(trail)

  def _row(self, trail: '_Trail') -> Row:
    return {
      'prediction': trail.prediction,
      'units': 1,
      'costs': {'passed_on': trail.number, **self._totals(trail.costs)},
      'model': self.models[trail.number].name,
      'scores': trail.scores,
    }

  def _nothing(self) -> Row:
    """The row of an example without a text, such as a blank line."""
    row = {'prediction': '', 'units': 0, 'costs': {'passed_on': 0, **self._totals([])}}
    return {**row, 'models': []} if self.recorded else row

  def _totals(self, costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(one.get(name, 0.0) for one in costs) for name in self.priced}

  @property
  def priced(self) -> tuple[str, ...]:
    """The costs that all models have a price for: of others there is no total."""
    names = self.models[-1].priced
    return tuple(name for name in names if all(name in model.priced for model in self.models))


class _Trail:
  """What an example has met on its way: scores, costs, and the answer at its end."""

  def __init__(self, num_models: int):
    self.scores: list[float | None] = [None] * (num_models - 1)
    self.costs: list[Mapping[str, float]] = []
    self.number, self.prediction = 0, ''

  def answer(self, number: int, row: Row, costs: Mapping[str, float]) -> None:
    """Ends it with the row of model `number`."""
    self.number, self.prediction = number, row['prediction']
    self.costs.append(costs)


def _said(model: Model, example: Example, row: Row) -> Row:
  return {'prediction': row['prediction'], 'costs': model.costs(example, row)}


def evidence_of(row: Row) -> dict[str, list[float | None]]:
  """What a model's row says of which other scores can be made."""
  return {name: row[name] for name in EVIDENCE if name in row}


def recorded_scores(models: Sequence[Sequence[Row]], count: int) -> np.ndarray:
  """Scores float64[K - 1, n] of what all `count` models said of each example, -inf where unknown.

  `models` are the rows' `models`.
  """
  found = [[one['score'] for one in said[:-1]] for said in models]
  flat = [-math.inf if score is None else score for score in itertools.chain(*found)]
  return np.array(flat, np.float64).reshape(len(models), count - 1).T
