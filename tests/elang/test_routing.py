"""A router says what running everything and choosing afterwards would, and asks for no more."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm import fingerprints
from elang.routing import Router, choose

THRESHOLDS = [None, math.inf, 5.0, 2.5, 2.0, 0.0, -3.0, -6.5, -7.0, -math.inf]
SCORES = np.array([[3.0, -1.0, math.nan, 2.0, -5.0], [0.0, 9.0, 7.0, -math.inf, -8.0]])


@dataclasses.dataclass(frozen=True)
class Shifted:
  """The second model's threshold is twice the first's, less one."""

  def __call__(self, knob):
    return knob, 2 * knob - 1


def known(rows):
  return [row for row in rows if row['units']]


def test_the_first_model_that_is_sure_enough_answers():
  np.testing.assert_array_equal(choose(SCORES[:1], np.array([2.0])), [0, 1, 1, 0, 1])
  np.testing.assert_array_equal(choose(SCORES, np.array([2.5, 7.0])), [0, 1, 1, 2, 2])


def test_at_its_ends_a_model_keeps_all_or_nothing_whatever_scores_are():
  scores = np.array([[math.inf, -math.inf, math.nan]])
  np.testing.assert_array_equal(choose(scores, np.array([-math.inf])), [0, 0, 0])
  np.testing.assert_array_equal(choose(scores, np.array([math.inf])), [1, 1, 1])


def test_traced_thresholds_choose_alike_and_compile_once():
  traced = []

  @jax.jit
  def chosen(scores, thresholds):
    traced.append(thresholds)
    return choose(scores, thresholds)

  for pair in ([2.5, 7.0], [-5.0, 0.0], [math.inf, -math.inf], [-math.inf, 0.0]):
    found = chosen(SCORES, jnp.array(pair))
    np.testing.assert_array_equal(found, choose(SCORES, np.array(pair)))
  assert len(traced) == 1


@pytest.mark.parametrize('threshold', THRESHOLDS)
@pytest.mark.parametrize('number', [2, 3])
def test_predictions_are_those_of_running_everything_and_choosing(
  threshold, number, models, counted, examples
):
  used = (*models[: number - 1], models[-1])
  rows = Router(used).at(threshold)(examples)
  texts = [example.texts['inputs'] for example in examples if example.texts]
  scores = np.array([[one.score(text) for text in texts] for one in counted[: number - 1]])
  limits = np.full(number - 1, math.inf if threshold is None else threshold)
  answered = choose(scores, limits)
  names = [used[i].name for i in answered]
  assert [row['model'] for row in known(rows)] == names
  expected = [f'{name} {text[0]}' for name, text in zip(names, texts, strict=True)]
  assert [row['prediction'] for row in known(rows)] == expected
  assert [row['costs']['passed_on'] for row in known(rows)] == answered.tolist()


@pytest.mark.parametrize('threshold', THRESHOLDS)
@pytest.mark.parametrize('path', [None, Shifted()])
def test_a_recorded_run_tells_what_is_said_at_every_threshold(threshold, path, models, examples):
  router = Router(models, path=path)
  recorded = router.recording(examples)
  assert set(known(recorded)[0]) == set(router.recording.results)
  replayed = router.replay(recorded, threshold)
  assert replayed == router.at(threshold)(examples)
  assert set(known(replayed)[0]) == set(router.results)


@pytest.mark.parametrize('threshold', [5.0, 0.0, -6.5])
def test_what_is_scored_first_is_replayed_with_its_costs(threshold, asked_first, models, examples):
  router = Router((asked_first, models[2]))
  rows = router.replay(router.recording(examples), threshold)
  assert rows == router.at(threshold)(examples)
  assert {row['costs']['flops'] for row in known(rows)} <= {1 + 1, 1 + 100}


def test_a_model_sees_only_what_those_before_it_pass_on_all_together(models, counted, examples):
  small, middle, large = counted
  rows = Router(models, (2.0, 4.0))(examples)
  by_model = {name: [] for name in ('small', 'middle', 'large')}
  for row, example in zip(rows, examples, strict=True):
    if example.texts:
      by_model[row['model']].append(example.texts['inputs'])
  assert all(by_model.values())
  assert [len(call) for call in small.calls] == [4, 4, 1]
  assert len(middle.calls) == len(large.calls) == 1
  assert sorted(middle.seen) == sorted(by_model['middle'] + by_model['large'])
  assert large.seen == by_model['large']


def test_a_model_that_is_scored_first_answers_only_what_it_keeps(
  asked_first, models, counted, examples
):
  rows = Router((asked_first, models[2]), 0.0)(examples)
  kept = [
    e.texts['inputs'] for e, row in zip(examples, rows, strict=True) if row.get('model') == 'small'
  ]
  assert 0 < len(kept) < 9
  assert counted[0].seen == kept
  assert len(counted[2].seen) == 9 - len(kept)


def test_who_cannot_keep_anything_is_not_asked(models, counted, examples):
  rows = Router(models, (math.inf, 0.0))(examples)
  assert counted[0].calls == []
  assert all(row['scores'][0] is None for row in known(rows))
  Router(models)(examples)
  assert len(counted[1].calls) == 1


def test_costs_are_those_of_all_that_was_asked(models, examples):
  for row in known(Router(models, 0.0)(examples)):
    assert row['costs'] == {'passed_on': row['costs']['passed_on'], 'flops': row['costs']['flops']}
    assert row['costs']['flops'] == (1, 11, 111)[row['costs']['passed_on']]
  assert {row['costs']['flops'] for row in known(Router(models)(examples))} == {100}


def test_what_not_all_models_have_a_price_for_is_not_summed(models, examples):
  timed = dataclasses.replace(models[0], prices={'flops': 1, 'seconds': 2})
  rows = Router((timed, models[2]), 0.0)(examples)
  assert {tuple(row['costs']) for row in rows} == {('passed_on', 'flops')}


def test_a_price_may_depend_on_the_example_and_its_row(models, examples):
  def price(example, row):
    return len(example.texts['inputs']) + len(row['prediction'])

  priced = dataclasses.replace(models[0], prices={'flops': price})
  router = Router((priced, models[2]), 0.0)
  rows = router(examples)
  assert rows == router.replay(router.recording(examples), 0.0)
  best = rows[3]
  assert best['costs']['flops'] == len('the best') + len('small t') + 100 * (
    best['model'] == 'large'
  )


def test_an_example_without_a_text_reaches_no_model(models, counted, examples):
  row = Router(models, 0.0)(examples)[4]
  assert row == {'prediction': '', 'units': 0, 'costs': {'passed_on': 0, 'flops': 0}}
  assert '' not in counted[0].seen


def test_rows_do_not_depend_on_the_batch(models, examples):
  router = Router(models, 0.0)
  assert [row for example in examples for row in router([example])] == router(examples)


def test_the_identity_tells_versions_and_thresholds_and_the_family_versions_alone(models):
  router = Router(models, 0.0)
  newer = Router((models[0], models[1], dataclasses.replace(models[2], version='2')), 0.0)
  found = fingerprints.differences(router.identity, newer.identity)
  assert found == {'models.large.version': ('1', '2')}
  assert fingerprints.differences(router.family, newer.family) == found
  assert router.at(1.0).family == router.family != Router(models, path=Shifted()).family
  assert router.at(1.0).identity != router.identity
  dearer = Router((dataclasses.replace(models[0], prices={'flops': 7}), *models[1:]), 0.0)
  assert dearer.family == router.family
  assert dearer.identity != router.identity


@pytest.mark.parametrize(
  ('threshold', 'message'),
  [((1.0,), '2 are needed'), (math.nan, 'NaN'), ((1.0, math.nan), 'NaN')],
)
def test_thresholds_that_cannot_be_are_refused(models, threshold, message):
  with pytest.raises(ValueError, match=message):
    Router(models, threshold)


def test_models_are_two_at_least_and_named_differently(models):
  for wrong in (models[:1], (models[0], models[0])):
    with pytest.raises(ValueError, match='two models or more'):
      Router(wrong)
