"""A tiny encoder with three exits, and a batch for it."""

import jax
import numpy as np
import pytest

from calm.models import bert
from sweet.model import ExitsConfig


@pytest.fixture(scope='session')
def config():
  """Exits after layers 1, 2 and 4 of a BERT 16 wide, three labels."""
  encoder = bert.BertConfig(
    vocab_size=31, emb_dim=16, num_heads=2, mlp_dim=24, num_layers=4, max_length=32
  )
  return ExitsConfig(encoder, exits=(1, 2, 4), num_outputs=3)


@pytest.fixture(scope='session')
def batch():
  """Five rows of up to seven tokens, the last of them without weight."""
  lengths = np.array([3, 7, 5, 1, 0], np.int32)
  places = np.arange(8)
  tokens = np.where(places < lengths[:, None], 1 + (7 * places + lengths[:, None]) % 30, 0)
  return {
    'tokens': tokens.astype(np.int32),
    'token_types': (places >= 2).astype(np.int32) * (tokens > 0),
    'lengths': lengths,
    'labels': np.array([0, 1, 2, 1, 0], np.int32),
    'weights': np.array([1, 1, 1, 1, 0], np.float32),
    'batch_number': np.zeros(5, np.int32),
  }


@pytest.fixture(scope='session')
def texts():
  """Seventeen rows of tokens of many lengths, with their token types."""
  rng = np.random.default_rng(3)
  lengths = [1, 2, 31, 17, *rng.integers(3, 30, 13)]
  return [(rng.integers(1, 31, n).astype(np.int32), np.zeros(n, np.int32)) for n in lengths]


@pytest.fixture(scope='session')
def key():
  """A key of dropout."""
  return jax.random.key(5)
