"""Decoding with a cache against the teacher-forced forward pass, row by row and batch by batch."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from calm.decoding import cache, generator, sampling, step
from calm.exits import confidence, rules, thresholds

ROWS, STEPS, PROMPT = 32, 13, 5
EOS = 1

# Most facts concern the loop and not the network: one kind of T5 shows them.
one_kind = pytest.mark.parametrize('tiny', ['t5_1_1'], indirect=True)


@functools.partial(jax.jit, static_argnames='model')
def states_of(model, params, encoder_input_tokens, targets):
  """Teacher-forced states [L, B, T, D] and their logits [L, B, T, V] for targets[B, T]."""
  shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  variables = {'params': params}
  # A generated 0 is a token like others, so padding is not told by the targets here.
  present = jnp.ones_like(targets)
  states = jnp.stack(model.apply(variables, encoder_input_tokens, shifted, present))
  return states, model.apply(variables, states, method='head')


def log_probs_of(tiny, decoded):
  """The full model's log-probabilities [B] of what was generated for the fixture's inputs."""
  _, logits = states_of(tiny.model, tiny.params, tiny.inputs, decoded.tokens[:, :STEPS])
  log_probs = np.asarray(jax.nn.log_softmax(logits[-1]))
  each = np.take_along_axis(log_probs, np.asarray(decoded.tokens)[..., None], -1)[..., 0]
  return (each * (np.asarray(decoded.exit_layer) > 0)).sum(-1)


def forced_greedy(tiny, prompts=None):
  """Greedy continuations int[B, STEPS] by a whole forward pass per token, without any cache."""
  prompts = np.zeros((ROWS, 0), np.int32) if prompts is None else np.asarray(prompts)
  tokens = np.pad(prompts, ((0, 0), (0, STEPS - prompts.shape[1])))
  lengths = (tokens > 0).sum(-1)
  done = (tokens == EOS).any(-1)
  for at in range(STEPS):
    _, logits = states_of(tiny.model, tiny.params, tiny.inputs, tokens)
    chosen = np.where(done, 0, np.asarray(logits)[-1, :, at].argmax(-1))
    tokens[:, at] = np.where(at < lengths, tokens[:, at], chosen)
    done |= tokens[:, at] == EOS
  return tokens


@pytest.fixture(scope='module')
def greedy(tiny):
  """The greedy decoder of the fixture and what it gives for all rows."""
  decode = generator.Generator(tiny.model, STEPS)
  return decode, jax.device_get(decode(tiny.params, tiny.inputs))


def test_greedy_equals_a_whole_forward_pass_per_token(tiny, greedy):
  np.testing.assert_array_equal(greedy[1].tokens, forced_greedy(tiny))


def test_log_prob_is_the_forward_passs(tiny, greedy):
  expected = log_probs_of(tiny, greedy[1])
  np.testing.assert_allclose(greedy[1].log_prob, expected, rtol=1e-5, atol=1e-5)


def test_the_fixture_has_rows_that_vary_and_end_at_different_steps(greedy):
  assert len(np.unique(greedy[1].tokens)) > 10
  assert len(np.unique((greedy[1].exit_layer > 0).sum(-1))) > 3


@pytest.mark.parametrize('prefilled', [0, PROMPT])
def test_cached_states_and_logits_of_every_layer_equal_the_forward_passs(tiny, prefilled):
  model, params, inputs = tiny.model, tiny.params, tiny.inputs
  rng = np.random.default_rng(6)
  targets = rng.integers(2, model.config.vocab_size, (ROWS, STEPS), dtype=np.int32)
  fed = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))

  @jax.jit
  def cached(params):
    source = step.prepare_source(model, params, inputs)
    layers = step.prepare_layers(model, params, source, jnp.zeros(ROWS, jnp.int32), STEPS)
    self_kv = cache.empty_cache(model.config, ROWS, STEPS)
    if prefilled:
      self_kv = step.prefill(layers, fed[:, :prefilled], self_kv)

    def one(self_kv, column):
      hidden = layers.embed(jax.lax.dynamic_slice_in_dim(fed, column, 1, axis=1))
      states, written = [], []
      for layer in range(layers.num_layers):
        written.append(layers.write(layer, hidden, column, self_kv[layer]))
        hidden = layers.attend(layer, hidden, column, written[-1])
        states.append(hidden[:, 0])
      states = jnp.stack(states)
      return tuple(written), (states, layers.head(states))

    return jax.lax.scan(one, self_kv, jnp.arange(prefilled, STEPS))[1]

  found = [np.moveaxis(array, 0, 2) for array in jax.device_get(cached(params))]
  for array, expected in zip(found, states_of(model, params, inputs, targets), strict=True):
    expected = np.asarray(expected)[:, :, prefilled:]
    np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@one_kind
def test_exit_layers_and_confidences_are_those_of_full_depth(greedy):
  decoded = greedy[1]
  ends = [list(row).index(EOS) if EOS in row else STEPS - 1 for row in decoded.tokens]
  generated = np.arange(STEPS) <= np.array(ends)[:, None]
  np.testing.assert_array_equal(decoded.exit_layer, np.where(generated, 3, 0))
  np.testing.assert_array_equal(decoded.confidence, generated.astype(np.float32))


@one_kind
@pytest.mark.parametrize('batch_size', [1, 7])
def test_rows_do_not_depend_on_their_batch(tiny, greedy, batch_size):
  decode, together = greedy
  for start in (0, 3):
    rows = slice(start, start + batch_size)
    decoded = decode(tiny.params, tiny.inputs[rows])
    np.testing.assert_array_equal(decoded.tokens, together.tokens[rows])
    np.testing.assert_array_equal(decoded.exit_layer, together.exit_layer[rows])
    np.testing.assert_allclose(decoded.log_prob, together.log_prob[rows], rtol=1e-4, atol=1e-5)


@one_kind
def test_padding_of_inputs_changes_nothing(tiny, greedy):
  decode, expected = greedy
  decoded = decode(tiny.params, jnp.pad(tiny.inputs, ((0, 0), (0, 6))))
  np.testing.assert_array_equal(decoded.tokens, expected.tokens)


@one_kind
def test_empty_rows_are_finished_before_they_start(tiny, greedy):
  decode, expected = greedy
  empty = np.arange(ROWS) % 3 == 1
  decoded = decode(tiny.params, jnp.where(empty[:, None], 0, tiny.inputs))
  for name in ('tokens', 'exit_layer', 'confidence', 'log_prob', 'sampling_log_prob'):
    assert not np.asarray(getattr(decoded, name))[empty].any(), name
  np.testing.assert_array_equal(decoded.tokens[~empty], expected.tokens[~empty])


@pytest.fixture(scope='module')
def continued(tiny):
  """Prompts of 0 to PROMPT tokens, one of them ended, and how they are continued."""
  rng = np.random.default_rng(8)
  prompts = rng.integers(2, tiny.model.config.vocab_size, (ROWS, PROMPT), dtype=np.int32)
  lengths = np.arange(ROWS) % (PROMPT + 1)
  prompts = np.where(np.arange(PROMPT) < lengths[:, None], prompts, 0)
  prompts[PROMPT, 2:] = [EOS, 0, 0]
  decode = generator.Generator(tiny.model, STEPS - PROMPT)
  return prompts, jax.device_get(decode(tiny.params, tiny.inputs, prompts=prompts))


@one_kind
def test_prompts_of_any_length_are_continued_as_by_the_forward_pass(tiny, continued):
  prompts, decoded = continued
  generated = np.arange(STEPS) < (prompts > 0).sum(-1, keepdims=True) + STEPS - PROMPT
  expected = np.where(generated, forced_greedy(tiny, prompts), 0)
  np.testing.assert_array_equal(decoded.tokens, expected)
  np.testing.assert_allclose(decoded.log_prob, log_probs_of(tiny, decoded), rtol=1e-5, atol=1e-5)


@one_kind
def test_prompts_come_first_and_count_for_nothing(continued):
  prompts, decoded = continued
  given = np.arange(STEPS) < (prompts > 0).sum(-1, keepdims=True)
  np.testing.assert_array_equal(decoded.tokens[given], prompts[prompts > 0])
  assert not decoded.exit_layer[given].any()
  assert not decoded.confidence[given].any()


@one_kind
def test_a_prompt_that_has_ended_is_left_as_it_is(continued):
  prompts, decoded = continued
  np.testing.assert_array_equal(decoded.tokens[PROMPT, :PROMPT], prompts[PROMPT])
  assert not decoded.tokens[PROMPT, PROMPT:].any()
  assert not decoded.exit_layer[PROMPT].any()
  assert decoded.log_prob[PROMPT] == 0


@one_kind
def test_a_greedy_output_is_continued_by_itself(tiny, greedy):
  tokens = greedy[1].tokens
  decode = generator.Generator(tiny.model, STEPS - PROMPT)
  decoded = decode(tiny.params, tiny.inputs, prompts=tokens[:, :PROMPT])
  # Prompts end at their first 0.
  rows = (tokens[:, :PROMPT] > 0).all(-1) | (tokens == EOS).any(-1)
  np.testing.assert_array_equal(decoded.tokens[rows], tokens[rows])


@one_kind
def test_max_decode_steps_is_the_most_that_is_generated(tiny, greedy):
  decoded = generator.Generator(tiny.model, 4)(tiny.params, tiny.inputs)
  np.testing.assert_array_equal(decoded.tokens, greedy[1].tokens[:, :4])


@one_kind
def test_samples_stand_side_by_side_and_temperature_0_is_greedy_without_a_key(tiny, greedy):
  decode = generator.Generator(tiny.model, STEPS, sampling.Sampling(0.0, num_samples=2))
  assert not decode.draws
  decoded = decode(tiny.params, tiny.inputs)
  np.testing.assert_array_equal(decoded.tokens, greedy[1].tokens.repeat(2, axis=0))
  np.testing.assert_array_equal(decoded.sampling_log_prob, np.zeros(2 * ROWS))


def drawing(tiny, temperature=3.0, top_k=30, top_p=0.99):
  """A decoder that draws three samples per input, from nearly flat distributions."""
  rule = sampling.Sampling(temperature, top_k, top_p, num_samples=3)
  return generator.Generator(tiny.model, STEPS, rule)


@pytest.fixture(scope='module')
def samples(tiny):
  """Three samples of each row, by key 0."""
  return jax.device_get(drawing(tiny)(tiny.params, tiny.inputs, key=jax.random.key(0)))


@one_kind
def test_samples_differ_and_their_log_probs_are_the_models(tiny, samples):
  assert samples.tokens.shape == (3 * ROWS, STEPS)
  different = [len(np.unique(three, axis=0)) for three in samples.tokens.reshape(ROWS, 3, STEPS)]
  assert sum(different) > 2 * ROWS
  for sample in range(3):
    decoded = jax.tree.map(lambda array, sample=sample: array[sample::3], samples)
    expected = log_probs_of(tiny, decoded)
    np.testing.assert_allclose(decoded.log_prob, expected, rtol=1e-5, atol=1e-5)


@one_kind
def test_draws_depend_on_a_rows_key_wherever_it_stands(tiny, samples):
  keys = generator.row_keys(jax.random.key(0), jnp.arange(ROWS))
  mixed = drawing(tiny)(tiny.params, tiny.inputs[::-1], key=keys[::-1])
  expected = samples.tokens.reshape(ROWS, 3, STEPS)[::-1].reshape(3 * ROWS, STEPS)
  np.testing.assert_array_equal(mixed.tokens, expected)


@one_kind
def test_draws_do_not_depend_on_other_prompts_lengths(tiny):
  decode = generator.Generator(tiny.model, 4, sampling.Sampling(3.0))
  short = np.array([[5, 6, 0, 0]] * 7)
  longer = short.copy()
  longer[1:, 2:] = 7
  outputs = [
    decode(tiny.params, tiny.inputs[:7], prompts=prompts, key=jax.random.key(0))
    for prompts in (short, longer)
  ]
  np.testing.assert_array_equal(outputs[0].tokens[0], outputs[1].tokens[0])


@one_kind
def test_drawing_without_a_key_is_an_error(tiny):
  with pytest.raises(ValueError, match='Sampling needs a key'):
    drawing(tiny)(tiny.params, tiny.inputs)


@one_kind
def test_settings_out_of_range_are_named(tiny):
  with pytest.raises(
    ValueError, match='max_decode_steps must be a whole number of at least 1, not 0'
  ):
    generator.Generator(tiny.model, 0)
  with pytest.raises(ValueError, match='temperature'):
    generator.Generator(tiny.model, 8, sampling.Sampling(-1))


@one_kind
def test_other_numbers_compile_nothing_anew(tiny, greedy, samples):
  compiled = generator._decode._cache_size()
  drawing(tiny, 0.9, 9, 0.4)(tiny.params, tiny.inputs, key=jax.random.key(1))
  generator.Generator(dataclasses.replace(tiny.model), STEPS)(tiny.params, tiny.inputs)
  assert generator._decode._cache_size() == compiled


WRITTEN = [
  1,
  1.0,
  np.float32(1),
  np.float64(1),
  np.array(1, np.float32),
  jnp.float32(1),
  np.int64(1),
]


@one_kind
def test_however_a_number_is_written_it_compiles_nothing_anew(tiny):
  def decode(one):
    threshold = thresholds.Decaying(one, one, one)
    rule = rules.Confident(confidence.state_saturation, threshold, np.int32(one))
    generate = generator.Generator(tiny.model, 2, sampling.Sampling(one, int(one), one), rule=rule)
    return generate(tiny.params, tiny.inputs[:2], key=jax.random.key(0)).tokens

  first = decode(WRITTEN[0])
  compiled = generator._decode._cache_size()
  for one in WRITTEN[1:]:
    np.testing.assert_array_equal(decode(one), first)
  assert generator._decode._cache_size() == compiled


@one_kind
def test_a_bare_threshold_is_compiled_as_a_constant_one(tiny):
  def decode(threshold):
    rule = rules.Confident(confidence.state_saturation, threshold)
    generator.Generator(tiny.model, 2, rule=rule)(tiny.params, tiny.inputs[:2])
    return generator._decode._cache_size()

  compiled = decode(1)
  assert {decode(one) for one in [*WRITTEN, thresholds.Constant(0.5), thresholds.Constant(0)]} == {
    compiled
  }


@one_kind
@pytest.mark.parametrize('rule', [sampling.Greedy(), sampling.Sampling(0.7, 5, 0.9, 2)])
def test_decoding_lowers_for_tpu_and_gpu(tiny, rule):
  prompts = jnp.zeros((7, 3), jnp.int32)
  keys = generator.row_keys(jax.random.key(0), jnp.arange(7))
  run = functools.partial(generator.decode, tiny.model, max_decode_steps=8, sampling=rule)
  exported = jax.export.export(
    jax.jit(lambda params, inputs: run(params, inputs, prompts=prompts, keys=keys)),
    platforms=['tpu', 'cuda'],
  )(tiny.params, tiny.inputs[:7])
  assert exported.platforms == ('tpu', 'cuda')


@one_kind
def test_cache_bytes_counts_the_arrays(tiny):
  config = tiny.model.config
  self_kv = cache.empty_cache(config, 7, 11)
  prepare = functools.partial(step.prepare_source, tiny.model)
  source = jax.eval_shape(prepare, tiny.params, tiny.inputs[:7, :5])
  held = [array.size * array.dtype.itemsize for array in jax.tree.leaves((self_kv, source.cross))]
  assert cache.cache_bytes(config, 7, 11, 5) == sum(held)
