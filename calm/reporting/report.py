"""The report of a comparison: figures, their numbers, and a page of them."""

import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure

from calm import storage
from calm.calibration import testing
from calm.reporting import curves, efficiency, figures, page, provenance
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


def _write(
  study: Comparison,
  settings: efficiency.TrialSettings,
  title: str,
  quality: str,
  chapters: Sequence[Chapter],
) -> Path:
  folder = Path(study.folder, efficiency.FOLDER)
  efficiency.keep_earlier(folder, efficiency.settings_of(study, settings))
  show = Writer(folder)
  say('quality against cost')
  tradeoff = curves.tradeoff(study)
  say('efficiency by tolerance')
  table = efficiency.read(study, settings) or efficiency.make(study, settings)
  sections = [
    _tradeoff(study, show, tradeoff, quality),
    _efficiency(study, show, table, settings, list(study.scores(study.full))),
  ]
  for chapter in chapters:
    sections += chapter(study, show, table)
  made = efficiency.read_made(study)
  sections.append(_made(study, settings, made))
  title = f'{title}: {study.split.task.name}, {study.split.name}'
  summary = [*_summary(study, tradeoff, quality), _made_in_short(made)]
  path = folder / PAGE
  storage.write_text(path, page.page(title, summary, sections))
  print(path)
  return path


class Writer:
  """Writes a figure and its rows into a folder, and gives them as HTML."""

  def __init__(self, folder: Path):
    self.folder = folder

  def __call__(
    self,
    name: str,
    figure: Figure,
    rows: Sequence[dict[str, Any]],
    title: str,
    *,
    folded: bool = True,
  ) -> str:
    """`name`.png and `name`.csv; returns the <figure> and, unless they follow, its numbers."""
    figures.save_png(figure, self.folder / f'{name}.png')
    efficiency.write_csv(self.folder / f'{name}.csv', rows)
    description = 'The numbers follow in a table.'
    svg = figures.to_svg(figure, name, html.escape(title), description)
    shown = page.figure(svg, f'{title[0].upper()}{title[1:]}.')
    return shown + page.data(rows, title) if folded else shown


def say(what: str) -> None:
  """Tells the terminal what is being made."""
  print(f'report: {what}', file=sys.stderr)


def _made_in_short(made: Mapping[str, str]) -> str:
  checkpoint = f'checkpoint: {made["checkpoint"]}'
  return (
    '; '.join([made['date'], made['code'], checkpoint, made['hardware'], made['software']]) + '.'
  )


def _summary(study: Comparison, tradeoff: Sequence[dict[str, Any]], quality: str) -> list[str]:
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


def _tradeoff(
  study: Comparison, show: Writer, rows: Sequence[dict[str, Any]], quality: str
) -> page.Section:
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


def _efficiency(
  study: Comparison,
  show: Writer,
  rows: Sequence[dict[str, Any]],
  settings: efficiency.TrialSettings,
  metrics: Sequence[str],
) -> page.Section:
  label, *_ = study.costs.values()
  title = f'{label[0].upper()}{label[1:]} by tolerance'
  explained = _columns(study, rows, settings, metrics)
  names = {figures.label(name): text for name, text in explained.items()}
  return page.section(
    'Efficiency by tolerance',
    f'Thresholds calibrated on {100 * settings.calibration_share:g} % of the examples and measured '
    f'on the others, {settings.num_trials} times: mean ± standard deviation, where there is one. '
    'All else is of all examples, at the threshold that they certify.',
    show(efficiency.NAME, figures.efficiency(rows, study.costs), rows, title, folded=False),
    page.terms(names),
    page.table(
      rows, f'What each {study.unit} costs, and what that gives', ['measure', *explained], _group
    ),
  )


def _columns(
  study: Comparison,
  rows: Sequence[dict[str, Any]],
  settings: efficiency.TrialSettings,
  metrics: Sequence[str],
) -> dict[str, str]:
  """The columns of the table, what matters most first, and what each of them says."""
  first, *others = study.costs
  by = figures.label(testing.name_of(study.dissimilarity))
  together = testing.name_of(settings.procedure) == 'fixed_sequence'
  explained = {first: f'{study.costs[first]}'}
  explained |= dict.fromkeys(metrics, "by the task's metric")
  explained |= {
    name: f'how many times fewer seconds per {study.unit} than the full system'
    for name in efficiency.columns_of(rows)
    if name.startswith('speedup')
  }
  explained |= {
    'threshold': 'the lowest that is certified'
    + ('; all higher ones of the grid are certified with it' if together else ''),
    'loss': f'dissimilarity by {by}, measured on other examples than those calibrated on; above '
    f'delta in expectation for at most {100 * settings.epsilon:g} % of calibrations',
    **{
      f'{name}_reduction': f'how many times fewer than the full system: {study.costs[name]}'
      for name in others
    },
    'textual': "loss against the full system's text",
    'risk': "loss against the references, beyond the full system's",
    'exceeds': 'share of the calibrations whose loss on the rest is above delta',
    'never_exits': 'share of the calibrations that certify no threshold',
  }
  present = efficiency.columns_of(rows)
  return {name: text for name, text in explained.items() if name in present}


def _group(row: Mapping[str, Any]) -> str:
  """What a row of the table stands below."""
  if row['objective'] is None:
    return 'Without calibration'
  return f'{row["objective"].capitalize()} consistency, delta = {row["delta"]:g}'


def _made(
  study: Comparison, settings: efficiency.TrialSettings, made: Mapping[str, str]
) -> page.Section:
  """When, of what and on what; the configuration and all settings."""
  found = json.dumps(efficiency.settings_of(study, settings), indent=2, ensure_ascii=False)
  parts = [page.terms(made), page.folded('Settings of this comparison', found)]
  configuration = provenance.configuration(study.folder)
  if configuration:
    parts.append(page.folded(f"The run's configuration, {provenance.CONFIGURATION}", configuration))
  return page.section(
    'How this was made', 'The times are of this hardware, all else of this code.', *parts
  )
