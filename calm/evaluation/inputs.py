"""What is to be predicted: lines, or records of files, as examples.

Text is read as it comes: plain lines or JSON Lines, from a file or a pipe, gzip or not.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator

from calm.evaluation.predictor import Row
from calm.tasks import lines
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

  Raises:
    ValueError: the format or the template does not fit.
  """

  path: str
  template: str = '{inputs}'
  input_format: str | None = None  # one of FORMATS, or by the path's ending
  prefix: str | None = None  # a template, too: what the answer is to begin with

  def __post_init__(self):
    if self.input_format not in (None, *FORMATS):
      raise ValueError(f'input_format is {self.input_format!r}, not one of {FORMATS} or None.')
    if not self._template.paths:
      raise ValueError(f'Template {self.template!r} has no field, as in {{inputs}}.')
    fields = self._template.paths | self._prefix.paths
    if not self._has_records and (len(fields) > 1 or any(len(path) > 1 for path in fields)):
      raise ValueError(
        f'Template {self.template!r} needs records, but {self.path} is read as plain lines, which'
        " fill a single field. Give JSON Lines (input_format = 'jsonl', or a name in .jsonl)."
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
    read = self._records if self._has_records else self._lines
    for index, (where, text, record) in enumerate(read()):
      texts = {} if text is None else {'inputs': text}
      prefix = '' if text is None else _filled(self._prefix, record, where)
      (line,) = record.values() if self._form == 'lines' else ('',)
      head = {'inputs': line if text is None else text}
      if self._form != 'lines':
        head |= record
      if prefix:
        head = {'prefix': prefix, **head}
      yield {'index': index, **head}, Example(index, where, texts, '', head, prefix)

  @functools.cached_property
  def _template(self):
    return Template(self.template)

  @functools.cached_property
  def _prefix(self):
    return Template(self.prefix or '')

  @property
  def _form(self):
    return self.input_format or lines.format_of(self.path) or 'lines'

  @property
  def _has_records(self):
    return self._form != 'lines'

  def _lines(self):
    ((field,),) = self._template.paths
    for path in self._paths:
      for where, line in lines.read_lines(path):
        text = self._template.fill({field: line}, {}) if line.strip() else None
        yield where, text, {field: line}

  def _records(self):
    for path in self._paths:
      for where, record in lines.records(lines.read_lines(path), self._form, '{"inputs": "..."}'):
        yield where, _filled(self._template, record, where), record

  @property
  def _paths(self):
    return lines.matching(
      self.path,
      "Set --input (DECODE_INPUT) to a file of lines or JSON Lines, or to '-' for standard input.",
    )


def _filled(template, record, where):
  try:
    return template.fill(record, {})
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from None


def _is_pipe(path):
  return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
