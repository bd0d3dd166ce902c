"""Likely words against the whole vocabulary: shares by hand, and the measure each is held to."""

import csv
from pathlib import Path

from calm.evaluation.outcomes import Results
from calm.exits import confidence
from calm.reporting import agreement, chapters_calm
from calm.reporting.report import Writer


def results(*rows):
  """Results of rows of tokens and their exit layers."""
  return Results(
    [{'tokens': tokens, 'exit_layers': exits} for tokens, exits in rows], Path(), 0, 0.0
  )


def test_only_tokens_of_the_same_past_are_compared():
  one = results(([5, 6, 7, 1], [2, 2, 3, 3]), ([5, 1], [2, 2]))
  other = results(([5, 8, 7, 1], [2, 2, 3, 3]), ([5, 1], [2, 3]))
  # 5 and 6 against 8, then the past differs; 5 and 1, which left at another layer.
  assert agreement.compare(one, other) == {'tokens': 3 / 4, 'exits': 2 / 4, 'texts': 1 / 2}
  assert agreement.compare(one, one) == {'tokens': 1, 'exits': 1, 'texts': 1}


def test_each_measure_is_held_to_its_own_over_all_words():
  assert agreement.exact(confidence.shortlist_margin) is confidence.softmax_margin
  gate = {'gate': confidence.classifier, 'gate_threshold': 0.3}
  likely = confidence.Gated(confidence.shortlist_margin, **gate)
  assert agreement.exact(likely) == confidence.Gated(confidence.softmax_margin, **gate)
  assert agreement.exact(confidence.state_saturation) is None
  assert agreement.exact(confidence.Gated(confidence.entropy_confidence)) is None
  assert agreement.exact(lambda shortlist_logits: shortlist_logits.max(-1)) is None


def test_the_report_compares_where_a_measure_looks_at_likely_words(made_up, tmp_path):
  study = made_up(measures=(confidence.softmax_margin, confidence.Gated()))
  row = {'kind': 'calibrated', 'measure': 'gated_shortlist_margin'}
  table = [row | {'threshold': threshold} for threshold in (0.5, None, 0.9, 0.5)]
  (section,) = chapters_calm.shortlists(study, Writer(tmp_path), table)
  assert section.html.count('<tr>') == 1 + 2
  with open(tmp_path / 'agreement.csv', encoding='utf-8', newline='') as file:
    lines = list(csv.DictReader(file))
  assert [(line['measure'], line['threshold']) for line in lines] == [
    ('gated_shortlist_margin', '0.9'),
    ('gated_shortlist_margin', '0.5'),
  ]
  # At 0.9 one of two tokens left at another layer, after one head and not two.
  assert (float(lines[0]['tokens']), float(lines[0]['exits'])) == (1, 0.5)
  assert [float(lines[0][name]) for name in ('logits', 'exact_logits')] == [259, 2 * 259]


def test_measures_over_all_words_need_no_comparison(made_up, tmp_path):
  assert chapters_calm.shortlists(made_up(), Writer(tmp_path), []) == []
  assert not (tmp_path / 'agreement.csv').exists()
