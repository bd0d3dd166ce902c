"""What anything that answers offers: a decoder, a classifier, a router, a function of one's own."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from calm import fingerprints, settings
from calm.tasks.examples import Example

# One example's answer as JSON takes it: `prediction`, `units` and `costs` by name, and whatever
# else the predictor says of it (`Predictor.results` names it all).
Row = dict[str, Any]
Identity = Mapping[str, Any]


class Predictor(Protocol):
  """Answers examples, some of them early; what it says of one depends on that one alone."""

  @property
  def name(self) -> str:
    """What all that `at` gives is called in paths, such as a measure's name."""

  @property
  def unit(self) -> str:
    """What `units` of a row counts, in the singular: 'token', or 'example' for one each."""

  @property
  def batch_size(self) -> int:
    """How many examples are best given at once; answers do not depend on it."""

  @property
  def results(self) -> tuple[str, ...]:
    """All names that a row may have."""

  @property
  def identity(self) -> Identity:
    """What its answers depend on, by content, in words where there are any.

    `code` is the fingerprint of the project's own code. A black box is given a version by its user.
    """

  @property
  def family(self) -> Identity:
    """What all predictors that `at` gives have in common: what a certificate holds for.

    Raises:
      ValueError: it has no threshold that could vary.
    """

  @property
  def flags(self) -> Mapping[str, str]:
    """Which flag sets a part of the identity, by the part's path or the beginning of it."""

  def at(self, threshold: float | None) -> 'Predictor':
    """The same at a threshold; None is the safe one: never early, always the full system."""

  def check(self, examples: Iterable[Example]) -> None:
    """Raises a ValueError that names the first example that it cannot read.

    What it can read but in part, as a text that is cut, is counted and said on standard error.
    """

  def __call__(self, examples: Sequence[Example]) -> list[Row]:
    """Answers, in order; `units` is at least 0 and costs are totals of the example."""


class Replayable(Predictor, Protocol):
  """A predictor of which one run tells what it would say at any threshold."""

  @property
  def recording(self) -> Predictor:
    """What is to be run: its rows hold all that thresholds decide about."""

  def replay(self, rows: Sequence[Row], threshold: float | None) -> list[Row]:
    """The rows that `at(threshold)` would give, of those of `recording`."""


@dataclasses.dataclass(frozen=True)
class FunctionPredictor:
  """A Python function as a predictor: of examples and a threshold (None is the safe end) to rows.

  It counts by its source and bound arguments, and by `version`, which stands for what it calls that
  has no source here, such as a service.
  """

  function: Callable[[Sequence[Example], float | None], list[Row]]
  name: str = 'function'
  version: str = ''
  threshold: float | None = None
  unit: str = 'example'
  batch_size: settings.Count = 32
  results: tuple[str, ...] = ('prediction', 'units', 'costs')
  flags: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    settings.check_fields(self)

  @property
  def identity(self) -> Identity:
    """The function, the version and the threshold."""
    return {**self.family, 'threshold': self.threshold}

  @property
  def family(self) -> Identity:
    """The function and the version."""
    return {'answers': fingerprints.identity(self.function), 'version': self.version}

  def at(self, threshold: float | None) -> 'FunctionPredictor':
    """The same function at a threshold."""
    return dataclasses.replace(self, threshold=threshold)

  def check(self, examples: Iterable[Example]) -> None:
    """A function reads whatever it is given."""

  def __call__(self, examples: Sequence[Example]) -> list[Row]:
    """What the function says."""
    return self.function(examples, self.threshold)
