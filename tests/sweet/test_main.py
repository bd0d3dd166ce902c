"""The `sweet` command on files of pairs and an encoder's directory, from training to labels."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calm import configuration
from calm.models import parameters
from calm.training import checkpoints
from sweet import main
from sweet.checkpoint import exits_config
from sweet.objectives import classifiers

COMMANDS = [command.name for command in main.PROGRAM.commands]
CONFIG = '--gin_file=configs/sweet/classify.gin'
SETTINGS = {
  'FIELDS': "('first', 'second')",
  'LABEL_NAMES': "('other', 'same')",
  'EXITS': '(1, 2)',
  'LENGTH': '16',
  'NUM_EPOCHS': '1',
  'BATCH_SIZE': '8',
  'PREDICT_BATCH_SIZE': '8',
}


def pairs(count, seed=0):
  """Pairs of letters, the label whether they are the same."""
  rng = np.random.default_rng(seed)
  letters = [*'abcdefghij']
  drawn = [(rng.choice(letters), rng.choice(letters)) for _ in range(count)]
  return [(a, a if i % 2 else b) for i, (a, b) in enumerate(drawn)]


def write_tsv(path, rows):
  lines = [f'{a}\t{b}\t{"same" if a == b else "other"}' for a, b in rows]
  path.write_text('\n'.join(['first\tsecond\tlabel', *lines]) + '\n')


@dataclasses.dataclass
class Run:
  """A run's folder, and what commands on it print."""

  workdir: Path

  def __call__(self, command, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as said:
      code = main.main([command, f'--workdir={self.workdir}', *map(str, arguments)])
    assert code == 0, said.getvalue()
    return said.getvalue()


def trained(folder, made):
  """A run that begins with a checkpoint, trained for an epoch and moved; the checkpoint is gone."""
  write_tsv(folder / 'train.tsv', pairs(56))
  write_tsv(folder / 'dev.tsv', pairs(40, seed=1))
  settings = {
    'CHECKPOINT': str(made),
    'TRAIN_FILE': folder / 'train.tsv',
    'VALIDATION_FILE': folder / 'dev.tsv',
    **SETTINGS,
  }
  bindings = [f'--gin.{name}={value}' for name, value in settings.items()]
  run = Run(folder / 'run')
  run('train', CONFIG, *bindings)
  shutil.rmtree(made)
  moved = folder / 'moved'
  shutil.move(run.workdir, moved)
  run.workdir = moved
  return run


@pytest.fixture(scope='module')
def run(tmp_path_factory, checkpoint, config):
  """A run of a BERT."""
  made = checkpoint(dataclasses.replace(config.encoder, num_layers=2, pooler=True))
  return trained(tmp_path_factory.mktemp('bert'), made)


def test_a_deberta_goes_the_same_way(tmp_path, checkpoint, deberta_config):
  made = checkpoint(dataclasses.replace(deberta_config.encoder, num_layers=2, pooler=True))
  run = trained(tmp_path, made)
  record = json.loads(run('curve'))
  assert [one['ratio'] for one in record['points']][:: len(record['points']) - 1] == [0.5, 1]
  assert json.loads(run('evaluate'))['accuracy'] == record['classifiers'][-1]['score']


def test_training_leaves_a_run_that_can_be_moved_and_needs_no_checkpoint(run):
  names = {path.name for path in run.workdir.iterdir()}
  assert names >= {'checkpoints', 'metrics.jsonl', 'config.gin', 'encoder', 'temperatures.json'}


def test_evaluate_prints_the_tasks_metrics_and_what_an_example_costs(run):
  metrics = json.loads(run('evaluate'))
  assert 0 <= metrics['accuracy'] <= 100
  assert metrics['num_examples'] == 40
  assert metrics['layers_per_example'] == 2
  early = json.loads(run('evaluate', '--gin.LAMBDA=0.0'))
  assert early['layers_per_example'] == 1


def test_a_curve_has_every_classifier_and_the_papers_thresholds_by_one_run(run):
  record = json.loads(run('curve'))
  assert [one['threshold'] for one in record['points']] == pytest.approx(np.linspace(0.5, 1, 11))
  assert (record['points'][0]['ratio'], record['points'][-1]['ratio']) == (0.5, 1)
  scores = [one['score'] for one in record['classifiers']]
  assert [record['points'][at]['score'] for at in (0, -1)] == scores
  assert record['at']['0.2500'] is None
  assert record['at']['1.0000'] == scores[-1]
  assert record['classifiers'][-1]['accuracy'] == json.loads(run('evaluate'))['accuracy']
  assert (run.workdir / 'curves' / 'validation_largest_probability.json').is_file()
  patient = json.loads(run('curve', '--gin.EXIT_MEASURE=@stopping.Patience()'))
  assert [one['threshold'] for one in patient['points']] == [0, 1, 2]
  assert len([*(run.workdir / 'curves').rglob('predictions.jsonl')]) == 1


def test_a_certificate_is_made_and_its_threshold_used(run):
  run('calibrate', '--gin.DELTAS=(0.5,)')
  path = run.workdir / 'certificates' / 'largest_probability_textual_0.5.json'
  certificate = json.loads(path.read_text())
  metrics = json.loads(run('evaluate', f'--certificate={path}'))
  assert 1 <= metrics['layers_per_example'] <= 2
  assert certificate['delta'] == 0.5


def test_predict_reads_pairs_without_labels_and_goes_on(run, tmp_path):
  records = [{'first': a, 'second': b, 'id': i} for i, (a, b) in enumerate(pairs(9, seed=2))]
  path, out = tmp_path / 'pairs.jsonl', tmp_path / 'out.jsonl'
  path.write_text(''.join(json.dumps(one) + '\n' for one in records))
  run('predict', f'--input={path}', f'--output={out}', '--gin.LAMBDA=0.51')
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert [row['id'] for row in rows] == [*range(9)]
  for row in rows:
    assert row['prediction'] in ('other', 'same')
    assert 0.5 <= row['probability'] <= 1
    assert row['exit_layer'] == row['exit'] in (1, 2)
  before = out.read_bytes()
  out.write_bytes(before[: len(before) // 2])
  run('predict', f'--input={path}', f'--output={out}', '--gin.LAMBDA=0.51')
  assert out.read_bytes() == before
  table = tmp_path / 'pairs.tsv'
  table.write_text(''.join(f'{a}\t{b}\n' for a, b in [('first', 'second'), *pairs(9, seed=2)]))
  said = run('predict', f'--input={table}', '--gin.LAMBDA=0.51')
  assert [json.loads(line)['prediction'] for line in said.splitlines()] == [
    row['prediction'] for row in rows
  ]


def test_plain_lines_are_refused_for_pairs_in_a_line(run, tmp_path, capsys):
  path = tmp_path / 'lines.txt'
  path.write_text('a\n')
  assert main.main(['predict', f'--workdir={run.workdir}', f'--input={path}']) == 1
  error = capsys.readouterr().err
  assert 'Texts of the fields first, second need records' in error
  assert 'Traceback' not in error


def test_the_parameters_are_those_of_a_model_that_python_builds_too(run, config):
  from calm.tasks.classification import Classification

  labels = Classification(('first', 'second'), ('other', 'same'))
  built = exits_config(workdir=str(run.workdir), labels=labels, exits=(1, 2))
  model = classifiers(built)
  params = checkpoints.restore_params(str(run.workdir), model)
  assert parameters.flatten(params).keys() == parameters.shapes(model).keys()


@pytest.mark.parametrize('command', COMMANDS)
def test_each_command_has_a_help_that_lists_sweets_configs(command, capsys):
  with pytest.raises(SystemExit) as info:
    main.main([command, '--help'])
  assert info.value.code == 0
  said = capsys.readouterr().out
  assert 'configs/sweet/classify.gin' in said
  assert 'configs/calm' not in said
  assert '--workdir' in said


def test_the_program_names_its_commands(capsys):
  with pytest.raises(SystemExit):
    main.main(['--help'])
  said = capsys.readouterr().out
  assert {'train', 'evaluate', 'curve', 'calibrate', 'predict'} <= {*COMMANDS}
  assert all(f'\n    {command}' in said for command in COMMANDS)


def test_what_is_missing_is_said_in_a_line(tmp_path, capsys):
  settings = [f'--gin.{name}={value}' for name, value in SETTINGS.items()]
  write_tsv(tmp_path / 'train.tsv', pairs(4))
  files = [f'--gin.TRAIN_FILE={tmp_path / "train.tsv"}']
  assert main.main(['train', CONFIG, f'--workdir={tmp_path / "run"}', *files, *settings]) == 1
  error = capsys.readouterr().err
  assert 'name a directory with an encoder' in error
  assert '--gin.CHECKPOINT' in error
  assert 'Traceback' not in error
  assert configuration.shipped_configs('sweet')
