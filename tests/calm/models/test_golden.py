"""What transformers computed for two small T5s, stored: parity where torch is absent.

scripts/make_golden.py made the fixtures and says what they hold.
"""

import jax
import numpy as np
import pytest

from calm.decoding import generator as generators
from calm.models import pretrained, t5

pytestmark = pytest.mark.usefixtures('optimized')
CONFIGS = {
  'golden_t5_1_0': t5.T5Config(53, 20, 3, 6, 34, 2, 3, ('relu',), True),
  'golden_t5_1_1': t5.T5Config(53, 20, 3, 6, 34, 2, 3),
}


@pytest.fixture(scope='module', params=CONFIGS)
def golden(request, fixtures):
  """Config, parameters, and the expected arrays by name."""
  directory = fixtures / request.param
  config, params = pretrained.load(directory)
  assert config == CONFIGS[request.param]
  with np.load(directory / 'expected.npz', allow_pickle=False) as arrays:
    return config, params, dict(arrays)


def test_encoder_states_and_logits_are_those_of_transformers(golden):
  config, params, expected = golden
  source, targets = expected['encoder_input_tokens'], expected['decoder_target_tokens']

  @jax.jit
  def run(params):
    def both(module):
      states = module(source, expected['decoder_input_tokens'], targets)
      return module.encode(source), module.head(states[-1])

    return t5.T5(config).apply({'params': params}, method=both)

  encoded, logits = run(params)
  for ours, name, where in ((encoded, 'encoded', source > 0), (logits, 'logits', targets > 0)):
    theirs = expected[name][where]
    assert np.abs(np.asarray(ours)[where] - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_greedy_tokens_are_those_of_transformers(golden):
  config, params, expected = golden
  tokens = expected['tokens']
  assert len(np.unique(tokens)) > 10
  decoded = generators.Generator(t5.T5(config), tokens.shape[1])(
    params, expected['encoder_input_tokens']
  )
  np.testing.assert_array_equal(decoded.tokens, tokens)
