"""How alike the gradients of two classifiers are, layer by layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sweet import gradients
from sweet.model import EarlyExitClassifier
from sweet.objectives import ExitsObjective


@pytest.fixture(scope='module')
def model(config):
  """Classifiers after layers 1, 2 and 3."""
  return EarlyExitClassifier(config)


@pytest.fixture(scope='module')
def found(model, made_up, batch):
  """The similarities of a batch, by layer and classifiers."""
  measured = gradients.similarities(model, made_up(model), batch)
  return {(one.layer, *one.classifiers): one for one in measured}


def test_every_pair_of_classifiers_at_or_behind_a_layer_is_compared(found):
  assert set(found) == {(1, 1, 2), (1, 1, 3), (1, 2, 3), (2, 2, 3)}
  assert all(-1 <= one.cosine <= 1 for one in found.values())


def test_the_cosine_is_that_of_the_rows_of_the_last_feed_forward_matrix(
  model, made_up, batch, found
):
  objective = ExitsObjective(model, 'early_exit')

  @jax.jit
  @jax.jacrev
  def of_losses(params):
    sums = objective(params, batch)[1]
    return jnp.stack([sums['loss_1'], sums['loss_3']])

  kernels = of_losses(made_up(model))['encoder']['layers_0']['mlp']['wo']['kernel']
  # As torch has it, [outputs, inputs]: a row holds the weights into one output.
  one, other = np.swapaxes(kernels, 1, 2)
  assert one.shape == (8, 12)
  cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(one, other, strict=True)]
  assert found[1, 1, 3].cosine == pytest.approx(np.mean(cosines), abs=1e-5)


def test_the_level_of_chance_is_that_of_random_directions(found):
  rng = np.random.default_rng(0)
  ones, others = rng.normal(size=(2, 2000, 8, 12))
  cosines = (
    (ones * others).sum(-1) / np.linalg.norm(ones, axis=-1) / np.linalg.norm(others, axis=-1)
  )
  assert found[1, 1, 2].random == pytest.approx(cosines.mean(-1).std(), rel=0.05)


def test_equal_gradients_are_alike_and_a_row_without_one_counts_as_0():
  one = np.arange(1.0, 7).reshape(2, 3)
  np.testing.assert_allclose(gradients._cosines(one, 2 * one), 1)
  np.testing.assert_allclose(gradients._cosines(one, -one), -1)
  assert gradients._cosines(one * [1, 0, 1], one).tolist() == pytest.approx([1, 0, 1])


def test_a_single_classifier_has_nothing_to_conflict_with(config, made_up, batch):
  alone = EarlyExitClassifier(dataclasses.replace(config, exits=(2,)))
  with pytest.raises(ValueError, match='give more exits'):
    gradients.similarities(alone, made_up(alone), batch)
