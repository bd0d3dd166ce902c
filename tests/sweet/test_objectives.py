"""Which classifier's loss changes which parameter, for every method."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calm.models import parameters
from calm.training import optimizers
from calm.training.step import init_state, train_step
from sweet import objectives
from sweet.objectives import ExitsObjective


@pytest.fixture
def two(config):
  """The config with two exits, for what needs no third."""
  return dataclasses.replace(config, exits=(1, 2))


def changed_by_each(config, method, batch, made_up):
  """(the model, for each classifier which parameters its loss has a gradient for)."""
  model = objectives.classifiers(config, method)
  objective = ExitsObjective(model, method)

  @jax.jit
  @jax.jacrev
  def gradients(params):
    _, sums = objective(params, batch)
    numbers = range(1, 1 + len(model.exits))
    return jnp.stack([sums[f'loss_{k}'] + sums.get(f'exit_loss_{k}', 0) for k in numbers])

  flat = parameters.flatten(gradients(made_up(model)))
  moved = {name: np.abs(value).reshape(len(value), -1).max(1) > 0 for name, value in flat.items()}
  return model, {name: [k for k, m in enumerate(each, 1) if m] for name, each in moved.items()}


@pytest.mark.parametrize(('kind', 'exits'), [('config', (1, 2, 3)), ('deberta_config', (1, 2))])
def test_under_sweet_exactly_one_classifier_changes_each_parameter(
  request, batch, made_up, kind, exits
):
  config = request.getfixturevalue(kind)
  config = dataclasses.replace(config, exits=exits, learning_to_exit='own')
  model, found = changed_by_each(config, 'sweet', batch, made_up)
  for name, classifiers in found.items():
    # A key's bias shifts all scores of a query alike, which a softmax sees by rounding only.
    assert classifiers == [model.owner(name)] or ('key/bias' in name and not classifiers), name
  assert {model.owner(name) for name in found} == {*range(1, 1 + len(exits))}


def test_relative_embeddings_may_be_trained_by_all(deberta_config, batch, made_up):
  config = dataclasses.replace(deberta_config, exits=(1, 2), shared_relative_embeddings=True)
  model, found = changed_by_each(config, 'sweet', batch, made_up)
  for name, classifiers in found.items():
    assert classifiers == ([1, 2] if 'rel_embeddings' in name else [model.owner(name)]), name


def test_a_shared_pooler_is_changed_by_all_as_in_the_published_code(two, batch, made_up):
  _, found = changed_by_each(dataclasses.replace(two, pooler='shared'), 'sweet', batch, made_up)
  assert found['pooler/dense/kernel'] == [1, 2]


def test_under_early_exit_each_loss_reaches_all_layers_below(two, batch, made_up):
  _, found = changed_by_each(two, 'early_exit', batch, made_up)
  assert found['encoder/layers_0/mlp/wo/kernel'] == [1, 2]
  assert found['encoder/layers_1/mlp/wo/kernel'] == [2]
  assert found['pooler_1/dense/kernel'] == found['classifier_1/kernel'] == [1]


@pytest.mark.parametrize('detached', [True, False])
def test_what_learns_to_exit_trains_the_rest_only_if_it_is_let(two, batch, made_up, detached):
  config = dataclasses.replace(
    two, exits=(1,), learning_to_exit='own', detach_exit_modules=detached
  )
  model = objectives.classifiers(config, 'sweet')
  objective = ExitsObjective(model, 'sweet')
  gradient = jax.jit(jax.grad(lambda params: objective(params, batch)[1]['exit_loss_1']))
  flat = parameters.flatten(gradient(made_up(model)))
  moved = {name.partition('/')[0] for name, value in flat.items() if np.abs(value).max() > 0}
  assert moved == ({'exit_module_1'} if detached else {'exit_module_1', 'pooler_1', 'encoder'})


@pytest.fixture(scope='module')
def forward(config, batch, key, made_up):
  """The loss and sums of a method, as it trains: forward(method, key, **changes of the batch)."""
  two = dataclasses.replace(config, exits=(1, 2))

  @functools.cache
  def compiled(method):
    model = objectives.classifiers(two, method)
    return made_up(model), jax.jit(ExitsObjective(model, method))

  def forward(method, key=key, **changes):
    params, objective = compiled(method)
    return objective(params, {**batch, **changes}, key)

  return forward


def test_all_methods_but_multi_model_see_the_same_forward_pass_bit_for_bit(forward):
  total, expected = forward('early_exit')
  for method in ('sweet', 'alternating'):
    _, sums = forward(method)
    assert sums == expected
  assert forward('sweet')[0] == total


def test_alternating_trains_the_last_classifier_alone_every_other_step(forward):
  alone, sums = forward('alternating')
  both, _ = forward('alternating', batch_number=np.ones(5, np.int32))
  validated, of_validation = forward('alternating', None)
  assert alone == sums['loss_2']
  np.testing.assert_allclose(both, sums['loss_1'] + sums['loss_2'], rtol=1e-6)
  np.testing.assert_allclose(
    validated, of_validation['loss_1'] + of_validation['loss_2'], rtol=1e-6
  )


def test_rows_without_weight_count_for_nothing(forward, batch):
  labels = np.where(batch['weights'] == 0, 2, batch['labels'])
  assert forward('sweet')[0] == forward('sweet', labels=labels)[0]
  assert forward('sweet')[1]['weight'] == 4


def trained(config, method, batch, params, num_steps):
  """Parameters after some steps, with dropout, clipping per classifier and a decaying rate."""
  model = objectives.classifiers(config, method)
  objective = ExitsObjective(model, method)
  schedule = optimizers.warmup_linear(1e-3, num_steps=num_steps + 1)
  adamw = optimizers.adamw(
    schedule, b2=0.999, epsilon=1e-8, weight_decay=0.0, max_gradient_norm=None
  )
  optimizer = objectives.clipped_by_classifier(adamw, model, 1.0)
  state = init_state(objective, optimizer, jax.random.key(0), params)

  @jax.jit
  def steps(state):
    def step(_, state):
      return train_step(objective, optimizer, 1, state, batch, jax.random.key(1))[0]

    return jax.lax.fori_loop(0, num_steps, step, state)

  return parameters.flatten(steps(state).params)


def test_the_first_classifier_of_sweet_is_trained_as_if_it_were_alone(two, batch, made_up):
  begin = made_up(objectives.classifiers(two, 'sweet'))
  flat = parameters.flatten(begin)
  alone = dataclasses.replace(two, exits=(1,))
  names = parameters.shapes(objectives.classifiers(alone, 'multi_model'))
  of_model_1 = {name: flat[name.removeprefix('model_1/')] for name in names}
  sweet = trained(two, 'sweet', batch, begin, 50)
  found = trained(alone, 'multi_model', batch, parameters.unflatten(of_model_1), 50)
  for name, value in found.items():
    own = name.removeprefix('model_1/')
    np.testing.assert_allclose(sweet[own], value, atol=1e-6, err_msg=name)
  assert (
    np.abs(
      sweet['encoder/layers_0/mlp/wo/kernel'] - begin['encoder']['layers_0']['mlp']['wo']['kernel']
    ).max()
    > 1e-3
  )


def test_each_classifiers_gradient_is_clipped_by_its_own_norm(config, made_up):
  model = objectives.classifiers(config, 'sweet')
  params = made_up(model)
  plain = optimizers.Optimizer(optax.identity(), lambda step: 1.0)
  transformation = objectives.clipped_by_classifier(plain, model, 1.0).transformation
  # Of classifier 3 less than is to be clipped.
  gradients = {
    name: np.full_like(value, {1: 9.0, 2: 0.5, 3: 1e-3}[model.owner(name)])
    for name, value in parameters.flatten(params).items()
  }
  tree = parameters.unflatten(gradients)
  clipped, _ = jax.jit(transformation.update)(tree, transformation.init(params), params)
  norms = dict.fromkeys((1, 2, 3), 0.0)
  for name, value in parameters.flatten(clipped).items():
    norms[model.owner(name)] += float(jnp.square(value).sum())
  np.testing.assert_allclose([norms[1], norms[2]], 1.0, rtol=1e-4)
  of_third = [value for name, value in gradients.items() if model.owner(name) == 3]
  np.testing.assert_allclose(norms[3], sum((v**2).sum() for v in of_third), rtol=1e-4)
  with pytest.raises(ValueError, match='max_gradient_norm'):
    objectives.clipped_by_classifier(plain, model, 0.0)


def test_a_regression_has_squared_errors_and_learns_to_exit_by_how_far_it_is(
  config, batch, made_up
):
  regression = dataclasses.replace(config, exits=(1,), num_outputs=1, learning_to_exit='own')
  objective = ExitsObjective(objectives.classifiers(regression), 'sweet', (0.25,), regression=True)
  params = made_up(objective.model)
  params['classifier_1'] = {'kernel': np.zeros((8, 1)), 'bias': np.full(1, 2.0)}
  params['exit_module_1'] = {'kernel': np.zeros((8, 1)), 'bias': np.zeros(1)}
  numbers = {**batch, 'labels': np.array([0.5, 3, 2, 5, 0], np.float32)}
  total, sums = jax.jit(objective)(params, numbers)
  errors = np.array([1.5, -1, 0, -3])
  np.testing.assert_allclose(sums['loss_1'], np.square(errors).sum(), rtol=1e-5)
  rightness = 1 - np.tanh(np.abs(errors))  # BERxiT's target; an untrained module says 1/2.
  np.testing.assert_allclose(sums['exit_loss_1'], np.square(0.5 - rightness).sum(), rtol=1e-5)
  np.testing.assert_allclose(total, 0.25 * (sums['loss_1'] + sums['exit_loss_1']), rtol=1e-5)
  assert 'accuracy_1' not in sums


@pytest.mark.parametrize('weights', [(1, 1), (1, 1, -1), (1, 1, float('nan'))])
def test_weights_that_do_not_fit_are_refused(config, weights):
  with pytest.raises(ValueError, match='weights'):
    ExitsObjective(objectives.classifiers(config), 'sweet', weights)


def test_a_method_that_there_is_not_or_of_another_model_is_refused(config):
  with pytest.raises(ValueError, match='METHOD'):
    objectives.classifiers(config, 'sweeet')
  with pytest.raises(ValueError, match="'multi_model' does not train a EarlyExitClassifier"):
    ExitsObjective(objectives.classifiers(config, 'sweet'), 'multi_model')
  with pytest.raises(ValueError, match='num_outputs = 1'):
    ExitsObjective(objectives.classifiers(config), regression=True)
