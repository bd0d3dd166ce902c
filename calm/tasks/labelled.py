"""Tasks of labelled texts, for classifiers: records of files or of public data sets.

They are seqio tasks as all others, so that all that evaluates takes them, but make no tokens: what
a classifier reads is its tokenizer's affair.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from calm.tasks import files, public, text
from calm.tasks.classification import Form
from calm.tasks.templates import FieldError

Records = Iterable[tuple[str, Mapping[str, Any]]]  # what names a record in errors, and the record


class LabelledSource(seqio.FunctionDataSource):
  """A seqio source over records that a Python function yields, and what a classifier sees of them.

  `read(split)` yields ('file:line', record). `origins` says where a split is read from, for errors.
  """

  def __init__(
    self,
    read: Callable[[str], Records],
    labels: Form,
    splits: Sequence[str],
    origins: Mapping[str, str] | None = None,
  ):
    self.read, self.labels = read, labels
    self.form = {'labels': labels}  # What is made of a record, by content.
    self.origins = dict(origins or {})
    super().__init__(self._dataset, splits, caching_permitted=False)

  def labelled(self, split: str) -> Iterator[tuple[str, dict[str, str], Any, Mapping[str, Any]]]:
    """Yields (what names it, texts by field, label or None, record) for every record of a split.

    Raises:
      ValueError: a record lacks a text, or its label is none; names it.
    """
    for where, record in self.read(split):
      try:
        yield where, self.labels.texts(record), self.labels.label(record), record
      except FieldError as error:
        raise ValueError(f'{where}: {error}') from None

  def _dataset(
    self, split: str, shuffle_files: bool = False, seed: int | None = None
  ) -> tf.data.Dataset:
    del shuffle_files, seed  # Records come in their own order.
    texts = {field: tf.TensorSpec([], tf.string) for field in self.labels.fields}
    return tf.data.Dataset.from_generator(
      lambda: (texts for _, texts, _, _ in self.labelled(split)), output_signature=texts
    )


def task(
  name: str, source: LabelledSource, metrics: Callable | Sequence[Callable] = ()
) -> seqio.Task:
  """A seqio.Task, not registered, of labelled texts.

  `metrics` are functions (targets, predictions) -> dict of floats, both of them labels' names, or
  numbers in digits.

  Raises:
    ValueError: seqio takes no such name.
  """
  text.check_name(name)
  return seqio.Task(
    name,
    source=source,
    output_features={},
    preprocessors=[],
    metric_fns=[metrics] if callable(metrics) else list(metrics),
  )


def from_files(
  form: Form,
  *,
  train: str | None = None,
  validation: str | None = None,
  test: str | None = None,
  metrics: Callable | Sequence[Callable] = (),
  name: str = 'files',
) -> seqio.Task:
  """A task over one file (or one pattern of files) of records for each split.

  Args:
    form: which fields are the texts, and the label.
    train: path of a split, as `calm.tasks.files.task` takes it; None or '' if there is none.
      Likewise `validation` and `test`.
    metrics: as `task` takes them.
    name: of the task.

  Raises:
    ValueError: no split has a path. On reading: a line does not parse, lacks a field, or its label
      is none; the message names file and line.
    FileNotFoundError: on reading, a path leads to no file.
  """
  paths = files.paths_of_splits(train, validation, test)
  source = LabelledSource(
    lambda split: files.read_records(paths[split], macro=f'{split.upper()}_FILE'),
    form,
    list(paths),
    origins=paths,
  )
  return task(name, source, metrics)


def from_public(name: str, *, tfds_data_dir: str | None = None) -> seqio.Task:
  """A public classification or regression of `calm.tasks.public.TASKS`, read as a classifier does.

  Raises:
    ValueError: there is no such task, or it is neither.
  """
  form, listed = _form_of(name), public.TASKS[name]

  def read(split: str) -> Records:
    found = public.records(name, split, tfds_data_dir=tfds_data_dir)
    yield from ((f'{name} {split} example {i}', record) for i, record in enumerate(found))

  return task(name, LabelledSource(read, form, list(listed.splits)), listed.metrics)


def source_of(task: seqio.Task) -> LabelledSource:
  """The records of a task of labelled texts.

  Raises:
    ValueError: the task is another.
  """
  if not is_labelled(task):
    raise ValueError(
      f'Task {task.name!r} has no labels, but texts to be generated: give one of'
      ' calm.tasks.labelled.'
    )
  return task.source


def is_labelled(task: Any) -> bool:
  """Whether a task is one of labelled texts."""
  return isinstance(getattr(task, 'source', None), LabelledSource)


def labels_of(task: seqio.Task) -> Form:
  """What is asked of a classifier in a task of labelled texts; errors are those of `source_of`."""
  return source_of(task).labels


def _form_of(name: str) -> Form:
  """The texts and labels of a public task, as a classifier sees them."""
  forms = {key: one.labels for key, one in public.TASKS.items() if one.labels is not None}
  if name not in forms:
    known = ', '.join(sorted(forms))
    raise ValueError(f'No classifier answers task {name!r} (TASK_NAME); there are {known}.')
  return forms[name]
