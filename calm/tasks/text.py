"""Tasks of text: what all tasks here have in common, and their examples as Python strings.

A task maps `inputs` to `targets`, both of one vocabulary, both ending in EOS, as T5's do
(Raffel et al., https://arxiv.org/abs/1910.10683). Its text can be read without the vocabulary, so
that a vocabulary may be made of it.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

with contextlib.suppress(RuntimeError, ValueError):
  # TensorFlow only reads here: accelerators and their memory are JAX's.
  tf.config.set_visible_devices([], 'GPU')

FEATURES = ('inputs', 'targets')
SPLITS = ('train', 'validation', 'test')  # of tasks over files
# Cut to a length, if one is asked for, then closed by EOS, as in T5's own tasks.
TOKENIZATION = (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim)

_SIGNATURE = {
  'inputs': tf.TensorSpec([], tf.string),
  'targets': tf.TensorSpec([], tf.string),
  'references': tf.TensorSpec([None], tf.string),
  'where': tf.TensorSpec([], tf.string),
}


class PythonSource(seqio.FunctionDataSource):
  """A seqio source over examples that a Python function yields.

  `read(split)` yields dicts of `inputs` and `targets` (str), `references` (a list of str, the
  texts that metrics accept) and `where` (str, names the example in errors). `origins` says where a
  split is read from, for errors; `form` says by content what is made of a record (by default, the
  function itself).
  """

  def __init__(
    self,
    read: Callable[[str], Iterable[Mapping[str, Any]]],
    splits: Sequence[str],
    num_input_examples: Mapping[str, int] | None = None,
    origins: Mapping[str, str] | None = None,
    form: Mapping[str, Any] | None = None,
  ):
    self.read = read
    self.form = dict(form) if form is not None else {'read': read}
    self.origins = dict(origins or {})
    super().__init__(self._dataset, splits, num_input_examples, caching_permitted=False)

  def _dataset(
    self, split: str, shuffle_files: bool = False, seed: int | None = None
  ) -> tf.data.Dataset:
    del shuffle_files, seed  # Examples come in their own order.
    return tf.data.Dataset.from_generator(
      lambda: iter(self.read(split)), output_signature=_SIGNATURE
    )


def task(
  name: str,
  source: seqio.DataSource,
  vocabulary: seqio.Vocabulary,
  *,
  preprocessors: Sequence[Callable] = (),
  postprocess_fn: Callable | None = None,
  metrics: Callable | Sequence[Callable] = (),
) -> seqio.Task:
  """A seqio.Task, not registered, whose `preprocessors` make texts `inputs` and `targets`.

  `metrics` are functions (targets, predictions) -> dict of floats. Without `postprocess_fn`,
  targets are what `references` gives.

  Raises:
    ValueError: seqio takes no such name.
  """
  check_name(name)
  feature = seqio.Feature(vocabulary, add_eos=True)
  return seqio.Task(
    name,
    source=source,
    output_features={key: feature for key in FEATURES},
    preprocessors=[*preprocessors, *TOKENIZATION],
    postprocess_fn=postprocess_fn or references,
    metric_fns=[metrics] if callable(metrics) else list(metrics),
  )


def check_name(name: str) -> None:
  """Raises a ValueError for a name that seqio takes for no task."""
  if not re.fullmatch(r'[\w.:]+', name):
    raise ValueError(f'Task name {name!r} (TASK_NAME): letters, digits, _ . and : are allowed.')


def references(
  text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> str | list[str]:
  """The texts that metrics compare: of a target its references, of a prediction the text itself.

  A target with a single reference is a str, one with several a list of str.
  """
  if not is_target:
    return text
  texts = [tf.compat.as_text(one) for one in (example or {}).get('references', ())] or [text]
  return texts[0] if len(texts) == 1 else texts


def check_split(task: seqio.Task, split: str) -> None:
  """Raises a ValueError if the task has no such split."""
  try:
    splits = task.splits
  except ValueError:  # seqio's, of a task without any: see calm.tasks.files.
    raise ValueError(
      f'Task {task.name!r} has no files: set TRAIN_FILE, VALIDATION_FILE or TEST_FILE, for instance'
      ' with --gin.TRAIN_FILE=data/train.jsonl.'
    ) from None
  if split not in splits:
    mend = (
      f' For a task over files, give its path ({split.upper()}_FILE).' if split in SPLITS else ''
    )
    raise ValueError(
      f'Task {task.name!r} has no split {split!r}, only {", ".join(sorted(splits))}.{mend}'
    )


def has_no(what: str, task: seqio.Task, split: str) -> str:
  """The message that a split has no `what`, with the files it is read from, if they are known."""
  origin = getattr(task.source, 'origins', {}).get(split)
  read_from = f'; it is read from {origin}' if origin else ''
  return f'Split {split!r} of task {task.name!r} has no {what}{read_from}.'


def before_tokenization(task: seqio.Task) -> list[Callable] | None:
  """The task's preprocessors without tokenisation and EOS; None if it does not end in these.

  A place for a cache among them, which seqio's tasks often have, makes no difference.
  """
  steps = [one for one in task.preprocessors if not isinstance(one, seqio.CacheDatasetPlaceholder)]
  ends = (TOKENIZATION, (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos))
  return steps[:-2] if tuple(steps[-2:]) in ends else None


def check_form(task: seqio.Task) -> None:
  """Raises a ValueError unless the task makes text of records, then tokenises and ends it."""
  if isinstance(task, seqio.Mixture):
    raise ValueError(f'{task.name!r} is a mixture, and one of its tasks is needed here.')
  if not set(FEATURES) <= set(task.output_features):
    raise ValueError(
      f'Task {task.name!r} has features {", ".join(task.output_features)}, not inputs and targets.'
    )
  if before_tokenization(task) is None:
    raise ValueError(
      f'Task {task.name!r} does not end in seqio.preprocessors.tokenize and append_eos_after_trim'
      ' (or append_eos), so its text cannot be told from its tokens.'
    )


def examples(task: seqio.Task, split: str) -> Iterator[dict[str, Any]]:
  """Yields the examples of a split in order, before tokenisation, without the vocabulary.

  Each has `inputs_pretokenized` and `targets_pretokenized` (str) and whatever else the task's
  preprocessors leave for metrics, as Python and NumPy values (text as str).

  Raises:
    ValueError: no such split, a text is not UTF-8, or the task is not text followed by seqio's
      `tokenize` and `append_eos_after_trim` or `append_eos`.
  """
  check_form(task)
  check_split(task, split)
  before = before_tokenization(task) or []
  if isinstance(task.source, PythonSource) and not before:
    yield from map(_renamed, task.source.read(split))
    return
  text = task.replace(preprocessors=before, output_features={})
  dataset = text.source.get_dataset(split=split, shuffle=False)
  dataset = text.preprocess_postcache(dataset, sequence_length=None, seed=0)
  for index, example in enumerate(dataset.as_numpy_iterator()):
    try:
      found = decoded(example)
    except UnicodeDecodeError:
      raise ValueError(f'{task.name} {split} example {index}: not UTF-8.') from None
    yield _renamed(found)


def _renamed(example: Mapping[str, Any]) -> dict[str, Any]:
  return {f'{key}_pretokenized' if key in FEATURES else key: v for key, v in example.items()}


def decoded(value: Any) -> Any:
  """Bytes to str, inside dicts and arrays too.

  Raises:
    UnicodeDecodeError: they are not UTF-8.
  """
  if isinstance(value, Mapping):
    return {key: decoded(item) for key, item in value.items()}
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, np.ndarray) and value.dtype == object:
    return [decoded(item) for item in value]
  return value
