"""Where classifiers stand, what each owns, and that a network can be run block by block."""

import dataclasses

import jax
import numpy as np
import pytest

from calm.models import parameters
from sweet.model import EarlyExitClassifier, default_exits
from sweet.multi_model import MultiModel


@pytest.mark.parametrize(
  ('num_layers', 'exits'),
  [(12, (1, 4, 6, 12)), (24, (1, 6, 12, 24)), (6, (1, 2, 3, 6)), (1, (1,)), (2, (1, 2))],
)
def test_exits_are_the_papers_and_for_other_depths_alike(num_layers, exits):
  assert default_exits(num_layers) == exits


@pytest.mark.parametrize('exits', [(), (0, 2), (2, 1), (1, 1), (4,), (True,), (1.0,)])
def test_exits_that_an_encoder_does_not_have_are_refused(config, exits):
  with pytest.raises(ValueError, match='exits are'):
    dataclasses.replace(config, exits=exits)


@pytest.mark.parametrize(
  'change',
  [{'pooling': 'max'}, {'pooler': 'both'}, {'learning_to_exit': 'yes'}, {'classifier_init': 'one'}],
)
def test_choices_that_there_are_not_are_refused_by_name(config, change):
  with pytest.raises(ValueError, match=f'{next(iter(change))}: .* is not one of'):
    dataclasses.replace(config, **change)


def test_classifiers_start_from_zero_if_asked_and_nothing_else_does(config, key):
  usual, zero = (
    parameters.flatten(EarlyExitClassifier(one).init_params(key))
    for one in (config, dataclasses.replace(config, classifier_init='zero'))
  )
  for name, value in usual.items():
    if name.startswith('classifier') and name.endswith('kernel'):
      assert np.std(value) > 0
      assert not np.any(zero[name])
    else:
      np.testing.assert_array_equal(zero[name], value)


@pytest.mark.parametrize(
  ('kind', 'changes'),
  [
    ('config', {'pooling': 'cls', 'pooler': 'own', 'exits': (1, 3)}),
    ('config', {'pooling': 'mean', 'pooler': 'shared', 'exits': (1, 2)}),
    ('deberta_config', {'pooling': 'mean', 'pooler': 'none', 'exits': (2,)}),
  ],
)
def test_stages_say_what_the_whole_network_says_and_padding_changes_nothing(
  request, made_up, batch, changes, kind
):
  config = request.getfixturevalue(kind)
  model = EarlyExitClassifier(dataclasses.replace(config, learning_to_exit='shared', **changes))
  params = made_up(model)

  @jax.jit
  def both(batch):
    mask = np.arange(batch['tokens'].shape[1]) < batch['lengths'][:, None]
    whole = model.apply({'params': params}, batch['tokens'], mask, batch['token_types'])
    state, staged = None, []
    for k in range(1, 1 + len(model.exits)):
      state, *said = model.stage(params, k, batch, state)
      staged.append(tuple(said))
    return whole, staged

  whole, staged = both(batch)
  for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(staged), strict=True):
    np.testing.assert_array_equal(one, other)
  spoiled = {**batch, 'tokens': np.where(batch['tokens'] == 0, 9, batch['tokens'])}
  for one, other in zip(whole, both(spoiled)[0], strict=True):
    np.testing.assert_allclose(one[0][:4], other[0][:4], atol=1e-5)


@pytest.mark.parametrize('make', [EarlyExitClassifier, MultiModel])
def test_every_parameter_has_one_owner(config, make):
  model = make(config)
  owners = {name: model.owner(name) for name in parameters.shapes(model)}
  assert set(owners.values()) == {1, 2, 3}


def test_what_is_shared_has_no_owner(config):
  model = EarlyExitClassifier(
    dataclasses.replace(config, pooler='shared', learning_to_exit='shared')
  )
  shared = {name for name in parameters.shapes(model) if model.owner(name) is None}
  assert {name.partition('/')[0] for name in shared} == {'pooler', 'exit_module'}


def test_relative_embeddings_are_the_first_classifiers_unless_all_train_them(deberta_config):
  for shared, owner in ((False, 1), (True, None)):
    config = dataclasses.replace(deberta_config, shared_relative_embeddings=shared)
    model = EarlyExitClassifier(config)
    names = [name for name in parameters.shapes(model) if 'rel_embeddings' in name]
    assert [model.owner(name) for name in names] == [owner]


def test_layers_behind_the_last_exit_are_not_there(config):
  model = EarlyExitClassifier(dataclasses.replace(config, exits=(1, 2)))
  assert not any('layers_2' in name for name in parameters.shapes(model))


def test_a_multi_model_runs_all_models_so_far(config):
  assert EarlyExitClassifier(config).layers_run == (1, 2, 3)
  assert MultiModel(config).layers_run == (1, 3, 6)
