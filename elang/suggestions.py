"""What a router's thresholds would do on a split: where densities cross, and the trade-off."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from calm import storage
from calm.calibration import consistency
from calm.evaluation.outcomes import Replay
from calm.evaluation.split import read_split
from calm.settings import Count, NonNegative, Share
from elang import paths, thresholds
from elang.recorded import Recorded, Threshold, recorded
from elang.routing import Router

FOLDER = 'thresholds'
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def suggest_thresholds(
  *,
  task: seqio.Task,
  split: str,
  router: Router,
  workdir: str,
  budgets: Mapping[str, NonNegative] | None = None,
  shares: Sequence[Share] = SHARES,
  dissimilarity: consistency.Dissimilarity = consistency.exact_match,
  limit: Count | None = None,
) -> dict[str, Any]:
  """Measures a router of two models at thresholds of every kind; prints and returns a record.

  Each model is run once on the split, and `workdir`/thresholds keeps it. A crossing, a budget and a
  share are of this split: what they give on another one is not certified (`by_quality` is).

  Args:
    task: a `seqio.Task`.
    split: of it, with references; neither model was trained on it.
    router: of two models.
    workdir: folder of the run.
    budgets: of costs by name, as in {'passed_on': 0.3, 'seconds': 0.02}.
    shares: of inputs passed on, at which the trade-off is shown.
    dissimilarity: of predictions and references, from 0 to 1.
    limit: examples at most.

  Returns:
    'super' and 'swift' (risk and costs of each alone), 'crossing' and 'weighted_crossing' (with
    'reason' and all 'crossings'), 'budgets' by cost, and 'points' by share; with each threshold its
    'risk' and its mean costs.

  Raises:
    ValueError: there are more than two models, or an example has no reference, or a budget is below
      what the cheapest costs.
  """
  if len(router.models) != 2:
    raise ValueError(f'Thresholds are suggested for two models, not {len(router.models)}.')
  read = read_split(task, split, limit=limit)
  folder = Path(workdir, FOLDER)
  with storage.lock(folder / '.lock', f'{workdir}/{FOLDER}'):
    found = recorded(Replay(read, router.at(None), folder), dissimilarity)
    point = functools.partial(_point, found)
    crossings = {
      name: thresholds.by_crossing(found.scores[0], found.right, weighted=weighted)
      for name, weighted in (('crossing', False), ('weighted_crossing', True))
    }
    known = found.scores[0][np.isfinite(found.scores[0])]
    record = {
      'split': split,
      'models': [model.name for model in router.models],
      'num_examples': len(found.rows),
      'super': point(None),
      'swift': point(-np.inf),
      **{
        name: {**point(one.threshold), 'crossings': list(one.crossings), 'reason': one.reason}
        for name, one in crossings.items()
      },
      'budgets': {
        cost: point(thresholds.by_budget(found, cost, budget))
        for cost, budget in (budgets or {}).items()
      },
      'points': [point(threshold) for threshold in _at_shares(known, shares)],
    }
    storage.write_record(folder / f'{split}.json', record)
  print(json.dumps(record, indent=2))
  return record


def grid_of_split(
  *, task: seqio.Task, split: str, router: Router, limit: Count | None = 1000, num: Count = 20
) -> tuple[float, ...]:
  """Descending thresholds spread over the first model's scores on a split; only it is asked.

  For a calibration on another split.

  Raises:
    ValueError: no score is a number.
  """
  examples = read_split(task, split, limit=limit).examples
  known = [example for example in examples if example.texts]
  return paths.quantile_grid(router.models[0].ask(known).scores, num)


def _at_shares(scores: np.ndarray, shares: Sequence[float]) -> list[float]:
  """The thresholds that pass on such shares of scores, ascending, each once."""
  return np.unique(np.quantile(scores, shares)).tolist() if len(scores) else []


def _point(found: Recorded, threshold: Threshold) -> dict[str, Any]:
  """A threshold, its mean risk, and its mean costs by name."""
  costs = ('passed_on', *found.router.priced)
  shown = threshold if threshold is None or np.isfinite(threshold) else str(threshold)
  return {
    'threshold': shown,
    'risk': round(float(found.risks_at(threshold).mean()), 6),
    **{cost: round(float(found.costs_at(cost, threshold).mean()), 6) for cost in costs},
  }
