"""`calm report`: decodes what is missing, and writes figures, their numbers and a page of them."""

import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calm.calibration import testing
from calm.reporting import agreement, curves, efficiency, examples, figures, page, sensitivity
from calm.reporting.study import Study

PAGE = 'report.html'


def report(
  study: Study,
  protocol: efficiency.Protocol | None = None,
  *,
  quality: str | None = None,
  taus: Sequence[float] = (1.0, 4.0),
  positions: Sequence[int] = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64),
  num_perturbed: int = 100,
  rank: int = 10,
) -> Path:
  """Writes `workdir`/report/report.html, one PNG and CSV per figure, and returns the page's path.

  Where a measure looks at likely words, agreement.csv holds it to the same over all words.

  Follows the figures and the table of https://arxiv.org/abs/2207.07061. What `calm calibrate`,
  `calm trials` or an interrupted call have decoded is taken as it is.

  Args:
    study: what is compared.
    protocol: of the table; a table that `calm trials` has written is shown as it is.
    quality: the metric of Fig. 3, by its name in the task's; their first one by default.
    taus: how fast thresholds decay in Fig. 2b and 2c.
    positions: where a token is perturbed in Fig. 2a, from 0.
    num_perturbed: examples that are perturbed, from the first on.
    rank: of the token that takes the likeliest one's place.

  Raises:
    ValueError: the task has no metric, or none of that name, or too few examples for a tolerance.
  """
  protocol = protocol or efficiency.Protocol()
  protocol.check(study)
  metrics = list(study.scores(study.full))
  quality = quality or next(iter(metrics), 'similarity')
  if quality not in [*metrics, 'similarity']:
    raise ValueError(f'quality: {quality!r} is none of {", ".join([*metrics, "similarity"])}.')
  folder = Path(study.workdir, efficiency.FOLDER)
  folder.mkdir(parents=True, exist_ok=True)
  show = Writer(folder)
  say('quality against layers')
  tradeoff = curves.tradeoff(study)
  say('efficiency by tolerance')
  table = efficiency.read(study, protocol) or efficiency.trials(study, protocol)
  say('likely words')
  compared = _agreement(study, folder, table)
  say('decaying thresholds')
  decaying = _decay(study, show, taus)
  say('wrong tokens')
  rows = sensitivity.sensitivity(study, positions, num_examples=num_perturbed, rank=rank)
  wrong = _sensitivity(show, rows, rank, min(num_perturbed, len(study.stored.examples)))
  say('examples')
  sections = [
    _tradeoff(show, tradeoff, quality),
    _efficiency(study, show, table, protocol),
    *compared,
    decaying,
    wrong,
    _examples(study, table),
  ]
  title = f'Early exits: {study.task.name}, {study.split}'
  summary = _summary(study, tradeoff, quality)
  path = folder / PAGE
  path.write_text(page.page(title, summary, sections, study.num_layers), encoding='utf-8')
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


def _summary(study: Study, tradeoff, quality) -> list[str]:
  cfg = study.config
  full = [row for row in tradeoff if row['kind'] == 'static'][-1]
  oracle = next(row for row in tradeoff if row['kind'] == 'oracle')
  name = figures.label(quality)
  return [
    f'{len(study.stored.examples)} examples of {study.task.name}, split {study.split}; a T5 of '
    f'{cfg.num_encoder_layers} encoder and {cfg.num_decoder_layers} decoder layers, '
    f'{cfg.emb_dim} wide, {cfg.vocab_size} words.',
    f'The full model reaches {name} {full[quality]:.2f} with {cfg.num_decoder_layers} layers per '
    "token; an oracle that stops as soon as the last layer's prediction stands, "
    f'{oracle[quality]:.2f} with {oracle["layers"]:.2f}.',
  ]


def _tradeoff(show: Writer, rows, quality) -> str:
  return page.section(
    'Quality against layers',
    'Each point is a threshold: the farther left, the fewer layers a token takes. A measure earns '
    'its cost above the dashed line, that of models which always stop at the same depth. The '
    'oracle knows what the last layer will say, which no decoder can.',
    show(
      'tradeoff',
      figures.tradeoff(rows, quality),
      rows,
      f'{figures.label(quality)} against decoder layers per token',
    ),
  )


def _efficiency(study: Study, show: Writer, rows, protocol: efficiency.Protocol) -> str:
  return page.section(
    'Efficiency by tolerance',
    f'Thresholds calibrated on {100 * protocol.calibration_share:g} % of the examples and measured '
    f'on the others, {protocol.num_trials} times: mean ± standard deviation. Loss is the mean '
    f'{testing.name_of(study.dissimilarity)} dissimilarity on the part not calibrated on; its '
    f'expectation exceeds delta in at most {100 * protocol.epsilon:g} % of all calibrations. '
    'FLOPs are those of the decoder. Threshold, metrics and speed-up are those of a calibration '
    'on all examples.',
    show(
      efficiency.NAME,
      figures.efficiency(rows),
      rows,
      'Decoder layers per token by tolerance',
      folded=False,
    ),
  )


def _agreement(study: Study, folder: Path, table) -> list[str]:
  """A section if some measure looks at likely words, else none; writes agreement.csv."""
  thresholds = {}
  for name, sweep in study.sweeps.items():
    found = {row.get('threshold') for row in table if row['measure'] == sweep.name} - {None}
    # The strictest, where nothing is certified.
    thresholds[name] = sorted(found, reverse=True) or study.grid[:1]
  rows = agreement.agreement(study, thresholds)
  if not rows:
    return []
  efficiency.write_csv(folder / 'agreement.csv', rows)
  title = 'The same rule on likely words and on the whole vocabulary'
  return [
    page.section(
      'Likely words',
      'A margin among the words that were likely when it was first asked makes fewer logits than '
      'one over the whole vocabulary. Tokens and exits are shares of the tokens whose past is the '
      'same with both: those that are the same, and those that also stopped after the same layer.',
      page.table(rows, title),
    )
  ]


def _decay(study: Study, show: Writer, taus) -> str:
  name, sweep = next(iter(study.sweeps.items()))
  rule: Any = sweep.rule_at(0.5)
  # Fig. 2b shows one lambda: the grid's nearest to 0.8.
  value = min(study.grid, key=lambda threshold: abs(threshold - 0.8))
  shapes = curves.decay_shapes(value, taus, study.decoder.max_decode_steps)
  found = curves.decay_tradeoff(study, rule.measure, taus)
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
  name = next(iter(study.sweeps))
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
  sweep = study.sweeps[name]
  certified = {
    row['threshold']: row['delta']
    for row in table
    if row['objective'] == 'textual' and row['measure'] == sweep.name
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
