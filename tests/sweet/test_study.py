"""What a run's thresholds are compared with, from one run of all classifiers."""

import dataclasses

import numpy as np
import pytest

from calm.exits import confidence, stopping
from calm.reporting import efficiency
from calm.tasks import labelled, metrics
from calm.tasks.classification import Classification
from sweet.objectives import classifiers
from sweet.predictor import ExitsPredictor
from sweet.study import ClassifierStudy

LABELS = Classification(('text',), ('no', 'yes', 'maybe'))
LETTERS = 'the quick brown fox jumps over a lazy dog'.replace(' ', '')
NUM_ROWS = 60


@pytest.fixture(scope='module', params=['sweet', 'multi_model'])
def study(request, config, made_up, tokenizer, tmp_path_factory):
  """Classifiers after layers 1 and 3, on rows whose labels are drawn."""
  folder = tmp_path_factory.mktemp('study')
  rng = np.random.default_rng(3)
  lines = ['text\tlabel']
  for i in range(NUM_ROWS):
    letters = rng.choice(list(LETTERS), rng.integers(1, 9))
    lines.append(f'{" ".join(letters)} {i}\t{rng.choice(LABELS.labels)}')
  path = folder / 'rows.tsv'
  path.write_text('\n'.join(lines) + '\n')
  task = labelled.from_files(LABELS, validation=str(path), metrics=metrics.accuracy)
  model = classifiers(dataclasses.replace(config, exits=(1, 3)), request.param)
  predictor = ExitsPredictor(model, made_up(model), tokenizer, LABELS, length=24)
  return ClassifierStudy(
    task=task,
    split_name='validation',
    predictor=predictor,
    workdir=str(folder),
    measures=(stopping.Confidence(), stopping.Confidence(confidence.entropy_confidence)),
    grid=(0.9, 0.6, 0.5, 0.4, 0.0),
  )


def test_ways_are_the_classifiers_alone_at_their_depth(study):
  assert study.full.cost('layers') == 3
  (first,) = study.static
  assert (first.label, first.cost('layers')) == ('1 layer', 1)
  for way in (study.full, first):
    again = way.predictor(study.split.examples)
    assert [row['prediction'] for row in again] == way.results.predictions


def test_a_family_at_a_threshold_says_what_its_predictor_does(study):
  assert study.families == ['largest_probability', 'entropy_confidence']
  for family in study.families:
    for threshold in (0.6, 0.4):
      way = study.at(family, threshold)
      again = way.predictor(study.split.examples)
      assert [row['prediction'] for row in again] == way.results.predictions
      assert [row['costs']['layers'] for row in again] == way.costs['layers'].tolist()


def test_the_oracle_loses_nothing_and_nothing_that_loses_nothing_is_cheaper(study):
  oracle = study.oracle
  assert study.losses(oracle, 'textual').max() == 0
  runs = np.array([row['exit_layer'] for row in oracle.results.rows])
  assert set(runs) == {1, 3}
  first = np.array(study.static[0].results.predictions)
  np.testing.assert_array_equal(runs == 1, first == np.array(study.full.results.predictions))


def test_losses_are_of_labels_and_of_errors_beyond_the_last_classifiers(study):
  way = study.at('largest_probability', 0.0)
  differs = np.array(way.results.predictions) != np.array(study.full.results.predictions)
  np.testing.assert_array_equal(study.losses(way, 'textual'), differs)
  targets = np.array([example.target for example in study.split.examples])
  wrong, full_wrong = (np.array(one.results.predictions) != targets for one in (way, study.full))
  np.testing.assert_array_equal(study.losses(way, 'risk'), wrong & ~full_wrong)


def test_trials_say_how_often_the_rest_exceeds_delta(study, capsys):
  settings = efficiency.TrialSettings(
    deltas={'textual': (0.9,)}, num_trials=7, calibration_share=0.5, timed_batch_sizes=(2,),
    num_timed=4, repeats=1,
  )  # fmt: skip
  rows = efficiency.trials(study, settings)
  assert [row['kind'] for row in rows] == ['full', 'static', 'oracle', 'calibrated', 'calibrated']
  for row in rows[3:]:
    assert row['exceeds'] == 0  # Fewer than 90 % of labels differ, whatever the threshold.
    assert 1 <= row['layers'] <= 3
    assert row['speedup_batch_2'] > 0
  assert 'exceeds' in capsys.readouterr().out


def test_measures_have_names_of_their_own(study):
  twice = (stopping.Confidence(), stopping.Confidence())
  with pytest.raises(ValueError, match='name each once'):
    dataclasses.replace(study, measures=twice)
