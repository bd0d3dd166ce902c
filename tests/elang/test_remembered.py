"""A model that remembers says what the model says, runs it once for an input, and measures it."""

import dataclasses
import itertools

import numpy as np
import pytest

from calm.tasks.examples import Example
from elang.remembered import Remembered
from elang.routing import Router

THRESHOLDS = [None, 5.0, 2.0, 0.0, -3.0, -7.0, float('-inf')]


def without_seconds(rows):
  costs = [{k: v for k, v in row['costs'].items() if k != 'seconds'} for row in rows]
  return [{**row, 'costs': cost} for row, cost in zip(rows, costs, strict=True)]


@pytest.mark.parametrize('first', ['models', 'asked_first'])
def test_a_router_over_them_says_the_same_at_every_threshold(first, models, asked_first, examples):
  used = models if first == 'models' else (asked_first, *models[1:])
  router = Router(used)
  remembering = Router([Remembered(model, 50) for model in used])
  for threshold in THRESHOLDS:
    rows = remembering.at(threshold)(examples)
    assert without_seconds(rows) == router.at(threshold)(examples)


def test_no_model_sees_an_input_twice_whatever_the_threshold(models, counted, examples):
  router = Router([Remembered(model, 50) for model in models])
  for threshold in THRESHOLDS:
    router.at(threshold)([*examples, *examples])
  assert [len(one.seen) for one in counted] == [9, 8, 9]
  assert all(len(one.seen) == len(set(one.seen)) for one in counted)


def test_what_is_scored_first_is_answered_once_and_only_where_it_is_kept(
  asked_first, models, counted, examples
):
  scored = []
  score = asked_first.score
  first = dataclasses.replace(asked_first, score=lambda some: scored.extend(some) or score(some))
  router = Router((Remembered(first, 50), Remembered(models[2], 50)))
  kept = {}
  for threshold in (5.0, 0.0, 2.0, -3.0):
    rows = router.at(threshold)(examples)
    pairs = zip(examples, rows, strict=True)
    kept[threshold] = {e.texts['inputs'] for e, row in pairs if row.get('model') == 'small'}
  assert len(scored) == 9
  assert set(counted[0].seen) == kept[-3.0] > kept[0.0]
  assert len(counted[0].seen) == len(kept[-3.0])


def test_the_oldest_inputs_are_forgotten(models, counted):
  model = Remembered(models[2], 2)
  for text in 'abacb':
    model.answer([Example(0, 'in', {'inputs': text}, '', {})])
  assert counted[2].seen == ['a', 'b', 'c', 'b']


def test_a_batch_larger_than_the_memory_is_answered(models, examples):
  model = Remembered(models[2], 1)
  known = [example for example in examples if example.texts]
  assert [row['prediction'] for row in model.answer(known)] == [
    row['prediction'] for row in models[2].answer(known)
  ]


def test_seconds_are_those_of_all_models_asked_shared_by_a_batch(models):
  ticks = itertools.count()
  first, last = (
    Remembered(model, 9, clock=lambda: 6.0 * next(ticks)) for model in (models[0], models[2])
  )
  texts = ['a', 'seven', 'of']
  scores = [models[0].function.score(text) for text in texts]
  batch = [Example(i, text, {'inputs': text}, '', {}) for i, text in enumerate(texts)]
  threshold = sorted(scores)[1]
  rows = Router((first, last), threshold)(batch)
  passed = sum(score < threshold for score in scores)
  for score, row in zip(scores, rows, strict=True):
    assert row['costs']['seconds'] == (2.0 if score >= threshold else 2.0 + 6.0 / passed)
    assert row['costs']['flops'] == (1 if score >= threshold else 101)
  again = Router((first, last), threshold)(batch)
  assert again == rows


def test_a_failure_is_not_remembered(models, examples):
  class Failing:
    failed = False

    def __call__(self, texts):
      if not self.failed:
        self.failed = True
        raise ValueError('tired')
      return ['yes'] * len(texts), np.zeros(len(texts))

  model = Remembered(dataclasses.replace(models[0], function=Failing()), 9)
  with pytest.raises(ValueError, match='tired'):
    model.ask(examples[:2])
  assert model.ask(examples[:2]).scores.tolist() == [0, 0]
