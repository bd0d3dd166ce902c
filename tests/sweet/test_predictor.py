"""Classifiers as predictors: what rows say, and that one run tells of every threshold."""

import dataclasses
import json

import numpy as np
import pytest

from calm import fingerprints
from calm.exits import confidence, stopping
from calm.models import parameters
from calm.tasks import wordpiece
from calm.tasks.classification import Classification, Regression
from calm.tasks.examples import Example
from sweet.objectives import classifiers
from sweet.predictor import ExitsPredictor

LABELS = Classification(('text',), ('no', 'yes', 'maybe'))
LETTERS = 'the quick brown fox jumps over a lazy dog'.replace(' ', '')


def example(index, text):
  return Example(index, f'texts.txt:{index + 1}', {'text': ' '.join(text)} if text else {}, '', {})


EXAMPLES = [example(i, LETTERS[i : i + 1 + (5 * i) % 13]) for i in range(17)]


@pytest.fixture(scope='module')
def predictor(config, made_up, tokenizer):
  """Two classifiers of the tiny encoder."""
  model = classifiers(dataclasses.replace(config, exits=(1, 3)))
  return ExitsPredictor(model, made_up(model), tokenizer, LABELS, length=16, max_batch_size=4)


@pytest.fixture(scope='module')
def recorded(predictor):
  """What one run says of the examples."""
  return predictor.recording(EXAMPLES)


def test_a_row_has_what_is_named_and_json_takes_it(predictor, recorded):
  for one, rows in ((predictor, predictor.at(0.9)(EXAMPLES)), (predictor.recording, recorded)):
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
      assert row.keys() <= {*one.results}
      assert row['prediction'] in LABELS.labels
      assert row['units'] == 1
      assert row['exit_layer'] == row['costs']['layers'] == (1, 3)[row['exit'] - 1]
      assert 1 / 3 <= row['probability'] <= 1


def test_a_rows_probability_is_its_predictions(recorded):
  for row in recorded:
    logits = np.array(row['outputs'][-1])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert row['probability'] == pytest.approx(probabilities.max(), abs=1e-5)
    assert row['confidence'] == pytest.approx(probabilities.max(), abs=1e-5)
    assert row['prediction'] == LABELS.labels[probabilities.argmax()]


def close(rows, others):
  """Whether rows are the same but for the last bits of their numbers."""
  for row, other in zip(rows, others, strict=True):
    assert row.keys() == other.keys()
    for name in ('prediction', 'exit', 'exit_layer', 'costs', 'units'):
      assert row[name] == other[name]
    for name in ('confidence', 'probability'):
      assert row[name] == pytest.approx(other[name], abs=2e-6)


@pytest.mark.parametrize('temperatures', [None, (0.5, 3.0)])
def test_the_replay_of_one_run_is_what_runs_at_each_threshold_say(
  predictor, recorded, temperatures
):
  scaled = dataclasses.replace(predictor, temperatures=temperatures)
  of_first = sorted(row['confidence'] for row in scaled.replay(recorded, 1 / 3))
  between = [(of_first[i - 1] + of_first[i]) / 2 for i in (5, 12)]
  leaving = []
  for threshold in (None, 1.0, *between, 1 / 3):
    rows = scaled.replay(recorded, threshold)
    close(rows, scaled.at(threshold)(EXAMPLES))
    leaving.append(sum(row['exit'] == 1 for row in rows))
  assert leaving == [0, 0, 12, 5, 17]


@pytest.mark.parametrize(
  ('measure', 'thresholds'),
  [
    (stopping.Patience(), (0, 1, 2)),
    (stopping.Confidence(confidence.negative_energy), (-1, 2.5)),
  ],
)
def test_other_measures_are_looked_up_in_the_same_run(predictor, recorded, measure, thresholds):
  other = dataclasses.replace(predictor, measure=measure)
  for threshold in thresholds:
    close(other.replay(recorded, threshold), other.at(threshold)(EXAMPLES))


def test_what_a_row_says_does_not_depend_on_its_batch(predictor):
  rows = predictor.at(0.8)(EXAMPLES)
  close(rows[5:9], predictor.at(0.8)(EXAMPLES[5:9]))


def test_an_example_without_a_text_has_an_empty_answer_at_its_place(predictor):
  rows = predictor([EXAMPLES[0], example(1, ''), EXAMPLES[2]])
  assert [row['prediction'] for row in rows][1] == ''
  assert (rows[1]['units'], rows[1]['costs']) == (0, {'layers': 0})
  close([rows[0], rows[2]], predictor([EXAMPLES[0], EXAMPLES[2]]))


def test_it_is_identified_by_content(predictor, tokenizer, made_up):
  copied = dataclasses.replace(
    predictor,
    params=parameters.unflatten(
      {name: np.array(value) for name, value in parameters.flatten(predictor.params).items()}
    ),
    max_batch_size=7,
    batch_size=3,
  )
  assert fingerprints.fingerprint(copied.identity) == fingerprints.fingerprint(predictor.identity)
  changes = {
    'params': made_up(predictor.model, seed=8),
    'labels': dataclasses.replace(LABELS, labels=('yes', 'no', 'maybe')),
    'length': 17,
    'truncate': False,
    'measure': stopping.Patience(),
    'temperatures': (1.0, 2.0),
    'threshold': 0.5,
  }
  for name, value in changes.items():
    other = dataclasses.replace(predictor, **{name: value})
    assert other.identity != predictor.identity, name
    assert (other.family == predictor.family) == (name == 'threshold'), name


def test_what_is_recorded_is_the_same_run_for_all_measures(predictor):
  other = dataclasses.replace(predictor, measure=stopping.Patience(), threshold=1)
  assert other.recording.identity == predictor.recording.identity
  assert predictor.recording.identity != predictor.identity


def test_errors_name_the_example_and_what_is_cut_is_counted(predictor, capsys):
  strict = dataclasses.replace(predictor, truncate=False, length=9)
  with pytest.raises(ValueError, match=r'texts\.txt:6 has 15 tokens, and the length is 9'):
    strict.check([*EXAMPLES[:2], *EXAMPLES[5:]])
  predictor.check(iter([*EXAMPLES, example(17, '')]))
  assert capsys.readouterr().err == ''
  dataclasses.replace(predictor, length=13, batch_size=2).check(iter(EXAMPLES))
  assert capsys.readouterr().err == '2 of 17 texts are cut to 13 tokens.\n'
  three = Example(0, 'pairs.tsv:2', {'a': 'x', 'b': 'y', 'c': 'z'}, '', {})
  with pytest.raises(ValueError, match=r'pairs\.tsv:2: there are 3 texts'):
    predictor.check([three])


def test_settings_that_do_not_fit_are_refused_before_any_work(predictor, tokenizer):
  pair = dataclasses.replace(LABELS, labels=('no', 'yes'))
  with pytest.raises(ValueError, match='2 labels for classifiers of 3 outputs'):
    dataclasses.replace(predictor, labels=pair)
  for temperatures in ((1.0,), (1.0, 0.0), (1.0, float('inf'))):
    with pytest.raises(ValueError, match='temperatures'):
      dataclasses.replace(predictor, temperatures=temperatures)
  with pytest.raises(ValueError, match='LENGTH'):
    dataclasses.replace(predictor, length=25)
  assert isinstance(tokenizer, wordpiece.Tokenizer)


def test_a_regression_answers_in_digits_and_leaves_by_patience(config, made_up, tokenizer):
  model = classifiers(dataclasses.replace(config, exits=(1, 2), num_outputs=1))
  form = Regression(('text',), lowest=0, highest=5)
  predictor = ExitsPredictor(model, made_up(model), tokenizer, form, 16, max_batch_size=1)
  rows = predictor(EXAMPLES[:2])
  assert all(float(row['prediction']) is not None and 'probability' not in row for row in rows)
  assert all(row['exit'] == 2 for row in rows)
  with pytest.raises(ValueError, match='largest_probability compares labels'):
    predictor.at(0.5)
  with pytest.raises(ValueError, match='largest_probability compares labels'):
    predictor.replay(predictor.recording(EXAMPLES[:2]), 0.5)
  patient = dataclasses.replace(predictor, measure=stopping.Patience(tolerance=100.0))
  assert [row['exit'] for row in patient.at(1)(EXAMPLES[:2])] == [2, 2]
  assert [row['exit'] for row in patient.at(0)(EXAMPLES[:2])] == [1, 1]
