import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import t5
from calm.training import losses, sharding
from calm.training.step import Trainer, init_state, train_step


@pytest.fixture
def plain(objective):
  """The objective without dropout."""
  config = t5.dataclasses.replace(objective.model.config, dropout_rate=0.0)
  return losses.EncoderDecoderObjective(t5.T5(config))


def _one_step(objective, optimizer, batch, num_microbatches=1):
  state = jax.jit(functools.partial(init_state, objective, optimizer))(jax.random.key(0))
  step = jax.jit(functools.partial(train_step, objective, optimizer, num_microbatches))
  return step(state, batch, jax.random.key(1))


@pytest.mark.parametrize('num_microbatches', [2, 4, 8])
def test_micro_batches_of_unequal_weight_give_the_whole_batchs_update(
  plain, adam, stream, num_microbatches
):
  batch = next(stream)
  state, metrics = _one_step(plain, adam, batch)
  cut_state, cut_metrics = _one_step(plain, adam, batch, num_microbatches)
  for name in metrics:
    np.testing.assert_allclose(cut_metrics[name], metrics[name], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-5), cut_state.params, state.params
  )


def test_dropout_differs_from_step_to_step_and_follows_from_the_key(objective, adam, stream):
  batch = next(stream)
  state = init_state(objective, adam, jax.random.key(0))
  step = jax.jit(functools.partial(train_step, objective, adam, 1))
  later = state.replace(step=jnp.int32(5))
  first, again, other, other_key = (
    float(step(s, batch, jax.random.key(key))[1]['loss'])
    for s, key in ((state, 1), (state, 1), (later, 1), (state, 2))
  )
  assert first == again
  assert len({first, other, other_key}) == 3


def test_a_batch_of_padding_changes_no_parameter_and_makes_no_nan(plain, stream):
  from calm.training import optimizers

  batch = jax.tree.map(np.zeros_like, next(stream))
  sgd_like = optimizers.adamw(1e-2, weight_decay=0.0)
  state, metrics = _one_step(plain, sgd_like, batch)
  before = plain.init(jax.random.key(0))
  assert float(metrics['loss']) == 0
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.params, before)


def test_state_starts_from_given_parameters(objective, adam):
  trainer = Trainer(objective, adam, mesh=sharding.make_mesh())
  given = jax.tree.map(lambda s: np.full(s.shape, 3, s.dtype), trainer.abstract_state.params)
  state = trainer.init(given)
  assert int(state.step) == 0
  assert all((leaf == 3).all() for leaf in jax.tree.leaves(state.params))


def test_a_batch_that_cannot_be_cut_names_the_setting(objective, adam, stream):
  trainer = Trainer(objective, adam, mesh=sharding.make_mesh(), num_microbatches=3)
  with pytest.raises(ValueError, match='BATCH_SIZE 8 must be a multiple of 3'):
    trainer.place(next(stream))


def test_model_parallelism_must_divide_the_devices():
  with pytest.raises(ValueError, match='does not divide'):
    sharding.make_mesh(jax.device_count() + 1)
