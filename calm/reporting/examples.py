"""CALM's Fig. 4: texts with the layers that each of their tokens took, beside the full model's."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm.calibration import consistency
from calm.reporting.comparison import Way
from calm.reporting.study import Study

# Which examples are shown: those at these quantiles of the distance from the full model's text.
QUANTILES = (0.5, 0.75, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class Early:
  """A text that tokens left early."""

  threshold: float
  pieces: tuple[tuple[str, int], ...]  # each token's text and the layers it ran
  distance: float  # D, from the full model's text
  risk_increase: float | None  # R less the full model's; below 0 if it is the better one
  layers_per_token: float


@dataclasses.dataclass(frozen=True)
class Shown:
  """An example, and what becomes of it."""

  index: int
  quantile: float  # of D at the last threshold
  inputs: str
  references: tuple[str, ...]
  full: str
  early: tuple[Early, ...]  # in the order of the thresholds


def examples(study: Study, name: str, thresholds: Sequence[float]) -> list[Shown]:
  """Examples decoded by measure `name` (of `study.families`) at thresholds.

  Those at QUANTILES of the distance at the last threshold, fewer if the same example is at several.
  """
  found = {threshold: study.at(name, threshold) for threshold in thresholds}
  distances = {threshold: study.losses(found[threshold], 'textual') for threshold in thresholds}
  increases = {threshold: _risk_increase(study, found[threshold]) for threshold in thresholds}
  order = np.argsort(distances[thresholds[-1]], kind='stable')
  chosen: dict[int, float] = {}
  for quantile in QUANTILES:
    chosen.setdefault(int(order[round(quantile * (len(order) - 1))]), quantile)
  vocabulary = study.predictor.vocabulary
  targets = study.split.references()
  shown = []
  for index, quantile in chosen.items():
    early = []
    for threshold in thresholds:
      row = found[threshold].results.rows[index]
      parts = pieces(vocabulary, row['tokens'])
      increase = increases[threshold]
      early.append(
        Early(
          threshold=threshold,
          pieces=tuple(zip(parts, row['exit_layers'], strict=True)),
          distance=float(distances[threshold][index]),
          risk_increase=None if increase is None else float(increase[index]),
          layers_per_token=row['costs']['layers'] / max(1, row['units']),
        )
      )
    target: Any = targets[index]
    shown.append(
      Shown(
        index=index,
        quantile=quantile,
        inputs=study.split.examples[index].texts['inputs'],
        references=tuple(map(str, target if isinstance(target, list | tuple) else (target,))),
        full=study.full.results.rows[index]['prediction'],
        early=tuple(early),
      )
    )
  return shown


def pieces(vocabulary, tokens: Sequence[int]) -> list[str]:
  """What each token adds to the text, its space included; '</s>' for the one that ends it.

  A token that completes no letter of its own adds nothing.
  """
  parts, before = [], ''
  for end, token in enumerate(tokens, 1):
    if token == vocabulary.eos_id:
      parts.append('</s>')
      continue
    text = vocabulary.decode(list(tokens[:end]))
    # Where a vocabulary takes back what it said, as of half a letter, the token stands for itself.
    whole = text.startswith(before)
    parts.append(text[len(before) :] if whole else vocabulary.decode([token]))
    before = text
  return parts


def _risk_increase(study: Study, way: Way):
  """Risk less the full model's, float64[n], positive or not; None without references."""
  if 'risk' not in study.objectives:
    return None
  references = study.split.references()
  early, full = (
    consistency.risks(
      study.split.postprocessed(each.results.predictions), references, study.dissimilarity
    )
    for each in (way, study.full)
  )
  return early - full
