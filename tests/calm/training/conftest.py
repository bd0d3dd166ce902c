"""A tiny T5 and a stream of made-up batches, shared by the tests of this folder."""

import numpy as np
import pytest

from calm.models import t5
from calm.training import losses, optimizers

CONFIG = t5.T5Config(19, 8, 2, 3, 11, 1, 3, dropout_rate=0.1)


class Stream:
  """Batches of 8 rows that follow from their number; the state is that number."""

  def __init__(self, num_rows=8, seed=0):
    self.number, self.num_rows, self.seed = 0, num_rows, seed

  def __next__(self):
    rng = np.random.default_rng((self.seed, self.number))
    self.number += 1
    inputs = rng.integers(2, 19, (self.num_rows, 5)).astype(np.int32)
    targets = inputs[:, ::-1].copy()
    weights = (np.arange(5) < rng.integers(2, 6, (self.num_rows, 1))).astype(np.int32)
    targets *= weights
    return {
      'encoder_input_tokens': inputs,
      'encoder_segment_ids': np.ones_like(inputs),
      'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_target_tokens': targets,
      'decoder_segment_ids': weights,
      'decoder_loss_weights': weights,
    }

  def get_state(self):
    return {'number': self.number}

  def set_state(self, state):
    self.number = state['number']


@pytest.fixture
def stream():
  """A fresh Stream."""
  return Stream()


@pytest.fixture
def objective():
  """Eq. 6 over a T5 of three decoder layers, with dropout."""
  return losses.EncoderDecoderObjective(t5.T5(CONFIG))


@pytest.fixture
def adam():
  """AdamW with a constant learning rate."""
  return optimizers.adamw(1e-2)
