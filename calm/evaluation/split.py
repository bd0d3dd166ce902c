"""A split of a task: its examples, what they are compared with, and what it is in words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import seqio

from calm import fingerprints
from calm.evaluation.predictor import Identity, Row
from calm.tasks import examples
from calm.tasks import identity as identities
from calm.tasks.examples import Example


@dataclasses.dataclass(frozen=True)
class Split:
  """The first examples of a split, or all of them."""

  task: seqio.Task
  name: str
  examples: Sequence[Example]

  @property
  def data_fingerprint(self) -> str:
    """Changes with any text of the examples, their references among them, and their number."""
    found = [[dict(one.texts), one.target, dict(one.raw)] for one in self.examples]
    return fingerprints.fingerprint(fingerprints.identity(found))

  @property
  def identity(self) -> Identity:
    """What the task makes of a record, by content, and the name of the split."""
    task = fingerprints.identity(identities.describe_task(self.task))
    return {'task': task, 'split': self.name}

  def references(self) -> list[Any]:
    """What the task's metrics compare predictions with, by its own postprocessing."""
    return examples.postprocess_targets(self.task, self.examples)

  def postprocessed(self, predictions: Sequence[str]) -> list[Any]:
    """Predictions as the task's metrics take them."""
    return examples.postprocess_predictions(self.task, self.examples, predictions)

  def score(self, predictions: Sequence[str]) -> dict[str, float]:
    """The task's metrics of predictions, one for each example."""
    return examples.score(self.task, self.examples, predictions)


def read_split(task: seqio.Task, name: str, *, limit: int | None = None) -> Split:
  """The examples of a split, the first `limit` of them if it is given.

  Raises:
    ValueError: no such split, or an empty one, or a limit below 1.
  """
  return Split(task, name, examples.evaluation_examples(task, name, limit=limit))


def head(example: Example) -> Row:
  """What the line of an example begins with: itself, so that another one is noticed."""
  return {'index': example.index, **example.texts, 'targets': example.target}
