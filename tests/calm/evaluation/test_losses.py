"""Losses are those of Definitions 1 and 2, after the task's own postprocessing."""

import numpy as np
import pytest

from calm.calibration import consistency
from calm.evaluation.losses import losses_of
from calm.evaluation.outcomes import Rerun
from calm.evaluation.split import Split, read_split
from calm.tasks import prompts
from calm.tasks.examples import Example


@pytest.fixture
def outcomes(make_task, predictor, tmp_path):
  """The scripted predictor on nine examples whose targets are the full answers but for two."""
  inputs = ['seven', 'a', 'of', 'the best', 'eleven', 'é', 'x y z', 'last but one', 'last']
  targets = [*(f'{x} one' for x in inputs[:7]), 'other words', 'last']
  return Rerun(read_split(make_task(targets, inputs), 'test'), predictor, tmp_path, 'score')


def test_textual_losses_compare_with_the_full_system(outcomes):
  full, early = outcomes.full().predictions, outcomes.at(0.5).predictions
  expected = [consistency.chrf(a, b) for a, b in zip(early, full, strict=True)]
  losses = losses_of(outcomes, 'textual', consistency.chrf)(0.5)
  np.testing.assert_array_equal(losses, expected)
  assert losses.max() > 0
  assert losses.min() == 0


def test_risk_compares_with_the_references_and_never_rewards(outcomes):
  full, early = outcomes.full().predictions, outcomes.at(0.0).predictions
  targets = outcomes.split.references()
  expected = [
    max(0.0, consistency.chrf(e, t) - consistency.chrf(f, t))
    for e, f, t in zip(early, full, targets, strict=True)
  ]
  np.testing.assert_allclose(losses_of(outcomes, 'risk', consistency.chrf)(0.0), expected)
  assert max(expected) > 0


class Winograd:
  """A task whose postprocessing says 'True' or 'False' of both sides, as super_glue_wsc's."""

  name = 'wsc'
  postprocess_fn = staticmethod(prompts.is_candidate)


def test_risk_postprocesses_both_sides(tmp_path, predictor):
  examples = [
    Example(0, 'a', {'inputs': 'cat'}, 'cat', {'candidate': 'cat one', 'label': 1}),
    Example(1, 'b', {'inputs': 'dog'}, 'dog', {'candidate': 'dog one', 'label': 0}),
    Example(2, 'c', {'inputs': 'the big tree'}, 'x', {'candidate': 'big tree one', 'label': 1}),
  ]

  class Lost(type(predictor)):
    def answer(self, example):
      row = super().answer(example)
      return row if self.threshold is None else row | {'prediction': 'nothing'}

  outcomes = Rerun(Split(Winograd(), 'test', examples), Lost(), tmp_path, 'score')
  # The full system is right where the candidate is the referent; lost answers say 'False'.
  losses = losses_of(outcomes, 'risk', consistency.exact_match)(0.5)
  np.testing.assert_array_equal(losses, [1, 0, 1])


def test_what_an_objective_cannot_be_is_named(outcomes):
  with pytest.raises(ValueError, match="objective: 'speed' is not one of textual, risk"):
    losses_of(outcomes, 'speed', consistency.chrf)
  with pytest.raises(ValueError, match='references are texts'):
    losses_of(outcomes, 'risk', consistency.token_disagreement)
