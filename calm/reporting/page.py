"""One page of all that was found: figures, tables and examples in a single HTML file.

The page asks the network for nothing and runs no script; it is light or dark as the reader's system
is. Every figure has its numbers beneath it.
"""

import dataclasses
import html
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.colors

from calm.reporting import efficiency
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
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.25rem; }
p, figcaption, dl, ul { max-width: 45rem; }
figcaption, .note { color: var(--quiet); font-size: 0.9rem; }
figure { margin: 0.75rem 0; }
svg { display: block; width: 100%; max-width: 38rem; height: auto; }
svg text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif !important; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.85rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.3rem; }
th, td { padding: 0.2rem 0.45rem; text-align: right; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
th { vertical-align: bottom; }
th[scope=row], th[scope=rowgroup], th.text, td.text { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
th[scope=row] { font-weight: normal; }
th[scope=rowgroup] { padding-top: 0.9rem; }
thead th { border-bottom: 2px solid var(--quiet); white-space: normal; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--quiet); }
dl { margin: 0; }
dt { color: var(--quiet); font-size: 0.85rem; margin-top: 0.6rem; }
dd { margin: 0; overflow-wrap: anywhere; }
ul.terms { margin: 0.5rem 0; padding: 0; list-style: none; font-size: 0.85rem; }
ul.terms b { font-weight: 600; }
pre { overflow-x: auto; font-size: 0.8rem; line-height: 1.4; padding: 0.75rem;
  border: 1px solid var(--grid); }
@media (max-width: 40rem) {
  h1 { font-size: 1.4rem; }
  th, td { padding: 0.2rem 0.35rem; }
  tbody th:first-child { white-space: normal; min-width: 6rem; }
}
"""


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page, and the rules of CSS that it needs beside the page's own."""

  html: str
  style: str = ''


def page(title: str, summary: Sequence[str], sections: Sequence[Section]) -> str:
  """The whole document: paragraphs of text, then sections."""
  paragraphs = [f'<p>{html.escape(text)}</p>' for text in summary]
  style = colours() + _STYLE + ''.join(section.style for section in sections)
  head = _HEAD.format(title=html.escape(title), style=style)
  body = [f'<h1>{html.escape(title)}</h1>', *paragraphs, *(section.html for section in sections)]
  return head + '\n'.join(body) + '\n</main>\n</body>\n</html>\n'


def section(heading: str, text: str, *parts: str, style: str = '') -> Section:
  """A heading, a paragraph and what follows."""
  opening = f'<section>\n<h2>{html.escape(heading)}</h2>\n<p>{html.escape(text)}</p>'
  return Section('\n'.join([opening, *parts, '</section>']), style)


def figure(svg: str, caption: str) -> str:
  """An <svg> with its caption."""
  return f'<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'


def data(rows: Sequence[Row], caption: str) -> str:
  """The numbers of a figure, folded away."""
  return (
    f'<details><summary>Numbers: {html.escape(caption)}</summary>{table(rows, caption)}</details>'
  )


def terms(explained: Mapping[str, str]) -> str:
  """Words and what they mean, a line each."""
  lines = [
    f'<li><b>{html.escape(term)}</b>: {html.escape(text)}</li>' for term, text in explained.items()
  ]
  return '<ul class="terms">\n' + '\n'.join(lines) + '\n</ul>'


def folded(summary: str, text: str) -> str:
  """A text as it is, folded away."""
  return (
    f'<details><summary>{html.escape(summary)}</summary><pre tabindex="0">{html.escape(text)}</pre>'
    '</details>'
  )


def table(
  rows: Sequence[Row],
  caption: str,
  names: Sequence[str] | None = None,
  group: Callable[[Row], str] | None = None,
) -> str:
  """Rows as a table, their means with their deviation (`_std`); the first column names the row.

  Rows that follow each other and have the same `group` stand below it.
  """
  if names is None:
    names = list(dict.fromkeys(name for row in rows for name in row))
  names = [name for name in names if not name.endswith('_std')]
  texts = (str, os.PathLike)
  textual = {name for name in names if any(isinstance(row.get(name), texts) for row in rows)}

  def header(name: str) -> str:
    kind = ' class="text"' if name in textual else ''
    return f'<th scope="col"{kind}>{html.escape(label(name))}</th>'

  def cell(row: Row, name: str, first: bool) -> str:
    kind = ' class="text"' if name in textual else ''
    text = html.escape(_cell(row, name))
    return f'<th scope="row">{text}</th>' if first else f'<td{kind}>{text}</td>'

  lines, before = [], None
  for row in rows:
    if group is not None and group(row) != before:
      before = group(row)
      text = f'<th scope="rowgroup" colspan="{len(names)}">{html.escape(before)}</th>'
      lines.append(f'<tr>{text}</tr>')
    lines.append('<tr>' + ''.join(cell(row, name, name == names[0]) for name in names) + '</tr>')
  return (
    f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
    f'<caption>{html.escape(caption)}</caption>'
    f'<thead><tr>{"".join(map(header, names))}</tr></thead>\n<tbody>\n'
    + '\n'.join(lines)
    + '\n</tbody></table></div>'
  )


def contrast(colour: str, other: str) -> float:
  """WCAG 2's contrast ratio of two colours, from 1 to 21."""
  lights = sorted(_luminance(matplotlib.colors.to_rgb(each)) for each in (colour, other))
  return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(rgb: Sequence[float]) -> float:
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
  return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def colours() -> str:
  """The rules of CSS that give every page its colours, light or dark, as variables."""
  light = {'--paper': '#ffffff', **{name: pair[0] for name, pair in COLOURS.items()}}
  dark = {'--paper': '#17181a', **{name: pair[1] for name, pair in COLOURS.items()}}

  def rule(values: Mapping[str, str]) -> str:
    return ':root { ' + ' '.join(f'{name}: {value};' for name, value in values.items()) + ' }'

  return f'{rule(light)}\n@media (prefers-color-scheme: dark) {{ {rule(dark)} }}\n'


def _cell(row: Row, name: str) -> str:
  value, deviation = row.get(name), row.get(f'{name}_std')
  if value is None:
    return 'never' if name == 'threshold' and row.get('kind') == 'calibrated' else ''
  if isinstance(value, list):
    return ', '.join(f'{item:g}' for item in value)
  if not isinstance(value, float):
    return label(value) if name in ('measure', 'series') else str(value)
  if name in ('threshold', 'delta'):
    return f'{value:g}'
  if abs(value) >= 1000:
    return f'{value:,.0f}'
  digits = efficiency.decimals(value, 3 if abs(value) < 1 else 2)
  text = f'{value:.{digits}f}'
  return text if deviation is None else f'{text} ± {deviation:.{digits}f}'
