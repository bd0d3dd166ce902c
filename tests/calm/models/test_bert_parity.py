"""The same BERT in transformers and here: states, pooled states, logits, and the files.

Tests of real weights run where MINILM_DIRECTORY names them: CONTRIBUTING.md says how.
"""

import dataclasses
import functools
import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from calm.models import bert, pretrained

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.usefixtures('optimized')
torch.set_num_threads(1)  # Its threads wait busily, on the cores that compile.
TINY = bert.BertConfig(37, 12, 3, 17, 2, 64, 2, num_labels=3)
CONFIGS = {
  'tiny': TINY,
  'deep': bert.BertConfig(61, 32, 4, 48, 7, 70, 3, 'relu', num_labels=1),
  'wide': bert.BertConfig(211, 80, 5, 96, 2, 64, 2, 'gelu', 1e-7, num_labels=2),
  'no_classifier': dataclasses.replace(TINY, activation='silu', num_labels=0),
}
LENGTHS = (64, 1, 7, 31)
LIMIT = 2e-6


def pairs_of_texts(vocab_size, lengths=LENGTHS):
  """Tokens, mask and token types [rows, longest]: two texts in a row, the second longer."""
  where = np.arange(max(lengths))
  mask = where < np.array(lengths)[:, None]
  tokens = np.random.default_rng(5).integers(1, vocab_size, mask.shape)
  types = mask & (where >= np.array(lengths)[:, None] // 3)
  return np.where(mask, tokens, 0).astype(np.int32), mask, types.astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, tokens, mask, types):
  """Embedded state and those after all layers, pooled state, and logits if there are any."""

  def everything(module):
    states = module(tokens, mask, types)
    pooled = module.pool(states[-1])
    logits = module.classify(pooled) if config.num_labels else None
    return [module.embed(tokens, mask, types), *states], pooled, logits

  return bert.Bert(config).apply({'params': params}, method=everything)


def run_theirs(model, tokens, mask, types):
  """What transformers computes of the same, in float64."""
  base = getattr(model, 'bert', model).double()
  model.double()
  inputs = {
    'input_ids': torch.tensor(tokens).long(),
    'attention_mask': torch.tensor(mask).long(),
    'token_type_ids': torch.tensor(types).long(),
  }
  with torch.no_grad():
    out = base(**inputs, output_hidden_states=True)
    logits = None if base is model else model(**inputs).logits.numpy()
  return [state.numpy() for state in out.hidden_states], out.pooler_output.numpy(), logits


def relative_error(ours, theirs):
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def assert_equal_results(config, params, theirs, inputs):
  states, pooled, logits = run(config, params, *inputs)
  their_states, their_pooled, their_logits = run_theirs(theirs, *inputs)
  assert len(states) == len(their_states) == config.num_layers + 1
  mask = inputs[1]
  for ours, other in zip(states, their_states, strict=True):
    assert relative_error(np.asarray(ours)[mask], other[mask]) <= LIMIT
  assert relative_error(pooled, their_pooled) <= LIMIT
  if config.num_labels:
    assert relative_error(logits, their_logits) <= LIMIT


@pytest.mark.parametrize('name', CONFIGS)
def test_states_and_logits_and_files(tmp_path, varied_encoder, equal_trees, name):
  config = CONFIGS[name]
  params = varied_encoder(bert.Bert(config))
  exported = pretrained.save_huggingface(tmp_path / 'ours', config, params)
  kind = 'BertForSequenceClassification' if config.num_labels else 'BertModel'
  theirs, information = getattr(transformers, kind).from_pretrained(
    exported, output_loading_info=True
  )
  assert not any(information.values()), information
  theirs.eval().save_pretrained(tmp_path / 'theirs')
  before, after = (
    load_file(path / 'model.safetensors') for path in (exported, tmp_path / 'theirs')
  )
  equal_trees(after, before)
  loaded_config, loaded = pretrained.load(tmp_path / 'theirs')
  assert loaded_config == config
  equal_trees(loaded, params)
  assert_equal_results(config, params, theirs, pairs_of_texts(config.vocab_size))


@pytest.mark.parametrize('kind', ['BertForPreTraining', 'BertForQuestionAnswering'])
def test_heads_of_other_tasks_are_named(tmp_path, capsys, kind):
  sizes = {'vocab_size': 37, 'hidden_size': 12, 'num_hidden_layers': 2, 'num_attention_heads': 3}
  theirs = transformers.BertConfig(**sizes, intermediate_size=17, max_position_embeddings=64)
  model = getattr(transformers, kind)(theirs).eval()
  model.save_pretrained(tmp_path / 'theirs')
  config, params = pretrained.load(tmp_path / 'theirs')
  left_out = 'cls.predictions.bias' if kind == 'BertForPreTraining' else 'qa_outputs.bias'
  assert left_out in capsys.readouterr().err
  assert (config.pooler, config.num_labels) == (kind == 'BertForPreTraining', 0)
  tokens, mask, types = pairs_of_texts(37)
  states = bert.Bert(config).apply({'params': params}, tokens, mask, types)
  with torch.no_grad():
    expected = model.bert(torch.tensor(tokens).long(), torch.tensor(mask), torch.tensor(types))
  expected = expected.last_hidden_state.numpy()
  assert relative_error(np.asarray(states[-1])[mask], expected[mask]) <= LIMIT


@pytest.mark.skipif('MINILM_DIRECTORY' not in os.environ, reason='MINILM_DIRECTORY is not set')
def test_real_weights(tmp_path, equal_trees):
  directory = os.environ['MINILM_DIRECTORY']
  config, params = pretrained.load(directory)
  assert config == bert.published('minilm')
  theirs = transformers.BertModel.from_pretrained(directory).eval()
  exported = pretrained.save_huggingface(
    tmp_path / 'ours', config, params, vocabulary_path=directory
  )
  again = transformers.BertModel.from_pretrained(exported)
  for (name, ours), (_, original) in zip(
    again.named_parameters(), theirs.named_parameters(), strict=True
  ):
    assert torch.equal(ours, original), name
  equal_trees(pretrained.load(exported)[1], params)
  assert_equal_results(config, params, theirs, pairs_of_texts(config.vocab_size, (128, 1, 40, 96)))
