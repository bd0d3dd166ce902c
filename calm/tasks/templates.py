"""Texts with fields of a record in braces, safely filled: keys and indices, nothing else."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from calm import storage


class FieldError(ValueError):
  """A record does not fit a template. The caller knows where the record stands, and adds it."""


class MissingFieldError(FieldError):
  """A record has no such field or item."""


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of a record in a template: its path of keys and indices, and what stands in for it."""

  path: tuple[str, ...]
  default: str | None = None  # Where there is no such field, or it is null or an empty list.

  @property
  def name(self) -> str:
    """As it is written, such as 'answers[text]'."""
    return _name(self.path)


@dataclasses.dataclass(frozen=True)
class Template:
  """A text with fields of a record in braces; str.format's, but only keys and indices.

  {a[b][0]|none} is 'none' where a record has no a[b][0], or it is null or an empty list.

  Raises:
    ValueError: the template cannot be read.
  """

  template: str

  def __post_init__(self) -> None:
    if not isinstance(self.template, str):
      raise ValueError(f'A template is a text, not {storage.shown(self.template)}.')
    _ = self.parts

  @functools.cached_property
  def parts(self) -> tuple[tuple[str, Field | None], ...]:
    """(literal text, the field that follows or None) for each field."""
    parts: list[tuple[str, Field | None]] = []
    literal, rest = '', self.template
    while rest:
      text, brace, after = _next_brace(rest)
      literal += text
      if brace in ('{{', '}}'):
        literal, rest = literal + brace[0], after
      elif brace == '{' and '}' in after:
        inside, _, rest = after.partition('}')
        parts.append((literal, _field(inside, self.template)))
        literal = ''
      elif brace:
        raise ValueError(f'Template {storage.shown(self.template)}: a single {brace}. {_BRACES}')
      else:
        rest = ''
    return (*parts, (literal, None)) if literal else tuple(parts)

  @property
  def paths(self) -> set[tuple[str, ...]]:
    """The paths of its fields."""
    return {field.path for _, field in self.parts if field is not None}

  @property
  def fields(self) -> list[str]:
    """The fields as they are written, such as 'answers[text]'."""
    return [field.name for _, field in self.parts if field is not None]

  def fill(self, record: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    """The text for one record."""
    return ''.join(
      literal + ('' if field is None else _filled(field, record, labels))
      for literal, field in self.parts
    )

  def fill_all(self, record: Mapping[str, Any], labels: Mapping[str, Any]) -> list[str]:
    """The texts for one record: several if the template is one field, and that holds a list."""
    if len(self.parts) == 1 and self.parts[0][0] == '' and self.parts[0][1] is not None:
      field = self.parts[0][1]
      value = _value(field, record)
      if isinstance(value, list):
        if not value:
          raise FieldError(f'{field.name} is an empty list, and a reference is needed.')
        path = field.path
        return [_text((*path, str(i)), item, labels, path) for i, item in enumerate(value)]
    return [self.fill(record, labels)]


_BRACES = 'Braces themselves are written {{ and }}.'
_FIELD = re.compile(r'([^\[\]{}|]+(?:\[[^\[\]{}|]+\])*)(?:\|([^{}]*))?')


def _next_brace(text: str) -> tuple[str, str, str]:
  """(text before it, the brace, doubled if it is, text after it)."""
  found = re.search(r'\{\{|\}\}|\{|\}', text)
  return (text[: found.start()], found[0], text[found.end() :]) if found else (text, '', '')


def _field(inside: str, template: str) -> Field:
  """Reads 'a[b][0]' or 'a[b][0]|default'."""
  found = _FIELD.fullmatch(inside)
  if not found:
    raise ValueError(
      f'Template {storage.shown(template)}: cannot read {{{storage.shortened(inside)}}}; a field is'
      f' {{name}}, {{name[key]}}, {{name[key][0]}} or {{name|what else}}. {_BRACES}'
    )
  path = tuple(part.rstrip(']') for part in found[1].split('['))
  if found[2] is None and ('!' in inside or ':' in inside):
    raise ValueError(
      f'Template {storage.shown(template)}: {{{storage.shortened(inside)}}} takes no format or'
      ' conversion (: or !).'
    )
  return Field(path, found[2])


def _value(field: Field, record: Mapping[str, Any]) -> Any:
  """What a record has for a field, or else its default."""
  if field.default is None:
    return lookup(record, field.path)
  try:
    value = lookup(record, field.path)
  except MissingFieldError:
    return field.default
  return field.default if value is None or value == [] else value


def _filled(field: Field, record: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
  value = _value(field, record)
  if field.default is not None and value is field.default:
    return value
  return _text(field.path, value, labels)


def _name(path: Sequence[str]) -> str:
  return path[0] + ''.join(f'[{key}]' for key in path[1:])


def lookup(record: Mapping[str, Any], path: Sequence[str]) -> Any:
  """The value at a path of keys and indices, such as ('answers', 'text', '0').

  Raises:
    FieldError: there is none.
  """
  value: Any = record
  for depth, key in enumerate(path):
    here = _name(path[: depth + 1])
    if isinstance(value, Mapping):
      if key not in value:
        raise MissingFieldError(f'no field {here!r}; there are {_listed(value)}.')
      value = value[key]
    elif isinstance(value, list):
      if not re.fullmatch(r'\d{1,18}', key):
        raise FieldError(f'{_name(path[:depth])} is a list, so {here} needs a number, not {key!r}.')
      if int(key) >= len(value):
        raise MissingFieldError(
          f'no item {here}: the list has {len(value)}. {{{_name(path)}|no answer}} says what to'
          ' write where it is missing.'
        )
      value = value[int(key)]
    else:
      raise FieldError(
        f'{_name(path[:depth])} is {storage.shown(value)}, which has no entry {key!r}.'
      )
  return value


def _text(
  path: Sequence[str], value: Any, labels: Mapping[str, Any], field: Sequence[str] | None = None
) -> str:
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


def _listed(names: Iterable[Any]) -> str:
  return storage.shortened(', '.join(map(repr, names)), 400) or 'none'


def as_whole(value: Any) -> Any:
  """A text of a few decimal digits, with or without a sign, as the number; else the value."""
  if isinstance(value, str) and re.fullmatch(r'[-+]?\d{1,18}', value):
    return int(value)
  return value


def _label(name: str, value: Any, names: Any) -> str:
  if isinstance(names, Mapping):
    for key in (value, str(value)) if isinstance(value, str | int | float) else ():
      if key in names:
        return names[key]
    raise FieldError(f'{name} is {storage.shown(value)}, not one of the labels {_listed(names)}.')
  index = as_whole(value)
  if isinstance(index, bool | int) and 0 <= index < len(names):
    return names[index]
  raise FieldError(f'{name} is {storage.shown(value)}, not a label from 0 to {len(names) - 1}.')
