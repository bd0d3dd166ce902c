"""Figures of rows: once as PNG, once as SVG that takes its colours from the page around it.

Colours are Okabe and Ito's, which all kinds of colour vision tell apart, and every series has its
own marker, too. In the SVG each colour is a CSS variable, so that a page can be light or dark.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# CSS variables: in light pages, and so in PNG files, and in dark ones.
COLOURS = {
  '--ink': ('#1b1b1b', '#ededed'),
  '--grid': ('#dcdcdd', '#3c3c3d'),
  '--quiet': ('#6a6a6b', '#a9a9aa'),
  '--series-1': ('#0072b2', '#56b4e9'),
  '--series-2': ('#d55e00', '#f0a030'),
  '--series-3': ('#00805d', '#1fc296'),
  '--series-4': ('#a8478a', '#d992bd'),
  '--series-5': ('#7a6a00', '#f0e442'),
}
INK, GRID, QUIET, *SERIES = (light for light, _ in COLOURS.values())
MARKERS = ('o', 'D', '^', 'v', 'P')
STYLE: Any = {
  'axes.edgecolor': QUIET,
  'axes.grid': True,
  'axes.labelcolor': INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlecolor': INK,
  'axes.titlesize': 'medium',
  'font.size': 10.5,
  'grid.color': GRID,
  'legend.frameon': False,
  'legend.labelcolor': INK,
  'lines.linewidth': 1.6,
  'lines.markersize': 5.5,
  'svg.fonttype': 'none',
  'text.color': INK,
  'xtick.color': QUIET,
  'xtick.labelcolor': INK,
  'ytick.color': QUIET,
  'ytick.labelcolor': INK,
}

Row = Mapping[str, Any]


@matplotlib.rc_context(STYLE)
def tradeoff(rows: Sequence[Row], quality: str, costs: Mapping[str, str]) -> Figure:
  """Fig. 3: `quality`, a name of the rows', against the first of `costs`, by name and label."""
  cost, axis = next(iter(costs.items()))
  figure, (axes,) = _axes(1, (5.4, 4.0))
  static = sorted((row for row in rows if row['kind'] == 'static'), key=lambda row: row[cost])
  _line(axes, static, cost, quality, label='static', color=QUIET, marker='s', ls='--')
  measures = [row for row in rows if row['kind'] == 'measure']
  _lines(axes, measures, cost, quality)
  for row in rows:
    if row['kind'] == 'oracle':
      style = {'marker': '*', 'ms': 13, 'ls': '', 'mfc': 'none', 'zorder': 5}
      _line(axes, [row], cost, quality, label='oracle', color=INK, **style)
  axes.set(xlabel=axis, ylabel=label(quality))
  if static and all(float(row[cost]).is_integer() for row in static):  # Layers, but not seconds.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.legend()
  return figure


@matplotlib.rc_context(STYLE)
def efficiency(rows: Sequence[Row], costs: Mapping[str, str]) -> Figure:
  """The first of `costs` for each delta, mean and standard deviation over trials.

  One plot for each objective; `costs` are as in `tradeoff`.
  """
  cost, axis = next(iter(costs.items()))
  calibrated = [row for row in rows if row['kind'] == 'calibrated']
  objectives = list(dict.fromkeys(row['objective'] for row in calibrated))
  figure, plots = _axes(len(objectives), (5.4, 4.0), sharey=True)
  names = list(dict.fromkeys(row['measure'] for row in calibrated))
  for axes, objective in zip(plots, objectives, strict=True):
    of_objective = [row for row in calibrated if row['objective'] == objective]
    deltas = sorted({row['delta'] for row in of_objective})
    for i, name in enumerate(names):
      shown = [row for row in of_objective if row['measure'] == name]
      # Side by side, so that the bars of equal measures do not hide one another.
      shift = (i - (len(names) - 1) / 2) * 0.14
      axes.errorbar(
        [deltas.index(row['delta']) + shift for row in shown],
        [row[cost] for row in shown],
        [row[f'{cost}_std'] for row in shown],
        color=SERIES[i % len(SERIES)],
        marker=MARKERS[i % len(MARKERS)],
        ls='',
        capsize=3,
        label=label(name),
      )
    axes.set_xticks(range(len(deltas)), [f'{delta:g}' for delta in deltas])
    axes.set_xlim(-0.6, len(deltas) - 0.4)
    axes.set(xlabel='tolerance δ', title=f'{objective} consistency')
  for row in rows:
    if row['kind'] == 'full':
      for axes in plots:
        axes.axhline(row[cost], color=QUIET, ls='--', label='full system')
  plots[0].set_ylabel(axis)
  plots[0].set_ylim(0, 1.05 * plots[0].get_ylim()[1])  # Once all is drawn: it is that of both.
  figure.legend(*plots[0].get_legend_handles_labels(), loc='outside upper center', ncols=2)
  return figure


@matplotlib.rc_context(STYLE)
def decay(shapes: Sequence[Row], found: Sequence[Row]) -> Figure:
  """Fig. 2b and 2c: thresholds by position, and what they give."""
  figure, (left, right) = _axes(2, (5.4, 3.6))
  _lines(left, shapes, 'position', 'threshold', marked=False)
  left.set(xlabel='position in the text', ylabel='threshold', ylim=(0, 1.02))
  _lines(right, found, 'layers', 'similarity')
  right.set(xlabel='layers per token', ylabel='similarity to the full text')
  right.legend()
  return figure


@matplotlib.rc_context(STYLE)
def sensitivity(rows: Sequence[Row]) -> Figure:
  """Fig. 2a: similarity to the full model's text by the position of one wrong token."""
  figure, (axes,) = _axes(1, (5.4, 3.4))
  named = [{**row, 'series': row['kind']} for row in rows]
  _lines(axes, named, 'position', 'similarity')
  axes.set(xlabel='position of the wrong token', ylabel="similarity to the full model's text")
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.legend()
  return figure


@matplotlib.rc_context(STYLE)
def panels(rows: Sequence[Row], x: str, y: str, axes_labels: tuple[str, str]) -> Figure:
  """Lines with intervals, a plot for each 'panel' of the rows and a line for each 'series'.

  Rows have x, y and half the width of y's interval (`<y>_half`, NaN for none). A series looks the
  same in all plots.
  """
  names = list(dict.fromkeys(row['panel'] for row in rows))
  every = list(dict.fromkeys(row['series'] for row in rows))
  columns = min(len(names), 3)
  lines = -(-len(names) // columns)
  size = (7.2, 4.4) if len(names) == 1 else (3.1 * columns, 2.6 * lines + 0.4)
  figure = Figure(figsize=size, layout='constrained')
  plots = figure.subplots(lines, columns, squeeze=False).ravel()
  for axes, name in zip(plots, names, strict=False):
    for i, series in enumerate(every):
      shown = [row for row in rows if (row['panel'], row['series']) == (name, series)]
      color = SERIES[i % len(SERIES)]
      _line(axes, shown, x, y, label=label(series), color=color, marker=MARKERS[i % len(MARKERS)])
      low, high = ([row[y] + sign * row[f'{y}_half'] for row in shown] for sign in (-1, 1))
      axes.fill_between([row[x] for row in shown], low, high, color=color, alpha=0.18, lw=0)
    axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1], title=name)
  for axes in plots[len(names) :]:
    axes.remove()
  figure.legend(*plots[0].get_legend_handles_labels(), loc='outside upper center', ncols=4)
  return figure


@matplotlib.rc_context(STYLE)
def bars(rows: Sequence[Row], y: str, level: str, axis: str) -> Figure:
  """Bars side by side: a plot for each 'panel', a place for each 'place', a colour per 'series'.

  `level` is a value of a plot's rows that chance alone gives, on both sides of 0; it is dashed.
  """
  names = list(dict.fromkeys(row['panel'] for row in rows))
  every = list(dict.fromkeys(row['series'] for row in rows))
  counts = [len({row['place'] for row in rows if row['panel'] == name}) for name in names]
  figure = Figure(figsize=(7.2, 3.4), layout='constrained')
  plots = figure.subplots(1, len(names), sharey=True, squeeze=False, width_ratios=counts)[0]
  for axes, name in zip(plots, names, strict=True):
    of_panel = [row for row in rows if row['panel'] == name]
    places = list(dict.fromkeys(row['place'] for row in of_panel))
    width = 0.8 / len(every)
    for i, series in enumerate(every):
      shown = [row for row in of_panel if row['series'] == series]
      shift = (i - (len(every) - 1) / 2) * width
      where = [places.index(row['place']) + shift for row in shown]
      axes.bar(where, [row[y] for row in shown], width, color=SERIES[i], label=label(series))
    for sign in (-1, 1):
      axes.axhline(sign * of_panel[0][level], color=QUIET, ls='--', lw=1)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(places)), places, rotation=60)
    axes.set(title=name)
  plots[0].set_ylabel(axis)
  figure.legend(*plots[0].get_legend_handles_labels(), loc='outside upper center', ncols=4)
  return figure


def save_png(figure: Figure, path: Path) -> None:
  """Writes a figure on white."""
  figure.savefig(path, format='png', dpi=160, facecolor='white')


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
  """The figure as an <svg> to stand in an HTML page that defines COLOURS.

  `name` begins every id, so that figures of one page do not mix theirs up. Title and description
  are what a screen reader says.
  """
  written = io.StringIO()
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
    figure.savefig(written, format='svg', transparent=True)
  svg = written.getvalue()
  svg = svg[svg.index('<svg') :]
  svg = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>', '', svg, flags=re.DOTALL)
  svg = re.sub(r'\bid="', f'id="{name}-', svg)
  svg = re.sub(r'url\(#', f'url(#{name}-', svg)
  svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
  for variable, (light, _) in COLOURS.items():
    svg = svg.replace(light, f'var({variable})')
  box = re.search(r'viewBox="[^"]*"', svg)
  opening = (
    f'<svg {box.group() if box else ""} role="img" aria-labelledby="{name}-title {name}-text">'
    f'<title id="{name}-title">{title}</title><desc id="{name}-text">{description}</desc>'
  )
  return re.sub(r'<svg[^>]*>', lambda _: opening, svg, count=1)


def _axes(count: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
  figure = Figure(figsize=size, layout='constrained')
  return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def _lines(axes: Axes, rows: Sequence[Row], x: str, y: str, *, marked: bool = True) -> None:
  """A line for each series, in the order of the rows."""
  for i, name in enumerate(dict.fromkeys(row['series'] for row in rows)):
    shown = [row for row in rows if row['series'] == name]
    marker = MARKERS[i % len(MARKERS)] if marked else None
    color = SERIES[i % len(SERIES)]
    _line(axes, shown, x, y, label=label(name), color=color, marker=marker)


def _line(axes: Axes, rows: Sequence[Row], x: str, y: str, **style: Any) -> None:
  axes.plot([row[x] for row in rows], [row[y] for row in rows], **style)


def label(name: str) -> str:
  """A name of the code as people read it: 'softmax margin', 'BLEU'."""
  known = {
    'bleu': 'BLEU',
    'chrf': 'chrF',
    'flops': 'FLOPs',
    'layer_flops': 'FLOPs without head',
    'flops_reduction': 'FLOPs reduction',
    'layer_flops_reduction': 'FLOPs reduction without head',
  }
  name = re.sub(r'^speedup_batch_(\d+)$', r'speedup, batch \1', name)
  return known.get(name, name.replace('_tau_', ', τ = ').replace('_', ' '))
