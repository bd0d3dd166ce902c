"""The same DeBERTa in transformers and here: states, pooled states, logits, and the files."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from calm.models import deberta, pretrained

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.usefixtures('optimized')
torch.set_num_threads(1)  # Its threads wait busily, on the cores that compile.
# Texts have up to 64 tokens: of all but `unclipped`, distances beyond the last embedding.
TINY = deberta.DebertaConfig(37, 12, 3, 17, 2, 64, max_relative_positions=16, num_labels=3)
CONFIGS = {
  'tiny': TINY,
  'c2p': dataclasses.replace(TINY, position_terms=('c2p',), num_token_types=2, num_labels=0),
  'p2c': dataclasses.replace(TINY, position_terms=('p2c',), absolute_positions=True, num_labels=1),
  'none': dataclasses.replace(
    TINY, position_terms=(), absolute_positions=True, num_token_types=3, pooler=False, num_labels=0
  ),
  'deep': deberta.DebertaConfig(
    61, 32, 4, 48, 5, 64, activation='relu', max_relative_positions=9, num_labels=2
  ),
  'unclipped': deberta.DebertaConfig(
    211, 80, 5, 96, 2, pooler_activation='silu', norm_epsilon=1e-5, num_labels=2
  ),
}
LENGTHS = (64, 1, 7, 31)
LIMIT = 2e-6


def pairs_of_texts(vocab_size):
  """Tokens, mask and token types [rows, longest]: two texts in a row, the second longer."""
  where = np.arange(max(LENGTHS))
  mask = where < np.array(LENGTHS)[:, None]
  tokens = np.random.default_rng(5).integers(1, vocab_size, mask.shape)
  types = mask & (where >= np.array(LENGTHS)[:, None] // 3)
  return np.where(mask, tokens, 0).astype(np.int32), mask, types.astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, tokens, mask, types):
  """Embedded state and those after all layers, and pooled state and logits if there are any."""

  def everything(module):
    states = module(tokens, mask, types)
    pooled = module.pool(states[-1]) if config.pooler else None
    logits = module.classify(pooled) if config.num_labels else None
    return [module.embed(tokens, mask, types), *states], pooled, logits

  return deberta.Deberta(config).apply({'params': params}, method=everything)


def run_theirs(model, tokens, mask, types):
  """What transformers computes of the same, in float64."""
  model.double()
  base = getattr(model, 'deberta', model)
  inputs = {
    'input_ids': torch.tensor(tokens).long(),
    'attention_mask': torch.tensor(mask).long(),
    'token_type_ids': torch.tensor(types).long(),
  }
  with torch.no_grad():
    out = base(**inputs, output_hidden_states=True)
    if base is model:
      return out.hidden_states, None, None
    return out.hidden_states, model.pooler(out.last_hidden_state), model(**inputs).logits


def relative_error(ours, theirs, where=...):
  ours, theirs = np.asarray(ours)[where], theirs.numpy()[where]
  return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize('name', CONFIGS)
def test_states_and_logits_and_files(tmp_path, varied_encoder, equal_trees, name):
  config = CONFIGS[name]
  params = varied_encoder(deberta.Deberta(config))
  exported = pretrained.save_huggingface(tmp_path / 'ours', config, params)
  kind = 'DebertaForSequenceClassification' if config.num_labels else 'DebertaModel'
  theirs, information = getattr(transformers, kind).from_pretrained(
    exported, output_loading_info=True
  )
  assert not information['missing_keys']
  assert not information['mismatched_keys']
  theirs.eval().save_pretrained(tmp_path / 'theirs')
  loaded_config, loaded = pretrained.load(tmp_path / 'theirs')
  # What transformers has no place for: a pooler without a classifier.
  pooler = config.pooler and config.num_labels > 0
  assert loaded_config == dataclasses.replace(config, pooler=pooler)
  equal_trees(loaded, {key: value for key, value in params.items() if pooler or key != 'pooler'})
  if pooler or not config.pooler:
    assert not any(information.values()), information
    before, after = (
      load_file(path / 'model.safetensors') for path in (exported, tmp_path / 'theirs')
    )
    equal_trees(after, before)

  inputs = pairs_of_texts(config.vocab_size)
  states, pooled, logits = run(config, params, *inputs)
  their_states, their_pooled, their_logits = run_theirs(theirs, *inputs)
  assert len(states) == len(their_states) == config.num_layers + 1
  for ours, other in zip(states, their_states, strict=True):
    assert relative_error(ours, other, inputs[1]) <= LIMIT
  if config.num_labels:
    assert relative_error(pooled, their_pooled) <= LIMIT
    assert relative_error(logits, their_logits) <= LIMIT


@pytest.mark.parametrize('legacy', [True, False])
def test_a_model_of_theirs_with_a_head_of_another_task(tmp_path, capsys, legacy):
  # As in deberta-base, whose positions are as many as its max_position_embeddings.
  torch.manual_seed(0)
  settings = transformers.DebertaConfig(
    vocab_size=37,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=17,
    max_position_embeddings=10,
    relative_attention=True,
    pos_att_type='p2c|c2p',
    position_biased_input=False,
    initializer_range=0.5,
    legacy=legacy,
  )
  theirs = transformers.DebertaForMaskedLM(settings).eval()
  theirs.save_pretrained(tmp_path)
  config, params = pretrained.load(tmp_path)
  assert (config.pooler, config.num_labels, config.max_relative_positions) == (False, 0, 10)
  assert ('cls.' if legacy else 'lm_predictions.') in capsys.readouterr().err
  inputs = pairs_of_texts(37)
  states, _, _ = run(config, params, *inputs)
  their_states, _, _ = run_theirs(theirs.deberta, *inputs)
  assert relative_error(states[-1], their_states[-1], inputs[1]) <= LIMIT
