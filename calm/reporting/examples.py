"""CALM's Fig. 4: texts with the layers that each of their tokens took, beside the full model's."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from calm.calibration import consistency
from calm.reporting import page
from calm.reporting.comparison import Way
from calm.reporting.study import Study

# Which examples are shown: those at these quantiles of the distance from the full model's text.
QUANTILES = (0.5, 0.75, 0.9, 1.0)
_STYLE = """
.token { display: inline-block; white-space: pre; line-height: 1.5; padding: 0 0.1rem;
  border-radius: 0.2rem; margin: 0 1px 3px 0; }
.token sub { font-size: 0.62rem; line-height: 1; padding-left: 0.1rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem; margin: 0.5rem 0; padding: 0;
  list-style: none; font-size: 0.85rem; }
.legend li { padding: 0.1rem 0.6rem; border-radius: 0.2rem; }
"""


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


def pieces(vocabulary: Any, tokens: Sequence[int]) -> list[str]:
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


def _risk_increase(study: Study, way: Way) -> np.ndarray | None:
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


def legend(num_layers: int) -> str:
  """The colour of each exit layer."""
  names = ['1 layer', *[f'{layer} layers' for layer in range(2, num_layers + 1)]]
  items = ''.join(f'<li class="layer-{i}">{name}</li>' for i, name in enumerate(names, 1))
  return f'<ul class="legend">{items}</ul>'


def as_html(shown: Shown) -> str:
  """An example: what was read, what should be said, and what was, each token in its colour."""
  entries = [('Input', html.escape(shown.inputs))]
  entries += [('Reference', html.escape(reference)) for reference in shown.references]
  entries.append(('Full model', html.escape(shown.full)))
  for early in shown.early:
    label = f'Threshold {early.threshold:g}: {early.layers_per_token:.2f} layers per token, '
    label += f'D = {early.distance:.2f}'
    if early.risk_increase is not None:
      label += f', R early - R full = {early.risk_increase:+.2f}'
    entries.append((label, f'<span class="tokens">{_tokens(early.pieces)}</span>'))
  # Each text in the direction of its own script.
  terms = '\n'.join(f'<dt>{term}</dt><dd dir="auto">{text}</dd>' for term, text in entries)
  where = f'Example {shown.index}, at the {100 * shown.quantile:g} % quantile of D'
  return f'<h3>{where}</h3>\n<dl>\n{terms}\n</dl>'


def _tokens(pieces: Sequence[tuple[str, int]]) -> str:
  spans = []
  for text, layer in pieces:
    said = html.escape(text) if text else '&middot;'
    title = '1 layer' if layer == 1 else f'{layer} layers'
    number = f'<sub>{layer}</sub>'
    spans.append(f'<span class="token layer-{layer}" title="{title}">{said}{number}</span>')
  return ''.join(spans)


def layer_colours(num_layers: int) -> list[tuple[str, str]]:
  """(background, text) of each layer: cividis from light to dark, and what is read best on it."""
  cividis = matplotlib.colormaps['cividis']
  found = []
  for layer in range(num_layers):
    red, green, blue, _ = cividis(1 - layer / max(1, num_layers - 1))
    background = matplotlib.colors.to_hex((red, green, blue))
    black, white = page.contrast(background, '#000000'), page.contrast(background, '#ffffff')
    found.append((background, '#000000' if black >= white else '#ffffff'))
  return found


def style(num_layers: int) -> str:
  """The CSS of `legend` and `as_html`."""
  layers = '\n'.join(
    f'.layer-{layer} {{ background: {background}; color: {text}; }}'
    for layer, (background, text) in enumerate(layer_colours(num_layers), 1)
  )
  return _STYLE + layers
