"""Table 2: every number by hand, from made-up outputs."""

import csv
import dataclasses
import functools
import json

import pytest

from calm.calibration import consistency
from calm.exits import confidence
from calm.reporting import efficiency, study
from calm.reporting.timing import Timing

SETTINGS = efficiency.TrialSettings(
  deltas={'textual': (0.5,), 'risk': (0.6,)}, num_trials=3, timed_batch_sizes=(1, 2), num_timed=4
)
# One layer: at position 0 with 3 source tokens 24 + 48 + 12 * 4 + 60, at position 1 12 more. The
# head: 2 * 2 * 259.
FIRST, SECOND, HEAD = 180, 192, 1036
FULL = 3 * (FIRST + SECOND)


@pytest.fixture(autouse=True)
def timed(monkeypatch):
  """What is timed: a token takes 4 seconds by the full model, 2 by all others."""
  calls = []

  def time_rules(generator, params, inputs, rules, *, batch_size, **options):
    calls.append((batch_size, len(inputs), sorted(rules)))
    return {name: Timing((8.0 if name == 'full' else 4.0,), 2) for name in rules}

  monkeypatch.setattr(study, 'time_rules', time_rules)
  return calls


@pytest.fixture
def rows(made_up):
  """The rows by (objective or kind, measure)."""
  table = efficiency.trials(made_up(), SETTINGS)
  return {(row['objective'] or row['kind'], row['measure']): row for row in table}


def test_rows_are_the_full_model_each_depth_the_oracle_and_each_measure_per_delta(rows):
  assert list(rows) == [
    ('full', '3 layers'),
    ('static', '1 layer'),
    ('static', '2 layers'),
    ('oracle', 'oracle'),
    ('textual', 'softmax_margin'),
    ('textual', 'state_saturation'),
    ('risk', 'softmax_margin'),
    ('risk', 'state_saturation'),
  ]


def test_a_measure_that_keeps_the_text_is_certified_in_every_trial(rows):
  row = rows['textual', 'softmax_margin']
  assert (row['threshold'], row['never_exits'], row['loss'], row['loss_std']) == (0.9, 0, 0, 0)
  assert (row['layers'], row['layers_std']) == (2, 0)
  # Layers [1, 3]: the first token's layers 2 and 3 are filled, 24 each; the head at each layer.
  run = FIRST + 3 * SECOND + 2 * 24
  assert row['layer_flops_reduction'] == pytest.approx(FULL / run)
  assert row['flops_reduction'] == pytest.approx((FULL + 2 * HEAD) / (run + 4 * HEAD))
  assert (row['textual'], row['risk'], row['exact_match']) == (0, 0, 50)


def test_a_measure_that_loses_the_text_never_exits(rows):
  row = rows['textual', 'state_saturation']
  assert (row['threshold'], row['never_exits'], row['layers'], row['loss']) == (None, 1, 3, 0)
  assert (row['flops_reduction'], row['exact_match']) == (1, 50)
  assert (row['speedup_batch_1'], row['speedup_batch_2']) == (1, 1)


def test_risk_counts_only_what_is_farther_from_the_reference(rows):
  # 'c' is wrong for five examples, and for five it is better than the full model's 'a b': a loss
  # of 0.5, too near to 0.6 for eight examples.
  assert (rows['static', '1 layer']['textual'], rows['static', '1 layer']['risk']) == (1, 0.5)
  assert rows['risk', 'state_saturation']['threshold'] is None
  assert rows['risk', 'softmax_margin']['threshold'] == 0.9


def test_static_depths_and_the_oracle_stand_beside(rows):
  static, oracle = rows['static', '2 layers'], rows['oracle', 'oracle']
  assert (static['layers'], static['textual'], static['exact_match']) == (2, 0, 50)
  run = 2 * (FIRST + SECOND) + 2 * HEAD
  assert static['flops_reduction'] == pytest.approx((FULL + 2 * HEAD) / run)
  assert oracle['layers'] == 1.5
  assert oracle['layer_flops_reduction'] == pytest.approx(FULL / (FIRST + 2 * SECOND + 24))
  assert rows['full', '3 layers']['flops_reduction'] == 1
  assert 'speedup_batch_1' not in oracle


def test_speed_is_that_of_the_full_model_over_the_rules(rows, timed):
  assert rows['textual', 'softmax_margin']['speedup_batch_2'] == 2
  assert rows['static', '2 layers']['speedup_batch_1'] == 2
  # Rules that several rows share are timed once.
  names = ['1 layer', '2 layers', 'full', 'softmax_margin 0.9']
  assert timed == [(1, 4, names), (2, 4, names)]


def test_the_table_is_saved_and_read_again(rows, made_up, tmp_path, capsys):
  saved = json.loads((tmp_path / 'report' / 'efficiency.json').read_text())['rows']
  assert saved == list(rows.values())
  with open(tmp_path / 'report' / 'efficiency.csv', newline='') as file:
    lines = list(csv.DictReader(file))
  assert [line['measure'] for line in lines] == [measure for _, measure in rows]
  assert lines[4]['layers'] == '2.0'
  assert lines[0]['delta'] == ''
  assert efficiency.read(made_up(), SETTINGS) == saved
  assert efficiency.read(made_up(grid=(0.9,)), SETTINGS) is None
  assert efficiency.read(made_up(), dataclasses.replace(SETTINGS, epsilon=0.1)) is None


def test_the_printed_table_has_means_and_deviations(rows, capsys):
  lines = efficiency.as_text(list(rows.values())).splitlines()
  assert lines[0].split()[:4] == ['objective', 'delta', 'measure', 'layers']
  assert lines[5].split()[:6] == ['textual', '0.5', 'softmax_margin', '2.00', '±', '0.00']
  assert 'never' in lines[6]


def test_a_measure_over_a_classifier_that_is_not_there_is_left_out(made_up, capsys):
  one = made_up(measures=(confidence.softmax_margin, confidence.classifier))
  assert one.families == ['softmax_margin']
  assert 'classifier: left out' in capsys.readouterr().err


def test_no_measure_that_the_model_can_follow_is_an_error(made_up):
  with pytest.raises(ValueError, match='MEASURES has none that this model can follow'):
    efficiency.trials(made_up(measures=(confidence.classifier,)), SETTINGS)


def test_no_measure_at_all_is_an_error(made_up):
  with pytest.raises(ValueError, match=r'measures must be a list, .* not empty, not \(\)'):
    made_up(measures=())


def test_partials_of_a_measure_are_compared_under_names_of_their_own(made_up):
  def scaled(logits, factor):
    return factor * confidence.softmax_margin(logits)

  halves = tuple(functools.partial(scaled, factor=factor) for factor in (0.5, 1.0))
  assert made_up(measures=halves).families == ['scaled_factor_0.5', 'scaled_factor_1.0']
  with pytest.raises(ValueError, match='name each once'):
    made_up(measures=halves[:1] * 2)


def test_too_few_examples_are_named_before_anything_is_decoded(made_up, tmp_path):
  settings = efficiency.TrialSettings(deltas={'textual': (0.1,)})
  with pytest.raises(
    ValueError, match=r'8 examples of 10 can never certify delta = 0.1.*\(TRIAL_DELTAS\)'
  ):
    efficiency.trials(made_up(), settings)
  assert not (tmp_path / 'calibration').exists()


def test_tokens_have_no_references(made_up):
  one = made_up(dissimilarity=consistency.token_disagreement)
  with pytest.raises(ValueError, match='risk cannot be had with token_disagreement'):
    efficiency.trials(one, SETTINGS)


def test_a_dissimilarity_of_tokens_is_known_behind_a_wrapper(made_up):
  @functools.wraps(consistency.token_disagreement)
  def wrapped(*outputs):  # As gin makes one of every function that it names.
    return consistency.token_disagreement(*outputs)

  one = made_up(dissimilarity=wrapped)
  assert one.objectives == ('textual',)
  # The texts 'c' and 'a b' differ, the tokens do not.
  assert not one.losses(one.static[0], 'textual').any()


def test_thresholds_of_a_measure_that_is_not_there_are_named(made_up):
  with pytest.raises(ValueError, match='largest_probability'):
    made_up(thresholds={'largest_probability': lambda value: value})
