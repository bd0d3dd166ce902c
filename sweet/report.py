"""The page of many runs: the paper's tables, pictures and claims, of what was found here.

Rotem et al., https://arxiv.org/abs/2306.02307.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm import storage
from calm.reporting import efficiency, figures, page
from calm.reporting.markdown import markdown
from sweet import paper, records, tables
from sweet.records import Found, Methods, Run, Setting
from sweet.tables import Group, Row

PAGE = 'report.html'
MARKDOWN = 'tables.md'
AXES = ("share of the full model's layers", 'score')


def report(
  *,
  runs: str | Sequence[str],
  output: str,
  split: str = 'validation',
  title: str = 'Encoders that stop early',
) -> Path:
  """Writes `output`/report.html, tables.md, and a PNG and CSV per figure; returns the page's path.

  Prints what is in tables.md. Runs whose losses were not finite have no numbers: they are counted
  and listed. Classifiers that have not converged (`sweet.records.Run.converged`) count like all.

  Args:
    runs: folders of runs, or above them, or patterns of such.
    output: folder to write.
    split: of the curves, as `sweet curve` has measured them.
    title: of the page.

  Raises:
    FileNotFoundError: there is no run with a curve.
    DamagedError: a record is damaged.
  """
  found = records.read(runs, split)
  chosen = records.at_best_rates(found.runs)
  settings = records.by_setting(chosen)
  book = _Book(Path(output))
  for number, (setting, tasks) in enumerate(settings.items(), 1):
    _chapter(book, number, setting, tables.groups(tasks))
  _sizes(book, settings)
  _paper(book, settings)
  _account(book, found, chosen)
  summary = [
    f'Runs on split {split}: {len(found.runs)}, of which {len(chosen)} at the learning rates of the'
    ' largest area under the curve. Scores are means over seeds.'
  ]
  path = book.folder / PAGE
  storage.write_text(path, page.page(title, summary, book.sections))
  text = '\n\n'.join([f'# {title}', *summary, *book.text]) + '\n'
  storage.write_text(book.folder / MARKDOWN, text)
  print(text)
  print(path)
  return path


class _Book:
  """What is written: sections of the page, the same as Markdown, and files beside them."""

  def __init__(self, folder: Path):
    self.folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    self.sections: list[page.Section] = []
    self.text: list[str] = []

  def section(self, heading: str, text: str, *parts: str) -> None:
    """A section of the page from `table` and `picture`."""
    self.sections.append(page.section(heading, text, *parts))

  def head(self, heading: str, text: str) -> None:
    """What a section begins with, in Markdown."""
    self.text += [f'## {heading}', text]

  def table(self, rows: Sequence[Row], caption: str) -> str:
    """A table; '' of no rows."""
    if not rows:
      return ''
    self.text += [f'{caption}:', markdown(rows)]
    shown = [{name: _as_text(name, value) for name, value in row.items()} for row in rows]
    return page.table(shown, caption)

  def picture(self, name: str, points: Sequence[Row], caption: str) -> str:
    """Curves with their intervals, as SVG for the page, PNG and CSV."""
    drawn = [row for row in points if not np.isnan(row['score'])]
    figure = figures.panels(drawn, 'ratio', 'score', AXES)
    figures.save_png(figure, self.folder / f'{name}.png')
    efficiency.write_csv(self.folder / f'{name}.csv', drawn)
    svg = figures.to_svg(figure, name, html.escape(caption), 'The numbers follow in tables.')
    return page.figure(svg, f'{caption}. Shaded: intervals of 95 % over seeds.')


def _chapter(book: _Book, number: int, setting: Setting, groups: Sequence[Group]) -> None:
  """All that runs of one setting say."""
  heading = f'Setting {number}: {setting.text}'
  text = (
    'Each classifier alone on the whole split, mean ± standard deviation over seeds; curves read at'
    " shares of the full model's layers, mean ± half the interval of 95 %, empty where a curve does"
    ' not reach.'
  )
  book.head(heading, text)
  parts, every = [], []
  at = tables.ratios(setting.exits)
  for group in groups:
    points = tables.curve_points(group, at)
    every.append(points)
    parts.append(f'<h3>{html.escape(group.name)}</h3>')
    book.text.append(f'### {group.name}')
    parts.append(book.table(tables.classifiers(group), f'Classifiers, {group.name}'))
    parts.append(book.table(tables.curve_table(points), f'Scores at ratios, {group.name}'))
    milliseconds = f'Milliseconds per example at ratios, {group.name}, tokenisation left out'
    parts.append(book.table(tables.seconds_table(group, at), milliseconds))
    parts.append(book.table(tables.claims(group), f'Claims, {group.name}'))
  drawn = [point for points in every for point in points]
  parts.insert(0, book.picture(f'curves_{number}', drawn, f'Speed and accuracy: {setting.text}'))
  book.section(heading, text, *parts)


def _sizes(book: _Book, settings: Mapping[Setting, Mapping[str, Methods]]) -> None:
  """Figure 8: a task at several numbers of rows."""
  found: dict[tuple, dict[int, Group]] = {}
  for setting, tasks in settings.items():
    if setting.num_examples is None:
      continue
    for task, methods in tasks.items():
      (group,) = tables.groups({task: methods})
      kind = (task, setting.pooling, setting.exits, setting.measure)
      found.setdefault(kind, {})[setting.num_examples] = group
  for number, ((task, _, exits, _), of_sizes) in enumerate(found.items(), 1):
    if len(of_sizes) < 2:
      continue
    points = [
      {**point, 'panel': f'{size} rows'}
      for size, group in sorted(of_sizes.items())
      for point in tables.curve_points(group, tables.ratios(exits))
    ]
    text = f'{task} with {", ".join(str(size) for size in sorted(of_sizes))} rows to train on.'
    book.section(
      f'Data sizes: {task}', text, book.picture(f'sizes_{number}', points, f'Data sizes: {task}')
    )


def _paper(book: _Book, settings: Mapping[Setting, Mapping[str, Methods]]) -> None:
  """The paper's tables of the kinds of exits that there are here."""
  heading, text = 'The paper', 'Averages over seven tasks with 6000 rows each, three seeds.'
  shown = {'Table 1, BERT': paper.BERT}
  if any(setting.measure == 'classifier' for setting in settings):
    shown['Table 4, BERT that learns to exit'] = paper.LEARNING_TO_EXIT
  book.head(heading, text)
  parts = [
    book.table(tables.of_the_paper(scores, paper.EXITS[size]), f'{name} {size}')
    for name, sizes in shown.items()
    for size, scores in sizes.items()
  ]
  book.section(heading, text, *parts)


def _account(book: _Book, found: Found, chosen: Sequence[Run]) -> None:
  """Learning rates, and what has not converged."""
  heading = 'Runs'
  text = (
    'A classifier has not converged if it gives one answer to all, or scores no more than the'
    f' commonest label. Runs without a curve, not finished or ended by losses that were not finite:'
    f' {len(found.without_curve)}.'
  )
  book.head(heading, text)
  rows = [
    {
      'task': run.task,
      'method': run.method,
      'setting': run.setting.text,
      'seed': run.seed,
      'learning rate': f'{run.learning_rate:g}',
      'not converged': ', '.join(
        f'layer {exit}'
        for exit, one in zip(run.setting.exits, run.converged, strict=True)
        if not one
      ),
    }
    for run in chosen
  ]
  lost = [{'without a curve': folder} for folder in found.without_curve]
  parts = [book.table(rows, 'Runs'), book.table(lost, 'Without a curve')]
  book.section(heading, text, *parts)


def _as_text(name: str, value: Any) -> Any:
  """Names of methods as people read them."""
  return figures.label(value) if name in ('method', 'claim') else value
