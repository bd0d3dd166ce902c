"""The report of a comparison: figures, their numbers, and a page of them."""

import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from calm import storage
from calm.calibration import testing
from calm.reporting import curves, efficiency, figures, page
from calm.reporting.comparison import Comparison

PAGE = 'report.html'


class Chapter(Protocol):
  """What a page says of systems of one kind, beside what it says of all."""

  def __call__(
    self, study: Any, show: 'Writer', table: Sequence[dict[str, Any]]
  ) -> list[page.Section]:
    """Sections about a comparison, whose table is that of `efficiency.trials`."""


def report(
  study: Comparison,
  settings: efficiency.TrialSettings | None = None,
  *,
  title: str = 'Quality and cost',
  quality: str | None = None,
  chapters: Sequence[Chapter] = (),
) -> Path:
  """Writes `folder`/report/report.html, one PNG and CSV per figure, and returns the page's path.

  Follows Fig. 3 and Table 2 of https://arxiv.org/abs/2207.07061. What `calm calibrate`,
  `calm trials` or an interrupted call have predicted is taken as it is.

  Args:
    study: what is compared.
    settings: of the table; a table that `calm trials` has written is shown as it is.
    title: of the page; task and split follow.
    quality: the metric of Fig. 3, by its name in the task's; their first one by default.
    chapters: what follows figure and table, as `calm.reporting.chapters_calm` has it.

  Raises:
    ValueError: the task has no metric, or none of that name, or too few examples for a tolerance.
    storage.BusyError: another process writes there.
  """
  settings = settings or efficiency.TrialSettings()
  settings.check(study)
  metrics = list(study.scores(study.full))
  quality = quality or next(iter(metrics), 'similarity')
  if quality not in [*metrics, 'similarity']:
    raise ValueError(f'quality: {quality!r} is none of {", ".join([*metrics, "similarity"])}.')
  with efficiency.lock(study):
    return _write(study, settings, title, quality, chapters)


def _write(study: Comparison, settings, title, quality, chapters) -> Path:
  folder = Path(study.folder, efficiency.FOLDER)
  efficiency.keep_earlier(folder, efficiency.settings_of(study, settings))
  show = Writer(folder)
  say('quality against cost')
  tradeoff = curves.tradeoff(study)
  say('efficiency by tolerance')
  table = efficiency.read(study, settings) or efficiency.make(study, settings)
  sections = [
    _tradeoff(study, show, tradeoff, quality),
    _efficiency(study, show, table, settings),
  ]
  for chapter in chapters:
    sections += chapter(study, show, table)
  title = f'{title}: {study.split.task.name}, {study.split.name}'
  summary = _summary(study, tradeoff, quality)
  path = folder / PAGE
  storage.write_text(path, page.page(title, summary, sections))
  print(path)
  return path


class Writer:
  """Writes a figure and its rows into a folder, and gives them as HTML."""

  def __init__(self, folder: Path):
    self.folder = folder

  def __call__(self, name, figure, rows, title, *, folded=True) -> str:
    """`name`.png and `name`.csv; returns the <figure> and its numbers."""
    figures.save_png(figure, self.folder / f'{name}.png')
    efficiency.write_csv(self.folder / f'{name}.csv', rows)
    description = 'The numbers follow in a table.'
    svg = figures.to_svg(figure, name, html.escape(title), description)
    columns = efficiency.columns_of(rows)
    if folded:
      return page.figure(svg, f'{title}.') + page.data(rows, title)
    names = ['measure', *[column for column in columns if column not in ('kind', 'measure')]]
    return page.figure(svg, f'{title}.') + page.table(rows, title, names)


def say(what: str) -> None:
  """Tells the terminal what is being made."""
  print(f'calm report: {what}', file=sys.stderr)


def _summary(study: Comparison, tradeoff, quality) -> list[str]:
  first = next(iter(study.costs))
  full = [row for row in tradeoff if row['kind'] == 'static'][-1]
  oracle = next((row for row in tradeoff if row['kind'] == 'oracle'), None)
  name = figures.label(quality)
  lines = [
    f'{len(study.split.examples)} examples of {study.split.task.name}, split {study.split.name}; '
    f'{study.about}.',
    f'The full system reaches {name} {full[quality]:.2f} with {full[first]:.2f} '
    f'{study.costs[first]}.',
  ]
  if oracle is not None:
    lines.append(
      "An oracle that stops as soon as the full system's prediction stands reaches "
      f'{oracle[quality]:.2f} with {oracle[first]:.2f}.'
    )
  return lines


def _tradeoff(study: Comparison, show: Writer, rows, quality) -> page.Section:
  label = next(iter(study.costs.values()))
  oracle = '' if study.oracle is None else ' The oracle knows what the full one will say.'
  return page.section(
    'Quality against cost',
    'Each point is a threshold: the farther left, the cheaper. A measure earns its cost above the '
    f'dashed line, that of systems which cost the same for all.{oracle}',
    show(
      'tradeoff',
      figures.tradeoff(rows, quality, study.costs),
      rows,
      f'{figures.label(quality)} against {label}',
    ),
  )


def _efficiency(study: Comparison, show: Writer, rows, settings) -> page.Section:
  label, *_ = study.costs.values()
  others = [f'{figures.label(name)}: {axis}' for name, axis in study.costs.items()][1:]
  reduced = (
    f"Reductions are the full system's cost over these ({'; '.join(others)}). " if others else ''
  )
  return page.section(
    'Efficiency by tolerance',
    f'Thresholds calibrated on {100 * settings.calibration_share:g} % of the examples and measured '
    f'on the others, {settings.num_trials} times: mean ± standard deviation. Loss is the mean '
    f'{testing.name_of(study.dissimilarity)} dissimilarity on the part not calibrated on; its '
    f'expectation exceeds delta in at most {100 * settings.epsilon:g} % of all calibrations. '
    f'{reduced}Threshold, metrics and speed-up are those of a calibration on all examples.',
    show(
      efficiency.NAME,
      figures.efficiency(rows, study.costs),
      rows,
      f'{label[0].upper()}{label[1:]} by tolerance',
      folded=False,
    ),
  )
