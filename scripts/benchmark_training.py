"""Compares a training step with the time that its own matrix products take.

  GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python scripts/benchmark_training.py --json training.json

The step is the real one (dropout, Eq. 6, AdamW), its products are read from its jaxpr. In each
round the step, each shape of product and a large square product are timed in turn. `products` is
what a step's products take at the rates of their own shapes, `at peak` at the rate of the square
one; the shares are of the step's time. Wall time is what counts, on a machine that does nothing
else; on a busy one the CPU time of all threads is the steadier clock.

Two cores (AVX-512), jax 0.10.2, the model of configs/calm/multi30k_en_fr.gin; in brackets the
plain formulation that came before (logits made twice, kernels' gradients over two axes):

                          3 exits          all 8 exits
  seconds per step        0.22  (0.40)     0.33  (0.57)
  target tokens/s         8500  (4800)     5800  (3400)
  share of the products   75 %  (46 %)     72 %  (42 %)
  share at peak           45 %  (29 %)     55 %  (31 %)

Three quarters of a step with 3 exits are products: per CPU second 180-220 GFLOP/s, but 110-160 for
the gradients of the small kernels, whose first operand lies transposed, and no more for attention.
The rest is softmax, masks and dropout of attention (9 %), cross-entropy (5 %), activations, norms
and AdamW (3 % each) and transposes of heads (2 %). Dropout's draws cost next to nothing while one
serves all positions. T5 1.1 small spends 85 % of its step in products, though among the rest they
run slower than alone (share 45-58 %, before 42 %); AdamW over 77 million parameters takes 7 %.

Huge pages: a step's temporaries, some 500 MiB, are allocated anew each time, and with pages of
4 KiB that takes a fifth of the step (0.28 s, share 61 %). glibc asks for huge pages if told so
before the process starts, as above. Neither products without YNNPACK nor the concurrency-optimized
scheduler (XLA flags) gave anything beyond the noise.
"""

import argparse
import collections
import dataclasses
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from calm.models import t5
from calm.training import losses, optimizers, sharding, step


@dataclasses.dataclass(frozen=True)
class Preset:
  """A model and the shape of its batches."""

  config: t5.T5Config
  batch_size: int  # rows
  inputs_length: int
  targets_length: int


PRESETS = {
  'multi30k': Preset(
    t5.T5Config(
      vocab_size=3072,
      emb_dim=128,
      num_heads=4,
      head_dim=32,
      mlp_dim=256,
      num_encoder_layers=4,
      num_decoder_layers=8,
    ),
    batch_size=24,
    inputs_length=64,
    targets_length=80,
  ),
  't5_1_1_small': Preset(t5.T5Config(), batch_size=8, inputs_length=64, targets_length=64),
}
SQUARE = 2048  # Side of the product whose rate is called the machine's peak.
EXAMPLES_PER_ROW = 4
CLOCKS = ('wall', 'cpu')


@dataclasses.dataclass(frozen=True)
class Product:
  """A `lax.dot_general` by its operands' shapes and types."""

  lhs_shape: tuple[int, ...]
  rhs_shape: tuple[int, ...]
  lhs_dtype: Any
  rhs_dtype: Any
  dimension_numbers: Any
  out_dtype: Any

  @property
  def operations(self):
    """Multiplications and additions."""
    (_, rhs_contracting), (_, rhs_batch) = self.dimension_numbers
    shared = set(rhs_contracting) | set(rhs_batch)
    columns = math.prod(n for axis, n in enumerate(self.rhs_shape) if axis not in shared)
    return 2 * math.prod(self.lhs_shape) * columns

  @property
  def swapped(self):
    """The product of the operands in the other order, the transpose of this one."""
    numbers = tuple((rhs, lhs) for lhs, rhs in self.dimension_numbers)
    return Product(
      self.rhs_shape, self.lhs_shape, self.rhs_dtype, self.lhs_dtype, numbers, self.out_dtype
    )

  def compiled(self):
    """A function without arguments that computes the product of arrays of its own."""
    operands = [
      jax.random.normal(jax.random.key(0), shape, dtype)
      for shape, dtype in ((self.lhs_shape, self.lhs_dtype), (self.rhs_shape, self.rhs_dtype))
    ]

    def product(lhs, rhs):
      return jax.lax.dot_general(
        lhs, rhs, self.dimension_numbers, preferred_element_type=self.out_dtype
      )

    compiled = jax.jit(product).lower(*operands).compile()
    return lambda: compiled(*operands)


_SQUARE = Product(
  (SQUARE, SQUARE),
  (SQUARE, SQUARE),
  jnp.float32,
  jnp.float32,
  (((1,), (0,)), ((), ())),
  jnp.float32,
)


def matrix_products(jaxpr):
  """How often each Product is computed by a jaxpr, the jaxprs within it included: a Counter."""
  products: collections.Counter = collections.Counter()
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      lhs, rhs = (operand.aval for operand in equation.invars)
      products[
        Product(
          lhs.shape,
          rhs.shape,
          lhs.dtype,
          rhs.dtype,
          equation.params['dimension_numbers'],
          equation.outvars[0].aval.dtype,
        )
      ] += 1
    times = equation.params['length'] if equation.primitive.name == 'scan' else 1
    for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        inner = matrix_products(getattr(value, 'jaxpr', value))
        products.update({product: times * count for product, count in inner.items()})
  return products


def _is_jaxpr(value):
  return isinstance(value, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


def packed_batch(preset, seed=0):
  """A batch of random tokens without padding, EXAMPLES_PER_ROW examples in a row."""
  rng = np.random.default_rng(seed)

  def tokens(length):
    return rng.integers(2, preset.config.vocab_size, (preset.batch_size, length), np.int32)

  def segments(length):
    drawn = rng.integers(1, 1 + EXAMPLES_PER_ROW, (preset.batch_size, length), np.int32)
    return np.sort(drawn, axis=1)

  targets = tokens(preset.targets_length)
  return {
    'encoder_input_tokens': tokens(preset.inputs_length),
    'encoder_segment_ids': segments(preset.inputs_length),
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': targets,
    'decoder_segment_ids': segments(preset.targets_length),
    'decoder_loss_weights': np.ones_like(targets),
  }


class Stopwatch:
  """Wall and CPU seconds of calls, round by round."""

  def __init__(self):
    self.wall, self.cpu = [], []

  def time(self, call, calls=1):
    """Adds the seconds that one of `calls` calls takes; their results must be ready."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
      result = call()
    jax.block_until_ready(result)
    self.wall.append((time.perf_counter() - wall) / calls)
    self.cpu.append((time.process_time() - cpu) / calls)


def benchmark(preset, num_sampled_exits, rounds):
  """Measures the step of a preset and its products in turn; a dict of medians over `rounds`."""
  model = t5.T5(preset.config)
  objective = losses.EncoderDecoderObjective(model, num_sampled_exits=num_sampled_exits)
  trainer = step.Trainer(objective, optimizers.adamw(), mesh=sharding.make_mesh())
  state, batch = trainer.init(), trainer.place(packed_batch(preset))
  traced = trainer.step.trace(state, batch, trainer.key)
  products = matrix_products(traced.jaxpr)
  compiled = traced.lower().compile()

  def train():
    nonlocal state
    state, metrics = compiled(state, batch, trainer.key)
    return metrics

  orders = {order for product in products for order in (product, product.swapped)}
  calls = {product: product.compiled() for product in orders | {_SQUARE}}
  steps, watches = Stopwatch(), {product: Stopwatch() for product in calls}
  for call in (train, *calls.values()):
    jax.block_until_ready(call())
  for _ in range(rounds):
    steps.time(train)
    for product, call in calls.items():
      # Several small ones in a row, so that starting them counts for little.
      count = max(products[product], products[product.swapped], 1)
      watches[product].time(call, min(count, 20))
  # XLA orders the operands as it sees fit, so the faster order counts.
  fastest = {
    product: min(watches[product], watches[product.swapped], key=lambda w: statistics.median(w.cpu))
    for product in products
  }
  target_tokens = preset.batch_size * preset.targets_length
  return {
    'exits': num_sampled_exits or preset.config.num_decoder_layers,
    'target_tokens_per_second': target_tokens / statistics.median(steps.wall),
    'product_operations': _operations(products),
    'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
    **{clock: compare(clock, steps, products, fastest, watches[_SQUARE]) for clock in CLOCKS},
    'products': list_products(products, fastest),
  }


def compare(clock, steps, products, watches, square):
  """Medians over rounds of a step's seconds, of its products' and of their share of it.

  Shares are of each round's own times, since the machine's speed drifts. 'at_peak' is the time
  that the products would take at the rate of the square one.
  """
  step_seconds, square_seconds = (np.array(getattr(watch, clock)) for watch in (steps, square))
  own = sum(count * np.array(getattr(watches[p], clock)) for p, count in products.items())
  at_peak = square_seconds * _operations(products) / _SQUARE.operations
  medians = {
    'step_seconds': step_seconds,
    'products_seconds': own,
    'products_seconds_at_peak': at_peak,
    'products_share': own / step_seconds,
    'products_share_at_peak': at_peak / step_seconds,
    'peak_gigaflops': _SQUARE.operations / square_seconds / 1e9,
  }
  return {name: float(np.median(values)) for name, values in medians.items()}


def list_products(products, watches):
  """One dict for each product, those that take the most CPU time first."""
  rows = []
  for product, count in products.items():
    seconds = statistics.median(watches[product].cpu)
    rows.append({
      'lhs_shape': product.lhs_shape,
      'rhs_shape': product.rhs_shape,
      'dimension_numbers': product.dimension_numbers,
      'count': count,
      'cpu_seconds': count * seconds,
      'cpu_gigaflops': product.operations / seconds / 1e9,
    })  # fmt: skip
  return sorted(rows, key=lambda row: -row['cpu_seconds'])


def _operations(products):
  return sum(count * product.operations for product, count in products.items())


def print_table(name, result, num_products):
  """Prints the shares by both clocks, then the products that take the most time."""
  print(
    f'{name}, {result["exits"]} exits: {result["target_tokens_per_second"]:.0f} target tokens/s, '
    f'{result["product_operations"] / 1e9:.1f} GFLOP of products a step, '
    f'{result["temporary_bytes"] / 2**20:.0f} MiB of temporaries'
  )
  print(f'{"seconds":>10}{"step":>9}{"products":>10}{"share":>7}{"at peak":>10}{"share":>7}')
  for clock in CLOCKS:
    row = result[clock]
    print(
      f'{clock:>10}{row["step_seconds"]:9.3f}{row["products_seconds"]:10.3f}'
      f'{row["products_share"]:7.0%}{row["products_seconds_at_peak"]:10.3f}'
      f'{row["products_share_at_peak"]:7.0%}  peak {row["peak_gigaflops"]:.0f} GFLOP/s'
    )
  print(f'{"cpu s":>10}{"count":>9}{"GFLOP/s":>10}  operands')
  for row in result['products'][:num_products]:
    print(
      f'{row["cpu_seconds"]:10.4f}{row["count"]:9d}{row["cpu_gigaflops"]:10.0f}'
      f'  {row["lhs_shape"]} {row["rhs_shape"]}'
    )
  print(flush=True)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--preset', choices=PRESETS, default='multi30k', help='model and batch')
  parser.add_argument(
    '--exits',
    type=int,
    nargs='+',
    metavar='N',
    help='decoder layers whose loss a step computes (num_sampled_exits); several are measured one '
    'after the other (default: 3 and all)',
  )
  parser.add_argument(
    '--rounds', type=int, default=9, help='times each is measured (default: %(default)s)'
  )
  parser.add_argument(
    '--rows',
    type=int,
    default=12,
    help='products listed, those that take longest first (default: %(default)s)',
  )
  parser.add_argument('--json', metavar='PATH', help='file for all numbers')
  arguments = parser.parse_args()
  preset = PRESETS[arguments.preset]
  num_layers = preset.config.num_decoder_layers
  exits = arguments.exits or [3, num_layers]
  if arguments.rounds < 1 or not all(2 <= number <= num_layers for number in exits):
    parser.error(f'--rounds must be at least 1, and --exits from 2 to {num_layers}')
  results = []
  for number in exits:
    results.append(benchmark(preset, None if number == num_layers else number, arguments.rounds))
    print_table(arguments.preset, results[-1], arguments.rows)
  if arguments.json:
    record = {'preset': arguments.preset, 'jax': jax.__version__, 'results': results}
    Path(arguments.json).write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
  main()
