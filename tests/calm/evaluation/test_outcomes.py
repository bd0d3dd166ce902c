"""What is predicted of a split is kept by all that it depends on, and by nothing else."""

import dataclasses
import random
import shutil
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from calm.evaluation import journal
from calm.evaluation.outcomes import ROWS, Replay, Rerun, outcomes_of, predict_split
from calm.evaluation.split import read_split

NINE = [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.fixture
def split(make_task):
  """Nine examples."""
  return read_split(make_task(), 'test')


@pytest.fixture
def folder(tmp_path):
  """Where results are kept."""
  return tmp_path / 'run' / 'results'


def kept(folder):
  """The folders of results below one."""
  return sorted(path.parent.name for path in folder.glob(f'*/{ROWS}'))


def test_a_second_call_predicts_nothing_and_gives_the_same(split, predictor, folder, capsys):
  first = predict_split(split, predictor, folder)
  again = predict_split(split, predictor, folder)
  assert predictor.calls == NINE
  assert (first.num_predicted, again.num_predicted) == (9, 0)
  assert first.rows == again.rows
  assert capsys.readouterr().err == ''
  assert len(kept(folder)) == 1


@pytest.mark.parametrize('call', range(3))
def test_an_interrupted_call_goes_on_to_the_same_file(split, predictor, folder, call):
  whole = (predict_split(split, predictor, folder / 'whole').folder / ROWS).read_bytes()
  interrupted = dataclasses.replace(predictor, calls=[], interrupt_at=call)
  with pytest.raises(KeyboardInterrupt):
    predict_split(split, interrupted, folder / 'cut')
  going_on = dataclasses.replace(predictor, calls=[])
  found = predict_split(split, going_on, folder / 'cut')
  assert interrupted.calls + going_on.calls == NINE
  assert (found.folder / ROWS).read_bytes() == whole


def test_a_copied_run_serves_as_the_first_did(split, predictor, folder, tmp_path):
  before = predict_split(split, predictor, folder)
  shutil.copytree(folder, tmp_path / 'copy [1]')
  predictor.calls.clear()
  assert predict_split(split, predictor, tmp_path / 'copy [1]').rows == before.rows
  assert predictor.calls == []


def test_what_does_not_matter_does_not_count(split, make_task, predictor, folder):
  before = predict_split(split, predictor, folder)
  elsewhere = read_split(make_task(folder='elsewhere', metrics=(len,)), 'test')
  for other in (dataclasses.replace(predictor, batch_size=7), predictor):
    for one in (split, elsewhere):
      assert predict_split(one, other, folder).rows == before.rows
  assert predictor.calls == NINE


def test_a_part_is_taken_from_the_whole_and_the_whole_goes_on_from_a_part(
  make_task, predictor, folder
):
  task = make_task()
  rows = {}
  for limit in (4, 9, 2, 8, 5):
    rows[limit] = predict_split(read_split(task, 'test', limit=limit), predictor, folder).rows
  assert predictor.calls == NINE
  assert all(rows[limit] == rows[9][:limit] for limit in rows)
  assert len(kept(folder)) == 1


def test_what_matters_leads_elsewhere_is_said_and_what_was_there_stays(
  split, predictor, folder, capsys
):
  first = predict_split(split, predictor, folder)
  other = dataclasses.replace(predictor, version='two')
  second = predict_split(split, other, folder)
  assert second.rows != first.rows
  message = capsys.readouterr().err
  assert f'{second.folder}: predicting anew, since version was one and is two' in message
  assert f'({first.folder.name} stays)' in message
  predictor.calls.clear()
  assert predict_split(split, predictor, folder).rows == first.rows
  assert predictor.calls == []
  assert len(kept(folder)) == 2


def test_other_data_leads_elsewhere_and_what_was_there_stays(make_task, predictor, folder, capsys):
  task = make_task()
  first = predict_split(read_split(task, 'test'), predictor, folder)
  changed = make_task(inputs=['seven', 'a', 'of', 'the worst'], folder='changed')
  second = predict_split(read_split(changed, 'test'), predictor, folder)
  assert 'since the data differ' in capsys.readouterr().err
  assert [row['prediction'] for row in second.rows][3] == 'the worst one'
  other_targets = make_task(targets=['x'] * 9, folder='targets')
  predict_split(read_split(other_targets, 'test'), predictor, folder)
  predictor.calls.clear()
  assert predict_split(read_split(task, 'test'), predictor, folder).rows == first.rows
  assert predict_split(read_split(changed, 'test'), predictor, folder).rows == second.rows
  assert predictor.calls == []
  assert len(kept(folder)) == 3


def test_damaged_lines_are_predicted_again_and_said(split, predictor, folder, capsys):
  found = predict_split(split, predictor, folder)
  path = found.folder / ROWS
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b'eleven one', b'twelve one'))
  predictor.calls.clear()
  again = predict_split(split, predictor, folder)
  assert predictor.calls == [[4, 5, 6, 7]]
  assert again.rows == found.rows
  assert path.read_bytes() == whole
  assert ':5 is damaged and made again' in capsys.readouterr().err


def test_no_damage_of_what_is_kept_changes_a_result(split, predictor, folder, capsys):
  found = predict_split(split, predictor, folder)
  files = [found.folder / ROWS, journal.settings_path(found.folder / ROWS)]
  whole = {path: path.read_bytes() for path in files}
  rng = random.Random(1)
  for _ in range(150):
    path = rng.choice(files)
    body = bytearray(whole[path])
    at = rng.randrange(len(body))
    change = rng.randrange(5)
    if change == 0:
      body[at] ^= 1 << rng.randrange(8)
    elif change == 1:
      del body[at:]
    elif change == 2:
      body[at : at + 8] = b''
    elif change == 3:
      body[at : at + 16] = bytes(16)
    path.unlink() if change == 4 else path.write_bytes(bytes(body))
    assert predict_split(split, predictor, folder).rows == found.rows
    for kept_path, content in whole.items():
      kept_path.write_bytes(content)
  assert len(kept(folder)) == 1
  assert 'Traceback' not in capsys.readouterr().err


def test_costs_are_per_unit(split, predictor, folder):
  outcomes = Rerun(split, predictor, folder, 'score')
  full, early = outcomes.full(), outcomes.at(0.0)
  assert full.cost_per_unit('layers') == 3
  assert early.cost_per_unit('layers') == 1
  np.testing.assert_array_equal(full.units, [len(one.split()) for one in full.predictions])
  np.testing.assert_array_equal(early.units, 1)
  assert outcomes.at(0.0).num_predicted == 0
  assert early.folder.parent == folder / 'test' / 'score' / '0'


@dataclasses.dataclass(frozen=True)
class Recorded:
  """A Scripted as a predictor of which one run tells what it says at every threshold."""

  scripted: Any
  threshold: float | None = None
  recorded: bool = False

  name, unit, flags, check = 'score', 'token', MappingProxyType({}), lambda *_: None

  @property
  def results(self):
    return (*self.scripted.results, *(('at',) if self.recorded else ()))

  @property
  def batch_size(self):
    return self.scripted.batch_size

  @property
  def family(self):
    return self.scripted.family

  @property
  def identity(self):
    return {**self.family, **({'recorded': True} if self.recorded else {'at': self.threshold})}

  @property
  def recording(self):
    return dataclasses.replace(self, threshold=None, recorded=True)

  def at(self, threshold):
    return dataclasses.replace(self, threshold=threshold, recorded=False)

  def replay(self, rows, threshold):
    return [row['at'][str(threshold)] for row in rows]

  def __call__(self, examples):
    if not self.recorded:
      return self.scripted.at(self.threshold)(examples)
    rows = self.scripted.at(None)(examples)
    for row, example in zip(rows, examples, strict=True):
      row['at'] = {str(t): self.scripted.at(t).answer(example) for t in (None, *THRESHOLDS)}
    return rows


THRESHOLDS = (0.0, 0.3, 0.5, 0.9, 1.0)
SAID = ('prediction', 'units', 'costs')


def said(results):
  """What rows say, without the examples."""
  return [{name: row[name] for name in SAID} for row in results.rows]


def test_a_replay_says_what_running_again_says_at_every_threshold_by_one_run(
  split, predictor, folder
):
  rerun = Rerun(split, dataclasses.replace(predictor, calls=[]), folder, 'score')
  replay = Replay(split, Recorded(predictor), folder)
  assert said(replay.full()) == said(rerun.full())
  for threshold in THRESHOLDS:
    assert said(replay.at(threshold)) == said(rerun.at(threshold))
  assert predictor.calls == NINE
  # The next process looks it up, too.
  assert said(Replay(split, Recorded(predictor), folder).at(0.5)) == said(rerun.at(0.5))
  assert predictor.calls == NINE
  assert [path.name for path in (folder / 'test').glob('recorded*')] == ['recorded']


def test_a_predictor_is_replayed_if_it_can_be(split, predictor, folder):
  assert isinstance(outcomes_of(split, predictor, folder, 'score'), Rerun)
  assert isinstance(outcomes_of(split, Recorded(predictor), folder, 'score'), Replay)
