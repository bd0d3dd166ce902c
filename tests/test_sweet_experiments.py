"""The script of SWEET's experiments: what it runs, in which order, and what not again."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from calm import configuration, storage
from calm.training.guards import NonFiniteError

SCRIPT = configuration.shipped_root() / 'scripts' / 'sweet_experiments.py'


@pytest.fixture(scope='module')
def script():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module(SCRIPT.stem)


@pytest.fixture
def experiments(script, tmp_path, monkeypatch):
  """make(*flags): experiments whose training writes a file, and the runs that were trained.

  The area is largest at 1e-4, and multi-model has no finite loss at 2e-4.
  """
  trained = []

  def curve(self, run, workdir):
    trained.append(run.name)
    storage.write_json(Path(workdir, 'checkpoints', '1', 'state.json'), {})
    if (run.method, run.learning_rate) == ('multi_model', 2e-4):
      raise NonFiniteError('The loss is NaN.')
    return {'area': 90 - 1e4 * abs(run.learning_rate - 1e-4), 'split': 'validation'}

  monkeypatch.setattr(script.Experiments, '_curve', curve)

  def make(*flags):
    given = ['--checkpoint=c', '--data=d', f'--output={tmp_path}', *flags]
    return script.Experiments(script.make_parser().parse_args(given))

  make.trained = trained
  return make


def finish(script, made):
  sys.modules['experiments'].run_all(made)
  return made


MAIN = ('--parts', 'search', 'main', '--tasks', 'sst2', '--num_examples', '60')


def test_rates_are_searched_first_and_the_best_is_trained_on_all_seeds(script, experiments, capsys):
  made = finish(script, experiments(*MAIN, '--methods', 'sweet'))
  assert experiments.trained == [
    'sst2/mean/60/sweet/3e-05/seed_0',
    'sst2/mean/60/sweet/0.0001/seed_0',
    'sst2/mean/60/sweet/0.0002/seed_0',
    # Seed 0 at the best rate is there already.
    'sst2/mean/60/sweet/0.0001/seed_1',
    'sst2/mean/60/sweet/0.0001/seed_2',
  ]
  script.say_rates(made)
  said = capsys.readouterr().out
  assert '5 runs left' in said
  assert 'sst2 sweet: 0.0001; areas 3e-05: 89.30, 0.0001: 90.00, 0.0002: 89.00' in said


def test_what_is_finished_is_not_run_again_and_more_seeds_are_added(script, experiments):
  finish(script, experiments(*MAIN, '--methods', 'sweet'))
  before = len(experiments.trained)
  finish(script, experiments(*MAIN, '--methods', 'sweet'))
  assert len(experiments.trained) == before
  finish(script, experiments(*MAIN, '--methods', 'sweet', '--seeds', '0', '1', '2', '3'))
  assert experiments.trained[before:] == ['sst2/mean/60/sweet/0.0001/seed_3']


def test_what_was_interrupted_is_run_again(script, experiments, monkeypatch):
  made = experiments(*MAIN, '--methods', 'sweet')
  usual = script.Experiments._curve

  def interrupted(self, run, workdir):
    if len(experiments.trained) == 2:
      raise KeyboardInterrupt
    return usual(self, run, workdir)

  monkeypatch.setattr(script.Experiments, '_curve', interrupted)
  with pytest.raises(KeyboardInterrupt):
    sys.modules['experiments'].run_all(made)
  monkeypatch.setattr(script.Experiments, '_curve', usual)
  finish(script, made)
  assert len(experiments.trained) == len(set(experiments.trained)) == 5


def test_checkpoints_go_unless_they_are_to_be_kept(script, experiments, tmp_path):
  kept = 'sst2/mean/60/sweet/*/seed_1'
  finish(script, experiments(*MAIN, '--methods', 'sweet', '--keep', kept))
  found = [path.parent.parent for path in tmp_path.rglob('checkpoints/1')]
  assert found == [tmp_path / 'sst2/mean/60/sweet/0.0001/seed_1']
  assert len([*tmp_path.rglob('run.json')]) == 5


def test_a_run_without_finite_losses_is_kept_as_such_and_not_chosen(script, experiments, capsys):
  made = finish(script, experiments(*MAIN, '--methods', 'multi_model'))
  failed = made.output / 'sst2/mean/60/multi_model/0.0002/seed_0' / 'run.json'
  assert storage.read_record(failed)['failed'] == 'The loss is NaN.'
  script.say_rates(made)
  assert 'sst2 multi_model: 0.0001; ' in capsys.readouterr().out
  assert len(experiments.trained) == 5


def test_a_single_rate_needs_no_search(script, experiments):
  flags = ('--parts', 'cls', 'sizes', '--seeds', '0', '--num_examples', '60', '--sizes', '10')
  finish(script, experiments(*flags, '--methods', 'sweet', '--learning_rates', '5e-5'))
  assert experiments.trained == [
    'sst2/cls/60/sweet/5e-05/seed_0',
    'sst2/mean/10/sweet/5e-05/seed_0',
  ]


def test_a_rate_that_nobody_has_searched_is_told(script, experiments):
  with pytest.raises(ValueError, match='add search to --parts'):
    sys.modules['experiments'].run_all(experiments('--parts', 'main', '--tasks', 'sst2'))


def test_the_plan_has_every_part(script, experiments):
  counts = {}
  for run in script.plan(experiments().flags):
    counts[run.part] = counts.get(run.part, 0) + 1
  assert counts == {
    'search': 27,
    'main': 27,
    'alternating': 6,
    'cls': 9,
    'mnli': 3,
    'stsb': 3,
    'sizes': 6,
  }


def test_mnli_and_stsb_take_the_rates_of_the_tasks_that_were_searched(script, experiments):
  flags = ('--methods', 'sweet', '--seeds', '0', '--parts', 'search', 'mnli', 'stsb')
  finish(script, experiments(*flags, '--tasks', 'sst2', 'mrpc', 'mnli', 'stsb'))
  assert experiments.trained[-2:] == [
    'mnli/mean/6000/sweet/0.0001/seed_0',
    'stsb/mean/6000/sweet/0.0001/seed_0',
  ]


def test_the_time_left_is_that_of_finished_runs_by_rows_and_layers(script, experiments):
  made = experiments(*MAIN, '--seeds', '0', '--parts', 'main', '--learning_rates', '1e-4')
  early, sweet, multi = (run for run, _ in made.all())
  assert made.seconds_left([early]) != made.seconds_left([early])  # NaN: nothing is known yet.
  storage.write_record(made.output / early.name / 'run.json', {'seconds': 12.0, 'area': 1.0})
  # Multi-model trains 1 + 2 + 4 + 6 layers, the others 6.
  assert made.seconds_left([sweet, multi]) == pytest.approx(12 + 26)


@pytest.mark.parametrize('name', ['train.jsonl', 'train.jsonl.gz'])
def test_data_are_found_packed_or_not(script, tmp_path, name):
  (tmp_path / name).write_text(json.dumps({}))
  assert script.find_file(tmp_path, 'train') == str(tmp_path / name)
  with pytest.raises(FileNotFoundError, match='set --data'):
    script.find_file(tmp_path, 'validation')
