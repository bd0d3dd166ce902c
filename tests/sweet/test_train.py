"""A run that was stopped is the run that was not; its temperatures come when all is done."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from calm.models import parameters
from calm.tasks import labelled
from calm.tasks.classification import Classification, Regression
from calm.training import checkpoints
from sweet import temperature, train
from sweet.checkpoint import exits_config
from sweet.data import Rows
from sweet.objectives import METHODS, classifiers

FORM = Classification(('text',), ('no', 'yes'))
NUM_ROWS = 64
STEPS = 4  # Of 16 rows, of the 58 that are not held out.


@pytest.fixture(scope='module')
def source(tmp_path_factory, checkpoint, config):
  """An encoder of two layers, and a file of texts whose label is whether they have an a."""
  folder = tmp_path_factory.mktemp('source')
  path = folder / 'train.jsonl'
  texts = [' '.join('abcdefgh'[i % 3 : 3 + i % 5]) for i in range(NUM_ROWS)]
  records = [{'text': text, 'label': int('a' in text)} for text in texts]
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  encoder = dataclasses.replace(config.encoder, pooler=True, num_layers=2)
  return checkpoint(encoder), path


@pytest.fixture(scope='module')
def start(source, tokenizer):
  """Trains in a workdir; keyword arguments change how."""
  folder, path = source

  def start(workdir, method='sweet', form=FORM, exits=(1, 2), **changes):
    config = exits_config(checkpoint=str(folder), labels=form, exits=exits)
    rows = Rows(labelled.from_files(form, train=str(path)), tokenizer, length=16)
    settings = {
      'model': classifiers(config, method),
      'rows': rows,
      'method': method,
      'checkpoint': str(folder),
      'workdir': str(workdir),
      'num_epochs': 1,
      'learning_rate': 1e-3,
      'steps_per_report': 1,
      'steps_per_checkpoint': 2,
    }
    return train.train(**(settings | changes))

  return start


@pytest.fixture(scope='module')
def whole(tmp_path_factory, start):
  """A run in one go: (workdir, flat parameters, its last report)."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  params, report = start(workdir)
  return workdir, parameters.flatten(params), report


def reports(workdir):
  """What a run reported, without what depends on the clock."""
  clock = ('seconds', 'seconds_per_step', 'examples_per_second')
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{name: value for name, value in line.items() if name not in clock} for line in lines]


class Killed(BaseException):
  """What no code of the run expects."""


@pytest.mark.parametrize('step', [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_end(
  whole, start, tmp_path, monkeypatch, step, capsys
):
  from calm.training.progress import Progress

  advance = Progress.advance

  def kill(self, number):
    advance(self, number)
    if number == step:
      raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(Progress, 'advance', kill)
    with pytest.raises(Killed):
      start(tmp_path / 'run')
  assert temperature.of_run(tmp_path / 'run') is None
  params, _ = start(tmp_path / 'run')
  for name, value in parameters.flatten(params).items():
    np.testing.assert_array_equal(value, whole[1][name], err_msg=name)
  assert reports(tmp_path / 'run') == reports(whole[0])
  assert checkpoints.steps(str(tmp_path / 'run'))[-1] == STEPS


def test_a_run_leaves_all_that_is_needed_to_use_it(whole, capsys):
  workdir, params, report = whole
  assert sorted(path.name for path in (workdir / 'encoder').iterdir()) == [
    'config.json',
    'tokenizer_config.json',
    'vocab.txt',
  ]
  assert report.keys() >= {'loss', 'loss_1', 'loss_2', 'accuracy_1', 'accuracy_2'}
  assert 'examples_per_second' in json.loads((workdir / 'metrics.jsonl').read_text().split('\n')[0])
  assert report['loss'] == pytest.approx(report['loss_1'] + report['loss_2'])
  assert {name.partition('/')[0] for name in params} == {
    *('encoder', 'pooler_1', 'pooler_2', 'classifier_1', 'classifier_2')
  }


def test_temperatures_are_written_at_the_end_and_go_when_the_run_goes_on(
  whole, start, tmp_path, monkeypatch
):
  assert len(temperature.of_run(whole[0])) == 2
  seen = []
  fit_run = temperature.fit_run

  def fitted(workdir, model, params, held_out, step):
    seen.append((len(held_out), step, temperature.of_run(workdir)))
    fit_run(workdir, model, params, held_out, step)

  monkeypatch.setattr(temperature, 'fit_run', fitted)
  start(tmp_path / 'stopped', stop_after_seconds=0)
  assert seen == []
  assert temperature.of_run(tmp_path / 'stopped') is None
  shutil.copytree(whole[0], tmp_path / 'longer')
  start(tmp_path / 'longer', num_epochs=1.5)
  assert seen == [(6, 6, None)]


def test_what_the_parameters_begin_with_is_the_checkpoint_and_the_seed(whole, start, tmp_path):
  params, _ = start(tmp_path, seed=1)
  assert any(
    not np.array_equal(value, whole[1][name]) for name, value in parameters.flatten(params).items()
  )


def test_settings_that_cannot_be_are_refused_and_leave_nothing(start, tmp_path):
  for change, complaint in (
    ({'clipping': 'none'}, "clipping: 'none' is not one of per_classifier, global"),
    ({'num_examples': 0}, 'NUM_EXAMPLES'),
    ({'weights': (1.0,)}, 'weights'),
    ({'max_gradient_norm': -1.0}, 'max_gradient_norm'),
    ({'split': 'test'}, 'test'),
  ):
    with pytest.raises(ValueError, match=complaint):
      start(tmp_path / 'run', **change)
    assert not (tmp_path / 'run' / 'encoder').exists()


def test_a_norm_is_per_classifier_where_nothing_else_couples_them():
  found = {method: train.default_clipping(method) for method in METHODS}
  assert found == {
    'sweet': 'per_classifier',
    'multi_model': 'per_classifier',
    'early_exit': 'global',
    'alternating': 'global',
  }


def test_a_regression_has_no_temperatures(start, tmp_path):
  params, report = start(
    tmp_path, form=Regression(('text',)), exits=(1,), num_epochs=0.25, method='early_exit'
  )
  assert temperature.of_run(tmp_path) is None
  assert 'accuracy_1' not in report
  assert params['classifier_1']['kernel'].shape == (8, 1)
