"""In bfloat16, too, layers that a step may skip compute what they compute in any other step."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from calm.decoding import all_layers, generator
from calm.exits import confidence
from calm.exits.rules import Confident, FixedLayer, NeverExit
from calm.models import t5

pytestmark = [
  pytest.mark.parametrize('tiny', ['t5_1_1'], indirect=True),
]
ROWS, STEPS, PROMPT = 256, 13, 5
STATE = Confident(confidence.state_saturation, 0.6)
MANY = 0.02  # Of all rows; with excess precision 15 % depend on their batch.


@pytest.fixture
def low(tiny):
  """The fixture's model in bfloat16, and more rows."""
  config = dataclasses.replace(tiny.model.config, dtype='bfloat16')
  rng = np.random.default_rng(6)
  inputs = rng.integers(2, config.vocab_size, (ROWS, 11), dtype=np.int32)
  inputs = jnp.asarray(np.where(np.arange(11) < rng.integers(1, 12, (ROWS, 1)), inputs, 0))
  return dataclasses.replace(tiny, model=t5.T5(config), inputs=inputs)


NEVER = NeverExit()


def decode(low, rule=NEVER, inputs=None, prompts=None, steps=STEPS):
  """What the rows, or others, give under a rule, as NumPy arrays."""
  run = generator.Generator(low.model, steps, rule=rule)
  inputs = low.inputs if inputs is None else inputs
  return jax.device_get(run(low.params, inputs, prompts=prompts))


def assert_same(found, expected):
  """Tokens, exit layers and log-probabilities, bit for bit."""
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
  np.testing.assert_array_equal(found.log_prob, expected.log_prob)


def test_a_threshold_that_nothing_reaches_gives_the_full_model(low):
  never = dataclasses.replace(STATE, threshold=2.0)  # One program with what does exit.
  full = decode(low)
  assert_same(decode(low, never), full)
  assert full.log_prob.dtype == np.float32
  assert np.isfinite(full.log_prob).all()


@pytest.mark.parametrize('layer', [1, 2])
def test_a_fixed_layer_is_the_model_of_so_many_layers(low, layer):
  config = dataclasses.replace(low.model.config, num_decoder_layers=layer)
  short = dataclasses.replace(low, model=t5.T5(config))
  assert_same(decode(low, FixedLayer(layer)), decode(short))


def test_running_only_what_is_needed_equals_running_all_layers(low, monkeypatch):
  found = decode(low, STATE)
  assert set(np.unique(found.exit_layer)) >= {0, 2, 3}
  monkeypatch.setattr(generator, '_start', all_layers.all_layers)
  plain = jax.jit(
    lambda params, inputs: generator.decode(
      low.model, params, inputs, max_decode_steps=STEPS, rule=STATE
    ),
    compiler_options=generator.ROUNDING,
  )
  assert_same(found, jax.device_get(plain(low.params, low.inputs)))


def test_hardly_a_row_depends_on_its_batch(low):
  batch_size = 32
  together = decode(low, STATE)
  alone = [
    decode(low, STATE, low.inputs[first : first + batch_size])
    for first in range(0, ROWS, batch_size)
  ]
  alone = jax.tree.map(lambda *parts: np.concatenate(parts), *alone)
  differs = (alone.tokens != together.tokens) | (alone.exit_layer != together.exit_layer)
  assert differs.any(-1).mean() <= MANY


def test_hardly_a_row_depends_on_where_its_prompt_was_read(low):
  whole = decode(low)
  said = (whole.tokens[:, :PROMPT] > 1).all(-1)
  assert said.sum() > ROWS // 5
  prompts = jnp.asarray(whole.tokens[:, :PROMPT])
  rest = decode(low, prompts=prompts, steps=STEPS - PROMPT)
  differs = (rest.tokens != whole.tokens)[said].any(-1)
  assert differs.mean() <= MANY


def test_decoding_lowers_for_tpu_and_gpu(low):
  run = functools.partial(generator.decode, low.model, max_decode_steps=STEPS, rule=STATE)
  exported = jax.export.export(
    jax.jit(run, compiler_options=generator.ROUNDING), platforms=['tpu', 'cuda']
  )(low.params, low.inputs)
  assert exported.platforms == ('tpu', 'cuda')
