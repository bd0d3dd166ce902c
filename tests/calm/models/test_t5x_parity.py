"""Checkpoints that T5X itself wrote, and what T5X computes for them."""

import jax
import numpy as np
import pytest

from calm.models import pretrained, t5

CHECKPOINTS = {
  't5x_1_1_tiny/checkpoint_1200': t5.T5Config(128, 24, 3, 8, 40, 2, 3),
  't5x_1_0_tiny/checkpoint_700': t5.T5Config(96, 16, 2, 12, 32, 3, 2, ('relu',), True),
}


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_encoder_states_and_logits_are_those_of_t5x(fixtures, name):
  config, params = pretrained.load(fixtures / name, CHECKPOINTS[name])
  model, variables = t5.T5(config), {'params': params}
  with np.load((fixtures / name).parent / 'expected.npz', allow_pickle=False) as expected:
    source = expected['encoder_input_tokens']
    targets = expected['decoder_target_tokens']
    inputs = expected['decoder_input_tokens']

    def both(module):
      return module.encode(source), module.head(module(source, inputs, targets)[-1])

    encoded, logits = jax.jit(lambda variables: model.apply(variables, method=both))(variables)
    np.testing.assert_allclose(encoded, expected['encoded'], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, expected['logits'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_the_config_is_inferred_from_the_shapes(fixtures, name, capsys):
  config, params = pretrained.load(fixtures / name)
  assert config == CHECKPOINTS[name]
  assert 'relpos_max_distance' in capsys.readouterr().err
  leaves = jax.tree.leaves(params)
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
