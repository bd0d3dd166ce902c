"""What a run's classifiers score: each alone, and together at every threshold.

Rotem et al., section 3.2 (Table 1) and 3.3 (Figure 4), https://arxiv.org/abs/2306.02307.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import seqio

from calm import storage
from calm.evaluation.outcomes import Replay, Results
from calm.evaluation.split import Split, read_split
from calm.exits import stopping
from calm.settings import Count, Natural, NonNegative
from sweet import curves, timing
from sweet.predictor import ExitsPredictor

FOLDER = 'curves'


def measure_curve(
  *,
  task: seqio.Task,
  split: str,
  predictor: ExitsPredictor,
  workdir: str,
  thresholds: Sequence[float] | None = None,
  ratios: Sequence[NonNegative] = curves.RATIOS,
  metric: str | None = None,
  limit: Count | None = None,
  timed_examples: Natural = 0,
  quiet: bool = False,
) -> dict[str, Any]:
  """Scores every classifier alone and the system at every threshold; prints and returns a record.

  `workdir`/curves/<split>_<measure>.json keeps it. The split is predicted once: what it says at a
  threshold is looked up.

  Args:
    task: of labelled texts.
    split: of it.
    predictor: of the run.
    workdir: of the run.
    thresholds: None for the paper's eleven, of which the measure's ends are the first and last; for
      patience every number of agreements.
    ratios: of the full model's layers, at which the curve is read.
    metric: which of the task's metrics counts; its first by default.
    limit: examples at most.
    timed_examples: first examples that are answered again at every threshold, to measure seconds.
    quiet: whether nothing is printed.

  Returns:
    'classifiers' (a score for each, its metrics, how many different 'labels_given'), 'majority'
    (the metrics of the commonest label, given to all), 'points' (threshold, ratio, score), 'at'
    (the score at each ratio, None where the curve does not reach), 'area', and what it is of. With
    `timed_examples`, points have 'seconds' per example by size of batch (`sweet.timing`).

  Raises:
    ValueError: as `calm.evaluation.outcomes.predict_split`; or the task has no such metric.
  """
  read = read_split(task, split, limit=limit)
  folder = Path(workdir, FOLDER)
  num_layers = predictor.model.exits[-1]
  values = _thresholds(predictor) if thresholds is None else list(thresholds)
  with storage.lock(folder / '.lock', f'{workdir}/{FOLDER}'):
    run = Replay(read, predictor, folder)
    said = _of_each_classifier(run, predictor)
    alone = [read.score(one) for one in said]
    metric = _checked_metric(metric, alone[0])
    score = functools.partial(_point, read, metric)
    points: list[dict[str, Any]]
    points = [{'threshold': value, **score(run.at(value), num_layers)} for value in values]
    timed = [example for example in read.examples if example.texts][:timed_examples]
    for size in timing.BATCH_SIZES if timed else ():
      measured = timing.seconds_per_example(predictor, timed, values, batch_size=size)
      for point, seconds in zip(points, measured, strict=True):
        point.setdefault('seconds', {})[str(size)] = seconds
    line = curves.curve([one['ratio'] for one in points], [one['score'] for one in points])
    at = {f'{ratio:.4f}': storage.number(line.at(ratio)) for ratio in ratios}
    record = {
      'split': split,
      'measure': predictor.name,
      'metric': metric,
      'exits': list(predictor.model.exits),
      'num_examples': len(read.examples),
      'timed_examples': len(timed),
      'device': jax.devices()[0].device_kind,
      'majority': _of_majority(read),
      'classifiers': [
        {'score': scores[metric], **scores, 'labels_given': len(set(one))}
        for scores, one in zip(alone, said, strict=True)
      ],
      'points': points,
      'at': at,
      'area': storage.number(line.area(predictor.model.exits[0] / num_layers)),
      'temperatures': predictor.temperatures,
    }
    storage.write_record(folder / f'{split}_{predictor.name}.json', record)
  if not quiet:
    print(json.dumps(record, indent=2))
  return record


def _of_each_classifier(run: Replay, predictor: ExitsPredictor) -> list[list[str]]:
  """What each classifier alone predicts of every example."""
  fixed = dataclasses.replace(predictor, measure=stopping.FixedExit(), threshold=None)
  rows = run.recorded.rows
  by_number = [fixed.replay(rows, k) for k in range(1, len(predictor.model.exits) + 1)]
  return [[row['prediction'] for row in replayed] for replayed in by_number]


def _of_majority(read: Split) -> dict[str, float]:
  """What the commonest label scores if it is given to every example."""
  counted = collections.Counter(example.target for example in read.examples)
  ((commonest, _),) = counted.most_common(1)
  return read.score([commonest] * len(read.examples))


def _checked_metric(metric: str | None, scores: Mapping[str, float]) -> str:
  if not scores:
    raise ValueError('The task has no metrics: set METRICS, as in (@metrics.accuracy,).')
  if metric is not None and metric not in scores:
    raise ValueError(f'metric (METRIC): {metric!r} is not one of {", ".join(scores)}.')
  return metric or next(iter(scores))


def _point(read: Split, metric: str, results: Results, num_layers: int) -> dict[str, float]:
  layers = results.cost('layers')
  ratio = curves.speedup_ratio(layers, num_layers)
  return {'ratio': ratio, 'score': read.score(results.predictions)[metric]}


def _thresholds(predictor: ExitsPredictor) -> list[float]:
  """From where all leave at once to where none does."""
  predictor.measure.check(predictor.labels.num_outputs)
  loose, strict = predictor.measure.ends(predictor.labels.num_outputs)
  if isinstance(predictor.measure, stopping.Patience):
    return [float(count) for count in range(len(predictor.model.exits) + 1)]
  if not np.isfinite([loose, strict]).all():
    raise ValueError(
      f'{predictor.name} has no ends to space thresholds between: set THRESHOLDS, as in (0, 1, 2).'
    )
  return np.linspace(loose, strict, curves.NUM_THRESHOLDS).tolist()
