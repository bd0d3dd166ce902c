"""What is to be predicted: lines, or records of files, as examples.

Text is read as it comes: plain lines or JSON Lines, from a file or a pipe, gzip or not.
"""

import contextlib
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from calm import storage
from calm.evaluation.predictor import Row
from calm.tasks import lines
from calm.tasks.examples import Example
from calm.tasks.templates import Template

STANDARD_INPUT = '-'
FORMATS = ('lines', 'jsonl')


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the inputs of a file, or of standard input ('-'), in their order.

  Plain lines fill the one field of `template`, and a blank one is an example without a text, whose
  prediction is empty, so that lines of output and input correspond. Records of JSON Lines (or .tsv
  files with a header line) fill it by their fields, which the output repeats.

  Raises:
    ValueError: the format or the template does not fit.
  """

  path: str
  template: str = '{inputs}'
  input_format: str | None = None  # 'lines', 'jsonl', or by the path's ending

  def __post_init__(self):
    if self.input_format not in (None, *FORMATS):
      raise ValueError(f'input_format is {self.input_format!r}, not one of {FORMATS} or None.')
    fields = {path for _, path in self._template.parts if path is not None}
    if not fields:
      raise ValueError(f'Template {self.template!r} has no field, as in {{inputs}}.')
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
    for index, (where, text, head) in enumerate(read()):
      texts = {} if text is None else {'inputs': text}
      yield {'index': index, **head}, Example(index, where, texts, '', head)

  @functools.cached_property
  def _template(self):
    return Template(self.template)

  @property
  def _has_records(self):
    if self.input_format is None:
      return re.search(r'\.(jsonl?|tsv)(\.gz)?$', self.path) is not None
    return self.input_format == 'jsonl'

  def _lines(self):
    (field,) = {path[0] for _, path in self._template.parts if path is not None}
    for where, line in _text_lines(self.path):
      text = self._template.fill({field: line}, {}) if line.strip() else None
      yield where, text, {'inputs': line if text is None else text}

  def _records(self):
    from calm.tasks import files

    if self.rereadable:
      records = files.read_records(self.path)
    else:
      records = lines.json_records(_text_lines(self.path), '{"inputs": "..."}')
    for where, record in records:
      try:
        text = self._template.fill(record, {})
      except ValueError as error:
        raise ValueError(f'{where}: {error}') from None
      yield where, text, {'inputs': text, **record}


def _is_pipe(path):
  return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _text_lines(path):
  """('file:line', text) of all lines, blank ones too, as soon as they arrive."""
  name = 'standard input' if path == STANDARD_INPUT else path
  with _open(path) as file:
    yield from lines.text_lines(file, name)


@contextlib.contextmanager
def _open(path):
  """A binary file, or standard input, unpacked if it is gzip."""
  with contextlib.ExitStack() as stack:
    if path == STANDARD_INPUT:
      file: Any = sys.stdin.buffer
    else:
      if not os.path.exists(path) or os.path.isdir(path):
        what = 'a folder, not a file' if os.path.isdir(path) else 'no such file'
        raise FileNotFoundError(
          f'{path}: {what}. Set --input (DECODE_INPUT) to a file of lines or JSON Lines, or to'
          " '-' for standard input."
        )
      file = stack.enter_context(open(path, 'rb'))
    yield storage.unpacked(file)
