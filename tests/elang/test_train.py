"""A head is trained in a workdir, goes on where it stopped, and is what a router asks first."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from calm.decoding import generator, text_predictor
from calm.models import t5
from calm.tasks.examples import Example
from calm.training import checkpoints
from elang import head_score, heads, train

MODEL = t5.T5(t5.T5Config(259, 8, 2, 4, 8, 1, 1))


@dataclasses.dataclass
class Stream:
  """Texts of one letter, every other of them in each of two classes."""

  step: int = 0

  def __next__(self):
    self.step += 1
    letters = np.arange(8) + ord('a') + 3
    tokens = np.stack([letters, np.ones(8)], 1).astype(np.int32)
    labels = np.where(letters % 2, ord('y') + 3, ord('n') + 3)
    return {
      'encoder_input_tokens': tokens,
      'decoder_target_tokens': np.stack([labels, np.ones(8)], 1).astype(np.int32),
    }

  def get_state(self):
    return {'step': self.step}

  def set_state(self, state):
    self.step = state['step']


@dataclasses.dataclass(frozen=True)
class Stage:
  params: Any
  vocabulary: Any
  model: t5.T5 = MODEL
  batches: Stream = dataclasses.field(default_factory=Stream)


@pytest.fixture(scope='module')
def stage():
  """A T5 with its vocabulary of bytes."""
  seqio = pytest.importorskip('seqio')
  return Stage(jax.jit(MODEL.init_params)(jax.random.key(0)), seqio.ByteVocabulary())


def test_a_head_is_trained_written_and_asked(stage, tmp_path):
  settings = {'workdir': str(tmp_path), 'stage': stage, 'labels': ('n', 'y')}
  train.train_head(**settings, num_steps=2)
  head, params = train.train_head(**settings, num_steps=4)
  assert checkpoints.steps(tmp_path)[-1] == 4
  assert head == heads.EnergyHead(2)
  assert float(np.abs(params['kernel']).max()) > 0
  np.testing.assert_allclose(np.sum(params['kernel'], 1), 0, atol=1e-6)
  kept = checkpoints.restore_params(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, kept['encoder'], stage.params['encoder'])
  assert 'decoder' not in kept

  made = generator.Generator(MODEL, 2)
  decoder = text_predictor.TextPredictor(made, stage.params, stage.vocabulary, 8, batch_size=2)
  model = head_score.of_run('swift', decoder, str(tmp_path))
  texts = [Example(i, f'{i}', {'inputs': text}, '', {}) for i, text in enumerate('ab')]
  tokens = np.array([[ord('a') + 3, 1], [ord('b') + 3, 1]], np.int32)
  encoded = heads.encode(MODEL, stage.params, tokens)
  expected = head.score(params, encoded, tokens > 0)
  np.testing.assert_allclose(model.ask(texts).scores, expected, rtol=1e-5)
  assert model.costs_of_asking(texts[0], {})['flops'] > 2 * 8 * 2


def test_a_head_of_another_width_is_refused(stage, tmp_path):
  heads.save(
    tmp_path / heads.FILE, heads.EnergyHead(2), {'kernel': np.ones((9, 2)), 'bias': np.ones(2)}
  )
  made = generator.Generator(MODEL, 2)
  decoder = text_predictor.TextPredictor(made, stage.params, stage.vocabulary, 8)
  with pytest.raises(ValueError, match='is for encoders 9 wide, and swift is 8'):
    head_score.of_run('swift', decoder, str(tmp_path))
