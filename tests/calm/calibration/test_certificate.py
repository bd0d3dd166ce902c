"""Certificates survive the disk, refuse what they were not made for, and can be checked again."""

import dataclasses
import json

import numpy as np
import pytest

from calm.calibration import bounds, certificate, testing

GRID = (0.9, 0.7, 0.5, 0.3)
MEANS = {0.9: 0.0, 0.7: 0.01, 0.5: 0.03, 0.3: 0.2}
FINGERPRINTS = {'model': 'sha256:12', 'data': 'sha256:34', 'code': 'sha256:56', 'task': 'multi30k'}


def _certificate(bound=bounds.hoeffding_bentkus, procedure=testing.fixed_sequence, means=MEANS):
  calibration = testing.calibrate(
    lambda threshold: np.full(251, means[threshold]),
    GRID,
    0.1,
    num_examples=251,
    p_value=bound,
    procedure=procedure,
  )
  return certificate.certify(
    calibration, objective='textual consistency, rouge_l', fingerprints=FINGERPRINTS
  )


def _edited(path, **changes):
  fields = json.loads(path.read_text())
  path.write_text(json.dumps({**fields, **changes}))


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / 'made' / 'certificate.json'
  _certificate().save(path)
  return path


def test_what_is_saved_is_loaded(saved):
  made = dataclasses.replace(_certificate(), created='2022-07-14T00:00:00+00:00')
  made.save(saved)  # In the place of the other.
  assert certificate.load(saved) == made
  assert certificate.load(str(saved)) == made
  assert [file.name for file in saved.parent.iterdir()] == ['certificate.json']


def test_the_file_is_plain_json(saved):
  fields = json.loads(saved.read_text())
  assert fields['format'] == 'calm-certificate-1'
  assert fields['threshold'] == 0.5
  assert fields['grid'] == list(GRID)
  assert fields['mean_losses'] == pytest.approx(list(MEANS.values()))
  assert fields['fingerprints'] == FINGERPRINTS
  assert (fields['bound'], fields['procedure']) == ('hoeffding_bentkus', 'fixed_sequence')


def test_never_exit_is_saved_as_null(saved):
  made = _certificate(means=dict.fromkeys(GRID, 0.5))
  made.save(saved)
  assert json.loads(saved.read_text())['threshold'] is None
  assert certificate.load(saved).threshold is None
  assert str(made).startswith('Never exit')


def test_it_says_what_it_guarantees():
  text = str(_certificate())
  for words in ('threshold 0.5', 'rouge_l', 'at most 0.1', 'at least 0.95', '251 examples'):
    assert words in text


def test_a_failed_save_leaves_the_old_file_and_no_litter(saved, monkeypatch):
  before = saved.read_text()

  def full_disk(descriptor):
    raise OSError('No space left on device')

  monkeypatch.setattr(certificate.os, 'fsync', full_disk)
  with pytest.raises(OSError, match='No space'):
    _certificate(bounds.betting).save(saved)
  assert saved.read_text() == before
  assert [file.name for file in saved.parent.iterdir()] == ['certificate.json']


def test_it_serves_what_it_was_made_for():
  made = _certificate()
  made.check(FINGERPRINTS)
  made.check({'model': 'sha256:12', 'task': 'multi30k'})  # Evaluated on other data.


def test_it_refuses_another_model_and_task_and_names_them():
  with pytest.raises(ValueError, match='another model, task') as error:
    _certificate().check({**FINGERPRINTS, 'model': 'sha256:99', 'task': 'squad'})
  assert 'model: certified for sha256:12, here sha256:99' in str(error.value)
  assert 'task: certified for multi30k, here squad' in str(error.value)
  assert 'sha256:34' not in str(error.value)


def test_it_refuses_what_it_says_nothing_about():
  with pytest.raises(ValueError, match='rule: certified for nothing, here softmax_margin'):
    _certificate().check({'rule': 'softmax_margin'})


@pytest.mark.parametrize('procedure', testing.PROCEDURES.values(), ids=testing.PROCEDURES)
def test_it_is_rechecked_from_the_means_where_they_suffice(procedure):
  assert _certificate(bounds.hoeffding_bentkus, procedure).recheck()
  assert _certificate(bounds.hoeffding, procedure).recheck()
  assert not _certificate(bounds.betting, procedure).recheck()


def test_a_bound_of_ones_own_is_certified_but_not_rechecked(tmp_path):
  def mine(losses, delta):
    return bounds.hoeffding(losses, delta)

  made = _certificate(mine)
  made.save(tmp_path / 'mine.json')
  assert certificate.load(tmp_path / 'mine.json') == made
  assert made.bound.endswith('mine')
  assert not made.recheck()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'threshold': 0.7}, '0.7 is written, 0.5 follows'),
    ({'threshold': None}, 'never exiting is written, 0.5 follows'),
    ({'threshold': 0.42}, '0.42 is not one of those that were tested'),
    ({'delta': 0.2}, 'do not follow from the mean losses by hoeffding_bentkus'),
    ({'epsilon': 1e-9}, '0.5 is written'),
    ({'num_examples': 2510}, 'do not follow from the mean losses'),
    ({'num_examples': 251.5}, 'not a valid certificate'),
    ({'mean_losses': [0.0, 0.0, 0.0, 0.0]}, 'do not follow'),
    ({'p_values': [0.0, 0.0]}, '2 p_values and 4 mean_losses do not fit'),
    ({'p_values': [0.0, 0.0, 0.0, 1.5]}, r'p_values must lie in \[0, 1\]'),
    ({'grid': [0.3, 0.5, 0.7, 0.9]}, 'must descend'),
    ({'delta': None}, 'not a valid certificate'),
    ({'delta': 2}, 'delta must lie between'),
    ({'fingerprints': {'model': 'sha256:12'}}, 'lacks the fingerprint of data, code'),
    ({'fingerprints': {**FINGERPRINTS, 'model': ''}}, 'fingerprint of model must be'),
    ({'objective': 7}, 'objective must be a string'),
    ({'created': 'yesterday'}, 'yesterday'),
    ({'format': 'calm-certificate-0'}, '"format" is not'),
    ({'colour': 'blue'}, r"unexpected fields: \['colour'\]"),
  ],
)
def test_an_edited_certificate_is_refused(saved, changes, message):
  _edited(saved, **changes)
  with pytest.raises(ValueError, match=message) as error:
    certificate.load(saved)
  assert str(saved) in str(error.value)


def test_a_missing_field_is_named(saved):
  fields = json.loads(saved.read_text())
  del fields['epsilon'], fields['p_values']
  saved.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=r"missing fields: \['epsilon', 'p_values'\]"):
    certificate.load(saved)


@pytest.mark.parametrize('text', ['', '{"format": ', '[]', '7', '\x00', '{"threshold": NaN}'])
def test_what_is_no_certificate_is_refused(saved, text):
  saved.write_text(text)
  with pytest.raises(ValueError, match='is not a valid certificate'):
    certificate.load(saved)


def test_a_missing_file_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no certificate at .*none\.json.*calm calibrate'):
    certificate.load(tmp_path / 'none.json')


def test_the_required_fingerprints_are_required():
  made = _certificate()
  with pytest.raises(ValueError, match='lacks the fingerprint of model'):
    dataclasses.replace(made, fingerprints={'data': 'a', 'code': 'b'})
