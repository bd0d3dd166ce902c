import json
import signal
import socket

import numpy as np
import pytest

from calm.training import checkpoints


@pytest.fixture(scope='module')
def two(start):
  """Starts both processes of a run; takes more arguments for all, and for the second alone."""

  def start_both(*arguments, second=(), script=None):
    with socket.socket() as free:
      free.bind(('localhost', 0))
      address = f'localhost:{free.getsockname()[1]}'
    flags = (f'--coordinator_address={address}', '--process_count=2', *arguments)
    return (
      start(*flags, '--process_index=0', script=script),
      start(*flags, '--process_index=1', *second, script=script),
    )

  return start_both


def test_two_processes_stop_save_go_on_and_agree_with_one(tmp_path, two, run, curve):
  """The second is preempted: both stop after the same step, and go on with parameters cut in two,
  which makes them compute the same rows.
  """
  workdir = tmp_path / 'two'
  preempted = [f'--gin.SIGNALS={{4: {signal.SIGTERM.value}}}']
  both = two(f'--workdir={workdir}', '--gin.STEPS=100_000', second=preempted)
  errors = [process.communicate(timeout=600)[1] for process in both]
  assert [process.returncode for process in both] == [143, 143], errors
  assert not any('Traceback' in text for text in errors)
  stopped = checkpoints.steps(workdir)[-1]
  assert f'Stopped after step {stopped}, which is saved' in errors[0]
  assert 'Stopped' not in errors[1]

  num_steps = stopped + 5
  both = two(
    f'--workdir={workdir}', f'--gin.STEPS={num_steps}', '--gin.MODEL_PARALLELISM=2',
    script='worker.py',
  )  # fmt: skip
  results = []
  for process in both:
    out, text = process.communicate(timeout=600)
    assert process.returncode == 0, text
    results.append(json.loads(out.splitlines()[-1]))  # After a line of Gloo's.
  assert checkpoints.steps(workdir)[-1] == num_steps

  params, metrics = run(tmp_path / 'one', num_steps=num_steps)
  for line, expected in zip(curve(workdir), curve(tmp_path / 'one'), strict=True):
    assert line == pytest.approx(expected, rel=1e-5)
  assert [result['loss'] for result in results] == [pytest.approx(metrics['loss'], rel=1e-5)] * 2
  assert results[0]['loss'] == results[1]['loss']
  # Each process holds half of the hidden units.
  for name, axis in (('wi', 1), ('wo', 0)):
    halves = [np.array(result['params'][name]['kernel']) for result in results]
    kernel = np.asarray(params[name]['kernel'])
    for result in results:
      np.testing.assert_allclose(result['gathered'][name]['kernel'], kernel, atol=1e-5)
    whole = np.split(kernel, 2, axis)
    for half, expected in zip(halves, whole, strict=True):
      np.testing.assert_allclose(half, expected.ravel(), atol=1e-5)
  assert (workdir / 'config.gin').is_file()
  assert (workdir / 'operative_config.gin').is_file()
