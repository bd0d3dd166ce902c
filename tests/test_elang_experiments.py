"""The script of E-LANG's experiments: what it runs, what not again, and what it makes of pairs."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from calm import configuration, storage
from calm.training.guards import NonFiniteError
from sweet import data

SCRIPTS = configuration.shipped_root() / 'scripts'


@pytest.fixture(scope='module')
def modules():
  """The script, the rows and the pairs it works with, and its tables."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    names = ('elang_experiments', 'elang_rows', 'elang_pairs', 'elang_tables')
    return [importlib.import_module(name) for name in names]


@pytest.fixture
def said(modules):
  """Makes what a model of two labels says of rows: right where it is told, and how sure."""
  _, _, pairs, _ = modules

  def make(right, gaps, flops=1.0):
    labels = np.arange(len(right)) % 2
    answers = np.where(right, labels, 1 - labels)
    logits = np.where(answers[:, None] == np.arange(2), 1, -1) * np.array(gaps)[:, None]
    count = len(labels)
    return pairs.Said(logits, labels, np.full(count, flops), np.arange(count) % 3)

  return make


@pytest.fixture
def models(modules, said):
  """Makes a Swift model that is wrong where it is least sure, one row in five, and its Super."""
  _, _, pairs, _ = modules

  def make(size=400, seed=0):
    swift, large = {}, {}
    for number, name in enumerate(pairs.SETS):
      gaps = 0.1 + np.random.default_rng([seed, number]).random(size)
      swift[name] = said(gaps > np.quantile(gaps, 0.2), gaps)
      large[name] = said(np.ones(size, bool), np.ones(size), flops=4.0)
    return swift, large

  return make


@pytest.fixture
def experiments(modules, models, tmp_path, monkeypatch):
  """make(*flags): experiments whose training writes files, and the runs that were trained."""
  script, rows, _, _ = modules
  trained = []

  def made(self, run, folder):
    trained.append(run.name)
    storage.write_json(folder / 'checkpoints' / '1' / 'state.json', {})
    if run.learning_rate > 1:
      raise NonFiniteError('The loss is NaN.')
    large = run.model == script.SUPER
    rows.write(folder, models(seed=run.seed)[large])
    return {'accuracy': 100.0 if large else 80.0}

  monkeypatch.setattr(script.Experiments, '_made', made)
  monkeypatch.setattr(
    script.checkpoints, 'steps', lambda folder: sorted(Path(folder, 'checkpoints').glob('*'))
  )

  def make(*flags):
    given = ['--checkpoint=c', '--data=d', f'--output={tmp_path}', '--tasks', 'sst2', *flags]
    return script.Experiments(script.make_parser().parse_args(given))

  make.trained, make.run_all = trained, sys.modules['experiments'].run_all
  return make


FEW = ('--seeds', '0', '1', '--swifts', '1', '--starts', 'normal')


def names(runs):
  return [run.partition('0.0001/')[2] for run in runs]


def test_a_super_model_comes_before_those_that_learn_from_it(modules):
  script = modules[0]
  given = ['--checkpoint=c', '--data=d', '--output=o', '--seeds', '0', '--three_layer=t']
  runs = script.plan(script.make_parser().parse_args([*given, '--tasks', 'mnli']))
  assert names(run.name for run in runs) == [
    'super_6_normal/seed_0',
    'swift_1_normal/seed_0',
    'swift_2_normal/seed_0',
    'swift_1_zero/seed_0',
    'swift_2_zero/seed_0',
    'distilled_1_normal/seed_0',
    'distilled_2_normal/seed_0',
    'independent_3_normal/seed_0',
    'independent_3_zero/seed_0',
  ]


def test_what_is_finished_is_not_run_again_and_what_was_interrupted_is(
  modules, experiments, monkeypatch
):
  script, made = modules[0], experiments(*FEW)
  usual = script.Experiments._made

  def interrupted(self, run, folder):
    if len(experiments.trained) == 2:
      raise KeyboardInterrupt
    return usual(self, run, folder)

  monkeypatch.setattr(script.Experiments, '_made', interrupted)
  with pytest.raises(KeyboardInterrupt):
    experiments.run_all(made)
  monkeypatch.setattr(script.Experiments, '_made', usual)
  experiments.run_all(made)
  experiments.run_all(made)
  kinds = ('super_6_normal', 'swift_1_normal', 'distilled_1_normal')
  assert names(experiments.trained) == [f'{kind}/seed_{seed}' for seed in (0, 1) for kind in kinds]


def test_checkpoints_go_when_nothing_is_to_learn_from_them_and_come_back_if_it_is(
  experiments, tmp_path
):
  experiments.run_all(experiments(*FEW, '--keep', '*/super*/seed_1'))
  (kept,) = tmp_path.rglob('checkpoints')
  assert kept.parent.relative_to(tmp_path).parts[-2:] == ('super_6_normal', 'seed_1')
  before = len(experiments.trained)
  experiments.run_all(experiments(*FEW, '--distilled_starts', 'zero'))
  assert names(experiments.trained[before:]) == [
    'super_6_normal/seed_0',
    'distilled_1_zero/seed_0',
    'distilled_1_zero/seed_1',
  ]
  assert not [*tmp_path.rglob('checkpoints')]


def test_models_without_finite_losses_are_kept_as_such_and_in_no_pair(experiments, tmp_path):
  made = experiments(*FEW, '--learning_rate', '2')
  experiments.run_all(made)
  assert {storage.read_record(path)['failed'] for path in tmp_path.rglob('run.json')} == {
    'The loss is NaN.'
  }
  assert made.groups() == []


def test_a_report_is_made_of_what_is_finished(modules, experiments, tmp_path, capsys):
  script = modules[0]
  flags = ['--checkpoint=c', '--data=d', f'--output={tmp_path}', '--tasks', 'sst2', *FEW]
  assert script.main([*flags, '--report', '--num_resamples', '20']) == 1
  assert 'no finished pair' in capsys.readouterr().err
  experiments.run_all(experiments(*FEW))
  assert script.main([*flags, '--plan']) == 0
  assert capsys.readouterr().out.count('done sst2/') == 6
  assert script.main([*flags, '--report', '--num_resamples', '20', '--num_trials', '9']) == 0
  found = tmp_path / 'report'
  tables = (found / 'tables.md').read_text()
  # A score that is lowest exactly where the Swift is wrong recovers all there is.
  assert '| sst2 | 1 layer | normal | 2 | 80.00 ± 0.00 | 100.00 ± 0.00 | 20.00 ± 0.00 | yes |' in (
    tables
  )
  assert 'most is recovered by energy = softmax = entropy = margin = published, 1.00' in tables
  record = storage.read_record(found / 'pairs.json')
  assert [group['Swift'] for group in record['groups']] == ['1 layer', '1 layer, distilled']
  assert len([*found.glob('*.png')]) == 2


def test_a_pair_is_apart_if_the_gap_is_beyond_the_spread(modules, said):
  _, _, pairs, _ = modules

  def group(*wrong):
    seeds = [
      pairs.Pair(
        {'evaluation': said(np.arange(100) >= count, np.ones(100))},
        {'evaluation': said(np.ones(100, bool), np.ones(100))},
      )
      for count in wrong
    ]
    return pairs.Group('task', '1 layer', 'zero', seeds)

  assert group(4, 5, 6).apart  # 5 less 1
  assert not group(2, 5, 8).apart  # 5 less 3
  assert not group(9).apart
  (row,) = pairs.accuracies([group(9)])
  assert row['plotted'] == 'no: one seed'


def test_a_certified_point_pays_for_both_models_where_it_passes_on(modules, models):
  _, _, pairs, _ = modules
  pair = pairs.Pair(*models())
  found = pairs.certified(pair, 'energy', pairs.Settings(num_trials=20))
  # The Swift is wrong in the least sure fifth, and all but 2 % of it must be passed on.
  assert found['share'] == 20
  assert found['loss'] <= 2
  passed = found['passed on'] / 100
  assert found['FLOPs'] == pytest.approx(1 + 4 * passed)
  assert found['FLOPs saved'] == pytest.approx(4 / (1 + 4 * passed))
  assert found['below the Super'] == pytest.approx(100 - found['accuracy'])
  assert found['violations'] <= 5


def test_too_few_rows_certify_nothing_and_the_tables_say_so(modules, models):
  _, _, pairs, tables = modules
  pair = pairs.Pair(*models(size=50))
  settings = pairs.Settings(num_resamples=5)
  report = tables.Report([pairs.Group('task', '1 layer', 'zero', [pair])], settings)
  assert report.certified == [None]
  assert 'Too few rows to certify it.' in tables.as_markdown(report)


def test_seconds_and_costs_are_laid_out_as_in_table_4(modules, models):
  _, _, pairs, tables = modules
  times = {'swift': 1e-3, 'super': 4e-3, 'router': 2e-3, 'router_p95': 3e-3}
  timed = {str(size): {**times, 'passed_on': 0.25, 'ratio': 1.0} for size in (1, 32)}
  groups = [
    pairs.Group(task, '1 layer', 'zero', [pairs.Pair(*models())], timed) for task in ('a', 'b')
  ]
  report = tables.Report(groups, pairs.Settings(num_trials=5, num_resamples=5))
  (rows,) = report.tables_4().values()
  swift, large, router = rows
  assert (swift['a'], large['b']) == (80, 100)
  assert (swift['FLOPs'], large['FLOPs']) == ('1', '4')
  assert [row['time (ms)'] for row in rows] == [1, 4, 2]
  assert 70 < router['kept by the Swift, %'] < 85
  assert [row['batch'] for row in report.seconds_rows()] == ['1', '32', '1', '32']


def test_what_is_said_comes_back_from_the_disk(modules, models, tmp_path):
  _, rows, pairs, _ = modules
  said, _ = models(size=7)
  rows.write(tmp_path, said)
  found = rows.read(tmp_path)
  assert list(found) == list(pairs.SETS)
  for name, one in dataclasses.asdict(said['path']).items():
    np.testing.assert_array_equal(getattr(found['path'], name), one)


@pytest.fixture
def glue(tmp_path):
  """A folder of two tasks, and the directory of a tokenizer."""
  sizes = {
    'glue_sst2': {'train': 90, 'validation': 5},
    'glue_mrpc': {'train': 30, 'validation': 7, 'test': 9},
  }
  for folder, splits in sizes.items():
    (tmp_path / folder).mkdir()
    for split, size in splits.items():
      texts = [f'{split} {i}' for i in range(size)]
      records = (
        {'sentence': text, 'sentence1': text, 'sentence2': 'b', 'label': 1} for text in texts
      )
      lines = ''.join(f'{json.dumps(record)}\n' for record in records)
      (tmp_path / folder / f'{split}.jsonl').write_text(lines)
  words = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
  (tmp_path / 'vocab.txt').write_text(''.join(f'{word}\n' for word in words))
  return str(tmp_path)


def test_no_row_is_in_two_sets_or_was_trained_on(modules, glue):
  rows = modules[1].rows_of(glue, 'sst2', glue)
  settings = {'num_examples': 40, 'num_calibration': 20, 'seed': 3}
  sets = modules[1].sets_of(rows, **settings)
  assert {name: len(found) for name, found in sets.items()} == {
    'evaluation': 5,
    'calibration': 20,
    'trial': 20,
    'path': 9,  # a tenth of the training rows, as none of 500
  }
  drawn = data.draw(90, num_examples=40, num_held_out=500, seed=3)
  seen = [example.where for found in sets.values() for example in found]
  trained = {f'train.jsonl:{i + 1}' for i in drawn.trained}
  assert len(seen) == len(set(seen))
  assert not trained & {where.rpartition('/')[2] for where in seen}
  assert modules[1].sets_of(rows, **settings) == sets
  with pytest.raises(ValueError, match='has 41 training rows that are not trained on'):
    modules[1].sets_of(rows, **{**settings, 'num_calibration': 41})


def test_where_the_test_split_has_labels_it_is_scored_and_the_validation_split_calibrates(
  modules, glue
):
  sets = modules[1].sets_of(
    modules[1].rows_of(glue, 'mrpc', glue), num_examples=40, num_calibration=20, seed=3
  )
  begin = {name: found[0].texts['sentence1'].split()[0] for name, found in sets.items()}
  assert begin == {
    'evaluation': 'test',
    'calibration': 'validation',
    'trial': 'test',
    'path': 'train',
  }
