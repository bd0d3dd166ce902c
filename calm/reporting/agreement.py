"""How near a shortlist comes to the whole vocabulary: both rules at the same threshold, compared.

Two texts are compared token by token up to the first that differs: what follows has another past.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from calm.evaluation.outcomes import Results
from calm.exits import confidence
from calm.reporting.study import Study


def exact(measure: confidence.Measure) -> confidence.Measure | None:
  """The measure that looks at all words where this one looks at a shortlist; None if unknown."""
  if isinstance(measure, confidence.Gated):
    inner = exact(measure.measure)
    return None if inner is None else dataclasses.replace(measure, measure=inner)
  # Gin hands on a function in a wrapper.
  return (
    confidence.softmax_margin if inspect.unwrap(measure) is confidence.shortlist_margin else None
  )


def agreement(study: Study, thresholds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
  """Rows of 'measure' and 'threshold', for each of `thresholds` by the name of a measure.

  'tokens' is the share of tokens that are the same, of all that have the same past, 'exits' that of
  the same token after the same layer, 'texts' the share of texts that are the same; 'logits' and
  'exact_logits' are how many are made for a token. Measures that look at all words have no row.
  """
  rows = []
  for name, values in thresholds.items():
    outcomes = study.outcomes[name]
    confident = study.measure_of(name)
    measure = None if confident is None else exact(confident)
    if measure is None:
      continue
    other = study.outcomes_of(measure, study.thresholds.get(name))
    for value in values:
      short, whole = outcomes.at(value), other.at(value)
      rows.append(
        {
          'measure': name,
          'threshold': value,
          **compare(short, whole),
          'logits': short.cost_per_unit('logits'),
          'exact_logits': whole.cost_per_unit('logits'),
        }
      )
  return rows


def compare(one: Results, other: Results) -> dict[str, float]:
  """Shares in [0, 1]: 'tokens', 'exits' and 'texts' that are the same, as in `agreement`."""
  compared = tokens = exits = texts = 0
  for a, b in zip(one.rows, other.rows, strict=True):
    pairs = list(zip(a['tokens'], b['tokens'], a['exit_layers'], b['exit_layers'], strict=False))
    for mine, its, my_exit, its_exit in pairs:
      compared += 1
      tokens += mine == its
      exits += mine == its and my_exit == its_exit
      if mine != its:
        break
    texts += a['tokens'] == b['tokens']
  return {
    'tokens': tokens / max(1, compared),
    'exits': exits / max(1, compared),
    'texts': texts / max(1, len(one.rows)),
  }
