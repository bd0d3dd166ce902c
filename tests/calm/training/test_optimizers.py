import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.training import optimizers


def test_schedules_take_their_values_at_chosen_steps():
  constant = optimizers.constant(0.5, warmup_steps=10)
  np.testing.assert_allclose([constant(s) for s in (0, 5, 10, 99)], [0, 0.25, 0.5, 0.5])
  root = optimizers.inverse_square_root(1.0, warmup_steps=100)
  np.testing.assert_allclose([root(s) for s in (0, 100, 400)], [0.1, 0.1, 0.05], rtol=1e-6)
  cosine = optimizers.warmup_cosine(0.4, num_steps=110, warmup_steps=10)
  np.testing.assert_allclose([cosine(s) for s in (5, 10, 60, 110)], [0.2, 0.4, 0.2, 0], atol=1e-7)
  linear = optimizers.warmup_linear(0.4, num_steps=110, warmup_steps=10)
  np.testing.assert_allclose([linear(s) for s in (5, 10, 60, 110)], [0.2, 0.4, 0.2, 0], atol=1e-7)


@pytest.mark.parametrize('schedule', [optimizers.warmup_cosine, optimizers.warmup_linear])
def test_a_warm_up_longer_than_the_run_is_refused(schedule):
  with pytest.raises(ValueError, match='warmup_steps must be below num_steps'):
    schedule(1.0, num_steps=5, warmup_steps=5)


@pytest.mark.parametrize('make', [optimizers.adafactor, optimizers.adamw])
def test_optimizers_reach_the_minimum_of_a_parabola(make):
  optimizer = make(optimizers.warmup_linear(0.3, num_steps=200))
  params = {'matrix': jnp.full((3, 2), 4.0), 'scale': jnp.full(3, -2.0)}
  state = optimizer.transformation.init(params)

  def descend(carried, _):
    params, state = carried
    gradient = {name: value - 1 for name, value in params.items()}
    updates, state = optimizer.transformation.update(gradient, state, params)
    return ({name: value + updates[name] for name, value in params.items()}, state), None

  (params, _), _ = jax.lax.scan(descend, (params, state), length=200)
  for value in params.values():
    np.testing.assert_allclose(value, 1.0, atol=0.05)


def test_weight_decay_leaves_vectors_alone():
  optimizer = optimizers.adamw(0.1, weight_decay=0.5)
  params = {'matrix': jnp.ones((2, 2)), 'scale': jnp.ones(2)}
  zeros = {'matrix': jnp.zeros((2, 2)), 'scale': jnp.zeros(2)}
  updates, _ = optimizer.transformation.update(zeros, optimizer.transformation.init(params), params)
  np.testing.assert_allclose(updates['matrix'], -0.05)
  np.testing.assert_allclose(updates['scale'], 0.0)


def test_adafactor_keeps_factors_instead_of_moments():
  params = {'matrix': jnp.ones((256, 512))}
  state = optimizers.adafactor().transformation.init(params)
  sizes = [leaf.size for leaf in jax.tree.leaves(state)]
  assert sum(sizes) < 2 * (256 + 512)


@pytest.mark.parametrize('make', [optimizers.adafactor, optimizers.adamw])
def test_only_what_a_pattern_finds_is_trained_and_has_state(make):
  optimizer = optimizers.train_only(make(0.1), r'head/(kernel|bias)$')
  params = {'body': {'kernel': jnp.ones((5, 3))}, 'head': {'kernel': jnp.ones((3, 2))}}
  state = optimizer.transformation.init(params)
  assert max(leaf.size for leaf in jax.tree.leaves(state)) == 6
  gradient = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.transformation.update(gradient, state, params)
  assert not np.any(updates['body']['kernel'])
  assert np.all(updates['head']['kernel'] < 0)
  assert optimizer.learning_rate(0) == 0.1


def test_gradients_of_what_is_not_trained_do_not_count_for_clipping():
  optimizer = optimizers.train_only(optimizers.adamw(0.1, b1=0.0, max_gradient_norm=1.0), 'head')
  params = {'body': jnp.ones(3), 'head': jnp.ones(3)}

  def moment(body):
    state = optimizer.transformation.init(params)
    gradient = {'body': jnp.full(3, body), 'head': jnp.full(3, 0.25)}
    _, state = optimizer.transformation.update(gradient, state, params)
    return max(float(leaf.max()) for leaf in jax.tree.leaves(state) if leaf.shape == (3,))

  assert moment(1e6) == moment(0.0) == 0.25


def test_a_pattern_that_finds_nothing_lists_what_there_is():
  optimizer = optimizers.train_only(optimizers.adamw(0.1), 'classifier')
  with pytest.raises(ValueError, match="'classifier' is found in no parameter; there are a/b, c"):
    optimizer.transformation.init({'a': {'b': jnp.ones(3)}, 'c': jnp.ones(2)})
