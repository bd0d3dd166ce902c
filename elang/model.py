"""What a router asks of a model: answers to a batch, and of the earlier ones how sure they are."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from calm import fingerprints
from calm.evaluation.predictor import Identity, Row
from calm.tasks.examples import Example

# What an answer costs: a number, or a function of the example and the row that answers it.
Price = float | Callable[[Example, Row], float]


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a model says of a batch before it is known which rows it is to answer."""

  scores: np.ndarray  # float64[B], higher for surer; -inf where there is no number
  answer: Callable[[Sequence[int]], list[Row]]  # The rows of some of the batch, by their places.
  rows: Sequence[Row] | None = None  # All of them, where the score comes with the answer.

  def row(self, place: int) -> Row:
    """What is known already of an answer; {} if nothing is."""
    return {} if self.rows is None else self.rows[place]


class Model(Protocol):
  """What answers texts, and knows what that costs."""

  @property
  def name(self) -> str:
    """What it is called in rows and certificates."""

  @property
  def identity(self) -> Identity:
    """What its answers and scores depend on; `code` is the fingerprint of the project's own."""

  @property
  def priced(self) -> tuple[str, ...]:
    """The names of its costs."""

  @property
  def pricing(self) -> Identity:
    """What its costs depend on, by content."""

  def check(self, examples: Sequence[Example]) -> None:
    """Raises a ValueError that names the first example that it cannot read."""

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """A row with `prediction` for each example, in order."""

  def ask(self, examples: Sequence[Example]) -> Asked:
    """How sure it is of each. Raises a ValueError if it does not say."""

  def costs(self, example: Example, row: Row) -> dict[str, float]:
    """What it cost to answer with a row, by name."""

  def costs_of_asking(self, example: Example, row: Row) -> dict[str, float]:
    """What it cost to say how sure it is, where another model answers.

    `row` is what it would answer, or {} where that is not known.
    """


# What rows may have of which scores can be made: logits of a classification, and of each token.
EVIDENCE = ('logits', 'token_log_probs', 'negative_energies')


def with_evidence(asked: Any) -> Any:
  """The model or predictor with rows that have its EVIDENCE; as it is, where it has none."""
  return getattr(asked, 'with_evidence', asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Priced:
  """A named model's prices."""

  name: str
  version: str | int | float = ''
  prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if not re.fullmatch(r'[\w.+-]+', self.name):
      raise ValueError(f'A model is named {self.name!r}: letters, digits and . _ + - are allowed.')
    object.__setattr__(self, 'version', str(self.version))  # A command line gives numbers, too.

  @property
  def priced(self) -> tuple[str, ...]:
    """The names of its prices."""
    return tuple(self.prices)

  @property
  def pricing(self) -> Identity:
    """Its prices."""
    return fingerprints.identity(self.prices)

  def costs(self, example: Example, row: Row) -> dict[str, float]:
    """The prices of an answer."""
    return {name: paid(price, example, row) for name, price in self.prices.items()}

  def costs_of_asking(self, example: Example, row: Row) -> dict[str, float]:
    """Those of an answer: the score comes with it."""
    return self.costs(example, row)


def as_scores(scores: Sequence[float | None]) -> np.ndarray:
  """Scores float64[n]; what is None or not finite is -inf, so that no threshold keeps it."""
  found = np.array([math.nan if one is None else float(one) for one in scores], np.float64)
  return np.where(np.isfinite(found), found, -np.inf)


def answered(scores: Sequence[float | None], rows: Sequence[Row]) -> Asked:
  """What a model says that has answered all already."""
  return Asked(as_scores(scores), lambda places: [rows[i] for i in places], rows)


def paid(price: Price, example: Example, row: Row) -> float:
  """What a price comes to."""
  return float(price(example, row)) if callable(price) else float(price)


def check_version(model: Priced) -> None:
  """Raises a ValueError for a black box without a version."""
  if not str(model.version).strip():
    raise ValueError(f'{model.name} needs a version, as in version="2": it stands for its content.')
