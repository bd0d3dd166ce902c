"""What is small enough to train in a test: a T5, a network of two matrices, made-up batches."""

import dataclasses
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from calm.models import t5
from calm.training import loop, losses, optimizers

if __name__ == 'conftest':  # In a process that a test starts TensorBoard needs no TensorFlow.
  sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')

CONFIG = t5.T5Config(19, 8, 2, 3, 11, 1, 3, dropout_rate=0.1)


class Stream:
  """Batches that follow from their number, and this process's rows of them; the state is that
  number. `signals` maps numbers to signals that this process gets before it gets those batches.
  """

  def __init__(self, num_rows=8, seed=0, signals=None):
    self.number, self.num_rows, self.seed = 0, num_rows, seed
    self.signals = signals or {}

  def __next__(self):
    if self.number in self.signals:
      os.kill(os.getpid(), self.signals[self.number])
    elif any(number < self.number for number in self.signals):
      time.sleep(0.2)  # Several processes take a second to agree on where to stop.
    rng = np.random.default_rng((self.seed, self.number))
    self.number += 1
    inputs = rng.integers(2, 19, (self.num_rows, 5)).astype(np.int32)
    targets = inputs[:, ::-1].copy()
    weights = (np.arange(5) < rng.integers(2, 6, (self.num_rows, 1))).astype(np.int32)
    targets *= weights
    batch = {
      'encoder_input_tokens': inputs,
      'encoder_segment_ids': np.ones_like(inputs),
      'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_target_tokens': targets,
      'decoder_segment_ids': weights,
      'decoder_loss_weights': weights,
    }
    parts = jax.process_count()
    return {name: np.split(value, parts)[jax.process_index()] for name, value in batch.items()}

  def get_state(self):
    return {'number': self.number}

  def set_state(self, state):
    self.number = state['number']


@dataclasses.dataclass(frozen=True)
class Network:
  """Least squares by a layer of ReLUs with dropout: an objective that compiles in a moment."""

  dropout_rate: float = 0.1
  hidden_dim: int = 16
  unit = 'token'
  partition_rules = (
    (r'wi/kernel$', PartitionSpec(None, 'model')),
    (r'wo/kernel$', PartitionSpec('model', None)),
  )

  def init(self, key):
    kernels = {'wi': (5, self.hidden_dim), 'wo': (self.hidden_dim, 5)}
    keys = jax.random.split(key)
    return {
      name: {'kernel': jax.random.normal(one, shape) / shape[0] ** 0.5}
      for one, (name, shape) in zip(keys, kernels.items(), strict=True)
    }

  def __call__(self, params, batch, key=None):
    hidden = jax.nn.relu(batch['encoder_input_tokens'] / 19 @ params['wi']['kernel'])
    if key is not None:
      hidden *= jax.random.bernoulli(key, 1 - self.dropout_rate, hidden.shape)
    error = hidden @ params['wo']['kernel'] - batch['decoder_target_tokens'] / 19
    weights = batch['decoder_loss_weights'].astype(jnp.float32)
    sums = {'weight': weights.sum(), 'absolute_error': (jnp.abs(error) * weights).sum()}
    return (jnp.square(error) * weights).sum(), sums


@pytest.fixture
def stream():
  """A fresh Stream."""
  return Stream()


@pytest.fixture
def objective():
  """Eq. 6 over a T5 of three decoder layers, with dropout."""
  return losses.EncoderDecoderObjective(t5.T5(CONFIG))


@pytest.fixture(scope='session')
def made_up():
  """Makes parameters of a T5 by its config: nothing to compile, as there is for fresh ones."""

  def make(config):
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)

  return make


@pytest.fixture(scope='session')
def params(made_up):
  """Parameters for the objective."""
  return made_up(CONFIG)


@pytest.fixture
def network():
  """Makes a Network of other sizes than the default."""
  return Network


@pytest.fixture
def adam():
  """AdamW with a constant learning rate."""
  return optimizers.adamw(1e-2)


@pytest.fixture(scope='session')
def run():
  """Trains the network in a workdir for 12 steps; keyword arguments change how."""

  def train(workdir, **changes):
    settings = {
      'objective': Network(),
      'optimizer': optimizers.adamw(1e-2),
      'batches': Stream(),
      'num_steps': 12,
      'steps_per_report': 2,
      'steps_per_checkpoint': 3,
    }
    return loop.train(workdir=workdir, **(settings | changes))

  return train


@pytest.fixture(scope='session')
def curve():
  """Reads a workdir's metrics.jsonl, without what depends on the clock."""

  def read(workdir):
    lines = Path(workdir, 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    clock = ('seconds', 'seconds_per_step', 'tokens_per_second')
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]

  return read


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, run, curve):
  """The curve of a run of 12 steps in one go."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  run(workdir)
  return curve(workdir)


@pytest.fixture(scope='module')
def start():
  """Starts a script of this folder, or `calm train` on network.gin; returns the process."""
  folder = Path(__file__).parent
  started = []

  def popen(*arguments, script=None, **environment):
    calm_train = ['-m', 'calm.main', 'train', '--gin_file=network.gin', '--import_from=.']
    process = subprocess.Popen(
      [sys.executable, *([script] if script else calm_train), *map(str, arguments)],
      cwd=folder,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3', **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield popen
  for process in started:
    process.kill()
    process.communicate()
