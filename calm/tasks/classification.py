"""What a classification is, as data: the texts of a record, its label, and the labels' names.

A text-to-text model is asked for the label's name (`calm.tasks.prompts.ClassificationPrompt`), a
classifier for its number; both read the same records.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from calm import storage
from calm.tasks import templates


@dataclasses.dataclass(frozen=True)
class Classification:
  """One label for the texts of a record.

  Raises:
    ValueError: there is no field, fewer than two labels, or one of either twice.
  """

  fields: tuple[str, ...]  # of the texts, in order; encoders take one or two
  labels: tuple[str, ...]  # the names of labels 0, 1, ...
  label_field: str = 'label'

  def __post_init__(self):
    for what, names, least in (('fields', self.fields, 1), ('labels', self.labels, 2)):
      if isinstance(names, str) or len(names) < least or len(set(names)) < len(names):
        raise ValueError(f'{what} are {names!r}, not a tuple of at least {least}, all different.')
      object.__setattr__(self, what, tuple(names))

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

  def target(self, record: Mapping[str, Any]) -> str:
    """The name of a record's label; '' if it has none."""
    label = self.label(record)
    return '' if label is None else self.labels[label]
