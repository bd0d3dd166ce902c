import json

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

from calm.training import progress


def _lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def _report(workdir, *steps, num_steps=10, first_step=0):
  shown = progress.Progress(workdir, num_steps, first_step)
  for step in steps:
    shown.advance(step)
    shown.report(step, {'loss': 1 / step, 'accuracy': step / 10})
  shown.close()


def test_each_report_is_a_line_and_a_point(tmp_path):
  _report(tmp_path, 2, 4)
  assert _lines(tmp_path) == [
    {'step': 2, 'loss': 0.5, 'accuracy': 0.2},
    {'step': 4, 'loss': 0.25, 'accuracy': 0.4},
  ]
  events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
  assert sorted(events.Tags()['tensors']) == ['accuracy', 'loss']
  points = [(point.step, point.tensor_proto.float_val[0]) for point in events.Tensors('loss')]
  assert points == [(2, 0.5), (4, 0.25)]


def test_a_report_is_on_disk_before_the_next(tmp_path):
  shown = progress.Progress(tmp_path, 10)
  shown.report(1, {'loss': 2.0})
  assert _lines(tmp_path) == [{'step': 1, 'loss': 2.0}]
  shown.close()


def test_lines_after_the_checkpoint_and_broken_ones_come_again(tmp_path):
  _report(tmp_path, 2, 4, 6)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('[1]\n{"step": 8, "lo')
  _report(tmp_path, 6, 8, first_step=5)
  assert [line['step'] for line in _lines(tmp_path)] == [2, 4, 6, 8]


def test_damaged_lines_are_left_out_and_others_stay_byte_for_byte(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  good = [b'{"step":1,  "loss": 1.0}\n', b'{"loss": NaN, "step": 2}\n']
  bad = [b'\xff\x00{"step": 1}\n', b'null\n', b'{"step": "1"}\n', b'[' * 100_000 + b'\n', b'\n']
  path.write_bytes(b''.join([good[0], *bad, good[1], b'{"step": 2']))
  progress.Progress(tmp_path, 10, 2).open()
  assert path.read_bytes() == b''.join(good)


def test_nothing_is_written_before_it_is_opened(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 9}\n')
  shown = progress.Progress(tmp_path, 10, 2)
  shown.say('Going on.')
  shown.close()
  assert list(tmp_path.iterdir()) == [path]
  assert path.read_text() == '{"step": 9}\n'


@pytest.mark.parametrize(('first_step', 'kept'), [(0, []), (3, [2]), (4, [2, 4]), (9, [2, 4, 6])])
def test_tensorboard_forgets_the_steps_that_come_again(tmp_path, first_step, kept):
  _report(tmp_path, 2, 4, 6)
  (written,) = tmp_path.glob('events.*')
  written.rename(tmp_path / 'events.out.tfevents.1')  # Read first, as what is a second older.
  _report(tmp_path, 10, first_step=first_step)
  events = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()
  for name in ('loss', 'accuracy'):
    assert [point.step for point in events.Tensors(name)] == [*kept, 10]
  assert [line['step'] for line in _lines(tmp_path)] == [*kept, 10]


def test_lines_of_a_run_without_a_checkpoint_are_dropped(tmp_path):
  _report(tmp_path, 2, 4)
  _report(tmp_path, 1)
  assert [line['step'] for line in _lines(tmp_path)] == [1]


def test_only_the_first_process_shows_and_writes(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  _report(tmp_path, 2)
  progress.Progress(tmp_path, 10).say('heard by nobody')
  assert list(tmp_path.iterdir()) == []
  assert 'step 2/10' not in capfd.readouterr().err


def test_without_a_terminal_each_report_is_a_line_with_the_time_left(tmp_path, capsys):
  _report(tmp_path, 5)
  assert 'step 5/10 loss=0.2 accuracy=0.5 left=' in capsys.readouterr().err


STEPS = [
  {'loss': 1.0, 'weight': 10.0, 'gradient_norm': 3.0},
  {'loss': 2.5, 'weight': 20.0, 'gradient_norm': 5.0},
  {'loss': 0.3, 'weight': 0.7, 'gradient_norm': 0.1},
]


def test_losses_are_weighted_by_token_and_norms_by_step():
  meter = progress.Meter()
  for step in STEPS[:2]:
    meter.add(step)
  report = meter.report()
  assert report['loss'] == pytest.approx((1.0 * 10 + 2.5 * 20) / 30)
  assert report['gradient_norm'] == 4.0
  assert 'weight' not in report
  meter.add(STEPS[1])
  assert meter.report()['loss'] == 2.5


@pytest.mark.parametrize('cut', [0, 1, 2])
def test_a_meter_goes_on_from_json_as_if_there_had_been_no_break(cut):
  whole, before, after = progress.Meter(), progress.Meter(), progress.Meter()
  for number, step in enumerate(STEPS):
    whole.add(step)
    if number < cut:
      before.add(step)
  after.set_state(json.loads(json.dumps(before.get_state())))
  for step in STEPS[cut:]:
    after.add(step)
  expected, report = whole.report(), after.report()
  assert (report['loss'], report['gradient_norm']) == (expected['loss'], expected['gradient_norm'])


def test_speed_is_of_the_steps_since_the_break_and_without_pauses(monkeypatch):
  clock = iter([100.0, 101.0, 151.0, 154.0, 154.0])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  meter = progress.Meter()
  meter.set_state({'steps': 4, 'weight': 1000.0, 'loss': 1000.0})
  meter.add({'loss': 1.0, 'weight': 60.0})
  meter.add({'loss': 1.0, 'weight': 60.0})
  with meter.paused():
    pass  # From 101 to 151 seconds.
  report = meter.report()
  assert report['seconds_per_step'] == 2.0
  assert report['tokens_per_second'] == 30.0
  assert report['loss'] == 1.0


def test_speed_has_the_unit_that_weights_count(tmp_path, capsys):
  meter = progress.Meter('example')
  meter.add({'loss': 1.0, 'weight': 16.0})
  report = meter.report()
  assert 'tokens_per_second' not in report
  shown = progress.Progress(tmp_path, 10)
  shown.report(1, {**report, 'examples_per_second': 30.0})
  shown.close()
  assert 'examples_per_second=30' in capsys.readouterr().err


def test_steps_of_padding_only_report_no_nan():
  meter = progress.Meter()
  meter.add({'loss': 0.0, 'weight': 0.0, 'gradient_norm': 0.0})
  assert np.isfinite(list(meter.report().values())).all()


def test_what_is_shown_is_written_as_people_write_numbers(tmp_path, capsys):
  shown = progress.Progress(tmp_path, 10)
  shown.report(1, {'loss': 0.123456, 'tokens_per_second': 25090.4})
  shown.report(2, {'loss': float('nan'), 'tokens_per_second': 25.09})
  shown.report(3, {'loss': 1e30, 'tokens_per_second': 1e6})
  shown.close()
  first, second, third = capsys.readouterr().err.splitlines()
  assert first.startswith('step 1/10 loss=0.1235 tokens_per_second=25,090 ')
  assert second.startswith('step 2/10 loss=nan tokens_per_second=25.09 ')
  assert third.startswith('step 3/10 loss=1e+30 tokens_per_second=1,000,000 ')
