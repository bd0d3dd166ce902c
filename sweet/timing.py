"""Measured seconds per example at every threshold, beside what ratios of layers promise.

A time is worth comparing only with times taken beside it: thresholds take turns at each batch,
every time in another order.
"""

import statistics
import time
from collections.abc import Sequence

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
  """Seconds per example at each threshold; tokenisation and compilation are left out.

  Each batch is answered for itself, as a server would: rows that stay are not pooled with those of
  other batches.

  Args:
    predictor: whose thresholds they are.
    examples: answered in this order, `batch_size` at once.
    thresholds: of the predictor's measure.
    batch_size: the last batch may be smaller.
    repeats: of which the median counts, after a first time to warm up.

  Raises:
    ValueError: there are no examples or no repeat; or an example cannot be read.
  """
  if not examples or repeats < 1:
    raise ValueError(f'{len(examples)} examples, {repeats} repeats: there is nothing to measure.')
  texts = predictor.tokenize(examples)
  batches = [texts[at : at + batch_size] for at in range(0, len(texts), batch_size)]
  run = StagedRun(predictor.model, predictor.measure, batch_size, predictor.length)

  def answer(batch, threshold):
    start = time.perf_counter()
    run(predictor.params, batch, threshold, predictor.temperatures)
    return time.perf_counter() - start

  for batch in batches:
    for threshold in thresholds:
      answer(batch, threshold)
  seconds = [[0.0] * repeats for _ in thresholds]
  for repeat in range(repeats):
    for number, batch in enumerate(batches):
      for turn in range(len(thresholds)):
        which = (turn + repeat + number) % len(thresholds)
        seconds[which][repeat] += answer(batch, thresholds[which])
  return [statistics.median(each) / len(examples) for each in seconds]
