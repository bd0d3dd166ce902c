"""The command: a router over two functions or endpoints, from files to a certificate."""

import json
import re
import shlex
from pathlib import Path

import pytest

from calm import commands
from calm.arguments import split_gin_arguments
from elang import main

MODELS = '''"""Two models: one knows even numbers only, and is less sure of the others."""


def small(texts):
  numbers = [int(text.split()[1]) for text in texts]
  return ['even'] * len(texts), [float(-(number % 2) - number / 1000) for number in numbers]


def large(texts):
  return ['odd' if int(text.split()[1]) % 2 else 'even' for text in texts]
'''
CONFIG = """from __gin__ import dynamic_registration
import models_of_a_test
SWIFT_FUNCTION = @models_of_a_test.small
SUPER_FUNCTION = @models_of_a_test.large
SWIFT_VERSION = '1'
SUPER_VERSION = '1'
SWIFT_PRICES = {'flops': 1}
SUPER_PRICES = {'flops': 10}
INPUTS = 'number {x}'
TARGETS = '{y}'
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
  """A folder of two models, a config, and a file of a hundred numbers."""
  (tmp_path / 'models_of_a_test.py').write_text(MODELS)
  (tmp_path / 'mine.gin').write_text(CONFIG)
  rows = [{'x': str(i), 'y': 'odd' if i % 2 else 'even'} for i in range(100)]
  (tmp_path / 'data.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  (tmp_path / 'lines.txt').write_text('99\n4\n\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def run(command, *arguments):
  """Runs a command; returns its exit code."""
  given = ['--gin_file=configs/elang/functions.gin', '--gin_file=mine.gin', '--workdir=run']
  given += ['--import_from=.']
  data = [f'--gin.{name}_FILE=data.jsonl' for name in ('TRAIN', 'VALIDATION', 'TEST')]
  return main.main([command, *given, *data, *arguments])


def test_from_thresholds_to_a_certificate_and_predictions(files, capsys):
  assert run('thresholds', "--gin.BUDGETS={'flops': 6.5}") == 0
  record = json.loads(capsys.readouterr().out)
  assert (record['super']['risk'], record['swift']['risk']) == (0, 0.5)
  assert -1 < record['crossing']['threshold'] < -0.05
  assert record['crossing']['risk'] == 0
  assert record['crossing']['flops'] == 6
  assert record['budgets']['flops']['flops'] <= 6.5
  assert run('calibrate', '--gin.DELTAS=(0.2,)') == 0
  (certificate,) = files.glob('run/certificates/*.json')
  threshold = json.loads(certificate.read_text())['threshold']
  assert threshold < -0.9
  capsys.readouterr()
  options = (f'--certificate={certificate}', '--input=lines.txt')
  assert run('predict', *options) == 0
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row['prediction'] for row in rows] == ['odd', 'even', '']
  assert [row.get('model') for row in rows] == ['super', 'swift', None]
  assert run('predict', *options, '--threshold=5') == 0
  said = capsys.readouterr()
  assert [json.loads(line) for line in said.out.splitlines()] == rows
  assert 'elang predict does not use --threshold: the threshold is that of the certificate.' in (
    said.err
  )
  assert run('predict', *options, '--gin.SUPER_VERSION=2') != 0
  assert '--gin.SUPER_VERSION' in capsys.readouterr().err


def test_a_report_is_written_and_too_few_inputs_for_a_tolerance_are_told(files, capsys):
  assert run('report') != 0
  assert 'delta' in capsys.readouterr().err
  assert run('report', "--gin.TRIAL_DELTAS={'risk': (0.2,)}", '--gin.TIMED_BATCH_SIZES=()') == 0
  folder = files / 'run' / 'report'
  assert capsys.readouterr().out.splitlines()[-1] == str(Path('run', 'report', 'report.html'))
  rows = (folder / 'tables.md').read_text().splitlines()
  assert '| Super: FLOPs | 10 |' in rows
  assert '| Swift: score | 50.00 |' in rows
  assert (folder / 'routing_flops.csv').is_file()


def test_it_is_evaluated_at_a_threshold(files, capsys):
  assert run('evaluate', '--threshold=-0.5') == 0
  said = json.loads(capsys.readouterr().out)
  assert (said['passed_on_per_example'], said['accuracy']) == (0.5, 100)


def test_every_threshold_that_is_shown_can_be_given(files, capsys):
  assert run('thresholds') == 0
  record = json.loads(capsys.readouterr().out)
  shown = {name: record[name] for name in ('swift', 'super', 'crossing')}
  assert [point['threshold'] for point in shown.values()][:2] == ['-inf', None]
  for point in shown.values():
    written = point['threshold'] if point['threshold'] is not None else 'null'
    assert run('evaluate', f'--threshold={written}') == 0
    said = json.loads(capsys.readouterr().out)
    assert said['passed_on_per_example'] == point['passed_on']
    assert said['accuracy'] == 100 * (1 - point['risk'])


def test_a_split_that_there_is_not_is_told_with_those_that_there_are(files, capsys):
  assert run('thresholds', '--split=nosplit') == 1
  assert "no split 'nosplit', only test, train, validation.\n" in capsys.readouterr().err
  assert run('thresholds', '--gin.VALIDATION_FILE=none') == 1
  assert 'only test, train. For a task over files, give its path (VALIDATION_FILE).' in (
    capsys.readouterr().err
  )


def test_what_a_model_lacks_is_said_without_a_trace(files, capsys):
  (files / 'mine.gin').write_text(
    CONFIG.replace('models_of_a_test.small', 'models_of_a_test.large')
  )
  assert run('evaluate', '--threshold=-0.5') != 0
  error = capsys.readouterr().err
  assert 'swift gives no scores' in error
  assert 'Traceback' not in error


def test_endpoints_are_named_on_the_command_line_alone(files, capsys):
  settings = {'ADDRESS': 'http://127.0.0.1:9/v1', 'MODEL': 'm', 'VERSION': '1'}
  given = [f'--gin.{who}_{k}={v}' for who in ('SWIFT', 'SUPER') for k, v in settings.items()]
  config = ['--gin_file=configs/elang/endpoints.gin', '--workdir=run']
  assert main.main(['predict', *config, *given, '--input=lines.txt', '--threshold=-0.3']) != 0
  error = capsys.readouterr().err
  assert 'swift at http://127.0.0.1:9/v1: no connection, as if nothing ran there.' in error


def test_the_router_in_python_that_the_page_shows_runs(capsys):
  page = (Path(__file__).parents[2] / 'docs' / 'elang.md').read_text()
  code, *_ = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  exec(compile(code, 'docs/elang.md', 'exec'), {})
  first, second = capsys.readouterr().out.splitlines()
  assert first == "[('good', 'small'), ('bad', 'small'), ('good', 'large')]"
  assert second == "[('good', 'small'), ('good', 'large'), ('good', 'large')]"


def test_the_router_in_ten_lines_that_the_readme_shows_runs(capsys):
  page = (Path(__file__).parents[2] / 'README.md').read_text()
  (code,) = (one for one in re.findall(r'```python\n(.*?)```', page, re.DOTALL) if 'elang' in one)
  assert len([line for line in code.splitlines() if line.strip()]) <= 10
  exec(compile(code, 'README.md', 'exec'), {})
  assert capsys.readouterr().out == "['bad', 'good']\n"


def test_the_commands_that_the_page_shows_are_understood():
  page = (Path(__file__).parents[2] / 'docs' / 'elang.md').read_text()
  blocks = re.findall(r'```bash\n(.*?)```', page, re.DOTALL)
  lines = ''.join(blocks).replace('\\\n', ' ').splitlines()
  lines = [line for line in lines if line.startswith('elang ')]
  parser = commands.make_parser(main.PROGRAM)
  for line in lines:
    others, _ = split_gin_arguments(shlex.split(line)[1:])
    assert parser.parse_args(others).command == others[0]
  shown = {line.split()[1] for line in lines}
  assert shown >= {'head', 'thresholds', 'report', 'calibrate', 'predict', 'serve'}
