"""Which of two numbers in words is larger: a classification that needs no files and no network.

'eighty-six' and 'nine thousand and four' are told apart by a single word, 'seven hundred and
twelve' and 'seven hundred and forty' by none: some examples are easy, others hard.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import seqio

from calm import settings
from calm.tasks import labelled
from calm.tasks import metrics as metric_functions
from calm.tasks.classification import Classification
from calm.tasks.spelled_numbers import SPLITS, spell

LABELS = Classification(('first', 'second'), ('less', 'greater'))


def task(
  *,
  num_train: settings.Count = 8000,
  num_validation: settings.Count = 1000,
  num_test: settings.Count = 1000,
  max_digits: Annotated[int, settings.Range(2, 12)] = 6,
  seed: settings.Seed = 0,
  metrics: Callable | Sequence[Callable] = (metric_functions.accuracy,),
  name: str = 'compared_numbers',
) -> seqio.Task:
  """Pairs of numbers in English words, labelled 'less' or 'greater' by the first of them.

  Args:
    num_train: examples of a split; likewise num_validation and num_test. No pair is in two.
    max_digits: of a number, from 2.
    seed: of the draw.
    metrics: functions (targets, predictions) -> dict of floats.
    name: of the task.

  Raises:
    ValueError: max_digits is below 2, or there are fewer pairs than examples.
  """
  sizes = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
  pairs = draw_pairs(sum(sizes.values()), max_digits, seed)

  def read(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    start = sum(sizes[earlier] for earlier in SPLITS[: SPLITS.index(split)])
    yield from _records(f'{name} {split}', pairs[start : start + sizes[split]])

  return labelled.task(name, labelled.LabelledSource(read, LABELS, SPLITS), metrics)


def draw_pairs(count: int, max_digits: int = 6, seed: int = 0) -> list[tuple[int, int]]:
  """Different pairs of different numbers, in random order.

  Of half the pairs both numbers have as many digits, and some of the first digits in common.

  Raises:
    ValueError: max_digits is below 2, or count exceeds a tenth of the pairs of all numbers.
  """
  if max_digits < 2:
    raise ValueError(f'max_digits must be at least 2, not {max_digits}.')
  if count > 10 ** (2 * max_digits - 1):
    raise ValueError(f'{count} pairs are too many for numbers of {max_digits} digits at most.')
  rng = random.Random(seed)
  found: dict[tuple[int, int], None] = {}
  while len(found) < count:
    digits = rng.randint(1, max_digits)
    first = rng.randrange(10 ** (digits - 1), 10**digits)
    if rng.random() < 0.5:
      other = rng.randint(1, max_digits)
      second = rng.randrange(10 ** (other - 1), 10**other)
    else:
      low = 10 ** rng.randint(1, digits)
      second = first - first % low + rng.randrange(low)
    if first != second:
      found[first, second] = None
  return list(found)


def _records(where: str, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[str, dict[str, Any]]]:
  for first, second in pairs:
    texts = {'first': spell(first)[0], 'second': spell(second)[0]}
    yield f'{where}: {first}, {second}', {**texts, 'label': LABELS.labels[int(first > second)]}
