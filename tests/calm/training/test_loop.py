import math
import shutil
import time

import jax
import numpy as np
import pytest

from calm import storage
from calm.models import t5
from calm.training import checkpoints, guards, losses, optimizers


class Slow:
  """A stream that takes a quarter of a second a batch."""

  def __init__(self, stream):
    self._stream = stream
    self.get_state, self.set_state = stream.get_state, stream.set_state

  def __next__(self):
    time.sleep(0.25)
    return next(self._stream)


def test_a_run_learns_and_reports_every_so_many_steps(uninterrupted):
  assert [line['step'] for line in uninterrupted] == [2, 4, 6, 8, 10, 12]
  assert uninterrupted[-1]['loss'] < 0.5 * uninterrupted[0]['loss']


@pytest.mark.parametrize(
  ('optimizer', 'dtype'),
  [(optimizers.adafactor(0.05), 'bfloat16'), (optimizers.adamw(1e-2), 'float32')],
)
def test_a_t5_learns_with_either_optimizer_in_either_precision(
  tmp_path, run, curve, optimizer, dtype
):
  config = t5.T5Config(19, 16, 2, 8, 32, 1, 2, dropout_rate=0.0, dtype=dtype)
  objective = losses.EncoderDecoderObjective(t5.T5(config))
  params, _ = run(
    tmp_path, objective=objective, optimizer=optimizer, num_steps=60, steps_per_checkpoint=60
  )
  lines = curve(tmp_path)
  assert np.mean([line['loss_last_layer'] for line in lines[-5:]]) < np.log(17)
  assert lines[-1]['loss'] < 0.9 * lines[0]['loss']
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}


def test_validation_has_its_own_steps(tmp_path, run, curve, stream, uninterrupted):
  run(tmp_path, validation_batches=stream, num_validation_batches=2, steps_per_validation=5)
  lines = curve(tmp_path)
  validated = [line['step'] for line in lines if 'validation_loss' in line]
  assert validated == [5, 10, 12]
  assert [line['step'] for line in lines] == [2, 4, 5, 6, 8, 10, 12]
  trained = [
    {name: value for name, value in line.items() if not name.startswith('validation')}
    for line in lines
  ]
  assert trained == [*uninterrupted[:2], {'step': 5}, *uninterrupted[2:]]


def test_validation_scores_the_same_batches_without_dropout(tmp_path, run, curve, stream):
  batches = [next(stream), next(stream)]
  stream.set_state({'number': 0})
  params, metrics = run(tmp_path, validation_batches=stream, num_validation_batches=2)
  again = curve(tmp_path)[-1]
  assert metrics['validation_loss'] == again['validation_loss']
  error = weight = 0.0
  for batch in batches:
    inputs, targets = batch['encoder_input_tokens'] / 19, batch['decoder_target_tokens'] / 19
    predicted = np.maximum(inputs @ params['wi']['kernel'], 0) @ params['wo']['kernel']
    error += (np.square(predicted - targets) * batch['decoder_loss_weights']).sum()
    weight += batch['decoder_loss_weights'].sum()
  np.testing.assert_allclose(metrics['validation_loss'], error / weight, rtol=1e-5)


def test_fewer_steps_than_are_done_change_nothing(tmp_path, run, curve, uninterrupted, capsys):
  run(tmp_path)
  params, metrics = run(tmp_path, num_steps=7)
  assert 'Nothing to do: step 12 of 7' in capsys.readouterr().err
  assert metrics == {}
  assert curve(tmp_path) == uninterrupted
  assert checkpoints.steps(tmp_path) == [9, 12]
  saved = checkpoints.restore_params(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, params, saved)


def test_time_runs_over_all_parts_of_a_run(tmp_path, run, curve, stream, uninterrupted, capsys):
  run(tmp_path, batches=Slow(stream), stop_after_seconds=0.8)
  (stopped,) = checkpoints.steps(tmp_path)[-1:]
  assert 1 <= stopped <= 4
  assert f'Stopping at step {stopped}' in capsys.readouterr().err
  run(tmp_path, stop_after_seconds=0.8)
  assert checkpoints.steps(tmp_path)[-1] == stopped
  run(tmp_path)
  assert curve(tmp_path) == uninterrupted


@pytest.mark.parametrize('given', [lambda params: params, lambda params: lambda: params])
def test_a_run_begins_with_the_parameters_it_is_given(tmp_path, run, given):
  begun, _ = run(tmp_path / 'begun', num_steps=1)
  again, _ = run(tmp_path / 'again', num_steps=1, initial_params=given(jax.device_get(begun)))
  before, after = begun['wi']['kernel'], again['wi']['kernel']
  assert not np.array_equal(before, after)
  np.testing.assert_allclose(before, after, atol=0.011)  # One step of Adam at 0.01.


def test_a_run_that_goes_on_reads_no_parameters_to_begin_with(tmp_path, run, curve, uninterrupted):
  read = []
  run(tmp_path, num_steps=3, initial_params=lambda: read.append('at the beginning'))
  run(tmp_path, initial_params=lambda: read.append('going on'))
  assert read == ['at the beginning']
  assert curve(tmp_path)[-1] == uninterrupted[-1]


def test_nothing_is_read_to_train_on_before_the_parameters_to_begin_with(tmp_path, run, stream):
  read = []

  def batches():
    read.append('batches')
    return stream

  def missing():
    raise FileNotFoundError('There is no directory there.')

  with pytest.raises(FileNotFoundError, match='no directory'):
    run(tmp_path, batches=batches, validation_batches=batches, initial_params=missing)
  assert read == []
  run(tmp_path, num_steps=1, batches=batches, initial_params=lambda: read.append('parameters'))
  assert read == ['parameters', 'batches']


@pytest.mark.parametrize(
  'name', ['num_steps', 'steps_per_report', 'steps_per_checkpoint', 'steps_per_validation']
)
def test_settings_that_cannot_be_are_refused(tmp_path, run, name):
  with pytest.raises(ValueError, match=f'{name} must be a whole number of at least 1, not 0'):
    run(tmp_path, **{name: 0})


def test_the_seed_decides_the_run(tmp_path, run, curve, uninterrupted):
  run(tmp_path / 'same', num_steps=2)
  run(tmp_path / 'other', num_steps=2, seed=1)
  assert curve(tmp_path / 'same') == uninterrupted[:1]
  assert curve(tmp_path / 'other')[0]['loss'] != uninterrupted[0]['loss']


def _files(workdir):
  """Content of each file of a workdir, but of the lock."""
  paths = (path for path in workdir.rglob('*') if path.is_file() and path.name != guards.LOCK)
  return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


@pytest.fixture(scope='module')
def half(tmp_path_factory, run):
  """A workdir where a run was killed: behind its last report, its newest checkpoint damaged."""
  workdir = tmp_path_factory.mktemp('half')
  run(workdir, num_steps=8)
  (workdir / 'config.gin').write_text('what the run was told')
  (workdir / 'checkpoints' / '8' / 'progress' / 'metadata').write_text('{')
  return workdir


@pytest.fixture
def halfway(half, tmp_path):
  """A copy of `half`."""
  return shutil.copytree(half, tmp_path / 'run')


class Lacking:
  """A stream of batches without one of their arrays."""

  def __init__(self, stream, name):
    self._stream, self._name = stream, name
    self.get_state, self.set_state = stream.get_state, stream.set_state

  def __next__(self):
    return {name: value for name, value in next(self._stream).items() if name != self._name}


REFUSED = {
  'steps that are no number': lambda stream, network: {'num_steps': math.nan},
  'half a step': lambda stream, network: {'steps_per_report': 2.5},
  'seconds that are no number': lambda stream, network: {'stop_after_seconds': math.nan},
  'no checkpoint kept': lambda stream, network: {'keep_checkpoints': 0},
  'rows that cannot be cut': lambda stream, network: {'num_microbatches': 3},
  'devices that are not there': lambda stream, network: {'model_parallelism': 1000},
  'a learning rate that is none': lambda stream, network: {
    'optimizer': optimizers.adamw(lambda step: math.nan)
  },
  'another model': lambda stream, network: {'objective': network(hidden_dim=9)},
  'other batches': lambda stream, network: {'batches': Lacking(stream, 'encoder_input_tokens')},
  'another validation': lambda stream, network: {
    'validation_batches': Lacking(stream, 'decoder_loss_weights')
  },
}


@pytest.mark.parametrize('why', REFUSED)
def test_a_run_that_is_refused_leaves_everything_as_it_was(halfway, run, stream, network, why):
  before, accepted = _files(halfway), []
  changes = {'accepted': lambda: accepted.append(1), **REFUSED[why](stream, network)}
  with pytest.raises((ValueError, KeyError)):
    run(halfway, **changes)
  assert _files(halfway) == before
  assert accepted == []


def test_a_run_is_accepted_once_before_it_changes_anything(halfway, run, curve, uninterrupted):
  before, found = _files(halfway), []
  run(halfway, accepted=lambda: found.append(_files(halfway)))
  assert found == [before]
  assert (halfway / 'checkpoints' / 'unreadable-8-0').is_dir()
  assert curve(halfway) == uninterrupted
  run(halfway, accepted=lambda: found.append('nothing to do'))
  assert found == [before]


def test_what_accepting_raises_ends_the_run_with_nothing_written(halfway, run):
  before = _files(halfway)

  def full():
    raise OSError('no room')

  with pytest.raises(OSError, match='no room'):
    run(halfway, accepted=full)
  assert _files(halfway) == before


def test_one_run_at_a_time_is_in_a_workdir_and_others_may_read_it(
  tmp_path, run, curve, stream, uninterrupted
):
  refused = []

  class Nosy(type(stream)):
    def __next__(self):
      if self.number == 5:
        with pytest.raises(storage.BusyError, match=f'{tmp_path} is in use .*pid') as error:
          run(tmp_path)
        refused.append(error)
        while not checkpoints.steps(tmp_path):
          time.sleep(0.01)
        checkpoints.restore_params(tmp_path)
      return super().__next__()

  run(tmp_path, batches=Nosy())
  assert len(refused) == 1
  assert curve(tmp_path) == uninterrupted
  run(tmp_path)  # The lock is gone with the run.


def test_a_run_on_another_stream_begins_a_new_epoch_and_goes_on_with_it(
  tmp_path, run, stream, capsys
):
  def batches(batch_size):
    made = type(stream)(num_rows=batch_size)
    made.settings = {'seed': 0, 'batch_size': batch_size}
    return made

  told = 'so a new epoch begins: batch_size was 8 and is 4.'
  run(tmp_path, num_steps=4, batches=batches(8))
  assert 'new epoch' not in capsys.readouterr().err
  other = batches(4)
  run(tmp_path, num_steps=7, batches=other)
  assert told in capsys.readouterr().err
  assert other.number == 3
  again = batches(4)
  run(tmp_path, num_steps=9, batches=again)
  assert 'new epoch' not in capsys.readouterr().err
  assert again.number == 5
