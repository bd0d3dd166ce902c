"""Where classifiers stand, what each owns, and that a network can be run block by block."""

import dataclasses

import jax
import numpy as np
import pytest

from calm.models import parameters
from sweet.model import EarlyExitClassifier, ExitsConfig, default_exits
from sweet.multi_model import MultiModel


@pytest.mark.parametrize(
  ('num_layers', 'exits'),
  [(12, (1, 4, 6, 12)), (24, (1, 6, 12, 24)), (6, (1, 2, 3, 6)), (1, (1,)), (2, (1, 2))],
)
def test_exits_are_the_papers_and_for_other_depths_alike(num_layers, exits):
  assert default_exits(num_layers) == exits


@pytest.mark.parametrize('exits', [(), (0, 2), (2, 1), (1, 1), (5,), (True,), (1.0,)])
def test_exits_that_an_encoder_does_not_have_are_refused(config, exits):
  with pytest.raises(ValueError, match='exits are'):
    dataclasses.replace(config, exits=exits)


@pytest.mark.parametrize('pooling', ['cls', 'mean'])
@pytest.mark.parametrize('pooler', ['own', 'shared', 'none'])
def test_stages_say_what_the_whole_network_says_and_padding_changes_nothing(
  config, batch, pooling, pooler
):
  model = EarlyExitClassifier(
    dataclasses.replace(config, pooling=pooling, pooler=pooler, learning_to_exit='shared')
  )
  params = model.init_params(jax.random.key(0))

  @jax.jit
  def both(batch):
    mask = np.arange(batch['tokens'].shape[1]) < batch['lengths'][:, None]
    whole = model.apply({'params': params}, batch['tokens'], mask, batch['token_types'])
    state, staged = None, []
    for k in (1, 2, 3):
      state, *said = model.stage(params, k, batch, state)
      staged.append(tuple(said))
    return whole, staged

  whole, staged = both(batch)
  for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(staged), strict=True):
    np.testing.assert_array_equal(one, other)
  spoiled = {**batch, 'tokens': np.where(batch['tokens'] == 0, 9, batch['tokens'])}
  for one, other in zip(whole, both(spoiled)[0], strict=True):
    np.testing.assert_allclose(one[0][:4], other[0][:4], atol=1e-6)


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


def test_layers_behind_the_last_exit_are_not_there(config):
  model = EarlyExitClassifier(dataclasses.replace(config, exits=(1, 3)))
  assert not any('layers_3' in name for name in parameters.shapes(model))


def test_a_multi_model_runs_all_models_so_far(config):
  assert EarlyExitClassifier(config).layers_run == (1, 2, 4)
  assert MultiModel(config).layers_run == (1, 3, 7)
  assert isinstance(config, ExitsConfig)
