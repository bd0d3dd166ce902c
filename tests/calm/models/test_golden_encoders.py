"""What transformers computed for small encoders, stored: parity where torch is absent.

scripts/make_golden.py made the fixtures and says what they hold.
"""

import jax
import numpy as np
import pytest

from calm.models import bert, deberta, pretrained

pytestmark = pytest.mark.usefixtures('optimized')
MODELS = {
  'golden_bert': bert.Bert(bert.BertConfig(53, 20, 4, 34, 3, 29, num_labels=3)),
  'golden_deberta': deberta.Deberta(
    deberta.DebertaConfig(53, 20, 4, 34, 3, 29, 2, max_relative_positions=8, num_labels=3)
  ),
}


@pytest.mark.parametrize('name', MODELS)
def test_states_and_logits_are_those_of_transformers(fixtures, name):
  config, params = pretrained.load(fixtures / name)
  assert config == MODELS[name].config
  with np.load(fixtures / name / 'expected.npz', allow_pickle=False) as arrays:
    expected = dict(arrays)
  inputs = expected['tokens'], expected['mask'], expected['token_types']

  @jax.jit
  def run(params):
    def everything(module):
      states = module(*inputs)
      pooled = module.pool(states[-1])
      return [module.embed(*inputs), *states], pooled, module.classify(pooled)

    return MODELS[name].apply({'params': params}, method=everything)

  states, pooled, logits = run(params)
  pairs = [(pooled, expected['pooled']), (logits, expected['logits'])]
  for ours, theirs in zip(states, expected['states'], strict=True):
    pairs.append((np.asarray(ours)[inputs[1]], theirs[inputs[1]]))
  for ours, theirs in pairs:
    assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()
