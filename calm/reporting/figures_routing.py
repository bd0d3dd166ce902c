"""Figures of systems that choose between a small model and a large one."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calm.reporting.figures import INK, QUIET, SERIES, STYLE, Row, label

_DASHES = ('-', '--', '-.', ':')
# Lines that are no score's, by the names of their series.
REFERENCES: dict[str, dict[str, Any]] = {
  'chance': {'color': QUIET, 'ls': ':', 'lw': 2.2},
  'oracle': {'color': INK, 'lw': 1.1},
}


@matplotlib.rc_context(STYLE)
def tradeoff(
  rows: Sequence[Row], cost: str, axis: str, quality: str, ends: Mapping[str, tuple[float, float]]
) -> Figure:
  """Quality 'quality' by a cost, a line for each 'series'; 'chance' and 'oracle' look apart.

  `ends` are the models that choose nothing, each a point of (cost, quality) by its name.
  """
  figure = Figure(figsize=(5.4, 4.6), layout='constrained')
  axes = figure.subplots()
  names = list(dict.fromkeys(row['series'] for row in rows))
  scores = [name for name in names if name not in REFERENCES]
  for name in names:
    shown = [row for row in rows if row['series'] == name]
    style = REFERENCES.get(name) or style_of(scores.index(name))
    axes.plot([row[cost] for row in shown], [row['quality'] for row in shown], label=name, **style)
  for (name, (x, y)), marker in zip(ends.items(), 'so', strict=False):
    axes.plot([x], [y], color=INK, marker=marker, ms=7, mfc='none', ls='', label=name, zorder=5)
  axes.set(xlabel=axis, ylabel=label(quality))
  figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', ncols=2)
  return figure


@matplotlib.rc_context(STYLE)
def distributions(
  scores: Mapping[str, np.ndarray],
  right: np.ndarray,
  thresholds: Mapping[str, Mapping[str, float]],
  groups: tuple[str, str],
) -> Figure:
  """How each of scores[n] lies on what is right[n] and what is not, with thresholds by name.

  Shares of either group in bins of one width; `groups` names what is right and what is wrong.
  """
  columns = min(2, len(scores))
  lines = -(-len(scores) // columns)
  figure = Figure(figsize=(2.7 * columns + 0.6, 2.3 * lines + 0.6), layout='constrained')
  plots = figure.subplots(lines, columns, squeeze=False).ravel()
  for axes, (name, values) in zip(plots, scores.items(), strict=False):
    known = np.isfinite(values)
    edges = np.histogram_bin_edges(values[known], bins=24)
    for number, (group, holds) in enumerate(zip(groups, (right, ~right), strict=True)):
      found = values[known & holds]
      weights = np.full(len(found), 1 / max(1, len(found)))
      style = {'color': SERIES[number], 'histtype': 'stepfilled', 'alpha': 0.35}
      axes.hist(found, edges, weights=weights, label=group, **style)
      axes.hist(found, edges, weights=weights, color=SERIES[number], histtype='step')
    for number, (what, value) in enumerate(thresholds.get(name, {}).items()):
      axes.axvline(value, color=INK, lw=1.2, ls=_DASHES[number % len(_DASHES)], label=what)
    axes.set_title(textwrap.fill(name, 24))
    axes.locator_params(axis='x', nbins=4)
  for axes in plots[len(scores) :]:
    axes.remove()
  figure.supxlabel('score', fontsize='medium')
  figure.supylabel('share of its group', fontsize='medium')
  handles, labels = _legend(plots[: len(scores)])
  figure.legend(handles, labels, loc='outside upper center', ncols=2)
  return figure


def style_of(number: int) -> dict[str, Any]:
  """Colour and dashes of a series: no two of the first twenty look alike."""
  return {
    'color': SERIES[number % len(SERIES)],
    'ls': _DASHES[number // len(SERIES) % len(_DASHES)],
  }


def _legend(plots: Iterable[Axes]) -> tuple[list[Any], list[str]]:
  """Handles and labels of all plots, each label once."""
  found: dict[str, Any] = {}
  for axes in plots:
    for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
      found.setdefault(text, handle)
  return list(found.values()), list(found)
