"""What is to be predicted: lines, or records of files, as examples.

Text is read as it comes: plain lines or JSON Lines, from a file or a pipe, gzip or not.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from calm.evaluation.predictor import Row
from calm.tasks import lines
from calm.tasks.classification import Form
from calm.tasks.examples import Example
from calm.tasks.templates import Template

STANDARD_INPUT = lines.STANDARD_INPUT
FORMATS = ('lines', 'jsonl', 'tsv', 'csv')


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the inputs of a file, of all that fit a pattern, or of standard input ('-'), in order.

  Plain lines fill the one field of `template`, and a blank one is an example without a text, whose
  prediction is empty, so that lines of output and input correspond. Records of JSON Lines (or of
  .tsv and .csv files with a header line) fill it by their fields, which the output repeats.

  A classifier reads the fields of a `form` apart, as they are, and no template. Labels are not
  looked at.

  Raises:
    ValueError: the format, the template or the form does not fit.
  """

  path: str
  template: str = '{inputs}'
  input_format: str | None = None  # one of FORMATS, or by the path's ending
  prefix: str | None = None  # a template, too: what the answer is to begin with
  form: Form | None = None  # in place of the template

  def __post_init__(self) -> None:
    if self.input_format not in (None, *FORMATS):
      raise ValueError(f'input_format is {self.input_format!r}, not one of {FORMATS} or None.')
    if not self._fields:
      raise ValueError(f'Template {self.template!r} has no field, as in {{inputs}}.')
    fields = self._fields | self._prefix.paths
    if not self._has_records and (len(fields) > 1 or any(len(path) > 1 for path in fields)):
      what = f'Template {self.template!r} needs'
      if self.form is not None:
        what = f'Texts of the fields {", ".join(self.form.fields)} need'
      raise ValueError(
        f'{what} records, but {self.path} is read as plain lines, which fill a single field. Give'
        " JSON Lines (input_format = 'jsonl', or a name in .jsonl)."
      )

  @property
  def rereadable(self) -> bool:
    """Whether the inputs can be read more than once."""
    return self.path != STANDARD_INPUT and not _is_pipe(self.path)

  def __iter__(self) -> Iterator[tuple[Row, Example]]:
    """Yields what a line of output begins with, and the example.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is not UTF-8, does not parse, or lacks a field; the message names file and
        line.
    """
    for index, (where, record) in enumerate(self._read()):
      blank = not self._has_records and not next(iter(record.values())).strip()
      try:
        texts = {} if blank else self._texts(record)
        prefix = '' if blank else self._prefix.fill(record, {})
      except ValueError as error:
        raise ValueError(f'{where}: {error}') from None
      head = dict(texts)
      if self._has_records:
        head |= record
      elif blank:
        head = record if self.form is not None else {'inputs': next(iter(record.values()))}
      if prefix:
        head = {'prefix': prefix, **head}
      yield {'index': index, **head}, Example(index, where, texts, '', head, prefix)

  @functools.cached_property
  def _template(self) -> Template:
    return Template(self.template)

  @functools.cached_property
  def _prefix(self) -> Template:
    return Template(self.prefix or '')

  @property
  def _fields(self) -> set[tuple[str, ...]]:
    if self.form is not None:
      return {(field,) for field in self.form.fields}
    return set(self._template.paths)

  @property
  def _format(self) -> str:
    return self.input_format or lines.format_of(self.path) or 'lines'

  @property
  def _has_records(self) -> bool:
    return self._format != 'lines'

  def _texts(self, record: Mapping[str, Any]) -> dict[str, str]:
    if self.form is not None:
      return self.form.texts(record)
    return {'inputs': self._template.fill(record, {})}

  def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
    """('file:line', record) of each; a plain line is a record of the only field."""
    fields = ('inputs',) if self.form is None else self.form.fields
    example = json.dumps(dict.fromkeys(fields, '...'))
    paths = lines.matching(
      self.path,
      "Set --input to a file of lines or JSON Lines, or to '-' for standard input.",
    )
    for path in paths:
      if self._has_records:
        yield from lines.records(lines.read_lines(path), self._format, example)
        continue
      ((field,),) = self._fields
      yield from ((where, {field: line}) for where, line in lines.read_lines(path))


def _is_pipe(path: str) -> bool:
  return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
