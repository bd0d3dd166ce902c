"""Which classifier's loss changes which parameter, for every method."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import parameters
from calm.training import optimizers
from calm.training.step import init_state, train_step
from sweet import objectives
from sweet.objectives import ExitsObjective


def gradients_of_each_loss(config, method, batch, key, **changes):
  """For each classifier, which parameters its loss alone has a gradient for."""
  model = objectives.classifiers(dataclasses.replace(config, **changes), method)
  params = model.init_params(jax.random.key(0))
  found = []
  for k in range(3):
    weights = tuple(float(other == k) for other in range(3))
    objective = ExitsObjective(model, method, weights)
    gradient = jax.jit(jax.grad(lambda params, objective=objective: objective(params, batch)[0]))
    flat = parameters.flatten(gradient(params))
    found.append({name for name, value in flat.items() if np.abs(value).max() > 0})
  return model, parameters.flatten(params), found


def test_under_sweet_exactly_one_classifier_changes_each_parameter(config, batch, key):
  model, flat, found = gradients_of_each_loss(config, 'sweet', batch, key, learning_to_exit='own')
  for name in flat:
    changing = [k for k, names in enumerate(found, 1) if name in names]
    assert changing == [model.owner(name)], name


def test_under_early_exit_each_loss_reaches_all_layers_below(config, batch, key):
  _, flat, found = gradients_of_each_loss(config, 'early_exit', batch, key)
  of_embeddings = {name for name in flat if name.startswith('encoder/embeddings/word')}
  assert all(of_embeddings <= names for names in found)
  assert not any('layers_1' in name for name in found[0])


def test_a_shared_pooler_is_changed_by_all_as_in_the_published_code(config, batch, key):
  _, _, found = gradients_of_each_loss(config, 'sweet', batch, key, pooler='shared')
  assert all('pooler/dense/kernel' in names for names in found)


def run(method, config, batch, key):
  model = objectives.classifiers(config, method)
  objective = ExitsObjective(model, method)
  params = model.init_params(jax.random.key(0))
  return jax.jit(objective)(params, batch, key)


def test_all_methods_but_multi_model_see_the_same_forward_pass_bit_for_bit(config, batch, key):
  _, expected = run('early_exit', config, batch, key)
  for method in ('sweet', 'alternating'):
    _, sums = run(method, config, batch, key)
    for name, value in expected.items():
      assert value == sums[name], (method, name)


def test_alternating_trains_the_last_classifier_alone_every_other_step(config, batch, key):
  alone, sums = run('alternating', config, batch, key)
  both, _ = run('alternating', config, {**batch, 'batch_number': batch['batch_number'] + 1}, key)
  validated, _ = run('alternating', config, batch, None)
  assert alone == sums['loss_3']
  np.testing.assert_allclose(both, sum(sums[f'loss_{k}'] for k in (1, 2, 3)), rtol=1e-6)
  assert validated > sums['loss_3']


def test_rows_without_weight_count_for_nothing(config, batch, key):
  changed = {**batch, 'labels': np.where(batch['weights'] == 0, 2, batch['labels'])}
  assert run('sweet', config, batch, key)[0] == run('sweet', config, changed, key)[0]


def trained(config, method, batch, num_steps):
  """Parameters after some steps, with dropout, clipping per classifier and a decaying rate."""
  model = objectives.classifiers(config, method)
  objective = ExitsObjective(model, method)
  schedule = optimizers.warmup_linear(1e-3, num_steps=num_steps + 1)
  adamw = optimizers.adamw(
    schedule, b2=0.999, epsilon=1e-8, weight_decay=0.0, max_gradient_norm=None
  )
  optimizer = objectives.clipped_by_classifier(adamw, model, 1.0)
  state = init_state(objective, optimizer, jax.random.key(0))
  step = jax.jit(lambda state, key: train_step(objective, optimizer, 1, state, batch, key)[0])
  for _ in range(num_steps):
    state = step(state, jax.random.key(1))
  return parameters.flatten(state.params)


def test_the_first_classifier_of_sweet_is_trained_as_if_it_were_alone(config, batch):
  sweet = trained(config, 'sweet', batch, 50)
  alone = trained(dataclasses.replace(config, exits=(1,)), 'multi_model', batch, 50)
  held = {name.removeprefix('model_1/'): value for name, value in alone.items()}
  fresh = parameters.flatten(objectives.classifiers(config, 'sweet').init_params(jax.random.key(0)))
  for name, value in held.items():
    np.testing.assert_allclose(sweet[name], value, atol=1e-6, err_msg=name)
  assert any(np.abs(sweet[name] - fresh[name]).max() > 1e-3 for name in held)


def test_each_classifiers_gradient_is_clipped_by_its_own_norm(config):
  model = objectives.classifiers(config, 'sweet')
  params = model.init_params(jax.random.key(0))
  sgd = optimizers.Optimizer(jax_sgd(), lambda step: 1.0)
  transformation = objectives.clipped_by_classifier(sgd, model, 1.0).transformation
  gradients = jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.full_like(x, 0.0 if 'classifier_2' in jax.tree_util.keystr(path) else 9.0),
    params,
  )
  clipped, _ = transformation.update(gradients, transformation.init(params), params)
  squares = dict.fromkeys((1, 2, 3), 0.0)
  for name, value in parameters.flatten(clipped).items():
    squares[model.owner(name)] += float(jnp.square(value).sum())
  np.testing.assert_allclose(list(squares.values()), 1.0, rtol=1e-4)


def jax_sgd():
  """Updates that are the gradients themselves."""
  import optax

  return optax.identity()


def test_a_regression_has_squared_errors(config, batch, key):
  regression = dataclasses.replace(config, num_outputs=1, learning_to_exit='own')
  model = objectives.classifiers(regression, 'sweet')
  objective = ExitsObjective(model, 'sweet', regression=True)
  numbers = {**batch, 'labels': np.array([0.5, 3, 2, 5, 0], np.float32)}
  _, sums = objective(model.init_params(jax.random.key(0)), numbers)
  np.testing.assert_allclose(sums['loss_1'], 0.25 + 9 + 4 + 25, rtol=0.2)
  assert 'accuracy_1' not in sums


@pytest.mark.parametrize('weights', [(1, 1), (1, 1, -1), (1, 1, float('nan'))])
def test_weights_that_do_not_fit_are_refused(config, weights):
  with pytest.raises(ValueError, match='weights'):
    ExitsObjective(objectives.classifiers(config), 'sweet', weights)


def test_a_method_that_there_is_not_is_refused(config):
  with pytest.raises(ValueError, match='METHOD'):
    objectives.classifiers(config, 'sweeet')
