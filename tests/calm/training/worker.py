"""One process of `calm train` on network.gin; prints what it returned, as JSON.

For test_distributed, which compares what all processes of a run return.
"""

import json
import sys

import jax
import numpy as np

from calm import arguments, commands, main
from calm.training import sharding


def held_here(array):
  """This process's copy of an array that it holds all of, else its part."""
  return np.concatenate([np.ravel(shard.data) for shard in array.addressable_shards]).tolist()


if __name__ == '__main__':
  flags, bindings = arguments.split_gin_arguments(sys.argv[1:])
  parser = commands.make_parser(main.PROGRAM)
  args = parser.parse_args(['train', '--gin_file=network.gin', '--import_from=.', *flags])
  params, metrics = commands.run(main.PROGRAM, args, bindings)
  everything = jax.tree.map(np.ndarray.tolist, sharding.gathered(params))
  held = jax.tree.map(held_here, params)
  print(json.dumps({'loss': metrics['loss'], 'params': held, 'gathered': everything}))
