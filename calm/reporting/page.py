"""One page of all that was found: figures, tables and examples in a single HTML file.

The page asks the network for nothing and runs no script; it is light or dark as the reader's system
is. Every figure has its numbers beneath it, and every token says after which layer it stopped.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from calm.reporting.examples import Shown
from calm.reporting.figures import COLOURS, label

Row = Mapping[str, Any]

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
"""
_STYLE = """
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.25rem; }
p, figcaption, dl { max-width: 45rem; }
figcaption, .note { color: var(--quiet); font-size: 0.9rem; }
figure { margin: 0.75rem 0; }
svg { display: block; width: 100%; max-width: 48rem; height: auto; }
svg text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif !important; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.3rem; }
th, td { padding: 0.2rem 0.45rem; text-align: right; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
th { vertical-align: bottom; }
th[scope=row], th.text, td.text { text-align: left; }
thead th { border-bottom: 2px solid var(--quiet); white-space: normal; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--quiet); }
dl { margin: 0; }
dt { color: var(--quiet); font-size: 0.85rem; margin-top: 0.6rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.token { display: inline-block; white-space: pre; line-height: 1.5; padding: 0 0.1rem;
  border-radius: 0.2rem; margin: 0 1px 3px 0; }
.token sub { font-size: 0.62rem; line-height: 1; padding-left: 0.1rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem; margin: 0.5rem 0; padding: 0;
  list-style: none; font-size: 0.85rem; }
.legend li { padding: 0.1rem 0.6rem; border-radius: 0.2rem; }
"""


def page(title: str, summary: Sequence[str], sections: Sequence[str], num_layers: int) -> str:
  """The whole document: paragraphs of text, then sections as the functions below make them."""
  paragraphs = [f'<p>{html.escape(text)}</p>' for text in summary]
  style = _colours() + _STYLE + _layer_classes(num_layers)
  head = _HEAD.format(title=html.escape(title), style=style)
  body = [f'<h1>{html.escape(title)}</h1>', *paragraphs, *sections]
  return head + '\n'.join(body) + '\n</main>\n</body>\n</html>\n'


def section(heading: str, text: str, *parts: str) -> str:
  """A heading, a paragraph and what follows."""
  opening = f'<section>\n<h2>{html.escape(heading)}</h2>\n<p>{html.escape(text)}</p>'
  return '\n'.join([opening, *parts, '</section>'])


def figure(svg: str, caption: str) -> str:
  """An <svg> with its caption."""
  return f'<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'


def data(rows: Sequence[Row], caption: str) -> str:
  """The numbers of a figure, folded away."""
  return (
    f'<details><summary>Numbers: {html.escape(caption)}</summary>{table(rows, caption)}</details>'
  )


def table(rows: Sequence[Row], caption: str, names: Sequence[str] | None = None) -> str:
  """Rows as a table, their means with their deviation (`_std`); the first column names the row."""
  if names is None:
    names = list(dict.fromkeys(name for row in rows for name in row))
  names = [name for name in names if not name.endswith('_std')]
  textual = {name for name in names if any(isinstance(row.get(name), str) for row in rows)}

  def header(name):
    kind = ' class="text"' if name in textual else ''
    return f'<th scope="col"{kind}>{html.escape(name.replace("_", " "))}</th>'

  def cell(row, name, first):
    kind = ' class="text"' if name in textual else ''
    text = html.escape(_cell(row, name))
    return f'<th scope="row">{text}</th>' if first else f'<td{kind}>{text}</td>'

  lines = [
    '<tr>' + ''.join(cell(row, name, name == names[0]) for name in names) + '</tr>' for row in rows
  ]
  return (
    f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
    f'<caption>{html.escape(caption)}</caption>'
    f'<thead><tr>{"".join(map(header, names))}</tr></thead>\n<tbody>\n'
    + '\n'.join(lines)
    + '\n</tbody></table></div>'
  )


def legend(num_layers: int) -> str:
  """The colour of each exit layer."""
  names = ['1 layer', *[f'{layer} layers' for layer in range(2, num_layers + 1)]]
  items = ''.join(f'<li class="layer-{i}">{name}</li>' for i, name in enumerate(names, 1))
  return f'<ul class="legend">{items}</ul>'


def example(shown: Shown) -> str:
  """An example: what was read, what should be said, and what was."""
  entries = [('Input', html.escape(shown.inputs))]
  entries += [('Reference', html.escape(reference)) for reference in shown.references]
  entries.append(('Full model', html.escape(shown.full)))
  for early in shown.early:
    label = f'Threshold {early.threshold:g}: {early.layers_per_token:.2f} layers per token, '
    label += f'D = {early.distance:.2f}'
    if early.risk_increase is not None:
      label += f', R early - R full = {early.risk_increase:+.2f}'
    entries.append((label, f'<span class="tokens">{_tokens(early.pieces)}</span>'))
  terms = '\n'.join(f'<dt>{term}</dt><dd>{text}</dd>' for term, text in entries)
  where = f'Example {shown.index}, at the {100 * shown.quantile:g} % quantile of D'
  return f'<h3>{where}</h3>\n<dl>\n{terms}\n</dl>'


def _tokens(pieces):
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
    black, white = contrast(background, '#000000'), contrast(background, '#ffffff')
    found.append((background, '#000000' if black >= white else '#ffffff'))
  return found


def contrast(colour: str, other: str) -> float:
  """WCAG 2's contrast ratio of two colours, from 1 to 21."""
  lights = sorted(_luminance(matplotlib.colors.to_rgb(each)) for each in (colour, other))
  return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(rgb):
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
  return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _layer_classes(num_layers):
  return '\n'.join(
    f'.layer-{layer} {{ background: {background}; color: {text}; }}'
    for layer, (background, text) in enumerate(layer_colours(num_layers), 1)
  )


def _colours():
  light = {'--paper': '#ffffff', **{name: pair[0] for name, pair in COLOURS.items()}}
  dark = {'--paper': '#17181a', **{name: pair[1] for name, pair in COLOURS.items()}}

  def rule(values):
    return ':root { ' + ' '.join(f'{name}: {value};' for name, value in values.items()) + ' }'

  return f'{rule(light)}\n@media (prefers-color-scheme: dark) {{ {rule(dark)} }}\n'


def _cell(row, name):
  value, deviation = row.get(name), row.get(f'{name}_std')
  if value is None:
    return 'never' if name == 'threshold' and row.get('kind') == 'calibrated' else ''
  if not isinstance(value, float):
    return label(value) if name in ('measure', 'series') else str(value)
  if name in ('threshold', 'delta', 'flops'):
    return f'{value:g}' if name != 'flops' else f'{value:,.0f}'
  digits = 3 if abs(value) < 1 else 2
  text = f'{value:.{digits}f}'
  return text if deviation is None else f'{text} ± {deviation:.{digits}f}'
