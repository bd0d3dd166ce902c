"""What arrays say of a threshold is what the router says, run at it."""

import dataclasses
import math

import numpy as np
import pytest

from calm.evaluation.outcomes import Replay, Rerun
from calm.evaluation.split import read_split
from elang.recorded import recorded
from elang.routing import Router

INPUTS = [f'number {i}' for i in range(12)]
# Small is right where the text ends in 0 to 4, large but once.
TARGETS = [f'{"small" if i % 10 < 5 else "large"} n' for i in range(11)] + ['x']
FIVE = [None, 3.0, 0.0, -4.0, -math.inf]


@pytest.fixture
def split(make_task):
  return read_split(make_task(INPUTS, TARGETS), 'test')


@pytest.fixture
def router(models, asked_first):
  """Small, scored first, and large."""
  return Router((asked_first, models[2]))


@pytest.mark.parametrize('number', [2, 3])
def test_one_run_of_each_model_tells_all_thresholds(split, models, counted, tmp_path, number):
  router = Router((*models[: number - 1], models[2]))
  found = recorded(Replay(split, router, tmp_path / 'replay'))
  assert [len(one.seen) for one in counted] == [12, 12 * (number == 3), 12]
  for threshold in FIVE:
    rows = (
      Rerun(split, router, tmp_path / 'rerun', 'router')
      .run(str(threshold), router.at(threshold))
      .rows
    )
    for cost in ('passed_on', 'flops'):
      expected = [row['costs'][cost] for row in rows]
      np.testing.assert_array_equal(found.costs_at(cost, threshold), expected)
    wrong = [row['prediction'] != target for row, target in zip(rows, TARGETS, strict=True)]
    np.testing.assert_array_equal(found.risks_at(threshold), wrong)


def test_costs_of_a_model_scored_first_are_those_of_eq_16(split, router, tmp_path):
  found = recorded(Replay(split, router, tmp_path))
  kept = found.answered(0.0) == 0
  assert 0 < kept.sum() < 12
  np.testing.assert_array_equal(found.costs_at('flops', 0.0), np.where(kept, 1 + 1, 1 + 100))
  np.testing.assert_array_equal(found.costs_at('flops', None), np.full(12, 100))


def test_risks_are_each_models_own(split, router, tmp_path):
  found = recorded(Replay(split, router, tmp_path))
  small = [not target.startswith('small') for target in TARGETS]
  large = [not target.startswith('large') for target in TARGETS]
  np.testing.assert_array_equal(found.risks, [small, large])


def test_a_cost_without_a_price_at_each_model_is_named(split, models, tmp_path):
  router = Router((dataclasses.replace(models[0], prices={'cents': 1}), models[2]))
  found = recorded(Replay(split, router, tmp_path))
  with pytest.raises(ValueError, match="'cents' has no price at all models; there are passed_on"):
    found.costs_at('cents', 0.0)
