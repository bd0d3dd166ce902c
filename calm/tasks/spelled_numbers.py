"""Numbers in words, English to French: a task that needs no files and no network.

Made on the fly by `num2words`. The languages differ where it matters for a translator: French
counts by twenties from 70 to 99 (`quatre-vingt-dix-sept`), has `et` in `vingt et un`, and a plural
in `deux cents` that goes before another number.
"""

import functools
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import seqio
from num2words import num2words

from calm import settings
from calm.tasks import metrics as metric_functions
from calm.tasks import text

SPLITS = ('train', 'validation', 'test')


def task(
  *,
  vocabulary: seqio.Vocabulary,
  num_train: settings.Count = 20_000,
  num_validation: settings.Count = 500,
  num_test: settings.Count = 1000,
  max_number: settings.Natural = 999_999,
  seed: settings.Seed = 0,
  metrics: Callable | Sequence[Callable] = (metric_functions.exact_match,),
  name: str = 'spelled_numbers',
) -> seqio.Task:
  """English number words to French ones: 'ninety-one' to 'quatre-vingt-onze'.

  Args:
    vocabulary: of both.
    num_train: examples of a split; likewise num_validation and num_test. No number is in two.
    max_number: the largest number; 0 is the smallest.
    seed: of the draw.
    metrics: functions (targets, predictions) -> dict of floats.
    name: of the task.

  Raises:
    ValueError: there are fewer numbers than examples.
  """
  settings.check(
    task,
    num_train=num_train,
    num_validation=num_validation,
    num_test=num_test,
    max_number=max_number,
    seed=seed,
  )
  sizes = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
  numbers = draw_numbers(tuple(sizes.values()), max_number, seed)
  of_split = dict(zip(SPLITS, numbers, strict=True))

  def read(split: str) -> Iterator[dict[str, Any]]:
    for number in of_split[split]:
      inputs, targets = spell(number)
      where = f'{name} {split}: {number}'
      yield {'inputs': inputs, 'targets': targets, 'references': [targets], 'where': where}

  # How many are drawn, and which, are the data and not what is made of a number.
  form = {'spell': spell, 'max_number': max_number}
  source = text.PythonSource(read, SPLITS, num_input_examples=sizes, form=form)
  return text.task(name, source, vocabulary, metrics=metrics)


@functools.lru_cache(maxsize=100_000)
def spell(number: int) -> tuple[str, str]:
  """A number in English and in French words, such as ('seventy-one', 'soixante et onze')."""
  return num2words(number, lang='en'), num2words(number, lang='fr')


def draw_numbers(sizes: Sequence[int], max_number: int, seed: int = 0) -> list[list[int]]:
  """Disjoint lists of numbers from 0 to max_number, of the given sizes, in random order.

  The number of digits is drawn first, so that short numbers, which hold the irregular words, are
  not lost among long ones. Where they run out, the rest is longer.

  Raises:
    ValueError: there are fewer numbers than asked for, or max_number is beyond 64 bits.
  """
  if max_number > sys.maxsize:
    raise ValueError(f'max_number is {max_number}, and {sys.maxsize} is the most.')
  wanted = sum(sizes)
  if min(sizes) < 1 or wanted > max_number + 1:
    raise ValueError(
      f'{list(sizes)} different numbers, at least 1 each, cannot be drawn from 0 to {max_number}.'
    )
  rng = random.Random(seed)
  digits = len(str(max_number))
  bounds = [(0 if d == 0 else 10**d, min(10 ** (d + 1), max_number + 1)) for d in range(digits)]
  pools = [rng.sample(range(low, high), min(high - low, wanted)) for low, high in bounds]
  numbers: list[int] = []
  while len(numbers) < wanted:
    pools = [pool for pool in pools if pool]
    numbers.append(rng.choice(pools).pop())
  # The short ones were drawn first, and belong to all splits alike.
  rng.shuffle(numbers)
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
  return [numbers[end - size : end] for size, end in zip(sizes, ends, strict=True)]
