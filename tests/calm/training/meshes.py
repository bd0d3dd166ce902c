"""Trains on meshes of eight devices and on one; prints what came out, as JSON.

For test_sharding, which runs it with XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import functools
import json
import sys

import jax
import numpy as np
import optax
from conftest import Network, Stream

from calm.models import t5
from calm.training import loop, losses, optimizers, sharding
from calm.training.step import Trainer

NUM_STEPS = 4
# Every axis that partition_rules split is a multiple of 4.
CONFIG = t5.T5Config(24, 8, 4, 3, 16, 1, 1, dropout_rate=0.1)
# The last is the least to compile.
OPTIMIZERS = {
  'adamw': optimizers.adamw(1e-2),
  'adafactor': optimizers.adafactor(1e-2),
  'sgd': optimizers.Optimizer(optax.sgd(0.1), lambda step: 0.1),
}
OBJECTIVES = {'network': Network(), 't5': losses.EncoderDecoderObjective(t5.T5(CONFIG))}
# (objective, optimizer, model_parallelism, num_microbatches)
CASES = (
  *(('network', 'adamw', size, parts) for size in (1, 2, 4) for parts in (1, 2)),
  ('network', 'adafactor', 2, 1),
  ('t5', 'sgd', 4, 2),
)


def train(mesh, objective, optimizer, num_microbatches):
  """Losses of four steps, and the part of each parameter and moment that a device holds."""
  trainer = Trainer(
    OBJECTIVES[objective], OPTIMIZERS[optimizer], mesh=mesh, num_microbatches=num_microbatches
  )
  rng = np.random.default_rng(0)  # Fresh parameters of a T5 take as long to compile as its step.
  params = jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), trainer.abstract_state.params
  )
  state, stream, values = trainer.init(params), Stream(num_rows=16), []
  for _ in range(NUM_STEPS):
    state, metrics = trainer.step(state, trainer.place(next(stream)), trainer.key)
    values.append(float(metrics['loss']))
  parts = {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      leaf.addressable_shards[0].data.size / leaf.size
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }
  return {'losses': values, 'parts': parts}


def main(workdir):
  kinds = (jax.sharding.AxisType.Auto,) * 2
  one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ('data', 'model'), kinds)
  alone = functools.cache(functools.partial(train, one))
  results = [
    {
      'case': case,
      'one': alone(*case[:2], case[3]),
      'eight': train(sharding.make_mesh(case[2]), *case[:2], case[3]),
    }
    for case in CASES
  ]
  loop.train(
    workdir=workdir,
    objective=OBJECTIVES['network'],
    optimizer=OPTIMIZERS['adamw'],
    batches=Stream(),
    num_steps=6,
    steps_per_report=2,
    model_parallelism=4,
  )
  print(json.dumps(results))


if __name__ == '__main__':
  main(sys.argv[1])
