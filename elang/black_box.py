"""Functions, predictors and decoders as models of a router.

A model is a black box with a name and, where its content cannot be read, a version that its user
gives: both stand in certificates, so that another model needs another one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calm import fingerprints
from calm.decoding.text_predictor import TextPredictor
from calm.evaluation.predictor import Identity, Predictor, Row
from calm.exits import buckets
from calm.settings import Count
from calm.tasks.examples import Example
from elang.model import (
  Asked,
  Model,
  Price,
  Priced,
  answered,
  as_scores,
  check_version,
  paid,
  with_evidence,
)

# Of rows: how sure is each? A name of what rows have, or a function of a row.
RowScore = str | Callable[[Row], float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlackBox(Priced):
  """A Python function as a model: from a list of texts to their predictions, or to both.

  `function` is given a list of texts (of examples with several texts: of dicts, by name) and gives
  as many predictions; a model that is to pass inputs on gives (predictions, scores). Whatever it
  is made of, `version` stands for it: say another one when it changes.

  Raises:
    ValueError: there is no version.
  """

  function: Callable[[list[Any]], Any]
  batch_size: Count = 32

  def __post_init__(self) -> None:
    super().__post_init__()
    check_version(self)

  @property
  def identity(self) -> Identity:
    """The function's name and the version."""
    return {'function': fingerprints.name_of(self.function), 'version': self.version}

  def check(self, examples: Sequence[Example]) -> None:
    """A function reads whatever it is given."""

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """What the function says.

    Raises:
      ValueError: it gives more or fewer predictions than texts, or no texts.
    """
    return [row for batch in _batches(examples, self.batch_size) for row in self._run(batch)[0]]

  def ask(self, examples: Sequence[Example]) -> Asked:
    """Runs the function for all, whose answers wait.

    Raises:
      ValueError: as `answer`, or there are no scores.
    """
    rows: list[Row] = []
    scores: list[float | None] = []
    for batch in _batches(examples, self.batch_size):
      found_rows, found = self._run(batch)
      if found is None:
        raise ValueError(
          f'{self.name} gives no scores, and a model before the last needs them: let its function'
          ' return (predictions, scores).'
        )
      rows += found_rows
      scores += found
    return answered(scores, rows)

  def _run(self, examples: Sequence[Example]) -> tuple[list[Row], list[Any] | None]:
    given = [_text(example) for example in examples]
    try:
      result = self.function(given)
    except Exception as error:  # Whatever is in the box.
      where = f'{examples[0].where} to {examples[-1].where}'
      said = f'{type(error).__name__}: {error}'
      raise ValueError(f'{self.name} failed on {where}, with {said}') from error
    paired = isinstance(result, tuple) and len(result) == 2 and not isinstance(result[0], str)
    predictions, scores = result if paired else (result, None)
    rows = [{'prediction': prediction} for prediction in _listed(self.name, predictions, given)]
    _check_rows(self.name, rows, examples)
    return rows, None if scores is None else _listed(self.name, scores, given, 'scores')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorModel(Priced):
  """Any `calm.evaluation.predictor.Predictor` as a model: a decoder, a classifier, exits inside.

  `score` is what its rows tell of how sure it is, by default `confidence`. Its threshold, if it has
  one, is its own affair: give it as it is to answer.
  """

  predictor: Predictor
  score: RowScore = 'confidence'

  @property
  def identity(self) -> Identity:
    """The predictor's, the score's, and the version if there is one."""
    version = {'version': self.version} if self.version else {}
    score = fingerprints.identity(self.score)
    return {**self.predictor.identity, 'score': score, **version}

  @property
  def with_evidence(self) -> 'PredictorModel':
    """The same with rows that hold what other scores could be made of."""
    return dataclasses.replace(self, predictor=with_evidence(self.predictor))

  def check(self, examples: Sequence[Example]) -> None:
    """The predictor's check."""
    self.predictor.check(examples)

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """The predictor's rows."""
    rows: list[Row] = []
    for batch in _batches(examples, self.predictor.batch_size):
      rows += _fitted(self.predictor, len(batch))(batch)
    _check_rows(self.name, rows, examples)
    return rows

  def ask(self, examples: Sequence[Example]) -> Asked:
    """Answers all; the answers wait.

    Raises:
      ValueError: rows do not have the score.
    """
    rows = self.answer(examples)
    return answered([self._score(row) for row in rows], rows)

  def _score(self, row: Row) -> float | None:
    if callable(self.score):
      return self.score(row)
    if self.score not in row:
      known = ', '.join(self.predictor.results)
      raise ValueError(
        f'{self.name}: rows have no {self.score!r} to route by (they may have {known}): set score.'
      )
    return row[self.score]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredFirst(Priced):
  """A model that is asked how sure it is before it answers, and answers only what it keeps.

  So a head on the encoder (Eq. 9) spares the decoder what is passed on, and a text's length spares
  the whole model. `score` gives a number for each of a list of examples; `prices_of_asking` is what
  that costs.
  """

  model: Model
  score: Callable[[Sequence[Example]], Any]
  prices_of_asking: Mapping[str, Price] = dataclasses.field(default_factory=dict)

  @property
  def identity(self) -> Identity:
    """The model's and the score's."""
    version = {'version': self.version} if self.version else {}
    return {**self.model.identity, 'score': fingerprints.identity(self.score), **version}

  @property
  def priced(self) -> tuple[str, ...]:
    """The names of the model's prices, its own, and those of asking."""
    return tuple(dict.fromkeys((*self.model.priced, *self.prices, *self.prices_of_asking)))

  @property
  def pricing(self) -> Identity:
    """All of them."""
    own = {'prices': self.prices, 'prices_of_asking': self.prices_of_asking}
    return {'model': self.model.pricing, **fingerprints.identity(own)}

  @property
  def with_evidence(self) -> 'ScoredFirst':
    """The same with rows that hold what other scores could be made of."""
    return dataclasses.replace(self, model=with_evidence(self.model))

  def check(self, examples: Sequence[Example]) -> None:
    """The model's check."""
    self.model.check(examples)

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """The model's rows."""
    return self.model.answer(examples)

  def ask(self, examples: Sequence[Example]) -> Asked:
    """Scores all; answers those that it is asked to."""
    scores = as_scores(_listed(self.name, self.score(examples), examples, 'scores'))
    return Asked(scores, lambda places: self.model.answer([examples[i] for i in places]))

  def costs(self, example: Example, row: Row) -> dict[str, float]:
    """The model's, its own prices and those of asking: F_E + F_h + F_D of Eq. 16."""
    return _sum(self.model.costs(example, row), super().costs(example, row), self._asked(example))

  def costs_of_asking(self, example: Example, row: Row) -> dict[str, float]:
    """Those of asking alone: F_E + F_h of Eq. 16."""
    del row
    return self._asked(example)

  def _asked(self, example: Example) -> dict[str, float]:
    return {name: paid(price, example, {}) for name, price in self.prices_of_asking.items()}


@dataclasses.dataclass(frozen=True)
class TokenScore:
  """How sure a decoder was of its tokens: their mean, or a quantile; -inf where there is none.

  Of a `TextPredictor` with `token_scores`: 'negative_energies' (Eq. 8 on the decoder instead of a
  head) or 'token_log_probs'. A low quantile looks at the worst tokens.

  Raises:
    ValueError: the quantile is not in [0, 1].
  """

  field: str = 'negative_energies'
  quantile: float | None = None

  def __post_init__(self) -> None:
    if self.quantile is not None and not 0 <= self.quantile <= 1:
      raise ValueError(f'quantile must lie in [0, 1], not at {self.quantile}.')

  def __call__(self, row: Row) -> float:
    """The score of a row.

    Raises:
      ValueError: it does not say.
    """
    if self.field not in row:
      raise ValueError(f'Rows have no {self.field}: give the TextPredictor token_scores = True.')
    values = [-math.inf if value is None else value for value in row[self.field]]
    if not values or -math.inf in values:
      return -math.inf
    return float(np.mean(values) if self.quantile is None else np.quantile(values, self.quantile))


def mean_log_prob(row: Row) -> float:
  """The mean log-probability of the tokens that a decoder generated; -inf where there is none."""
  if row['log_prob'] is None or not row['units']:
    return -math.inf
  return row['log_prob'] / row['units']


def negative_perplexity(row: Row) -> float:
  """Minus the perplexity of the tokens that a decoder generated; it orders as `mean_log_prob`."""
  return -math.exp(min(700.0, -mean_log_prob(row)))


def _text(example: Example) -> Any:
  texts = dict(example.texts)
  return next(iter(texts.values())) if len(texts) == 1 else texts


def _batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
  for at in range(0, len(examples), size):
    yield examples[at : at + size]


def _fitted(predictor: Predictor, count: int) -> Predictor:
  """The predictor for a batch of so many: a decoder pads its batches to a size that fits."""
  if not isinstance(predictor, TextPredictor):
    return predictor
  size = min(predictor.batch_size, buckets.next_size(count))
  return dataclasses.replace(predictor, batch_size=size)


def _sum(*costs: Mapping[str, float]) -> dict[str, float]:
  names = dict.fromkeys(name for one in costs for name in one)
  return {name: sum(one.get(name, 0.0) for one in costs) for name in names}


def _listed(name: str, values: Any, given: Sequence[Any], what: str = 'predictions') -> list[Any]:
  """Values as a list of as many as were given, whatever array they come in."""
  if isinstance(values, str) or not hasattr(values, '__len__'):
    raise ValueError(f'{name} gives {type(values).__name__} as {what}: a list is needed.')
  found = np.asarray(values).tolist() if hasattr(values, 'dtype') else list(values)
  if len(found) != len(given):
    raise ValueError(f'{name} gives {len(found)} {what} for {len(given)} inputs.')
  return found


def _check_rows(name: str, rows: Sequence[Row], examples: Sequence[Example]) -> None:
  if len(rows) != len(examples):
    raise ValueError(f'{name} gives {len(rows)} rows for {len(examples)} inputs.')
  for row, example in zip(rows, examples, strict=True):
    if not isinstance(row.get('prediction'), str):
      kind = type(row.get('prediction')).__name__
      raise ValueError(f'{name} answers {example.where} with {kind}: predictions are texts.')
