"""`calm report`: decodes what is missing, and writes figures, their numbers and a page of them."""

import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calm import storage
from calm.calibration import testing
from calm.reporting import agreement, curves, efficiency, examples, figures, page, sensitivity
from calm.reporting.comparison import Comparison
from calm.reporting.study import Study

PAGE = 'report.html'


def report(
  study: Study,
  settings: efficiency.TrialSettings | None = None,
  *,
  quality: str | None = None,
  taus: Sequence[float] = (1.0, 4.0),
  positions: Sequence[int] = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64),
  num_perturbed: int = 100,
  rank: int = 10,
) -> Path:
  """Writes `workdir`/report/report.html, one PNG and CSV per figure, and returns the page's path.

  Where a measure looks at a shortlist, agreement.csv holds it to the same over all words.

  Follows the figures and the table of https://arxiv.org/abs/2207.07061. What `calm calibrate`,
  `calm trials` or an interrupted call have decoded is taken as it is.

  Args:
    study: what is compared.
    settings: of the table; a table that `calm trials` has written is shown as it is.
    quality: the metric of Fig. 3, by its name in the task's; their first one by default.
    taus: how fast thresholds decay in Fig. 2b and 2c.
    positions: where a token is perturbed in Fig. 2a, from 0.
    num_perturbed: examples that are perturbed, from the first on.
    rank: of the token that takes the likeliest one's place.

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
    return _write(study, settings, quality, taus, positions, num_perturbed, rank)


def _write(study: Study, settings, quality, taus, positions, num_perturbed, rank) -> Path:
  folder = Path(study.folder, efficiency.FOLDER)
  efficiency.keep_earlier(folder, efficiency.settings_of(study, settings))
  show = Writer(folder)
  say('quality against layers')
  tradeoff = curves.tradeoff(study)
  say('efficiency by tolerance')
  table = efficiency.read(study, settings) or efficiency.make(study, settings)
  say('shortlists')
  compared = _agreement(study, folder, table)
  say('decaying thresholds')
  decaying = _decay(study, show, taus)
  say('wrong tokens')
  rows = sensitivity.sensitivity(study, positions, num_examples=num_perturbed, rank=rank)
  wrong = _sensitivity(show, rows, rank, min(num_perturbed, len(study.split.examples)))
  say('examples')
  sections = [
    _tradeoff(study, show, tradeoff, quality),
    _efficiency(study, show, table, settings),
    *compared,
    decaying,
    wrong,
    _examples(study, table),
  ]
  title = f'Early exits: {study.task.name}, {study.split.name}'
  summary = _summary(study, tradeoff, quality)
  path = folder / PAGE
  storage.write_text(path, page.page(title, summary, sections, study.num_layers))
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


def _tradeoff(study: Comparison, show: Writer, rows, quality) -> str:
  label = next(iter(study.costs.values()))
  return page.section(
    'Quality against layers',
    'Each point is a threshold: the farther left, the fewer layers a token takes. A measure earns '
    'its cost above the dashed line, that of models which always stop at the same depth. The '
    'oracle knows what the last layer will say, which no decoder can.',
    show(
      'tradeoff',
      figures.tradeoff(rows, quality, study.costs),
      rows,
      f'{figures.label(quality)} against {label}',
    ),
  )


def _efficiency(study: Comparison, show: Writer, rows, settings) -> str:
  label = next(iter(study.costs.values()))
  return page.section(
    'Efficiency by tolerance',
    f'Thresholds calibrated on {100 * settings.calibration_share:g} % of the examples and measured '
    f'on the others, {settings.num_trials} times: mean ± standard deviation. Loss is the mean '
    f'{testing.name_of(study.dissimilarity)} dissimilarity on the part not calibrated on; its '
    f'expectation exceeds delta in at most {100 * settings.epsilon:g} % of all calibrations. '
    'FLOPs are those of the decoder. Threshold, metrics and speed-up are those of a calibration '
    'on all examples.',
    show(
      efficiency.NAME,
      figures.efficiency(rows, study.costs),
      rows,
      f'{label[0].upper()}{label[1:]} by tolerance',
      folded=False,
    ),
  )


def _agreement(study: Study, folder: Path, table) -> list[str]:
  """A section if some measure looks at a shortlist, else none; writes agreement.csv."""
  thresholds = {}
  for name in study.families:
    found = {row.get('threshold') for row in table if row['measure'] == name} - {None}
    # The strictest, where nothing is certified.
    thresholds[name] = sorted(found, reverse=True) or study.grid[:1]
  rows = agreement.agreement(study, thresholds)
  if not rows:
    return []
  efficiency.write_csv(folder / 'agreement.csv', rows)
  title = 'The same rule on a shortlist and on the whole vocabulary'
  return [
    page.section(
      'Shortlists',
      'A margin among the words that were likely when it was first asked makes fewer logits than '
      'one over the whole vocabulary. Tokens and exits are shares of the tokens whose past is the '
      'same with both: those that are the same, and those that also stopped after the same layer.',
      page.table(rows, title),
    )
  ]


def _decay(study: Study, show: Writer, taus) -> str:
  name, measure = next(
    (name, measure) for name in study.families if (measure := study.measure_of(name)) is not None
  )
  # Fig. 2b shows one lambda: the grid's nearest to 0.8.
  value = min(study.grid, key=lambda threshold: abs(threshold - 0.8))
  shapes = curves.decay_shapes(value, taus, study.predictor.generator.max_decode_steps)
  found = curves.decay_tradeoff(study, measure, taus)
  return page.section(
    'Decaying thresholds',
    'A wrong token costs more the earlier it stands, so a threshold may be strict at first and '
    f'give way later. On the left the threshold for lambda = {value:g}, on the right what '
    f'{figures.label(name)} gives with each kind at all lambda.',
    show(
      'decay',
      figures.decay(shapes, found),
      found,
      'Thresholds by position, and similarity against layers per token',
    ),
  )


def _sensitivity(show: Writer, rows, rank, num_examples) -> str:
  return page.section(
    'One wrong token',
    "At one position the token is what the first layer predicts, or the last layer's number "
    f"{rank} in likelihood; all others are the last layer's. Of the first {num_examples} examples "
    'those count whose text by the full model reaches the position.',
    show(
      'sensitivity',
      figures.sensitivity(rows),
      rows,
      "Similarity to the full model's text by the position of one wrong token",
    ),
  )


def _examples(study: Study, table) -> str:
  name = study.families[0]
  thresholds, certified = _thresholds(study, table, name)
  shown = examples.examples(study, name, thresholds)
  return page.section(
    'Examples',
    f'Colours and numbers say how many decoder layers a token took, by {figures.label(name)}. '
    f'{certified} The examples are those at the middle, at three quarters, at nine tenths and at '
    "the end when all are ordered by their distance D from the full model's text at threshold "
    f'{thresholds[-1]:g}.',
    page.legend(study.num_layers),
    *map(page.example, shown),
  )


def _thresholds(study: Study, table: Sequence[dict[str, Any]], name: str):
  """Two thresholds, descending, at which examples are shown, and a sentence on where they are from.

  Those certified for textual consistency; where there are fewer than two, others of the grid.
  """
  certified = {
    row['threshold']: row['delta']
    for row in table
    if row['objective'] == 'textual' and row['measure'] == name
  }
  certified.pop(None, None)
  thresholds = sorted(certified, reverse=True)[:2]
  others = [threshold for threshold in study.grid if threshold not in thresholds]
  while len(thresholds) < 2 and others:
    thresholds.append(others.pop(len(others) // 2))
  thresholds.sort(reverse=True)
  said = [
    f'{threshold:g} is certified for delta = {certified[threshold]:g}'
    if threshold in certified
    else f'{threshold:g} is not certified'
    for threshold in thresholds
  ]
  return thresholds, f'Threshold {", ".join(said)}.'
