"""Runs of other programs as models: each reads its own configuration, and the router's stays."""

import json

import pytest

import gin
from calm import configuration, runs
from elang import main

MODULE = '''"""Answers of two runs."""


def answers(examples, threshold):
  return [
    {'prediction': 'x', 'units': 1, 'costs': {}, 'confidence': len(example.texts['inputs']) / 10}
    for example in examples
  ]
'''
CONFIG = """from __gin__ import dynamic_registration
from calm.evaluation import predictor
import answers_of_a_test
PREDICTOR = @predictor.FunctionPredictor()
predictor.FunctionPredictor:
  function = @answers_of_a_test.answers
  version = %WORKDIR
  results = ('prediction', 'units', 'costs', 'confidence')
"""


@pytest.fixture
def workdirs(tmp_path, monkeypatch):
  """Two runs whose predictors are functions."""
  (tmp_path / 'code').mkdir()
  (tmp_path / 'code' / 'answers_of_a_test.py').write_text(MODULE)
  for name in ('small', 'large'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.gin').write_text(CONFIG)
  monkeypatch.syspath_prepend(tmp_path / 'code')
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  gin.clear_config()


def test_a_runs_predictor_is_read_apart_from_the_configuration_in_use(workdirs):
  configuration.parse(['large/config.gin'], ["WORKDIR = 'other'"], [], {})
  before, everything = gin.config_str(), configuration.everything()
  found = runs.predictor('small')
  assert found.version == 'small'
  assert gin.config_str() == before
  assert configuration.everything() is everything
  assert gin.config_is_locked()
  assert configuration.value('PREDICTOR').version == 'other'
  with pytest.raises(FileNotFoundError, match=r'No nowhere/config\.gin'):
    runs.predictor('nowhere')
  assert gin.config_str() == before


def test_two_runs_are_routed_from_the_command_line(workdirs, capsys):
  (workdirs / 'lines.txt').write_text('short\nrather long\n\n')
  given = ['--gin_file=configs/elang/runs.gin', '--workdir=router', '--import_from=code']
  given += ['--gin.SWIFT_WORKDIR=small', '--gin.SUPER_WORKDIR=large']
  given += ['--gin.INPUTS={inputs}', '--gin.TARGETS={targets}', '--gin.SWIFT_SCORE=confidence']
  assert main.main(['predict', *given, '--input=lines.txt', '--threshold=0.8']) == 0
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row['model'] for row in rows[:2]] == ['super', 'swift']
  assert rows[1]['scores'] == [1.1]
  assert rows[2]['prediction'] == ''
