"""The numbers behind the figures: rows of names and values, as they are written to CSV files.

Fig. 3 of https://arxiv.org/abs/2207.07061: quality against cost for each family.
"""

from typing import Any

from calm.reporting.comparison import Comparison, Way

Rows = list[dict[str, Any]]


def tradeoff(study: Comparison) -> Rows:
  """Quality and cost of every family at each threshold, of each static system and the oracle.

  Rows of 'kind' ('measure', 'static' with the full system as its last, 'oracle'), 'series',
  'threshold' (None where there is none), each cost per unit (as 'layers'), 'similarity' to the full
  system's text, and the task's metrics.
  """
  rows = []
  for name in study.families:
    for threshold in study.grid:
      rows.append(row(study, 'measure', name, threshold, study.at(name, threshold)))
  rows += [row(study, 'static', 'static', None, way) for way in (*study.static, study.full)]
  if study.oracle is not None:
    rows.append(row(study, 'oracle', 'oracle', None, study.oracle))
  return rows


def row(
  study: Comparison, kind: str, series: str, threshold: float | None, way: Way
) -> dict[str, Any]:
  """A point of a curve."""
  return {
    'kind': kind,
    'series': series,
    'threshold': threshold,
    **{name: way.cost(name) for name in study.costs},
    'similarity': 1 - float(study.losses(way, 'textual').mean()),
    **study.scores(way),
  }
