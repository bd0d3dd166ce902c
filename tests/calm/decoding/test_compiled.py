"""What XLA makes of the decoding loop: caches updated in place, code for other platforms."""

import functools
import math
import re

import jax
import jax.export
import jax.numpy as jnp
import pytest

from calm.decoding import generator
from calm.exits import confidence, rules, thresholds
from calm.models import t5

pytestmark = pytest.mark.usefixtures('optimized_hlo')
LAYERS, LENGTH = 3, 64
CONFIG = t5.published(
  't5_1_1_small',
  num_encoder_layers=1,
  num_decoder_layers=LAYERS,
  vocab_size=512,
  exit_classifier=True,
)
PARAMS = jax.eval_shape(t5.T5(CONFIG).init_params, jax.random.key(0))
RULES = {
  'full': rules.NeverExit(),
  'state': rules.Confident(confidence.state_saturation, 0.9),
  'classifier': rules.Confident(confidence.classifier, thresholds.Decaying(0.9, 4.0, LENGTH)),
  'softmax': rules.Confident(confidence.softmax_margin, 0.9),
  'likely': rules.Confident(confidence.shortlist_margin, 0.9),
  'gated': rules.Confident(confidence.Gated(), 0.9),
}
decode = jax.jit(
  functools.partial(generator.decode, t5.T5(CONFIG), max_decode_steps=LENGTH),
  static_argnames='fill',
)


def copies_in_the_loop(rule, batch_size):
  """Copies as large as a cache in the compiled loop and its branches."""
  inputs = jax.ShapeDtypeStruct((batch_size, LENGTH), jnp.int32)
  text = decode.lower(PARAMS, inputs, rule=rule).compile().as_text()
  cache_size = batch_size * CONFIG.num_heads * CONFIG.head_dim * LENGTH
  found, computation = [], ''
  for line in text.splitlines():
    if re.match(r'^(%|ENTRY).*\{$', line):
      computation = line.split(maxsplit=1)[0]
    copy = re.search(r'= \w+\[([\d,]+)\]\S* copy\(', line)
    # Loop bodies and branches are called regions; the rest runs once per sequence.
    if copy and 'region' in computation:
      found += [line] * (math.prod(map(int, copy[1].split(','))) >= cache_size)
  return len(found)


@pytest.mark.parametrize('name', RULES)
def test_the_loop_copies_no_cache(name):
  assert copies_in_the_loop(RULES[name], 8) == 0


@pytest.mark.parametrize('name', ['full', 'state'])
def test_at_batch_1_there_are_eight_copies_per_layer(name):
  # XLA writes each new column twice there, once for the next step and once for the product, which
  # it frees of the axis of length 1: two caches, four copies each.
  assert copies_in_the_loop(RULES[name], 1) <= 8 * LAYERS


@pytest.mark.parametrize('name', RULES)
def test_decoding_lowers_for_tpu_and_gpu(name):
  inputs = jax.ShapeDtypeStruct((2, LENGTH), jnp.int32)
  exported = jax.export.export(decode, platforms=['tpu', 'cuda'])(PARAMS, inputs, rule=RULES[name])
  assert exported.platforms == ('tpu', 'cuda')
