"""Tasks over the user's own files: JSON Lines, tab- or comma-separated values, gzip or not.

Paths are local, or any that TensorFlow's file systems open (gs://...); a path with `*` stands for
all files that fit, in the order of their names.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import seqio

from calm.tasks import lines, text
from calm.tasks.templates import FieldError, Template

SPLITS = text.SPLITS


def task(
  *,
  inputs: str,
  targets: str,
  vocabulary: seqio.Vocabulary,
  train: str | None = None,
  validation: str | None = None,
  test: str | None = None,
  metrics: Callable | Sequence[Callable] = (),
  references: str | Sequence[str] | None = None,
  labels: Mapping[str, Sequence[str] | Mapping] | None = None,
  name: str = 'files',
) -> seqio.Task:
  """A task over one file (or one pattern of files) for each split.

  Files are JSON Lines (`.jsonl`, `.ndjson`, `.json` or any other name), tab-separated values under
  a header line (`.tsv`, `.tab`), or comma-separated ones (`.csv`), in any case; `.gz` may follow.
  Blank lines are skipped.

  Args:
    inputs: template of the input, such as 'translate English to French: {en}'; {a[b][0]} is entry
      b of field a, and item 0 of that. Braces themselves are written {{ and }}.
    targets: template of the target.
    vocabulary: of both.
    train: path of a split; None or '' if there is none. Likewise `validation` and `test`. A file is
      looked for when its split is read: who only decodes needs none.
    metrics: functions (targets, predictions) -> dict of floats, such as `calm.tasks.metrics.bleu`.
    references: what metrics compare with, if not the target: a template or several, or a field
      that holds a list of texts, such as '{answers[text]}'.
    labels: names for the values of fields, as in {'label': ['negative', 'positive']} for 0 and 1,
      or {'label': {'n': 'negative'}}.
    name: of the task.

  Raises:
    ValueError: no split has a path, a template cannot be read, or labels are no texts or for a
      field that no template has. On reading: a line is not UTF-8, does not parse, or lacks a field;
      the message names file and line.
    FileNotFoundError: on reading, a path leads to no file.
  """
  paths = paths_of_splits(train, validation, test)
  several = (str(references),) if isinstance(references, str) else tuple(references or ())
  form = _Form(
    Template(inputs), Template(targets), tuple(map(Template, several)), dict(labels or {})
  )

  def read(split: str) -> Iterator[dict[str, Any]]:
    for where, record in read_records(paths[split], macro=f'{split.upper()}_FILE'):
      try:
        yield {**form.fill(record), 'where': where}
      except FieldError as error:
        raise ValueError(f'{where}: {error}') from None

  source = text.PythonSource(read, list(paths), origins=paths, form=form.described())
  return text.task(name, source, vocabulary, metrics=metrics)


def paths_of_splits(train: str | None, validation: str | None, test: str | None) -> dict[str, str]:
  """The paths of a task's splits, by split, of those that have one.

  A task without any has no splits: what is given by --input needs none.
  """
  paths = zip(SPLITS, (train, validation, test), strict=True)
  return {split: path for split, path in paths if path}


@dataclasses.dataclass(frozen=True)
class _Form:
  """What makes an example of a record."""

  inputs: Template
  targets: Template
  references: tuple[Template, ...]
  labels: dict[str, Any]

  def __post_init__(self) -> None:
    templates = (self.inputs, self.targets, *self.references)
    fields = {field for template in templates for field in template.fields}
    for field, names in self.labels.items():
      texts = names.values() if isinstance(names, Mapping) else names
      if isinstance(names, str) or not all(isinstance(one, str) for one in texts):
        raise ValueError(
          f'The labels of {field!r} are {names!r}, and a list of texts or a mapping to texts is'
          ' needed.'
        )
      if field not in fields:
        raise ValueError(
          f'There are labels for {field!r}, which no template has; they have'
          f' {", ".join(map(repr, sorted(fields))) or "no fields"}.'
        )

  def described(self) -> dict[str, Any]:
    """The form in words."""
    return {
      'inputs': self.inputs.template,
      'targets': self.targets.template,
      'references': [one.template for one in self.references],
      'labels': {
        field: {str(key): name for key, name in names.items()}
        if isinstance(names, Mapping)
        else list(names)
        for field, names in self.labels.items()
      },
    }

  def fill(self, record: Mapping[str, Any]) -> dict[str, Any]:
    targets = self.targets.fill(record, self.labels)
    several = [one for t in self.references for one in t.fill_all(record, self.labels)]
    example: dict[str, Any] = {
      'inputs': self.inputs.fill(record, self.labels),
      'targets': targets,
      'references': several or [targets],
    }
    try:
      ''.join([example['inputs'], targets, *several]).encode('utf-8')
    except UnicodeEncodeError:  # JSON may escape half of a surrogate pair.
      raise FieldError(lines.HALF_A_PAIR) from None
    return example


def read_records(
  path: str, form: str | None = None, macro: str = 'the path'
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields ('file:line', record) for every line of a file, or of all files of a pattern.

  `form` is 'jsonl', 'tsv' or 'csv'; by default what the name ends in, else JSON Lines. `macro` is
  what an error says to set.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is not UTF-8 or does not parse, or the gzip file is damaged; the message
      names file and line.
  """
  for one in lines.matching(path, f'Set {macro} to a file of JSON Lines, .tsv or .csv.'):
    yield from lines.records(lines.read_lines(one), form or lines.format_of(one) or 'jsonl')
