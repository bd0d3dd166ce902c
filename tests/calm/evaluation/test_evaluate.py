"""`calm evaluate`: metrics as computed by hand, of predictions that belong to their settings."""

import dataclasses
import json

import pytest

from calm import storage
from calm.evaluation import evaluate as evaluations
from calm.evaluation.outcomes import ROWS


def exact_match(targets, predictions):
  """Percentage of predictions that are their target, or one of them."""
  accepted = [target if isinstance(target, list) else [target] for target in targets]
  hits = [prediction in each for each, prediction in zip(accepted, predictions, strict=True)]
  return {'exact_match': 100 * sum(hits) / len(hits)}


@pytest.fixture
def task(make_task):
  """The full system has two of nine targets wrong."""

  inputs = ['seven', 'a', 'of', 'the best', 'eleven', 'é', 'x y z', 'last but one', 'last']
  targets = [*(f'{x} one' for x in inputs[:7]), 'wrong', 'x']
  return make_task(targets, inputs, metrics=exact_match)


@pytest.fixture
def evaluate(predictor, tmp_path, task):
  """Evaluates the test split, with options in place of the usual arguments."""

  def call(**options):
    usual = {'task': task, 'split': 'test', 'predictor': predictor}
    return evaluations.evaluate(**({**usual, 'workdir': str(tmp_path / 'run')} | options))

  return call


def test_metrics_are_those_computed_by_hand(evaluate, tmp_path, capsys):
  metrics = evaluate()
  assert metrics['exact_match'] == 77.777778
  assert metrics['num_examples'] == 9
  assert metrics['layers_per_token'] == 3
  assert metrics['seconds_per_example'] > 0
  assert json.loads(capsys.readouterr().out) == metrics
  folder = tmp_path / 'run' / 'evaluations'
  (inner,) = (folder / 'test').iterdir()
  assert json.loads((folder / 'test.json').read_text()) == metrics
  assert json.loads((inner / 'metrics.json').read_text()) == metrics
  assert len((inner / ROWS).read_text().splitlines()) == 9


def test_a_finished_evaluation_predicts_nothing_and_prints_the_same(evaluate, predictor):
  first = evaluate()
  predictor.calls.clear()
  assert evaluate() == first
  assert predictor.calls == []


@pytest.mark.parametrize('content', [b'', b'[]', b'{"seconds_per_example": "x"}', b'\xff'])
def test_damaged_metrics_are_made_again(evaluate, tmp_path, content):
  first = evaluate()
  (path,) = (tmp_path / 'run' / 'evaluations' / 'test').glob('*/metrics.json')
  path.write_bytes(content)
  again = evaluate()
  assert again.pop('seconds_per_example') is None
  del first['seconds_per_example']
  assert again == first


def test_another_systems_results_stay_beside(evaluate, predictor, tmp_path, capsys):
  first = evaluate()
  second = evaluate(predictor=dataclasses.replace(predictor, version='two'))
  assert second['exact_match'] == 0
  assert 'predicting anew, since version was one and is two' in capsys.readouterr().err
  assert len(list((tmp_path / 'run' / 'evaluations' / 'test').iterdir())) == 2
  predictor.calls.clear()
  assert evaluate() == first
  assert predictor.calls == []


def test_evaluations_have_folders_by_name(evaluate, tmp_path):
  evaluate(name='again')
  assert (tmp_path / 'run' / 'evaluations' / 'again.json').is_file()


def test_limit_takes_the_first_examples(evaluate):
  metrics = evaluate(limit=7)
  assert (metrics['num_examples'], metrics['exact_match']) == (7, 100)


def test_references_reach_the_metrics(evaluate, make_task):
  rows = [['no', 'seven one'], ['no', 'a one']]
  form = {'targets': '{y[0]}', 'references': '{y}'}
  task = make_task(rows, ['seven', 'a'], metrics=exact_match, form=form)
  assert evaluate(task=task)['exact_match'] == 100


def test_an_input_that_cannot_be_read_is_named_before_any_is_predicted(
  evaluate, make_task, predictor
):
  with pytest.raises(ValueError, match=r'test\.jsonl:2: too long'):
    evaluate(task=make_task(inputs=['short', 'x' * 21]))
  assert predictor.calls == []


def test_a_split_without_examples_and_an_unknown_one_are_named(evaluate, make_task):
  with pytest.raises(ValueError, match=r"'test'.*no examples"):
    evaluate(task=make_task([], []))
  with pytest.raises(ValueError, match='dev'):
    evaluate(split='dev')


def test_two_at_once_are_refused(evaluate, predictor):
  class Slow(type(predictor)):
    def __call__(self, examples):
      with pytest.raises(storage.BusyError, match=r'run/evaluations/test is in use .*pid'):
        evaluate()
      return super().__call__(examples)

  assert evaluate(predictor=Slow())['num_examples'] == 9


def test_a_mixture_is_evaluated_task_by_task(evaluate, make_task, tmp_path, capsys):
  seqio = pytest.importorskip('seqio')
  names = ('own_one_of_tests', 'own_two_of_tests')
  for name, inputs in zip(names, (['seven', 'a'], ['of', 'é', 'last']), strict=True):
    task = make_task([f'{x} one' for x in inputs], inputs, metrics=exact_match, folder=name)
    seqio.TaskRegistry.add_provider(name, task.replace(name=name))
  mixture = seqio.Mixture('own_mix_of_tests', [(name, 1.0) for name in names])
  try:
    metrics = evaluate(task=mixture)
    assert {name: one['num_examples'] for name, one in metrics.items()} == dict(
      zip(names, (2, 3), strict=True)
    )
    assert all(one['exact_match'] == 100 for one in metrics.values())
    assert json.loads(capsys.readouterr().out) == metrics
    assert (tmp_path / 'run' / 'evaluations' / 'test' / f'{names[0]}.json').is_file()
    with pytest.raises(ValueError, match="No task of mixture 'own_mix_of_tests' has a split 'dev'"):
      evaluate(task=mixture, split='dev')
  finally:
    for name in names:
      seqio.TaskRegistry.remove(name)
