import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from calm.models import t5
from calm.training import losses, optimizers, sharding
from calm.training.step import Trainer, init_state, train_step


@pytest.fixture
def plain(objective):
  """The objective without dropout."""
  config = t5.dataclasses.replace(objective.model.config, dropout_rate=0.0)
  return losses.EncoderDecoderObjective(t5.T5(config))


def _one_step(objective, optimizer, batch, num_microbatches=1, params=None):
  """The state before, and (state, metrics) after."""
  before = init_state(objective, optimizer, jax.random.key(0), params)
  step = jax.jit(functools.partial(train_step, objective, optimizer, num_microbatches))
  return before, *step(before, batch, jax.random.key(1))


@pytest.mark.parametrize('num_microbatches', [2, 4, 8])
def test_micro_batches_of_unequal_weight_give_the_whole_batchs_update(
  network, adam, stream, num_microbatches
):
  batch = next(stream)
  assert len(set(batch['decoder_loss_weights'].sum(1))) > 1
  plain = network(dropout_rate=0.0)
  _, state, metrics = _one_step(plain, adam, batch)
  _, cut_state, cut_metrics = _one_step(plain, adam, batch, num_microbatches)
  for name in metrics:
    np.testing.assert_allclose(cut_metrics[name], metrics[name], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-5), cut_state.params, state.params
  )


def test_dropout_differs_from_step_to_step_and_follows_from_the_key(network, adam, stream):
  batch, noisy = next(stream), network()
  state = init_state(noisy, adam, jax.random.key(0))
  step = jax.jit(functools.partial(train_step, noisy, adam, 1))
  later = state.replace(step=jnp.int32(5))
  first, again, other, other_key = (
    float(step(s, batch, jax.random.key(key))[1]['loss'])
    for s, key in ((state, 1), (state, 1), (later, 1), (state, 2))
  )
  assert first == again
  assert len({first, other, other_key}) == 3


def test_micro_batches_draw_dropout_of_their_own(network, adam, stream):
  """Two micro-batches of the same rows have the loss of one only without dropout."""
  half = next(stream)
  # Row r goes to micro-batch r mod 2.
  batch = {name: np.repeat(value, 2, axis=0) for name, value in half.items()}
  for dropout_rate in (0.0, 0.5):
    objective = network(dropout_rate=dropout_rate)
    state = init_state(objective, adam, jax.random.key(0))
    key = jax.random.key(1)
    step_key = jax.random.fold_in(key, 0)
    loss, sums = jax.jit(objective)(state.params, half, jax.random.fold_in(step_key, 0))
    metrics = jax.jit(functools.partial(train_step, objective, adam, 2))(state, batch, key)[1]
    alike = np.isclose(metrics['loss'], loss / sums['weight'], rtol=1e-5)
    assert alike == (dropout_rate == 0)


def test_a_batch_of_padding_changes_no_parameter_and_makes_no_nan(plain, params, stream):
  batch = jax.tree.map(np.zeros_like, next(stream))
  adamw = optimizers.adamw(1e-2, weight_decay=0.0)
  before, state, metrics = _one_step(plain, adamw, batch, params=params)
  assert float(metrics['loss']) == 0
  jax.tree.map(np.testing.assert_array_equal, state.params, before.params)


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


def test_a_step_lowers_for_tpu_and_cuda(objective, adam, stream):
  trainer = Trainer(objective, adam, mesh=sharding.make_mesh(), num_microbatches=2)
  batch = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), next(stream))
  exported = export.export(trainer.step, platforms=['tpu', 'cuda'])(
    trainer.abstract_state, batch, trainer.key
  )
  assert exported.platforms == ('tpu', 'cuda')
  (state, metrics) = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  jax.tree.map(
    lambda out, given: (out.shape, out.dtype) == (given.shape, given.dtype) or pytest.fail(out),
    state,
    trainer.abstract_state,
  )
  assert metrics['loss'].shape == ()
