"""What is asked of a classifier, as data: the texts of a record, and its label or number.

A text-to-text model is asked for the label's name (`calm.tasks.prompts.ClassificationPrompt`), a
classifier for its number; both read the same records.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from calm import storage
from calm.tasks import templates


@dataclasses.dataclass(frozen=True)
class _Texts:
  """The texts of a record."""

  fields: tuple[str, ...]  # of the texts, in order; encoders take one or two

  def __post_init__(self) -> None:
    _check_names(self, 'fields', least=1)

  def texts(self, record: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a record by field, in order.

    Raises:
      ValueError: a field is missing or no text.
    """
    texts = {field: templates.lookup(record, (field,)) for field in self.fields}
    for field, value in texts.items():
      if not isinstance(value, str):
        raise templates.FieldError(f'{field} is {storage.shown(value)}, not a text.')
    return texts

  def label(self, record: Mapping[str, Any]) -> Any:
    """The label of a record as a number, or None if it has none."""
    raise NotImplementedError

  def written(self, label: Any) -> str:
    """A label as text."""
    raise NotImplementedError

  def target(self, record: Mapping[str, Any]) -> str:
    """The label of a record as text; '' if it has none.

    Raises:
      ValueError: as `label`.
    """
    return self.written(self.label(record))


@dataclasses.dataclass(frozen=True)
class Classification(_Texts):
  """One label for the texts of a record.

  Raises:
    ValueError: there is no field, fewer than two labels, or one of either twice.
  """

  labels: tuple[str, ...]  # the names of labels 0, 1, ...
  label_field: str = 'label'

  def __post_init__(self) -> None:
    super().__post_init__()
    _check_names(self, 'labels', least=2)

  @property
  def num_outputs(self) -> int:
    """Numbers that a classifier gives: a logit for each label."""
    return len(self.labels)

  def label(self, record: Mapping[str, Any]) -> int | None:
    """The number of a record's label, given as a number or a name; None if it has none (or -1).

    Raises:
      ValueError: the label is neither.
    """
    value: Any = record.get(self.label_field)
    if value is None:
      return None
    if isinstance(value, str):
      if value in self.labels:
        return self.labels.index(value)
      value = templates.as_whole(value)
    if hasattr(value, '__index__') and -1 <= int(value) < len(self.labels):
      return int(value) if value >= 0 else None
    raise templates.FieldError(
      f'{self.label_field} is {storage.shown(value)}, not a number below {len(self.labels)} or one'
      f' of {", ".join(map(repr, self.labels))}.'
    )

  def written(self, label: int | None) -> str:
    """The name of a label; '' of None."""
    return '' if label is None else self.labels[label]

  def answer(self, outputs: np.ndarray) -> str:
    """The name of the largest of outputs[num_outputs]."""
    return self.labels[int(outputs.argmax())]


@dataclasses.dataclass(frozen=True)
class Regression(_Texts):
  """One number for the texts of a record, such as how alike two sentences are.

  Raises:
    ValueError: there is no field, or one twice, or lowest exceeds highest.
  """

  lowest: float = -math.inf
  highest: float = math.inf
  label_field: str = 'label'

  def __post_init__(self) -> None:
    super().__post_init__()
    if not self.lowest < self.highest:
      raise ValueError(f'lowest ({self.lowest}) must be below highest ({self.highest}).')

  @property
  def num_outputs(self) -> int:
    """One: the number."""
    return 1

  def label(self, record: Mapping[str, Any]) -> float | None:
    """The number of a record; None if it has none, or -1 where that is out of range.

    Raises:
      ValueError: it is no number, or out of range.
    """
    value: Any = record.get(self.label_field)
    if value is None:
      return None
    try:
      number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
      number = math.nan
    if number == -1 < self.lowest:  # As test splits have it.
      return None
    if not self.lowest <= number <= self.highest or math.isinf(number):
      raise templates.FieldError(
        f'{self.label_field} is {storage.shown(value)}, not a number in'
        f' [{self.lowest}, {self.highest}].'
      )
    return number

  def written(self, label: float | None) -> str:
    """A number in digits; '' of None."""
    return '' if label is None else repr(label)

  def answer(self, outputs: np.ndarray) -> str:
    """outputs[1] in digits."""
    return repr(round(float(outputs[0]), 6))


Form: TypeAlias = Classification | Regression


def why_unlabelled(form: Form, record: Mapping[str, Any]) -> str:
  """What to say of a record without a label: whether its field is there at all."""
  if form.label_field in record:
    return 'there is no label'
  known = ', '.join(map(repr, record))
  return f'there is no label: no field {form.label_field!r} (LABEL_FIELD), only {known}'


def _check_names(form: _Texts, what: str, least: int) -> None:
  names = getattr(form, what)
  if isinstance(names, str) or len(names) < least or len(set(names)) < len(names):
    macro = {'fields': 'FIELDS', 'labels': 'LABEL_NAMES'}[what]
    raise ValueError(
      f'{what} ({macro}) are {names!r}, not a tuple of at least {least}, all different.'
    )
  object.__setattr__(form, what, tuple(names))
