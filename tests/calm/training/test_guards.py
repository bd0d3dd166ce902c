import resource
import signal
import time

import jax
import numpy as np
import pytest

from calm.training import checkpoints, guards


class Poisoned:
  """A stream whose batch of a given number holds a NaN."""

  def __init__(self, stream, number):
    self._stream, self._number = stream, number
    self.get_state, self.set_state = stream.get_state, stream.set_state
    self.batch = None

  def __next__(self):
    number, batch = self._stream.number, next(self._stream)
    if number == self._number:
      inputs = batch['encoder_input_tokens'].astype(np.float32)
      inputs[0, 0] = np.nan
      batch = self.batch = {**batch, 'encoder_input_tokens': inputs}
    return batch


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
  tmp_path, start, run, curve, uninterrupted
):
  """In step 3, before any checkpoint; when the first save has just begun; between two."""
  workdir = tmp_path / 'run'
  for number in (2, 3, 7):
    killed = f'--gin.SIGNALS={{{number}: {signal.SIGKILL.value}}}'
    process = start(f'--workdir={workdir}', killed)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
  assert checkpoints.steps(workdir)[0] == 3
  run(workdir)
  assert curve(workdir) == uninterrupted


@pytest.mark.parametrize('number', [0, 5, 8])
@pytest.mark.parametrize(
  ('sent', 'leaves_by'), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_ends_the_run_after_the_step_saved(
  tmp_path, run, curve, stream, uninterrupted, capsys, number, sent, leaves_by
):
  handler = signal.getsignal(sent)
  stream.signals = {number: sent}
  with pytest.raises(leaves_by) as left:
    run(tmp_path, batches=stream)
  assert sent == signal.SIGINT or left.value.code == 143
  assert signal.getsignal(sent) == handler
  assert checkpoints.steps(tmp_path)[-1] == number + 1
  assert f'Stopped after step {number + 1}, which is saved' in capsys.readouterr().err
  run(tmp_path)
  assert curve(tmp_path) == uninterrupted


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path, run, stream):
  class Impatient(type(stream)):
    def __next__(self):
      if self.number == 4:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
      return super().__next__()

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, batches=Impatient())
  assert checkpoints.steps(tmp_path) == [3]


@pytest.mark.parametrize(('number', 'saved'), [(0, []), (5, [3]), (7, [3, 6])])
def test_a_loss_that_is_not_finite_names_step_batch_and_checkpoint(
  tmp_path, run, stream, number, saved
):
  """Batch 5 is that of step 6, after which a checkpoint is due."""
  poisoned = Poisoned(stream, number)
  with pytest.raises(guards.NonFiniteError, match=f'Step {number + 1}: loss nan') as error:
    run(tmp_path, batches=poisoned)
  good = f'step {saved[-1]} in {tmp_path}' if saved else 'none was saved'
  assert f'last good checkpoint: {good}' in str(error.value)
  assert f'Batch {guards.fingerprint(poisoned.batch)};' in str(error.value)
  assert checkpoints.steps(tmp_path) == saved
  for step in saved:
    params = checkpoints.restore_params(tmp_path, step=step)
    assert all(np.isfinite(kernel['kernel']).all() for kernel in params.values())


def test_a_batchs_fingerprint_follows_from_its_numbers(stream):
  first, second = next(stream), next(stream)
  stream.set_state({'number': 0})
  assert guards.fingerprint(next(stream)) == guards.fingerprint(first)
  assert guards.fingerprint(first) != guards.fingerprint(second)


# Orbax's event loop is closed before its last write has failed.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(
  tmp_path, run, curve, stream, network
):
  """No file may grow beyond 60 kB after the first of three checkpoints of 200 kB each."""
  objective = network(hidden_dim=10_000)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)

  class Filling(type(stream)):
    def __next__(self):
      if self.number == 5:
        while not checkpoints.steps(tmp_path):
          time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
      return super().__next__()

  try:
    with pytest.raises(guards.WorkdirError) as error:
      run(tmp_path, objective=objective, batches=Filling())
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert str(error.value).startswith(f'{tmp_path}/checkpoints cannot be written: ')
  assert 'File too large' in str(error.value)
  assert checkpoints.steps(tmp_path) == [3]
  run(tmp_path, objective=objective)
  assert checkpoints.steps(tmp_path) == [9, 12]
  assert len(list((tmp_path / 'checkpoints').iterdir())) == 2
  assert [line['step'] for line in curve(tmp_path)] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize('what', ['run', 'run/checkpoints'])
def test_a_file_in_the_way_of_a_folder_is_named(tmp_path, run, what):
  (tmp_path / what).parent.mkdir(exist_ok=True)
  (tmp_path / what).write_text('in the way')
  with pytest.raises(guards.WorkdirError, match=f'{tmp_path}/{what} cannot be written: .*exists'):
    run(tmp_path / 'run')


def test_a_folder_in_the_way_of_the_metrics_is_named(tmp_path, run):
  (tmp_path / 'metrics.jsonl').mkdir()
  with pytest.raises(guards.WorkdirError, match=f'{tmp_path} cannot be written: .*directory'):
    run(tmp_path)


@pytest.mark.parametrize(
  ('count', 'error', 'raised'),
  [
    (2, TimeoutError('Timed out while waiting for async_commit_complete barrier.'), 'not answer'),
    (2, jax.errors.JaxRuntimeError('1800000ms for recv operation to complete'), 'not answer'),
    (2, ValueError('NOT_FOUND: Error opening "zarr" driver'), 'Make room there'),
    (1, TimeoutError('barrier'), 'Make room there'),
  ],
)
def test_others_that_do_not_answer_are_no_full_disk(monkeypatch, count, error, raised):
  monkeypatch.setattr(jax, 'process_count', lambda: count)
  with pytest.raises(OSError, match=raised), guards.writing('run'):
    raise error
