"""Early exits: rows on their own, state propagation, and what fills the cache of skipped layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.decoding import all_layers, cache, early_exit, generator, sampling, step
from calm.exits import confidence, thresholds
from calm.exits.rules import Confident, FixedLayer, NeverExit, Oracle
from calm.models import t5

ROWS, STEPS, PROMPT = 32, 13, 5

one_kind = pytest.mark.parametrize('tiny', ['t5_1_1'], indirect=True)

# Measures with thresholds at which the fixture's rows stop after all three layers.
MEASURES = {
  'softmax_margin': (confidence.softmax_margin, 0.5),
  'shortlist_margin': (confidence.shortlist_margin, 0.5),
  'gated_softmax_margin': (confidence.Gated(confidence.softmax_margin, gate_threshold=0.6), 0.3),
  'gated_shortlist_margin': (
    confidence.Gated(confidence.shortlist_margin, gate_threshold=0.6),
    0.3,
  ),
  'largest_probability': (confidence.largest_probability, 0.7),
  'entropy_confidence': (confidence.entropy_confidence, 0.8),
  'state_saturation': (confidence.state_saturation, 0.6),
  'classifier': (confidence.classifier, 0.5),
}


@pytest.fixture(scope='session')
def exiting(tiny):
  """The fixture's model with an exit classifier of fixed weights."""
  config = dataclasses.replace(tiny.model.config, exit_classifier=True)
  rng = np.random.default_rng(8)
  kernel = jnp.asarray(rng.normal(size=(config.emb_dim, 1)), jnp.float32) / 4
  classifier = {'kernel': kernel, 'bias': jnp.zeros(1)}
  params = {**tiny.params, 'decoder': {**tiny.params['decoder'], 'exit_classifier': classifier}}
  return dataclasses.replace(tiny, model=t5.T5(config), params=params)


def decode(tiny, rule, rows=slice(None), **options):
  """What the fixture's rows give under a rule, as NumPy arrays."""
  key = options.pop('key', None)
  prompts = options.pop('prompts', None)
  run = generator.Generator(tiny.model, STEPS, rule=rule, **options)
  prompts = None if prompts is None else prompts[rows]
  return jax.device_get(run(tiny.params, tiny.inputs[rows], prompts=prompts, key=key))


def decode_without_others(tiny, rule, rows, **options):
  """What the fixture's rows give where all others are empty, by the program for the whole batch."""
  inputs = jnp.zeros_like(tiny.inputs).at[rows].set(tiny.inputs[rows])
  found = decode(dataclasses.replace(tiny, inputs=inputs), rule, **options)
  return jax.tree.map(lambda array: array[rows], found)


def assert_equal(found, expected):
  """Tokens and exit layers are equal, numbers nearly."""
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
  np.testing.assert_array_equal(found.num_logits, expected.num_logits)
  np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-4, atol=1e-4)


@one_kind
@pytest.mark.parametrize('name', MEASURES)
def test_rows_stop_after_different_layers(exiting, name):
  layers = decode(exiting, Confident(*MEASURES[name])).exit_layer
  assert set(np.unique(layers)) >= {0, 2, 3}
  # Within one step, too: rows leave one another behind.
  assert any(len(set(column[column > 0])) > 1 for column in layers.T)


@one_kind
@pytest.mark.parametrize('name', MEASURES)
def test_a_row_is_the_same_alone_and_in_any_batch(exiting, name):
  rule = Confident(*MEASURES[name])
  together = decode(exiting, rule)
  for batch_size, alone in ((1, decode), (7, decode_without_others)):
    for first in range(0, 14, batch_size):
      rows = slice(first, first + batch_size)
      expected = jax.tree.map(lambda x, rows=rows: x[rows], together)
      assert_equal(alone(exiting, rule, rows), expected)


@one_kind
@pytest.mark.parametrize(
  ('name', 'fill'),
  [
    *((name, 'exit_state') for name in ('softmax_margin', 'state_saturation')),
    *((name, fill) for name in ('gated_softmax_margin', 'classifier') for fill in early_exit.FILLS),
  ],
)
def test_running_only_what_is_needed_equals_running_all_layers(exiting, name, fill, monkeypatch):
  rule = Confident(*MEASURES[name])
  found = decode(exiting, rule, fill=fill)
  monkeypatch.setattr(generator, '_start', all_layers.all_layers)
  plain = jax.jit(generator.decode, static_argnames=('model', 'max_decode_steps', 'fill'))
  expected = plain(
    exiting.model, exiting.params, exiting.inputs, max_decode_steps=STEPS, rule=rule, fill=fill
  )
  assert_equal(found, jax.device_get(expected))


def test_never_exit_is_the_full_model(tiny, exiting):
  full = decode(tiny, NeverExit())
  names = ['softmax_margin', 'gated_shortlist_margin']
  if not tiny.model.config.logits_via_embedding:  # Of the other kind, its head in two ways.
    names += ['shortlist_margin', 'state_saturation']
  for name in names:
    late = decode(exiting, Confident(MEASURES[name][0], 2.0))
    np.testing.assert_array_equal(late.tokens, full.tokens)
    np.testing.assert_array_equal(late.exit_layer, full.exit_layer)


@pytest.mark.parametrize('layer', [1, 2, 3])
def test_a_fixed_layer_is_the_model_of_so_many_layers(tiny, layer):
  config = dataclasses.replace(tiny.model.config, num_decoder_layers=layer)
  short = dataclasses.replace(tiny, model=t5.T5(config))
  expected = decode(short, NeverExit())
  forced = thresholds.PerLayer(jnp.where(jnp.arange(1, 4) < layer, 2.0, 0.0))
  for rule in (FixedLayer(layer), Confident(confidence.shortlist_margin, forced)):
    found = decode(tiny, rule)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
  found = decode(tiny, FixedLayer(layer))
  np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-4, atol=1e-4)


@one_kind
@pytest.mark.parametrize('name', MEASURES)
def test_lowering_the_threshold_never_makes_the_first_exit_later(exiting, name):
  measure, _ = MEASURES[name]
  values = np.linspace(1, 0, 7).tolist()  # Of the same type as above: the same program.
  first = np.stack([decode(exiting, Confident(measure, v)).exit_layer[:, 0] for v in values])
  assert (np.diff(first, axis=0) <= 0).all()
  if isinstance(measure, confidence.Gated):  # Its gate compares states, from layer 2 on.
    assert first.min() == 2
  else:
    assert (first[-1] == 1).all()
  assert len(np.unique(first)) > 1


@one_kind
@pytest.mark.parametrize('min_exit', [1, 2])
def test_the_head_is_paid_for_each_time_it_is_asked(exiting, min_exit):
  vocab_size = exiting.model.config.vocab_size

  def heads(name):
    measure, threshold = MEASURES[name]
    found = decode(exiting, Confident(measure, threshold, min_exit))
    assert (found.num_logits % vocab_size == 0).all()
    return found.exit_layer, found.num_logits // vocab_size

  exits, asked = heads('softmax_margin')
  np.testing.assert_array_equal(asked, np.where(exits > 0, exits - min_exit + 1, 0))
  for name in ('classifier', 'state_saturation'):
    exits, asked = heads(name)
    np.testing.assert_array_equal(asked, exits > 0)


@one_kind
def test_a_sweep_of_thresholds_compiles_once(exiting):
  measure = confidence.entropy_confidence
  decode(exiting, Confident(measure, thresholds.Decaying(0.9, 4.0, STEPS)))
  before = generator._decode._cache_size()
  for value in (0.1, 0.5, 0.7):
    decode(exiting, Confident(measure, thresholds.Decaying(value, 3.0, 7)))
  assert generator._decode._cache_size() == before


@one_kind
def test_a_threshold_that_decays_is_stricter_at_the_start(exiting):
  # Position by position what a confidence must reach is Eq. 5's; a step in it shows where.
  found = decode(
    exiting, Confident(confidence.entropy_confidence, thresholds.Decaying(0.5, 6.0, STEPS))
  )
  needed = np.clip(0.9 * 0.5 + 0.1 * np.exp(-6.0 * np.arange(STEPS) / STEPS), 0, 1)
  early = (found.exit_layer > 0) & (found.exit_layer < 3)
  assert early.any()
  assert (found.confidence >= needed - 1e-6)[early].all()
  constant = decode(exiting, Confident(confidence.entropy_confidence, 0.55))
  np.testing.assert_array_equal(found.exit_layer[:, 0], constant.exit_layer[:, 0])
  assert found.exit_layer.sum() < constant.exit_layer.sum()


@one_kind
def test_keys_and_values_of_a_skipped_layer_are_its_projection_of_the_exit_state(exiting):
  model, params, inputs = exiting.model, exiting.params, exiting.inputs
  rule = Confident(confidence.classifier, 0.5)

  @jax.jit
  def run(params):
    source = step.prepare_source(model, params, inputs)
    layers = step.prepare_layers(model, params, source, jnp.zeros(ROWS, jnp.int32), STEPS)
    self_kv = cache.empty_cache(model.config, ROWS, STEPS)
    step_fn, carried = early_exit.early_exit(rule)(layers, self_kv, 0)
    tokens = jnp.arange(2, 2 + STEPS * ROWS).reshape(STEPS, ROWS) % 31 + 2
    active = jnp.ones(ROWS, bool)

    def one(carried, item):
      column, token = item
      result, carried = step_fn(token, column, active, carried)
      return carried, result.exit_layer

    carried, exits = jax.lax.scan(one, carried, (jnp.arange(STEPS), tokens))
    filled = [
      early_exit.fill_missing(layers, layer, carried.states, one, done, STEPS)
      for layer, (one, done) in enumerate(zip(carried.self_kv, carried.filled, strict=True))
    ]
    projected = [layers.keys_values(layer, carried.states) for layer in range(layers.num_layers)]
    return exits.T, filled, projected

  exits, filled, projected = jax.device_get(run(params))
  for layer in (1, 2):
    skipped = exits <= layer  # [B, T]
    assert 0 < skipped.sum() < skipped.size
    keys, expected = (np.moveaxis(kept[layer].keys, -1, 1) for kept in (filled, projected))
    np.testing.assert_allclose(keys[skipped], expected[skipped], rtol=1e-4, atol=1e-4)
    ran = np.moveaxis(filled[layer].values, -1, 1)[~skipped]
    assert not np.allclose(ran, np.moveaxis(projected[layer].values, -1, 1)[~skipped], atol=1e-2)


@one_kind
def test_prompts_and_sampling_exit_early_too(exiting):
  rng = np.random.default_rng(2)
  prompts = rng.integers(2, 37, (ROWS, PROMPT)).astype(np.int32)
  prompts[np.arange(PROMPT) >= rng.integers(0, PROMPT + 1, (ROWS, 1))] = 0
  options = {
    'prompts': prompts,
    'key': generator.row_keys(jax.random.key(0), jnp.arange(ROWS)),
    'sampling': sampling.Sampling(temperature=0.7, top_k=9),
  }
  rule = Confident(confidence.classifier, 0.5)
  together = decode(exiting, rule, **options)
  lengths = (prompts > 0).sum(-1)
  given = np.arange(PROMPT + STEPS) < lengths[:, None]
  np.testing.assert_array_equal(
    together.tokens[:, :PROMPT][given[:, :PROMPT]], prompts[prompts > 0]
  )
  assert (together.exit_layer[given] == 0).all()
  assert set(np.unique(together.exit_layer)) == {0, 1, 2, 3}
  alone = decode_without_others(exiting, rule, slice(3, 4), **options)
  assert_equal(alone, jax.tree.map(lambda x: x[3:4], together))


@one_kind
@pytest.mark.parametrize('fill', all_layers.FILLS)
def test_the_oracle_predicts_what_the_last_layer_does(tiny, fill):
  full = decode(tiny, NeverExit())
  found = decode(tiny, Oracle(), fill=fill)
  assert found.exit_layer.sum() < full.exit_layer.sum()
  # The first token has no past: it is the full model's, whatever fills the cache.
  np.testing.assert_array_equal(found.tokens[:, 0], full.tokens[:, 0])
  if fill == 'true_states':
    np.testing.assert_array_equal(found.tokens, full.tokens)
  else:
    assert (found.tokens != full.tokens).any()


@one_kind
def test_what_fills_the_cache_makes_a_difference(exiting):
  rule = Confident(confidence.classifier, 0.5)
  tokens = [decode(exiting, rule, fill=fill).tokens for fill in all_layers.FILLS]
  for i, one in enumerate(tokens):
    assert all((one != other).any() for other in tokens[:i])


@one_kind
def test_impossible_rules_are_refused(tiny):
  with pytest.raises(ValueError, match='train one'):
    generator.Generator(tiny.model, STEPS, rule=Confident(confidence.classifier, 0.5))
  with pytest.raises(ValueError, match='layer must be a layer of the model, from 1 to 3, not 4'):
    generator.Generator(tiny.model, STEPS, rule=FixedLayer(4))
  two = thresholds.PerLayer([0.5, 0.5])
  with pytest.raises(ValueError, match='2 thresholds for 3 decoder layers'):
    generator.Generator(tiny.model, STEPS, rule=Confident(confidence.softmax_margin, two))
  with pytest.raises(ValueError, match=r"fill must be one of exit_state, .* not 'nothing'"):
    generator.Generator(tiny.model, STEPS, fill='nothing')
