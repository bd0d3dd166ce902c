"""Measured seconds per example at every threshold, beside what ratios of layers promise.

A time is worth comparing only with times taken beside it: thresholds take turns at each batch,
every time in another order.
"""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from calm.tasks.examples import Example
from sweet.inference import StagedRun
from sweet.predictor import ExitsPredictor

BATCH_SIZES = (1, 32)


def seconds_per_example(
  predictor: ExitsPredictor,
  examples: Sequence[Example],
  thresholds: Sequence[float],
  *,
  batch_size: int,
  repeats: int = 3,
) -> list[float]:
  """Seconds per example at each threshold of a predictor: see `seconds_in_turn`."""
  systems = [predictor.at(threshold) for threshold in thresholds]
  return seconds_in_turn(systems, examples, batch_size=batch_size, repeats=repeats)


def seconds_in_turn(
  systems: Sequence[ExitsPredictor],
  examples: Sequence[Example],
  *,
  batch_size: int,
  repeats: int = 3,
) -> list[float]:
  """Seconds per example of each system; tokenisation and compilation are left out.

  Each batch is answered for itself, as a server would: rows that stay are not pooled with those of
  other batches.

  Args:
    systems: predictors of one tokenizer, each at its threshold.
    examples: answered in this order, `batch_size` at once.
    batch_size: the last batch may be smaller.
    repeats: of which the median counts, after a first time to warm up.

  Raises:
    ValueError: there are no examples or no repeat; or an example cannot be read.
  """
  if not examples or repeats < 1:
    raise ValueError(f'{len(examples)} examples, {repeats} repeats: there is nothing to measure.')
  texts = systems[0].tokenize(examples)
  batches = [texts[at : at + batch_size] for at in range(0, len(texts), batch_size)]
  runs = [StagedRun(one.model, one.measure, batch_size, one.length) for one in systems]

  def answer(batch: Sequence[tuple[np.ndarray, np.ndarray]], which: int) -> float:
    one, start = systems[which], time.perf_counter()
    runs[which](one.params, batch, one.threshold, one.temperatures)
    return time.perf_counter() - start

  for batch in batches:
    for which in range(len(systems)):
      answer(batch, which)
  seconds = [[0.0] * repeats for _ in systems]
  for repeat in range(repeats):
    for number, batch in enumerate(batches):
      for turn in range(len(systems)):
        which = (turn + repeat + number) % len(systems)
        seconds[which][repeat] += answer(batch, which)
  return [statistics.median(each) / len(examples) for each in seconds]
