"""Examples of a task as text, and predictions for them as the task's metrics see them.

Tokens belong to who predicts: reading examples needs no vocabulary, so that any predictor, a
function of texts too, answers the same ones.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio

from calm.tasks import text
from calm.tasks.labelled import is_labelled


@dataclasses.dataclass(frozen=True)
class Example:
  """One example of a split, in text.

  `texts` are what is to be answered, by name and in order: of a text-to-text task {'inputs': ...},
  of a classifier its one or two fields, such as {'hypothesis': ..., 'premise': ...}.
  """

  index: int  # within the split, from 0
  where: str  # names it in errors: 'data/test.jsonl:4' or 'test example 3'
  texts: Mapping[str, str]
  target: str  # '' where there is none, as in a split without labels
  raw: Mapping[str, Any]  # all that the task's preprocessors leave, for its postprocessing
  prefix: str = ''  # what an answer in text is to begin with


def of_texts(texts: Sequence[str]) -> list[Example]:
  """Texts of one's own as examples to be answered, without targets; of an empty text nothing is."""
  return [
    Example(i, f'input {i}', {'inputs': text} if text.strip() else {}, '', {'inputs': text})
    for i, text in enumerate(texts)
  ]


def evaluation_examples(task: seqio.Task, split: str, *, limit: int | None = None) -> list[Example]:
  """The examples of a split in order, the first `limit` of them if it is given.

  Raises:
    ValueError: no such split, an empty one, a limit below 1, or a record that the task cannot use;
      the message names it.
  """
  if limit is not None and limit < 1:
    raise ValueError(f'limit is {limit}: 1 at least, or None for all examples.')
  examples = list(itertools.islice(read(task, split), limit))
  if not examples:
    raise ValueError(text.has_no('examples', task, split))
  return examples


def read(task: seqio.Task, split: str) -> Iterator[Example]:
  """Yields the examples of a split in order, as they are read.

  Raises:
    ValueError: as `evaluation_examples`, but for an empty split, which yields nothing.
  """
  if is_labelled(task):
    text.check_split(task, split)
    for index, (where, texts, label, raw) in enumerate(task.source.labelled(split)):
      yield Example(index, where, texts, task.source.labels.written(label), raw)
    return
  for index, record in enumerate(text.examples(task, split)):
    raw, where = dict(record), f'{split} example {index}'
    if isinstance(task.source, text.PythonSource):  # Where it stands is not what it holds.
      where = raw.pop('where', where)
    yield Example(
      index=index,
      where=where,
      texts={'inputs': raw['inputs_pretokenized']},
      target=raw['targets_pretokenized'],
      raw=raw,
    )


def postprocess_targets(task: seqio.Task, examples: Sequence[Example]) -> list[Any]:
  """What the task's metrics compare predictions with: its postprocessing of each target.

  Raises:
    ValueError: an example of labelled texts has no label; names it.
  """
  if is_labelled(task):
    unknown = next((example.where for example in examples if not example.target), None)
    if unknown is not None:
      raise ValueError(f'{unknown}: there is no label to compare with: choose another split.')
  return [
    task.postprocess_fn(example.target, example=example.raw, is_target=True) for example in examples
  ]


def postprocess_predictions(
  task: seqio.Task, examples: Sequence[Example], predictions: Sequence[str]
) -> list[Any]:
  """Predictions, one for each example, as the task's metrics take them.

  Raises:
    ValueError: there are more or fewer predictions than examples.
  """
  if len(predictions) != len(examples):
    raise ValueError(f'{len(predictions)} predictions for {len(examples)} examples.')
  return [
    task.postprocess_fn(prediction, example=example.raw, is_target=False)
    for example, prediction in zip(examples, predictions, strict=True)
  ]


def score(
  task: seqio.Task, examples: Sequence[Example], predictions: Sequence[str]
) -> dict[str, float]:
  """The task's metrics of predictions, one for each example; both sides are postprocessed first.

  Raises:
    ValueError: there are more or fewer predictions than examples, or a metric is no number.
  """
  targets = postprocess_targets(task, examples)
  outputs = postprocess_predictions(task, examples, predictions)
  metrics: dict[str, float] = {}
  for metric_fn in task.predict_metric_fns:
    for name, value in metric_fn(targets, outputs).items():
      value = getattr(value, 'value', value)  # seqio's Scalar
      try:
        metrics[name] = float(value)
      except (TypeError, ValueError):
        raise ValueError(
          f'Metric {name!r} of task {task.name!r} is a {type(value).__name__}: a number is needed.'
        ) from None
  return metrics
