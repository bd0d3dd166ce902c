"""Certificates survive the disk, say what they are of, refuse the rest, and are checked again."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from calm import storage
from calm.calibration import bounds, certificate, consistency, testing
from calm.fingerprints import identity

GRID = (0.9, 0.7, 0.5, 0.3)
MEANS = {0.9: 0.0, 0.7: 0.01, 0.5: 0.03, 0.3: 0.2}
SYSTEM = {
  'params': 'sha256:12',
  'rule': {'measure': 'calm.exits.confidence.softmax_margin', 'min_exit': 1},
  'fill': 'exit_state',
  'code': 'sha256:56',
}
TASK = {'name': 'multi30k', 'inputs': '{en}', 'targets': '{fr}'}
CLAIMS = {
  'objective': 'textual',
  'dissimilarity': identity(consistency.rouge_l),
  'system': SYSTEM,
  'task': TASK,
  'split': 'validation',
  'data': 'sha256:34',
  'versions': {'calm': '0.1.0'},
}


def make(bound=bounds.hoeffding_bentkus, procedure=testing.fixed_sequence, means=MEANS, **claims):
  """A certificate of losses of which each is its threshold's mean."""
  calibration = testing.calibrate(
    lambda threshold: np.full(251, means[threshold]),
    GRID,
    0.1,
    num_examples=251,
    p_value=bound,
    procedure=procedure,
  )
  return certificate.certify(calibration, **(CLAIMS | claims))


def edit(path, **changes):
  """Changes fields as one would who also mends the checksum."""
  storage.write_record(path, storage.read_record(path) | changes)


def mine(losses, delta):
  """A bound of one's own."""
  return bounds.hoeffding(losses, delta)


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / 'made' / 'certificate.json'
  make().save(path)
  return path


def test_what_is_saved_is_loaded(saved):
  made = dataclasses.replace(make(), created='2022-07-14T00:00:00+00:00')
  made.save(saved)  # In the place of the other.
  assert certificate.load(saved) == made
  assert certificate.load(str(saved)) == made
  assert [file.name for file in saved.parent.iterdir()] == ['certificate.json']


def test_the_file_says_in_words_what_it_is_of(saved):
  fields = json.loads(saved.read_text())
  assert fields['format'] == 'calm-certificate-2'
  assert (fields['threshold'], fields['delta'], fields['epsilon']) == (0.5, 0.1, 0.05)
  assert fields['grid'] == list(GRID)
  assert fields['mean_losses'] == pytest.approx(list(MEANS.values()))
  assert (fields['bound'], fields['procedure']) == ('hoeffding_bentkus', 'fixed_sequence')
  assert fields['dissimilarity'] == {'function': 'calm.calibration.consistency.rouge_l'}
  assert {name: fields[name] for name in ('system', 'task', 'split')} == {
    'system': SYSTEM,
    'task': TASK,
    'split': 'validation',
  }


def test_never_exit_is_saved_as_null(saved):
  made = make(means=dict.fromkeys(GRID, 0.5))
  made.save(saved)
  assert json.loads(saved.read_text())['threshold'] is None
  assert certificate.load(saved).threshold is None
  assert str(made).startswith('Never exit')


def test_it_says_what_it_guarantees():
  text = str(make())
  said = ('threshold 0.5', 'textual consistency by rouge_l on multi30k validation', 'at most 0.1')
  for words in (*said, 'at least 0.95', '251 examples'):
    assert words in text


def test_it_serves_what_it_was_made_for():
  make().check(SYSTEM, TASK)
  make().check(SYSTEM)  # Plain lines belong to no task.


@pytest.mark.parametrize(
  ('system', 'task', 'said'),
  [
    ({'params': 'sha256:99'}, {}, 'params: is another (set --workdir)'),
    ({'fill': 'first_state'}, {}, 'fill: certified for exit_state, here first_state'),
    (
      {'rule': {'measure': 'calm.exits.confidence.state_saturation', 'min_exit': 2}},
      {},
      'rule.measure: certified for softmax_margin, here state_saturation (set --gin.MEASURE)\n'
      '  rule.min_exit: certified for 1, here 2 (set --gin.RULE)',
    ),
    ({'seed': 3}, {}, 'seed: certified for nothing, here 3'),
    ({}, {'targets': '{de}'}, 'task.targets: certified for {fr}, here {de}'),
  ],
)
def test_it_refuses_another_system_or_task_in_words(system, task, said):
  flags = {'params': '--workdir', 'rule': '--gin.RULE', 'rule.measure': '--gin.MEASURE'}
  with pytest.raises(ValueError, match='made for something else') as error:
    make().check(SYSTEM | system, TASK | task, flags)
  assert said in str(error.value)
  assert 'sha256' not in str(error.value)


def test_other_code_warns(capsys):
  make().check(SYSTEM | {'code': 'sha256:57'}, TASK)
  assert 'The code has changed since this certificate was made' in capsys.readouterr().err
  make().check(SYSTEM, TASK)
  assert capsys.readouterr().err == ''


def test_claims_are_equal_for_equals_whatever_came_of_them():
  made = make()
  again = [make(means=dict.fromkeys(GRID, 0.5)), make(versions={'calm': '0.2.0'})]
  again.append(make(system=SYSTEM | {'code': 'sha256:57'}))
  assert all(other.claim == made.claim for other in again)
  others = [
    make(bounds.hoeffding),
    make(functools.partial(bounds.betting, cap=0.5)),
    make(functools.partial(bounds.betting, cap=0.7)),
    make(procedure=testing.bonferroni),
    make(objective='risk'),
    make(dissimilarity=identity(consistency.chrf)),
    make(split='test'),
    make(data='sha256:35'),
    make(task=TASK | {'inputs': '{de}'}),
    make(system=SYSTEM | {'params': 'sha256:13'}),
    dataclasses.replace(made, epsilon=0.06),
    dataclasses.replace(made, delta=0.11),
  ]
  claims = [json.dumps(one.claim) for one in (made, *others)]
  assert len(set(claims)) == len(claims)


@pytest.mark.parametrize('procedure', testing.PROCEDURES.values(), ids=testing.PROCEDURES)
@pytest.mark.parametrize(
  'bound', [*bounds.BOUNDS.values(), functools.partial(bounds.betting, cap=0.5)]
)
def test_what_does_not_follow_from_the_losses_is_refused(saved, bound, procedure):
  made = make(bound, procedure)
  made.save(saved)
  assert certificate.load(saved) == made
  edit(saved, p_values=[0.0] * len(made.p_values))
  with pytest.raises(ValueError, match=r'p-values do not follow from the (mean )?losses'):
    certificate.load(saved)


def test_a_betting_certificate_is_rechecked_from_its_losses(saved):
  made = make(bounds.betting)
  made.save(saved)
  losses = [list(row) for row in made.losses]
  losses[1][7] += 0.5
  edit(saved, losses=losses)
  with pytest.raises(ValueError, match='mean losses do not follow from the losses'):
    certificate.load(saved)
  edit(saved, losses=None)
  with pytest.raises(ValueError, match='losses are missing, and betting needs them'):
    certificate.load(saved)


def test_a_bound_of_ones_own_is_rechecked_if_it_is_given(saved):
  made = make(mine)
  made.save(saved)
  assert made.bound.endswith('test_certificate.mine')
  assert certificate.load(saved, (mine,)) == made
  with pytest.raises(ValueError, match=r"bound '.*mine' is not known: .* given as P_VALUE"):
    certificate.load(saved)
  edit(saved, losses=[[0.5] * 251] * len(made.losses), mean_losses=[0.5] * len(made.losses))
  with pytest.raises(ValueError, match='do not follow'):
    certificate.load(saved, (mine,))


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
    ({'system': {}}, 'system must say what it is'),
    ({'task': 'multi30k'}, 'task must say what it is'),
    ({'objective': 7}, 'objective must be a text'),
    ({'bound': 'hunch'}, "bound 'hunch' is not known"),
    ({'procedure': 'hope'}, "procedure 'hope' is not known"),
    ({'created': 'yesterday'}, 'yesterday'),
    ({'format': 'calm-certificate-1'}, '"format" is not'),
    ({'colour': 'blue'}, r"unexpected fields: \['colour'\]"),
  ],
)
def test_an_edited_certificate_is_refused(saved, changes, message):
  edit(saved, **changes)
  with pytest.raises(ValueError, match=message) as error:
    certificate.load(saved)
  assert str(saved) in str(error.value)


def test_any_edit_that_leaves_the_checksum_is_refused(saved):
  saved.write_text(saved.read_text().replace('"min_exit": 1', '"min_exit": 2'))
  with pytest.raises(ValueError, match='has been changed since it was written'):
    certificate.load(saved)


def test_a_missing_field_is_named(saved):
  fields = storage.read_record(saved)
  del fields['epsilon'], fields['p_values']
  storage.write_record(saved, fields)
  with pytest.raises(ValueError, match=r"missing fields: \['epsilon', 'p_values'\]"):
    certificate.load(saved)


@pytest.mark.parametrize('text', ['', '{"format": ', '[]', '7', '\x00', '{"threshold": NaN}'])
def test_what_is_no_certificate_is_refused(saved, text):
  saved.write_text(text)
  with pytest.raises(ValueError, match='is not a valid certificate'):
    certificate.load(saved)


def test_a_missing_file_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no certificate at .*none\.json: .*`calibrate`'):
    certificate.load(tmp_path / 'none.json')
