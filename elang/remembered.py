"""A model that measures its seconds and remembers what it said, so that a knob moves at once."""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from calm.evaluation.predictor import Identity, Row
from calm.tasks.examples import Example
from elang.model import Asked, Model

SECONDS = 'seconds'
_MEASURED = 'measured_seconds'  # in rows


@dataclasses.dataclass
class _Said:
  """What a model has said of one input, and the seconds that took."""

  score: float | None = None  # None: it was not asked.
  asking: Row = dataclasses.field(default_factory=dict)
  asking_seconds: float = 0.0
  answer: Row | None = None
  answer_seconds: float = 0.0

  @property
  def asked(self) -> Row:
    """The row with which asking is paid."""
    return {**self.asking, _MEASURED: self.asking_seconds}

  @property
  def answered(self) -> Row:
    """The row of its answer."""
    return {**(self.answer or {}), _MEASURED: self.asking_seconds + self.answer_seconds}


class Remembered:
  """Another model's answers and scores, asked for once for each of its latest `size` inputs.

  'seconds' is among its prices in place of the model's own: those that a batch took, shared evenly
  by its inputs, when the model was run for them. What is asked a second time costs what it cost the
  first time.

  Not for several threads at a time.
  """

  def __init__(self, model: Model, size: int, clock: Callable[[], float] = time.perf_counter):
    self.model, self.size, self._clock = model, size, clock
    self._known: collections.OrderedDict[tuple, _Said] = collections.OrderedDict()

  @property
  def name(self) -> str:
    """The model's."""
    return self.model.name

  @property
  def identity(self) -> Identity:
    """The model's: it says the same."""
    return self.model.identity

  @property
  def priced(self) -> tuple[str, ...]:
    """The names of the model's prices, and seconds."""
    return (*(name for name in self.model.priced if name != SECONDS), SECONDS)

  @property
  def pricing(self) -> Identity:
    """The model's."""
    return self.model.pricing

  def check(self, examples: Sequence[Example]) -> None:
    """The model's check."""
    self.model.check(examples)

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """The model's rows."""
    said = self._said(examples)
    self._answer(examples, said, self.model.answer)
    return [one.answered for one in said]

  def ask(self, examples: Sequence[Example]) -> Asked:
    """Asks the model for what it was not asked yet; what it is not to answer is not answered."""
    said = self._said(examples)
    new = _first([i for i, one in enumerate(said) if one.score is None], said)
    asked: Asked | None = None
    if new:
      start = self._clock()
      asked = self.model.ask([examples[i] for i in new])
      seconds = (self._clock() - start) / len(new)
      for place, i in enumerate(new):
        said[i].score, said[i].asking = float(asked.scores[place]), asked.row(place)
        said[i].asking_seconds = seconds
        if asked.rows is not None:
          said[i].answer, said[i].answer_seconds = asked.rows[place], 0.0

    def answer(places: Sequence[int]) -> list[Row]:
      chosen = [said[i] for i in places]
      if asked is not None:  # It may hold what the answer begins with, as an encoder's states.
        self._answer_asked(asked, [(place, said[i]) for place, i in enumerate(new)], chosen)
      self._answer([examples[i] for i in places], chosen, self.model.answer)
      return [one.answered for one in chosen]

    scores = np.array([one.score for one in said], np.float64)
    return Asked(scores, answer, [one.asked for one in said])

  def costs(self, example: Example, row: Row) -> dict[str, float]:
    """The model's, and the seconds measured."""
    return {**self.model.costs(example, row), SECONDS: row[_MEASURED]}

  def costs_of_asking(self, example: Example, row: Row) -> dict[str, float]:
    """The model's, and the seconds measured."""
    return {**self.model.costs_of_asking(example, row), SECONDS: row[_MEASURED]}

  def _said(self, examples: Sequence[Example]) -> list[_Said]:
    """What is known of each example, to be filled; the oldest inputs are forgotten."""
    found = []
    for example in examples:
      key = (*example.texts.items(), example.prefix)
      found.append(self._known.setdefault(key, _Said()))
      self._known.move_to_end(key)
    while len(self._known) > self.size:
      self._known.popitem(last=False)
    return found

  def _answer_asked(
    self, asked: Asked, new: Sequence[tuple[int, _Said]], chosen: Sequence[_Said]
  ) -> None:
    """Has those of the chosen answered that were just asked."""
    wanted = {id(one) for one in chosen if one.answer is None}
    some = [(place, one) for place, one in new if id(one) in wanted]
    self._fill([one for _, one in some], lambda: asked.answer([place for place, _ in some]))

  def _answer(
    self,
    examples: Sequence[Example],
    said: Sequence[_Said],
    run: Callable[[Sequence[Example]], list[Row]],
  ) -> None:
    """Has those examples answered that are not yet."""
    new = _first([i for i, one in enumerate(said) if one.answer is None], said)
    self._fill([said[i] for i in new], lambda: run([examples[i] for i in new]))

  def _fill(self, said: Sequence[_Said], run: Callable[[], list[Row]]) -> None:
    if not said:
      return
    start = self._clock()
    rows = run()
    seconds = (self._clock() - start) / len(said)
    for one, row in zip(said, rows, strict=True):
      one.answer, one.answer_seconds = row, seconds


def _first(places: Sequence[int], said: Sequence[_Said]) -> list[int]:
  """Of several places of the same input the first."""
  return list({id(said[i]): i for i in reversed(places)}.values())[::-1]
