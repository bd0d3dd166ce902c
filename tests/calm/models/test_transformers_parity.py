"""The same weights in transformers and here: states, logits, greedy tokens, and the files."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import seqio
from safetensors.numpy import load_file

from calm.decoding import generator as generators
from calm.models import pretrained, t5

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TINY = t5.T5Config(37, 12, 3, 5, 17, 2, 3)
T5_1_0 = {'mlp_activations': ('relu',), 'logits_via_embedding': True}
CONFIGS = {
  't5_1_1_tiny': TINY,
  't5_1_1_deep_decoder': t5.T5Config(61, 32, 4, 8, 48, 1, 5),
  't5_1_1_wide': t5.T5Config(211, 48, 5, 16, 96, 3, 2, relpos_num_buckets=20),
  't5_1_0_tiny': dataclasses.replace(TINY, **T5_1_0),
  't5_1_0_deep_encoder': t5.T5Config(61, 32, 4, 8, 48, 5, 2, **T5_1_0),
  't5_1_0_wide': t5.T5Config(211, 48, 5, 16, 96, 2, 3, relpos_max_distance=50, **T5_1_0),
  'gated_silu': dataclasses.replace(TINY, mlp_activations=('silu', 'linear')),
}
MAX_STEPS = 19
torch.set_num_threads(1)  # Its threads wait busily, on the cores that compile.


@dataclasses.dataclass(frozen=True)
class Pair:
  """One T5 twice: here, and in transformers, which loaded our export from `directory`."""

  config: t5.T5Config
  params: dict
  theirs: object
  directory: object


@pytest.fixture(scope='module', params=CONFIGS)
def pair(request, tmp_path_factory, varied_params):
  config = CONFIGS[request.param]
  params = varied_params(config)
  directory = tmp_path_factory.mktemp('models') / request.param
  pretrained.save_huggingface(directory, config, params)
  model, information = transformers.T5ForConditionalGeneration.from_pretrained(
    directory, output_loading_info=True
  )
  assert not any(information.values()), information
  return Pair(config, params, model.eval(), directory)


@functools.partial(jax.jit, static_argnums=0)
def _forward(config, params, source, inputs, targets):
  def both(module):
    return module.encode(source), module.head(module(source, inputs, targets)[-1])

  return t5.T5(config).apply({'params': params}, method=both)


def _relative_error(ours, theirs, where):
  ours, theirs = np.asarray(ours)[where], theirs.numpy()[where]
  return np.abs(ours - theirs).max() / np.abs(theirs).max()


def test_encoder_states_and_logits(pair, ragged_tokens):
  source = ragged_tokens(pair.config, [160, 7, 31, 1])  # Beyond the last distance bucket.
  targets = ragged_tokens(pair.config, [13, 17, 140, 5], seed=6)
  inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  with torch.no_grad():
    theirs = pair.theirs(
      input_ids=torch.tensor(source).long(),
      attention_mask=torch.tensor(source > 0),
      decoder_input_ids=torch.tensor(inputs).long(),
    )
  encoded, logits = _forward(pair.config, pair.params, source, inputs, targets)
  assert _relative_error(encoded, theirs.encoder_last_hidden_state, source > 0) <= 1e-5
  assert _relative_error(logits, theirs.logits, targets > 0) <= 1e-5


def test_greedy_tokens(pair, ragged_tokens):
  source = ragged_tokens(pair.config, [11, 7, 1, 5, 9, 10, 3, 2, 8, 6, 4, 11, 11, 10, 9, 7])
  with torch.no_grad():
    theirs = pair.theirs.generate(
      torch.tensor(source).long(),
      attention_mask=torch.tensor(source > 0),
      max_new_tokens=MAX_STEPS,
      do_sample=False,
      use_cache=False,  # transformers 5.23 gives the decoder's cache the encoder's depth.
      return_dict_in_generate=True,
      output_logits=True,
    )
  tokens = theirs.sequences[:, 1:].numpy()
  tokens = np.pad(tokens, ((0, 0), (0, MAX_STEPS - tokens.shape[1])))
  # Rounding may decide a near tie: then tokens would tell nothing.
  best = torch.stack(theirs.logits, 1).topk(2).values
  gaps = (best[..., 0] - best[..., 1]).numpy()
  assert gaps[tokens[:, : gaps.shape[1]] > 0].min() > 1e-4
  assert len(np.unique(tokens)) > 10
  ours = generators.Generator(t5.T5(pair.config), MAX_STEPS)(pair.params, source)
  np.testing.assert_array_equal(ours.tokens, tokens)


def test_round_trip_is_bit_exact(pair, tmp_path, equal_trees):
  pair.theirs.save_pretrained(tmp_path / 'theirs')
  config, params = pretrained.load(tmp_path / 'theirs')
  assert config == pair.config
  equal_trees(params, pair.params)
  pretrained.save_huggingface(tmp_path / 'ours', config, params)
  theirs, ours = (load_file(tmp_path / kind / 'model.safetensors') for kind in ('theirs', 'ours'))
  assert theirs.keys() == ours.keys()
  for name, tensor in theirs.items():
    assert tensor.dtype == ours[name].dtype
    np.testing.assert_array_equal(tensor.view(np.uint32), ours[name].view(np.uint32))


def test_settings_are_those_that_transformers_writes(pair, tmp_path):
  pair.theirs.save_pretrained(tmp_path)
  theirs = transformers.T5Config.from_pretrained(tmp_path).to_dict()
  ours = transformers.T5Config.from_pretrained(pair.directory).to_dict()
  assert {k: v for k, v in ours.items() if not k.startswith('_name')} == {
    k: v for k, v in theirs.items() if not k.startswith('_name')
  }


def test_shards_that_transformers_writes(pair, tmp_path, equal_trees):
  pair.theirs.save_pretrained(tmp_path, max_shard_size='30KB')
  assert len(list(tmp_path.glob('*.safetensors'))) > 1
  equal_trees(pretrained.load(tmp_path)[1], pair.params)


def test_a_fresh_model_without_a_head_of_its_own(tmp_path):
  # transformers 5 ties the weights of a new T5 1.1, and does not scale the logits.
  torch.manual_seed(0)
  sizes = {'vocab_size': 37, 'd_model': 12, 'd_kv': 5, 'd_ff': 17, 'num_layers': 2, 'num_heads': 3}
  theirs = transformers.T5ForConditionalGeneration(
    transformers.T5Config(**sizes, feed_forward_proj='gated-gelu', tie_word_embeddings=False)
  ).eval()
  theirs.save_pretrained(tmp_path)
  config, params = pretrained.load(tmp_path)
  source, inputs = np.array([[5, 7, 1]]), np.array([[0, 3, 2, 9]])
  with torch.no_grad():
    expected = theirs(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(inputs))
  _, logits = _forward(config, params, source, inputs, np.ones_like(inputs))
  assert _relative_error(logits, expected.logits, ...) <= 1e-5


@pytest.mark.parametrize('name', ['t5x_1_1_tiny/checkpoint_1200', 't5x_1_0_tiny/checkpoint_700'])
def test_checkpoints_of_t5x_become_those_of_transformers(fixtures, tmp_path, name):
  pretrained.save_huggingface(tmp_path / 'exported', *pretrained.load(fixtures / name))
  theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / 'exported').eval()
  with np.load((fixtures / name).parent / 'expected.npz', allow_pickle=False) as expected:
    source, inputs = expected['encoder_input_tokens'], expected['decoder_input_tokens']
    with torch.no_grad():
      out = theirs(
        input_ids=torch.tensor(source).long(),
        attention_mask=torch.tensor(source > 0),
        decoder_input_ids=torch.tensor(inputs).long(),
      )
    valid = expected['decoder_target_tokens'] > 0
    assert _relative_error(expected['logits'], out.logits, valid) <= 1e-5


def test_an_mt5(tmp_path, equal_trees):
  torch.manual_seed(0)
  sizes = {'vocab_size': 37, 'd_model': 12, 'd_kv': 5, 'd_ff': 17, 'num_layers': 2, 'num_heads': 3}
  theirs = transformers.MT5ForConditionalGeneration(
    transformers.MT5Config(**sizes, num_decoder_layers=3)
  ).eval()
  with (
    torch.no_grad()
  ):  # Their new model shares the embedding with its head; published ones do not.
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(37, 12))
  theirs.save_pretrained(tmp_path)
  assert json.loads((tmp_path / 'config.json').read_text())['model_type'] == 'mt5'
  config, params = pretrained.load(tmp_path)
  assert config == TINY
  source, inputs = np.array([[5, 7, 1]]), np.array([[0, 3, 2, 9]])
  with torch.no_grad():
    expected = theirs(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(inputs))
  _, logits = _forward(config, params, source, inputs, np.ones_like(inputs))
  assert _relative_error(logits, expected.logits, ...) <= 1e-5


def test_transformers_stops_where_we_do(tmp_path, varied_params, ragged_tokens):
  params = varied_params(TINY)
  params['decoder']['logits_dense']['kernel'][:, 1] = 0  # An EOS that is never the best token.
  pretrained.save_huggingface(tmp_path / 'out', TINY, params, max_decode_steps=29)
  theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / 'out').eval()
  source = torch.tensor(ragged_tokens(TINY, [7])).long()
  with torch.no_grad():
    assert theirs.generate(source).shape == (1, 1 + 29)
    assert theirs.generate(source, max_new_tokens=5).shape == (1, 1 + 5)


TEXTS = (
  'quick brown  fox',
  ' jumps ',
  '',
  '   ',
  '½ m² ﬁne été',
  'a\nb',
  'dog \n\n\tfox\n',
  'quick\u2581fox',
  '\u2581',
  '日本 🙂🙂 quince',
  'foxfox<x>dog <x> dog',
)
SENTINELS = ('<extra_id_0> fox', 'quick <extra_id_3> dog', '<extra_id_1>ly <extra_id_2>')
KEPT = {'normalization_rule_name': 'identity', 'remove_extra_whitespaces': False}


@pytest.mark.parametrize('extra_ids', [0, 7])
@pytest.mark.parametrize(
  'options',
  [
    {},
    {'byte_fallback': True, 'vocab_size': 294},
    KEPT,
    {'add_dummy_prefix': False},
    {'user_defined_symbols': ['\n', '<x>'], **KEPT},
    {'user_defined_symbols': ['\n', '<x>']},
  ],
  ids=lambda options: ' '.join(options) or 'as calm vocab',
)
def test_an_exported_tokenizer_gives_the_tokens_of_the_vocabulary(
  tmp_path, varied_params, sentencepiece_model, options, extra_ids
):
  path = tmp_path / 'pieces.model'
  path.write_bytes(sentencepiece_model(**options))
  vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids)
  config = dataclasses.replace(TINY, vocab_size=320)
  params = varied_params(config)
  pretrained.save_huggingface(tmp_path / 'out', config, params, vocabulary=vocabulary)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert len(tokenizer) == vocabulary.vocab_size
  assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
  for text in TEXTS + (SENTINELS if extra_ids and 'add_dummy_prefix' not in options else ()):
    tokens = vocabulary.encode(text)
    assert tokenizer(text).input_ids == [*tokens, 1], text
    if 2 not in tokens:
      assert tokenizer.decode([*tokens, 1, 0], skip_special_tokens=False).startswith(
        vocabulary.decode(tokens)
      )
  names = [f'<extra_id_{i}>' for i in range(extra_ids)]
  ids = list(range(vocabulary.vocab_size - extra_ids, vocabulary.vocab_size))
  assert tokenizer.convert_tokens_to_ids(names) == ids[::-1]


@pytest.mark.parametrize('extra_ids', [0, 7])
def test_an_exported_byte_tokenizer(tmp_path, varied_params, extra_ids):
  config = dataclasses.replace(TINY, vocab_size=270)
  vocabulary = seqio.ByteVocabulary(extra_ids)
  params = varied_params(config)
  pretrained.save_huggingface(tmp_path / 'out', config, params, vocabulary=vocabulary)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert len(tokenizer) == vocabulary.vocab_size
  for text in TEXTS:
    assert tokenizer(text).input_ids == [*vocabulary.encode(text), 1]
