"""`calm calibrate`: certificates of losses predicted once, for one system and task each."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from calm import storage
from calm.calibration import bounds, consistency, testing
from calm.calibration import certificate as certificates
from calm.evaluation import calibrate as calibration
from calm.evaluation import certified
from calm.evaluation.outcomes import Rerun
from calm.evaluation.split import read_split

GRID = (0.95, 0.6, 0.3, 0.0)
INPUTS = [f'{i * 7919:x}' for i in range(96)]


@pytest.fixture
def task(make_task):
  """96 examples."""
  return make_task(inputs=INPUTS)


@pytest.fixture
def workdir(tmp_path):
  """A run's folder."""
  return tmp_path / 'run'


@pytest.fixture
def calibrate(task, predictor, workdir):
  """Calibrates on the test split, with options in place of the usual arguments."""

  def call(**options):
    usual = {
      'task': task,
      'split': 'test',
      'predictor': predictor,
      'workdir': str(workdir),
      'grid': GRID,
      'dissimilarity': consistency.chrf,
      'deltas': (0.3,),
    }
    return calibration.calibrate(**(usual | options))

  return call


def files(workdir):
  """The names of the certificates."""
  return sorted(path.name for path in (workdir / 'certificates').iterdir())


def test_a_certificate_is_of_the_losses_at_each_threshold(calibrate, task, predictor, tmp_path):
  (made,) = calibrate(deltas=(0.9,))
  outcomes = Rerun(read_split(task, 'test'), predictor, tmp_path / 'other', 'score')
  full = outcomes.full().predictions
  for threshold, mean in zip(GRID, made.mean_losses, strict=False):
    early = outcomes.at(threshold).predictions
    losses = [consistency.chrf(a, b) for a, b in zip(early, full, strict=True)]
    assert mean == pytest.approx(np.mean(losses))
  assert max(made.mean_losses) > 0
  assert made.num_examples == 96
  assert made.data == outcomes.split.data_fingerprint


def test_a_second_call_predicts_nothing_and_replaces_its_own_certificate(
  calibrate, predictor, workdir, capsys
):
  (first,) = calibrate()
  predictor.calls.clear()
  again, _ = calibrate(deltas=(0.3, 0.31))
  assert predictor.calls == []
  assert again.threshold == first.threshold
  assert again.claim == first.claim
  assert files(workdir) == ['score_textual_0.3.json', 'score_textual_0.31.json']
  assert capsys.readouterr().err.count('stays') == 0


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    ({'epsilon': 0.04}, 'epsilon was 0.05 and is 0.04'),
    ({'dissimilarity': consistency.rouge_l}, 'dissimilarity was chrf and is rouge_l'),
    ({'grid': GRID[:3]}, 'grid was'),
    ({'p_value': bounds.hoeffding}, 'bound was hoeffding_bentkus and is hoeffding'),
    ({'procedure': testing.bonferroni}, 'procedure was fixed_sequence and is bonferroni'),
    ({'limit': 90}, 'num_examples was 96 and is 90'),
  ],
)
def test_another_claim_has_another_path_and_is_told_apart(
  calibrate, workdir, capsys, options, said
):
  calibrate()
  before = (workdir / 'certificates' / 'score_textual_0.3.json').read_bytes()
  calibrate(**options)
  assert files(workdir) == ['score_textual_0.3.json', 'score_textual_0.3_2.json']
  assert (workdir / 'certificates' / 'score_textual_0.3.json').read_bytes() == before
  assert said in capsys.readouterr().err
  calibrate(**options)
  assert len(files(workdir)) == 2


def test_another_system_has_another_path(calibrate, predictor, workdir):
  calibrate()
  calibrate(predictor=dataclasses.replace(predictor, version='two'))
  assert len(files(workdir)) == 2


def test_a_file_that_is_no_certificate_is_left_alone(calibrate, workdir, capsys):
  (workdir / 'certificates').mkdir(parents=True)
  (workdir / 'certificates' / 'score_textual_0.3.json').write_text('precious')
  calibrate()
  assert (workdir / 'certificates' / 'score_textual_0.3.json').read_text() == 'precious'
  assert 'It is left as it is' in capsys.readouterr().err
  assert certificates.load(workdir / 'certificates' / 'score_textual_0.3_2.json')


def test_too_few_examples_are_told_before_anything_is_predicted(calibrate, predictor):
  with pytest.raises(
    ValueError, match=r'96 examples can never certify delta = 0.01 .* could.*\(DELTAS\)'
  ):
    calibrate(deltas=(0.01,))
  assert predictor.calls == []


@pytest.mark.parametrize('call', [0, 3, 25, 30, 60])
def test_an_interrupted_calibration_goes_on(calibrate, predictor, workdir, call):
  with pytest.raises(KeyboardInterrupt):
    calibrate(predictor=dataclasses.replace(predictor, interrupt_at=call), deltas=(0.9,))
  assert not (workdir / 'certificates').exists()
  (made,) = calibrate(deltas=(0.9,))
  assert len(predictor.calls) == 24 * (1 + len(made.mean_losses))


def test_two_at_once_are_refused(calibrate, predictor):
  class Slow(type(predictor)):
    def __call__(self, examples):
      with pytest.raises(storage.BusyError, match=r'run/calibration is in use .*pid'):
        calibrate()
      return super().__call__(examples)

  assert calibrate(predictor=Slow())


def at(workdir, predictor, task=None, name='score_textual_0.3', **options):
  """The predictor at a certificate."""
  path = workdir / 'certificates' / f'{name}.json'
  return certified.at_certificate(predictor, str(path), task, **options)


def test_a_certificate_serves_its_own_system_and_task(calibrate, predictor, task, workdir):
  (made,) = calibrate()
  assert made.threshold is not None
  for one in (predictor, dataclasses.replace(predictor, batch_size=7, threshold=0.1)):
    assert at(workdir, one, task).threshold == made.threshold
    assert at(workdir, one).threshold == made.threshold


def test_a_moved_run_keeps_its_certificate_and_its_predictions(
  calibrate, predictor, task, workdir, tmp_path
):
  (made,) = calibrate()
  workdir.rename(tmp_path / 'moved')
  predictor.calls.clear()
  assert at(tmp_path / 'moved', predictor, task).threshold == made.threshold
  (again,) = calibrate(workdir=str(tmp_path / 'elsewhere' / '..' / 'moved'))
  assert predictor.calls == []
  assert again.claim == made.claim


@pytest.mark.parametrize(
  ('form', 'said'),
  [
    ({'inputs': 'translate: {x}'}, 'task.inputs: certified for {x}, here translate: {x}'),
    ({'targets': '{x}'}, 'task.targets: certified for {y}, here {x}'),
    ({'references': '{y}'}, 'task.references'),
    ({'name': 'intents'}, 'here intents (set --gin.TASK_NAME)'),
    ({'labels': {'y': {'a': 'b'}}}, 'task.labels'),
  ],
)
def test_a_certificate_of_another_task_is_refused_in_words(
  calibrate, predictor, make_task, workdir, form, said
):
  calibrate()
  with pytest.raises(ValueError, match='made for something else') as error:
    at(workdir, predictor, make_task(form=form))
  assert said in str(error.value)
  assert 'sha256' not in str(error.value)


def test_a_certificate_of_another_system_is_refused_in_words(calibrate, predictor, workdir):
  calibrate()
  with pytest.raises(ValueError, match=r'version: certified for one, here two \(set --gin.VERSION'):
    at(workdir, dataclasses.replace(predictor, version='two'))


def test_where_nothing_can_be_certified_the_full_system_answers(calibrate, predictor, workdir):
  calibrate(dissimilarity=lambda a, b: float(a is not None))
  assert at(workdir, dataclasses.replace(predictor, threshold=0.1)).threshold is None


def own_bound(losses, delta):
  """A bound of one's own."""
  return bounds.hoeffding(losses, delta)


def test_bounds_of_all_kinds_are_checked_again(calibrate, predictor, workdir):
  for number, bound in enumerate((bounds.betting, functools.partial(bounds.betting, cap=0.5)), 1):
    calibrate(p_value=bound, deltas=(0.8,))
    name = 'score_textual_0.8' + (f'_{number}' if number > 1 else '')
    assert at(workdir, predictor, name=name).threshold == 0
  calibrate(p_value=own_bound, deltas=(0.9,))
  with pytest.raises(ValueError, match=r"own_bound' is not known.*P_VALUE"):
    at(workdir, predictor, name='score_textual_0.9')
  assert at(workdir, predictor, name='score_textual_0.9', p_value=own_bound).threshold == 0


def test_damage_of_a_certificate_never_goes_unseen(calibrate, predictor, workdir):
  import random

  (made,) = calibrate()
  path = workdir / 'certificates' / 'score_textual_0.3.json'
  whole, rng = path.read_bytes(), random.Random(3)
  for _ in range(200):
    body = bytearray(whole)
    where = rng.randrange(len(body))
    change = rng.randrange(3)
    if change == 0:
      body[where] ^= 1 << rng.randrange(8)
    elif change == 1:
      del body[where : where + rng.choice([1, 9, len(body)])]
    else:
      body[where:where] = bytes([rng.randrange(256)])
    path.write_bytes(bytes(body))
    try:
      found = certificates.load(path)
    except ValueError as error:
      assert str(path) in str(error)  # noqa: PT017, either is right
    else:
      assert found == made
  assert json.loads(whole)['threshold'] == made.threshold
