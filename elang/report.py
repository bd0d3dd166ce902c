"""The page of a router: what CALM's page says of any comparison, and a chapter of its own."""

import functools
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm import storage
from calm.calibration import testing
from calm.reporting import efficiency, figures, figures_routing, page
from calm.reporting import report as pages
from calm.reporting.markdown import markdown
from elang import compared, tables, thresholds, tradeoffs
from elang.study import LABELS, RouterStudy

MARKDOWN = 'tables.md'
RECORD = 'routing.json'
TABLES = "The paper's tables"
COLUMNS = {
  'recovered': "the area above chance as a share of the oracle's",
  'APGR': 'the mean, over all shares, of how much of the gap between the models is recovered',
}
LEAST_GAP = 3.0  # points, below which there is little to win by routing
Rows = Sequence[dict[str, Any]]


def report(
  study: RouterStudy,
  settings: efficiency.TrialSettings | None = None,
  *,
  title: str = 'A router over models',
  quality: str | None = None,
  beside: Sequence[str] = (),
) -> Path:
  """Writes `folder`/report/report.html, tables.md, routing.json, and a PNG and CSV per figure.

  The page is that of `calm.reporting.report`, whose families are scores, with trade-offs by share,
  FLOPs and seconds, what each score recovers, distributions (Fig. 3) and the layouts of Tables 1, 2
  and 4. Returns its path.

  Args:
    study: what is compared.
    settings: of calibrated thresholds, and of what is timed.
    title: of the page; task and split follow.
    quality: the metric of the first figure, by its name in the task's; their first one by default.
    beside: folders of other routers that have a report: their tasks stand in the tables, too.

  Raises:
    ValueError: as `calm.reporting.report.report`.
    FileNotFoundError, storage.DamagedError: a folder of `beside` has no report, or a damaged one.
  """
  settings = settings or efficiency.TrialSettings()
  others = [storage.read_record(Path(one, efficiency.FOLDER, RECORD)) for one in beside]
  chapters = Chapters(study, settings, others)
  return pages.report(
    study,
    settings,
    title=title,
    quality=quality,
    chapters=[chapters.routing, chapters.distributions, chapters.paper_tables],
  )


class Chapters:
  """What a page says of a router, and the same tables in Markdown."""

  def __init__(
    self,
    study: RouterStudy,
    settings: efficiency.TrialSettings,
    others: Sequence[Mapping[str, Any]] = (),
  ):
    self.study, self.settings, self.others = study, settings, others
    self.text: list[str] = []

  @functools.cached_property
  def seconds(self) -> tuple[float, float] | None:
    """Of the Swift and of the Super model for an input, in the largest batch that is timed."""
    sizes, settings = self.settings.timed_batch_sizes, self.settings
    return self.study.timed(max(sizes), settings.num_timed, settings.repeats) if sizes else None

  def routing(self, study: RouterStudy, show: pages.Writer, table: Rows) -> list[page.Section]:
    """Quality by every cost, and what each score recovers of the oracle's area."""
    del table
    pages.say('what scores recover')
    risks = study.found.risks
    gains = risks[0] - risks[1]
    parts = [self._tradeoff(show, name, costs) for name, costs in self._costs().items()]
    rows, found = tradeoffs.recovered(self.study.values, gains)
    efficiency.write_csv(show.folder / 'recovered.csv', rows)
    verdict = tradeoffs.verdict(rows, found)
    said = [
      'A score passes on the least sure inputs first. Passing on at random is, in expectation, the '
      'straight line between the models; the oracle passes on exactly the inputs where it helps. '
      'Scores that order all inputs alike share a line.',
      f'Of {len(gains)} inputs: {verdict}',
    ]
    gap, half = 100 * gains.mean(), 196 * gains.std() / np.sqrt(len(gains))
    said.append(
      f'The Super model is better than the Swift by {gap:.1f} ± {half:.1f} points'
      + (', too little to tell routers apart.' if gap - half < LEAST_GAP else '.')
    )
    text = ' '.join(said)
    self._head('What each score recovers', text)
    parts.append(self._table(rows, "Recovered share of the oracle's area, intervals of 95 %"))
    named = [name for family in study.groups for name in family.name.split(' = ')]
    parts.append(page.terms({**COLUMNS, **{name: compared.MEANINGS[name] for name in named}}))
    return [page.section('What each score recovers', text, *parts)]

  def distributions(
    self, study: RouterStudy, show: pages.Writer, table: Rows
  ) -> list[page.Section]:
    """Fig. 3, of what the Swift model gets right and wrong instead of who answers."""
    pages.say('distributions')
    right = study.found.right
    lines = {family: self._thresholds(family, right, table) for family in study.values}
    groups = ('right by the Swift', 'wrong by the Swift')
    drawn = figures_routing.distributions(self.study.values, right, lines, groups)
    rows = [
      {
        'series': name,
        'threshold of': what,
        'value': value,
        'kept': float((values >= value).mean()),
      }
      for name, values in self.study.values.items()
      for what, value in lines[name].items()
    ]
    caption = 'Scores of what the Swift model gets right and wrong'
    text = (
      "The paper's Figure 3 groups inputs by which model answered, and so by the threshold itself; "
      'here they are grouped by whether the Swift model is right. Lines are thresholds: where the '
      'two densities cross, and the lowest certified ones, if there are any.'
    )
    self._head('Scores of right and wrong', text)
    figure = show('distributions', drawn, rows, caption, folded=False)
    return [
      page.section('Scores of right and wrong', text, figure, self._table(rows, 'Thresholds'))
    ]

  def paper_tables(self, study: RouterStudy, show: pages.Writer, table: Rows) -> list[page.Section]:
    """Tables 1, 2 and 4, of this task and those beside it; writes tables.md and routing.json."""
    del table
    pages.say('tables')
    own = tables.record(study, self.seconds)
    storage.write_record(show.folder / RECORD, own)
    records = [own, *self.others]
    text = (
      'Routed where the densities of right and wrong cross. FLOPs are of each input by its length '
      '(Eq. 16), times those measured here; who passes on pays for both models. Routing by chance '
      'passes on as many as the router does.'
    )
    self._head(TABLES, text)
    found = {
      'Layout of Table 1: both models and the router': tables.table_1(records),
      'Layout of Table 2: FLOPs / score of every way of routing': tables.table_2(records),
      'Layout of Table 4: scores, and what all tasks take on average': tables.table_4(records),
      **tables.of_the_paper(),
    }
    parts = [self._table(rows, caption, apart=True) for caption, rows in found.items()]
    storage.write_text(show.folder / MARKDOWN, '\n\n'.join(self.text) + '\n')
    return [page.section(TABLES, text, *parts)]

  def _costs(self) -> dict[str, tradeoffs.Costs]:
    """What inputs cost by share, and in all that both models have a price for or was timed."""
    study = self.study
    found = {name: tradeoffs.Costs(*study.prices(name)) for name in study.costs}
    if 'seconds' not in found and self.seconds is not None:
      small, large = (np.full(len(study.found.rows), one) for one in self.seconds)
      found['seconds'] = tradeoffs.Costs(small, small, large)
    if 'seconds' in found:
      found['milliseconds'] = found.pop('seconds').times(1000)
    return found

  def _tradeoff(self, show: pages.Writer, name: str, costs: tradeoffs.Costs) -> str:
    study = self.study
    rows = tradeoffs.points(self.study.values, study.found.risks, costs, name)
    axis = LABELS.get(name, study.costs.get(name, name))
    ends = {
      model.name: (cost, 100 * (1 - float(risks.mean())))
      for model, cost, risks in zip(study.router.models, costs.ends, study.found.risks, strict=True)
    }
    by = figures.label(testing.name_of(study.dissimilarity))
    quality = 'exact match, %' if by == 'exact match' else f'100 (1 - distance by {by})'
    figure = figures_routing.tradeoff(rows, name, axis, quality, ends)
    return show(f'routing_{name}', figure, rows, f'{quality} by {axis}')

  def _thresholds(self, family: str, right: np.ndarray, table: Rows) -> dict[str, float]:
    """Where to cut a family's scores: its crossing, and what was certified for the least risk."""
    crossing = thresholds.by_crossing(self.study.values[family], right).threshold
    found = {} if crossing is None or not np.isfinite(crossing) else {'crossing': crossing}
    certified = [
      row
      for row in table
      if row['objective'] == 'risk' and row['measure'] == family and row['threshold'] is not None
    ]
    for row in sorted(certified, key=lambda row: row['delta'])[:1]:
      (value,) = self.study.paths[family](row['threshold'])
      if np.isfinite(value):
        found[f'certified, δ = {row["delta"]:g}'] = value
    return found

  def _head(self, heading: str, text: str) -> None:
    self.text += [f'## {heading}', text]

  def _table(self, rows: Rows, caption: str, *, apart: bool = False) -> str:
    """A table for both pages; `apart` makes a heading of what stands before its colon."""
    if not rows:
      return ''
    self.text += [f'{caption}:', markdown(rows)]
    if not apart:
      return page.table(rows, caption)
    heading, _, rest = caption.partition(': ')
    return f'<h3>{html.escape(heading)}</h3>' + page.table(rows, f'{rest[0].upper()}{rest[1:]}')
