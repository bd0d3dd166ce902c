"""Texts with fields of a record in braces, safely filled: keys and indices, nothing else."""

import dataclasses
import functools
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from calm import storage


class FieldError(ValueError):
  """A record does not fit a template. The caller knows where the record stands, and adds it."""


@dataclasses.dataclass(frozen=True)
class Template:
  """A text with fields of a record in braces; str.format's, but only keys and indices.

  Raises:
    ValueError: the template cannot be read.
  """

  template: str

  def __post_init__(self):
    if not isinstance(self.template, str):
      raise ValueError(f'A template is a text, not {storage.shown(self.template)}.')
    _ = self.parts

  @functools.cached_property
  def parts(self) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
    """(literal text, path of the field that follows or None) for each field."""
    try:
      parsed = list(string.Formatter().parse(self.template))
    except ValueError as error:
      raise ValueError(f'Template {self.template!r}: {error}.') from None
    parts = []
    for literal, field, spec, conversion in parsed:
      if spec or conversion:
        raise ValueError(
          f'Template {self.template!r}: {{{field}}} takes no format or conversion (: or !).'
        )
      parts.append((literal, None if field is None else _path(field, self.template)))
    return tuple(parts)

  @property
  def fields(self) -> list[str]:
    """The fields as they are written, such as 'answers[text]'."""
    return [_name(path) for _, path in self.parts if path is not None]

  def fill(self, record: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    """The text for one record."""
    return ''.join(
      literal + ('' if path is None else _text(path, lookup(record, path), labels))
      for literal, path in self.parts
    )

  def fill_all(self, record: Mapping[str, Any], labels: Mapping[str, Any]) -> list[str]:
    """The texts for one record: several if the template is one field, and that holds a list."""
    if len(self.parts) == 1 and self.parts[0][0] == '' and self.parts[0][1] is not None:
      path = self.parts[0][1]
      value = lookup(record, path)
      if isinstance(value, list):
        if not value:
          raise FieldError(f'{_name(path)} is an empty list, and a reference is needed.')
        return [_text((*path, str(i)), item, labels, path) for i, item in enumerate(value)]
    return [self.fill(record, labels)]


def _path(field, template):
  """Splits 'a[b][0]' into ('a', 'b', '0')."""
  if not re.fullmatch(r'[^\[\]]+(\[[^\[\]]+\])*', field):
    raise ValueError(
      f'Template {template!r}: cannot read {{{field}}}; a field is {{name}}, {{name[key]}} or'
      ' {name[key][0]}. Braces themselves are written {{ and }}.'
    )
  return tuple(part.rstrip(']') for part in field.split('['))


def _name(path):
  return path[0] + ''.join(f'[{key}]' for key in path[1:])


def lookup(record: Mapping[str, Any], path: Sequence[str]) -> Any:
  """The value at a path of keys and indices, such as ('answers', 'text', '0').

  Raises:
    ValueError: there is none.
  """
  value: Any = record
  for depth, key in enumerate(path):
    here = _name(path[: depth + 1])
    if isinstance(value, Mapping):
      if key not in value:
        raise FieldError(f'no field {here!r}; there are {_listed(value)}.')
      value = value[key]
    elif isinstance(value, list):
      if not re.fullmatch(r'\d{1,18}', key):
        raise FieldError(f'{_name(path[:depth])} is a list, so {here} needs a number, not {key!r}.')
      if int(key) >= len(value):
        raise FieldError(f'no item {here}: the list has {len(value)}.')
      value = value[int(key)]
    else:
      raise FieldError(
        f'{_name(path[:depth])} is {storage.shown(value)}, which has no entry {key!r}.'
      )
  return value


def _text(path, value, labels, field=None):
  """A field's value as text: through its labels if it has some."""
  name = _name(field or path)
  if name in labels:
    return _label(name, value, labels[name])
  if isinstance(value, str):
    return value
  if isinstance(value, bool | int | float):
    return json.dumps(value)
  kind = 'null' if value is None else 'a list' if isinstance(value, list) else 'an object'
  raise FieldError(f'{_name(path)} is {kind}, not a text or number; as in {{name[key][0]}}?')


def _listed(names):
  return storage.shortened(', '.join(map(repr, names)), 400) or 'none'


def as_whole(value: Any) -> Any:
  """A text of a few decimal digits, with or without a sign, as the number; else the value."""
  if isinstance(value, str) and re.fullmatch(r'[-+]?\d{1,18}', value):
    return int(value)
  return value


def _label(name, value, names):
  if isinstance(names, Mapping):
    for key in (value, str(value)) if isinstance(value, str | int | float) else ():
      if key in names:
        return names[key]
    raise FieldError(f'{name} is {storage.shown(value)}, not one of the labels {_listed(names)}.')
  index = as_whole(value)
  if isinstance(index, bool | int) and 0 <= index < len(names):
    return names[index]
  raise FieldError(f'{name} is {storage.shown(value)}, not a label from 0 to {len(names) - 1}.')
