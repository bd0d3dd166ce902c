"""Likely words: which they are, what their logits are, and how many logits a token takes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.decoding import generator, shortlist
from calm.exits import confidence, rules

VOCAB, DIM, ROWS = 10, 4, 3  # Three blocks, the last of two words.
RNG = np.random.default_rng(2)
KERNEL = RNG.normal(size=(DIM, VOCAB)).astype(np.float32)
HIDDEN = RNG.normal(size=(2, ROWS, DIM)).astype(np.float32)
NEEDS = ('shortlist_logits',)
HEAD = types.SimpleNamespace(
  vocab_size=VOCAB,
  head=lambda hidden: hidden @ KERNEL,
  head_of_words=lambda hidden, first, count: (
    hidden @ jax.lax.dynamic_slice_in_dim(jnp.asarray(KERNEL), first, count, axis=1)
  ),
)
one_kind = pytest.mark.parametrize('tiny', ['t5_1_1'], indirect=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Two of three blocks of four words are likely; the tiny model's vocabulary has ten blocks."""
  monkeypatch.setattr(shortlist, 'BLOCK', 4)
  monkeypatch.setattr(shortlist, 'NUM_BLOCKS', 2)


def evidence(hidden):
  """What a layer gave."""
  position = jnp.zeros(ROWS, jnp.int32)
  return rules.Evidence(1, 3, position, hidden=jnp.asarray(hidden), previous=jnp.asarray(hidden))


def look(hidden, rows, prediction):
  """The prediction after one more layer."""
  seen = evidence(hidden)
  return shortlist.logits_for_rule(HEAD, NEEDS, seen, jnp.asarray(rows), prediction)[1]


@pytest.fixture(params=[1, 99], ids=['whole_head', 'own_blocks'])
def nothing(request, monkeypatch):
  """What a step begins with, for many rows (who share one head) and for few."""
  monkeypatch.setattr(shortlist, '_MANY_ROWS', request.param)
  return shortlist.init(HEAD, NEEDS, ROWS)


def assert_blocks_of(logits, expected, words):
  """The head's logits for `words` of each row, and -inf for all others."""
  for row, wanted, self_kv in zip(np.asarray(logits), expected, words, strict=True):
    others = sorted(set(range(VOCAB)) - set(self_kv))
    np.testing.assert_allclose(row[self_kv], wanted[self_kv], rtol=1e-5)
    assert np.isneginf(row[others]).all()


def likely(logits):
  """The words of the two blocks of largest logits."""
  blocks = [range(0, 4), range(4, 8), range(8, 10)]
  worst = np.argmin([logits[list(block)].max() for block in blocks])
  return [word for block in blocks if block != blocks[worst] for word in block]


def test_the_first_layer_says_which_words_are_likely_and_later_ones_what_they_score(nothing):
  first, second = HIDDEN @ KERNEL
  words = [likely(row) for row in first]
  prediction = look(HIDDEN[0], [True] * ROWS, nothing)
  assert_blocks_of(prediction.logits, first, words)
  prediction = look(HIDDEN[1], [True] * ROWS, prediction)
  assert_blocks_of(prediction.logits, second, words)
  np.testing.assert_array_equal(prediction.num_logits, VOCAB + 8)


def test_a_row_chooses_its_words_at_the_layer_that_first_asks_for_it(nothing):
  first, second = HIDDEN @ KERNEL
  prediction = look(HIDDEN[0], [True, False, True], nothing)
  prediction = look(HIDDEN[1], [False, True, True], prediction)
  words = [likely(first[0]), likely(second[1]), likely(first[2])]
  assert likely(second[1]) != likely(first[1])
  assert_blocks_of(prediction.logits, second, words)
  np.testing.assert_array_equal(prediction.num_logits, [VOCAB, VOCAB, VOCAB + 8])


def test_rows_of_which_no_layer_was_sure_take_the_whole_head(nothing):
  prediction = look(HIDDEN[0], [True] * ROWS, nothing)
  undecided = jnp.array([False, True, False])
  logits, num_logits = shortlist.predict(HEAD, HIDDEN[1], undecided, prediction)
  np.testing.assert_allclose(logits[1], HIDDEN[1][1] @ KERNEL, rtol=1e-5)
  assert np.isneginf(np.asarray(logits)[[0, 2]]).any(-1).all()
  np.testing.assert_array_equal(num_logits, [VOCAB, 2 * VOCAB, VOCAB])


def test_likely_words_hold_the_likeliest_of_the_first_layer(nothing):
  # NUM_BLOCKS blocks of largest logits hold the NUM_BLOCKS likeliest words.
  prediction = look(HIDDEN[0], [True] * ROWS, nothing)
  best = np.argsort(HIDDEN[0] @ KERNEL, -1)[:, -shortlist.NUM_BLOCKS :]
  assert np.isfinite(np.take_along_axis(np.asarray(prediction.logits), best, -1)).all()


@one_kind
@pytest.mark.parametrize(
  'measure', [confidence.shortlist_margin, confidence.Gated(gate_threshold=0.6)]
)
def test_a_row_is_the_same_alone_and_beside_others(tiny, measure):
  run = jax.jit(generator.decode, static_argnames=('model', 'max_decode_steps'))
  rule = rules.Confident(measure, 0.5)

  def decode(rows):
    inputs = tiny.inputs[rows]
    return jax.device_get(run(tiny.model, tiny.params, inputs, max_decode_steps=9, rule=rule))

  together = decode(slice(0, 12))
  # Some tokens took a few words at later layers, some the whole head once more.
  assert {37, 37 + 8} <= set(np.unique(together.num_logits))
  assert together.num_logits.max() > 2 * 37
  for row in range(4):
    alone = decode(slice(row, row + 1))
    for name in ('tokens', 'exit_layer', 'num_logits'):
      np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[row])
