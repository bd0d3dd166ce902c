"""What the report says of early exits beside quality and cost: each function a chapter of it.

Figures of https://arxiv.org/abs/2207.07061.
"""

from collections.abc import Sequence
from typing import Any

from calm import settings
from calm.reporting import agreement, decay, efficiency, examples, figures, page, sensitivity
from calm.reporting.report import Writer, say
from calm.reporting.study import Study

Rows = Sequence[dict[str, Any]]


def shortlists(study: Study, show: Writer, table: Rows) -> list[page.Section]:
  """Holds measures that look at a shortlist to the same over all words; writes agreement.csv.

  No section if there are none.
  """
  say('shortlists')
  thresholds: dict[str, Sequence[float]] = {}
  for name in study.families:
    found = [row.get('threshold') for row in table if row['measure'] == name]
    certified = {value for value in found if value is not None}
    # The strictest, where nothing is certified.
    thresholds[name] = sorted(certified, reverse=True) or study.grid[:1]
  rows = agreement.agreement(study, thresholds)
  if not rows:
    return []
  efficiency.write_csv(show.folder / 'agreement.csv', rows)
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


def decaying(
  study: Study, show: Writer, table: Rows, *, taus: Sequence[settings.NonNegative] = (1.0, 4.0)
) -> list[page.Section]:
  """Fig. 2b and 2c: the first measure with thresholds that decay as fast as each of `taus` says.

  No section if there is no measure.
  """
  del table
  say('decaying thresholds')
  measures = {name: study.measure_of(name) for name in study.families}
  found = [(name, measure) for name, measure in measures.items() if measure is not None]
  if not found:
    return []
  name, measure = found[0]
  # Fig. 2b shows one lambda: the grid's nearest to 0.8.
  value = min(study.grid, key=lambda threshold: abs(threshold - 0.8))
  shapes = decay.shapes(value, taus, study.predictor.generator.max_decode_steps)
  rows = decay.tradeoff(study, measure, taus)
  title = 'Thresholds by position, and similarity against layers per token'
  return [
    page.section(
      'Decaying thresholds',
      'A wrong token costs more the earlier it stands, so a threshold may be strict at first and '
      f'give way later. On the left the threshold for lambda = {value:g}, on the right what '
      f'{figures.label(name)} gives with each kind at all lambda.',
      show('decay', figures.decay(shapes, rows), rows, title),
    )
  ]


def wrong_tokens(
  study: Study,
  show: Writer,
  table: Rows,
  *,
  positions: Sequence[settings.Natural] = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64),
  num_examples: settings.Count = 100,
  rank: settings.Count = 10,
) -> list[page.Section]:
  """Fig. 2a: what one wrong token does to the text; see `calm.reporting.sensitivity`."""
  del table
  say('wrong tokens')
  rows = sensitivity.sensitivity(study, positions, num_examples=num_examples, rank=rank)
  title = "Similarity to the full model's text by the position of one wrong token"
  return [
    page.section(
      'One wrong token',
      "At one position the token is what the first layer predicts, or the last layer's number "
      f"{rank} in likelihood; all others are the last layer's. Of the first "
      f'{min(num_examples, len(study.split.examples))} examples those count whose text by the full '
      'model reaches the position.',
      show('sensitivity', figures.sensitivity(rows), rows, title),
    )
  ]


def coloured_texts(study: Study, show: Writer, table: Rows) -> list[page.Section]:
  """Fig. 4: texts whose tokens say after which layer they stopped, by the first measure."""
  del show
  say('examples')
  name = study.families[0]
  thresholds, certified = _thresholds(study, table, name)
  shown = examples.examples(study, name, thresholds)
  return [
    page.section(
      'Examples',
      f'Colours and numbers say how many decoder layers a token took, by {figures.label(name)}. '
      f'{certified} The examples are those at the middle, at three quarters, at nine tenths and at '
      "the end when all are ordered by their distance D from the full model's text at threshold "
      f'{thresholds[-1]:g}.',
      examples.legend(study.num_layers),
      *map(examples.as_html, shown),
      style=examples.style(study.num_layers),
    )
  ]


def _thresholds(study: Study, table: Rows, name: str) -> tuple[list[float], str]:
  """Two thresholds, descending, at which examples are shown, and a sentence on where they are from.

  The lowest ones certified for textual consistency; where they are fewer than two,
  others of the grid.
  """
  calibrated = [row for row in table if row['objective'] == 'textual' and row['measure'] == name]
  certified: dict[float, float] = {}  # the least delta for which a threshold is
  for row in sorted(calibrated, key=lambda row: -row['delta']):
    certified |= dict.fromkeys(row['certified'], row['delta'])
  lowest = {row['threshold'] for row in calibrated} - {None}
  thresholds = sorted(lowest, reverse=True)[:2]
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
