"""Heads on a frozen encoder: what they compute, what training changes, and what a decoder sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calm.decoding import generator, text_predictor
from calm.models import t5
from calm.tasks.examples import Example
from calm.training import optimizers
from elang import compared, heads
from elang.black_box import BlackBox
from elang.head_score import EncoderScored
from elang.heads import EnergyHead, EnergyHeadObjective
from elang.remembered import Remembered
from elang.routing import Router

CONFIG = t5.T5Config(259, 8, 2, 4, 8, 1, 2)
MODEL = t5.T5(CONFIG)
ENCODED = jnp.array([[[1.0, 2], [3, 4], [9, 9]], [[5, 6], [7, 7], [7, 7]]])
MASK = np.array([[True, True, False], [True, False, False]])
KERNEL = {'kernel': jnp.array([[1.0, 0, -1], [0, 1, 1]]), 'bias': jnp.array([0.0, 0, 1])}
CLASSES = ((7, 1), (9, 1))


@pytest.fixture(scope='module')
def params():
  """Of a tiny T5."""
  return jax.jit(MODEL.init_params)(jax.random.key(0))


@pytest.fixture(scope='module')
def batch():
  """Texts of one word each, and the class that follows from it; the last row has none."""
  words = np.array([11, 12, 13, 14, 15, 16])
  tokens = np.stack([words, np.full(6, 20), np.ones(6)], 1).astype(np.int32)
  targets = np.array([[7, 1, 0], [9, 1, 0], [7, 1, 0], [9, 1, 0], [7, 1, 0], [7, 9, 1]], np.int32)
  return {'encoder_input_tokens': tokens, 'decoder_target_tokens': targets}


def trained(objective, params, batch, steps=60):
  """The parameters before and after training the head, and the losses."""
  optimizer = optimizers.train_only(
    optimizers.Optimizer(optax.adam(0.05), lambda step: 0.05), heads.HEAD
  ).transformation
  before = objective.begin(params, jax.random.key(1))

  @jax.jit
  def step(params, state, key):
    (loss, sums), gradient = jax.value_and_grad(objective, has_aux=True)(params, batch, key)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss, sums, gradient

  after, state, found = before, optimizer.init(before), []
  for number in range(steps):
    after, state, loss, sums, gradient = step(after, state, jax.random.key(number))
    found.append(float(loss))
  return before, after, found, sums, gradient


def test_a_pooled_head_sees_the_mean_of_the_states_that_are_there():
  head = EnergyHead(3)
  logits = head.logits(KERNEL, ENCODED, MASK)
  np.testing.assert_allclose(logits, [[2, 3, 2], [5, 6, 2]])
  expected = np.logaddexp.reduce(logits, axis=-1)
  np.testing.assert_allclose(head.score(KERNEL, ENCODED, MASK), expected, rtol=1e-6)
  first = dataclasses.replace(head, pooling='first')
  np.testing.assert_allclose(first.logits(KERNEL, ENCODED, MASK)[0], [1, 2, 2])


def test_an_aligned_head_sees_each_position_and_takes_the_mean_of_their_energies():
  head = EnergyHead(3, 'aligned')
  logits = np.array(head.logits(KERNEL, ENCODED, MASK))
  assert logits.shape == (2, 3, 3)
  energies = np.logaddexp.reduce(logits, axis=-1)
  expected = [energies[0, :2].mean(), energies[1, 0]]
  np.testing.assert_allclose(head.score(KERNEL, ENCODED, MASK), expected, rtol=1e-6)


def test_a_head_over_a_vocabulary_costs_as_much_as_eq_8_says():
  # 64 positions of a T5 small.
  assert EnergyHead(32128, 'aligned').flops(64, 512) == pytest.approx(2.1e9, rel=0.01)
  assert EnergyHead(32128).flops(64, 512) == 2 * 512 * 32128


@pytest.mark.parametrize('start', ['zero', 'normal'])
def test_training_changes_the_head_alone_and_not_the_sum_of_its_classes(params, batch, start):
  head = EnergyHead(2, start=start, stddev=1.0)
  objective = EnergyHeadObjective(MODEL, head, CLASSES)
  before, after, losses, sums, _ = trained(objective, params, batch)
  assert set(before) == {'token_embedder', 'encoder', heads.HEAD}
  assert losses[-1] < 0.5 * losses[0]
  assert float(sums['weight']) == 5
  assert float(sums['accuracy']) >= 4
  for name in heads.ENCODER:
    jax.tree.map(np.testing.assert_array_equal, after[name], before[name])
  total = [tree[heads.HEAD]['kernel'].sum(1) for tree in (before, after)]
  np.testing.assert_allclose(*total, atol=1e-4)
  assert bool(np.abs(total[0]).max() == 0) is (start == 'zero')


def test_nothing_flows_back_into_the_encoder(params, batch):
  objective = EnergyHeadObjective(MODEL, EnergyHead(2, start='normal'), CLASSES)
  *_, gradient = trained(objective, params, batch, steps=1)
  assert all(
    (leaf == 0).all() for name in heads.ENCODER for leaf in jax.tree.leaves(gradient[name])
  )
  assert float(jnp.abs(gradient[heads.HEAD]['kernel']).max()) > 0


def test_margins_fix_what_cross_entropy_does_not_see(params, batch):
  objective = EnergyHeadObjective(
    MODEL, EnergyHead(2), CLASSES, margins=(3.0, -3.0), margin_weight=1.0
  )
  before, after, *_ = trained(objective, params, batch)
  change = (after[heads.HEAD]['kernel'] - before[heads.HEAD]['kernel']).sum(1)
  assert float(jnp.abs(change).max()) > 0.1


@pytest.mark.parametrize('positions', ['pooled', 'aligned'])
def test_of_text_to_text_the_words_of_the_target_are_predicted(batch, params, positions):
  head = EnergyHead(21, positions, start='normal')
  objective = EnergyHeadObjective(MODEL, head)
  given = objective.begin(params, jax.random.key(2))
  loss, sums = objective(given, batch)
  tokens, targets = batch['encoder_input_tokens'], batch['decoder_target_tokens']
  encoded = heads.encode(MODEL, given, tokens)
  log_probs = jax.nn.log_softmax(head.logits(given[heads.HEAD], encoded, tokens > 0))
  expected = 0.0
  for row, words in enumerate(targets):
    there = [word for word in words if word]
    at = [log_probs[row, m] if positions == 'aligned' else log_probs[row] for m in range(3)]
    expected -= np.mean([at[m][word] for m, word in enumerate(there)])
  assert float(loss) == pytest.approx(float(expected), rel=1e-5)
  assert float(sums['weight']) == 6


def test_shuffled_rows_keep_their_words_and_their_length():
  tokens = jnp.array([[5, 6, 7, 1, 0, 0], [8, 1, 0, 0, 0, 0]])
  found = heads.shuffled(tokens, jax.random.key(0))
  np.testing.assert_array_equal(np.sort(found), np.sort(tokens))
  np.testing.assert_array_equal(found > 0, tokens > 0)


def test_a_head_is_saved_and_read(tmp_path):
  head = EnergyHead(3, temperature=2.0)
  heads.save(tmp_path / 'head.safetensors', head, KERNEL)
  again, params = heads.load(tmp_path / 'head.safetensors')
  assert again == head
  jax.tree.map(np.testing.assert_array_equal, params, KERNEL)
  (tmp_path / 'other').write_bytes(b'{}')
  with pytest.raises(ValueError, match='is no energy head'):
    heads.load(tmp_path / 'other')


def test_classes_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='2 classes for a head of 3'):
    EnergyHeadObjective(MODEL, EnergyHead(3), CLASSES)
  with pytest.raises(ValueError, match="not 'aligned'"):
    EnergyHeadObjective(MODEL, EnergyHead(2, 'aligned'), CLASSES)


def test_a_decoder_never_sees_what_its_head_passes_on(params, monkeypatch):
  seqio = pytest.importorskip('seqio')
  head = EnergyHead(5, start='normal', stddev=1.0)
  head_params = head.init(jax.random.key(3), CONFIG.emb_dim)
  made = generator.Generator(MODEL, 3)
  decoder = text_predictor.TextPredictor(made, params, seqio.ByteVocabulary(), 16, batch_size=4)
  swift = EncoderScored(name='swift', predictor=decoder, head=head, params=head_params)
  texts = ['seven', 'a', 'of', 'best', 'x y z', 'last one']
  examples = [Example(i, f'{i}', {'inputs': text}, '', {}) for i, text in enumerate(texts)]
  scores = swift.ask(examples).scores
  assert len(set(scores)) == 6
  alone = [swift.ask([example]).scores[0] for example in examples[:2]]
  np.testing.assert_allclose(scores[:2], alone, rtol=1e-5)
  seen = []
  call = text_predictor.TextPredictor.__call__

  def counted(self, examples, encoded=None):
    seen.extend(example.texts['inputs'] for example in examples)
    return call(self, examples, encoded)

  monkeypatch.setattr(text_predictor.TextPredictor, '__call__', counted)
  large = BlackBox(name='large', version='1', function=lambda given: ['large'] * len(given))
  threshold = float(np.sort(scores)[2])
  rows = Router((swift, large), threshold)(examples)
  kept = [text for text, score in zip(texts, scores, strict=True) if score >= threshold]
  assert seen == kept
  assert len(kept) == 4
  alone = {text: row for text, row in zip(texts, swift.answer(examples), strict=True)}
  for text, row in zip(texts, rows, strict=True):
    assert row['prediction'] == (alone[text]['prediction'] if text in kept else 'large')
  seen.clear()
  remembering = Router((Remembered(swift, 9), Remembered(large, 9)))
  for at in (threshold, float(np.sort(scores)[1]), float(np.sort(scores)[0]), threshold):
    rows = remembering.at(at)(examples)
    answered = [row['prediction'] for row in rows if row['model'] == 'swift']
    expected = zip(texts, scores, strict=True)
    assert answered == [alone[text]['prediction'] for text, score in expected if score >= at]
  assert sorted(seen) == sorted(texts)
  # A recording tells of all texts what other scores could be made of, beside the head's own.
  recorded = [row['models'][0] for row in Router((swift, large)).recording(examples)]
  found = compared.scores_of(recorded, examples)
  np.testing.assert_allclose(found['score'], scores, rtol=1e-5)
  said = [alone[text]['log_prob'] / alone[text]['units'] for text in texts]
  np.testing.assert_allclose(found['log-probability'], said, rtol=1e-4)
  assert np.isfinite(found['decoder energy']).all()
