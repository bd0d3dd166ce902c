"""Seconds of classifiers that stop early, against static models and other libraries.

  python scripts/benchmark_encoders.py --json encoders.json
  python scripts/benchmark_encoders.py --checkpoint MINILM --rows 1000 --repeats 9

An encoder of MiniLM's sizes (6 layers, 384 wide), random weights unless a checkpoint is named,
exits after layers 1, 2, 4 and 6, float32, tokenisation left out. All systems are timed in turn in
one process, several rounds; a ratio is the median over the rounds of two times of one round.

  forced exit k     every row leaves at exit k, against the static model of so many layers
  spread            rows leave evenly over all exits, against full depth times the mean share of
                    layers: what early exits would cost if stopping were free
  file              the same for a whole file of rows of many lengths
  mean depth 3      one row at a time, half of them leaving at layer 2 and half at layer 4, against
                    onnxruntime's full model (if installed)
  full              every layer for every row, against transformers in torch and onnxruntime

Rows have the limit of their ratio, or null where there is none.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm.exits import stopping
from calm.models import bert, pretrained
from sweet.inference import StagedRun, classify
from sweet.model import EarlyExitClassifier, ExitsConfig

EXITS = (1, 2, 4, 6)


@dataclasses.dataclass(frozen=True)
class Planned:
  """A measure by which a batch's rows leave at given exits in turn, whatever is said of them."""

  plan: tuple[int, ...]  # exits, from 1

  name = 'planned'

  def ends(self, num_outputs):
    """None early; what is planned lies between."""
    del num_outputs
    return -1.0, 2.0

  def init(self, num_rows):
    """No classifier asked, and where each row is to leave."""
    plan = jnp.array(self.plan)[jnp.arange(num_rows) % len(self.plan)]
    return {'asked': jnp.zeros(num_rows, jnp.int32), 'plan': plan}

  def __call__(self, seen, outputs, exit_score):
    """1 where a row is to leave, else 0."""
    del outputs, exit_score
    asked = seen['asked'] + 1
    return {**seen, 'asked': asked}, (asked >= seen['plan']).astype(jnp.float32)


@dataclasses.dataclass
class System:
  """Something that answers the same rows; `run()` returns when that is done."""

  name: str
  run: Callable[[], Any]
  mean_depth: float
  seconds: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two systems, and what their ratio is to stay below."""

  system: System
  against: System
  batch_size: int
  length: int
  limit: float | None = None
  share: float = 1.0  # of the other's seconds

  def row(self) -> dict[str, Any]:
    """As JSON takes it."""
    pairs = zip(self.system.seconds, self.against.seconds, strict=True)
    return {
      'system': self.system.name,
      'against': self.against.name,
      'batch_size': self.batch_size,
      'length': self.length,
      'mean_depth': self.system.mean_depth,
      'seconds': statistics.median(self.system.seconds),
      'against_seconds': statistics.median(self.against.seconds) * self.share,
      'ratio': statistics.median(a / (b * self.share) for a, b in pairs),
      'limit': self.limit,
    }


def texts_of(lengths, vocab_size, seed=0):
  """Random rows of so many tokens."""
  rng = np.random.default_rng(seed)
  return [(rng.integers(5, vocab_size, n).astype(np.int32), np.zeros(n, np.int32)) for n in lengths]


def staged(model, params, texts, measure, threshold, batch_size, name, depth) -> System:
  """Our classifiers, row by row or in batches."""
  run = StagedRun(model, measure, max_batch_size=batch_size)
  if batch_size == 1:
    return System(name, lambda: [run(params, [text], threshold) for text in texts], depth)
  return System(name, lambda: run(params, texts, threshold), depth)


def static(config, params, texts, k, batch_size) -> System:
  """The model that ends at exit k, compiled as one program: no stage, no decision."""
  layer = config.exits[k - 1]
  model = EarlyExitClassifier(dataclasses.replace(config, exits=(layer,)))
  own = {
    'encoder': {
      name: value
      for name, value in params['encoder'].items()
      if not name.startswith('layers_') or int(name.removeprefix('layers_')) < layer
    },
    **{f'{part}_1': params[f'{part}_{k}'] for part in ('pooler', 'classifier')},
  }
  run = functools.partial(classify, own, model=model, k=1)
  batches = [_inputs(texts[at : at + batch_size]) for at in range(0, len(texts), batch_size)]

  def answer():
    for batch in batches:
      np.asarray(run(batch, None)[1])

  return System(f'static {layer} layers', answer, float(layer))


def _inputs(texts):
  """Rows of equal length as a batch."""
  return {
    'tokens': np.stack([tokens for tokens, _ in texts]),
    'token_types': np.stack([types for _, types in texts]),
    'lengths': np.array([len(tokens) for tokens, _ in texts], np.int32),
  }


def others(config, params, texts, batch_size) -> list[System]:
  """transformers in torch and onnxruntime on the graph that torch exports, as far as installed."""
  try:
    import torch
    import transformers
  except ImportError:
    print('torch and transformers are not installed: left out.', file=sys.stderr)
    return []
  with tempfile.TemporaryDirectory() as folder:
    encoder = dataclasses.replace(config.encoder, pooler=True)
    theirs = {**params['encoder'], 'pooler': params[f'pooler_{len(config.exits)}']}
    path = pretrained.save_huggingface(Path(folder, 'bert'), encoder, theirs)
    model = transformers.BertModel.from_pretrained(path, attn_implementation='sdpa').eval()
    depth = float(encoder.num_layers)
    batches = [_inputs(texts[at : at + batch_size]) for at in range(0, len(texts), batch_size)]
    tensors = [
      (torch.tensor(b['tokens'].astype(np.int64)), torch.ones(b['tokens'].shape, dtype=torch.int64))
      for b in batches
    ]

    def torch_run():
      with torch.inference_mode():
        for tokens, mask in tensors:
          model(input_ids=tokens, attention_mask=mask).pooler_output.numpy()

    found = [System('transformers', torch_run, depth)]
    try:
      import onnxruntime
      import onnxscript  # noqa: F401, torch exports by it.
    except ImportError:
      print('onnxruntime and onnxscript are not installed: left out.', file=sys.stderr)
      return found
    exported = Path(folder, 'bert.onnx')
    sizes = {0: torch.export.Dim('batch'), 1: torch.export.Dim('length')}
    example = torch.ones((2, 8), dtype=torch.int64)
    with torch.inference_mode():
      torch.onnx.export(
        _Pooled(model),
        (example, example.clone()),
        exported,
        input_names=['tokens', 'mask'],
        output_names=['pooled'],
        dynamic_shapes=(sizes, sizes),
        dynamo=True,
        verbose=False,
      )
    session = onnxruntime.InferenceSession(exported)
    feeds = [{'tokens': tokens.numpy(), 'mask': mask.numpy()} for tokens, mask in tensors]

    def onnx_run():
      for feed in feeds:
        session.run(None, feed)

    np.testing.assert_allclose(
      session.run(None, feeds[0])[0],
      model(*tensors[0]).pooler_output.detach().numpy(),
      atol=1e-4,
    )
    return [*found, System('onnxruntime float32', onnx_run, depth)]


def _Pooled(model):
  """A module whose output is the pooled state alone."""
  import torch

  class Pooled(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.model = model

    def forward(self, tokens, mask):
      return self.model(input_ids=tokens, attention_mask=mask).pooler_output

  return Pooled().eval()


def comparisons(config, params, batch_size, length, num_rows, with_others) -> list[Comparison]:
  """What is compared at a batch size and a length of rows."""
  model = EarlyExitClassifier(config)
  exits, last = config.exits, len(config.exits)
  texts = texts_of([length] * num_rows, config.encoder.vocab_size)
  make = functools.partial(staged, model, params, texts, batch_size=batch_size)
  full = make(stopping.Confidence(), None, name='full', depth=float(exits[-1]))
  found = []
  for k in range(1, last + 1):
    depth = float(exits[k - 1])
    forced = make(stopping.FixedExit(), float(k), name=f'forced exit {k}', depth=depth)
    against = static(config, params, texts, k, batch_size)
    found.append(Comparison(forced, against, batch_size, length, limit=1.05))
  if batch_size > 1:
    depth = float(np.mean(exits))
    spread = make(Planned(tuple(range(1, last + 1))), 1.0, name='spread', depth=depth)
    share = depth / exits[-1]
    found.append(Comparison(spread, full, batch_size, length, limit=1.15, share=share))
  rivals = others(config, params, texts, batch_size) if with_others else []
  found += [Comparison(full, rival, batch_size, length) for rival in rivals]
  onnx = [rival for rival in rivals if rival.name.startswith('onnx')]
  if onnx and batch_size == 1 and {2, 4} <= set(exits):
    plans = [Planned((exits.index(layer) + 1,)) for layer in (2, 4)]
    runs = [StagedRun(model, plan, max_batch_size=1) for plan in plans]

    def alternate():
      for i, text in enumerate(texts):
        runs[i % 2](params, [text], 1.0)

    half = System('mean depth 3', alternate, 3.0)
    limit = 0.7 if length == 64 else None
    found.append(Comparison(half, onnx[0], batch_size, length, limit=limit))
  return found


def file_comparison(config, params, num_rows) -> Comparison:
  """A file of rows of many lengths, about those of sentences, leaving evenly over all exits."""
  rng = np.random.default_rng(1)
  lengths = np.clip(rng.gamma(3.0, 8.0, num_rows).astype(int) + 3, 3, 64)
  texts = texts_of(lengths, config.encoder.vocab_size, 1)
  model = EarlyExitClassifier(config)
  plan = Planned(tuple(range(1, len(config.exits) + 1)))
  depth = float(np.mean(config.exits))
  early = staged(model, params, texts, plan, 1.0, 32, 'file', depth)
  full = staged(
    model, params, texts, stopping.Confidence(), None, 32, 'full', float(config.exits[-1])
  )
  share = depth / config.exits[-1]
  return Comparison(early, full, 32, 64, limit=1.08, share=share)


def measure(found: list[Comparison], repeats: int):
  """Runs every system once to compile, then all of them in turn, each round in another order."""
  systems = list({id(one): one for pair in found for one in (pair.system, pair.against)}.values())
  for system in systems:
    system.run()
  rng = np.random.default_rng(0)
  for _ in range(repeats):
    for number in rng.permutation(len(systems)):
      system = systems[number]
      time.sleep(0.2)  # Threads of the one before may still spin, waiting for work.
      start = time.perf_counter()
      system.run()
      system.seconds.append(time.perf_counter() - start)


def main():
  """Measures and prints a table; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--checkpoint', help='directory of an encoder, instead of random weights')
  parser.add_argument('--batch_sizes', type=int, nargs='+', default=[1, 32])
  parser.add_argument('--lengths', type=int, nargs='+', default=[32, 64])
  parser.add_argument('--rows', type=int, default=64, help='rows of a measurement')
  parser.add_argument('--file_rows', type=int, default=5000, help='0 leaves the file out')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', help='where to write the rows')
  args = parser.parse_args()
  encoder = pretrained.config_of(args.checkpoint) if args.checkpoint else bert.published('minilm')
  config = ExitsConfig(encoder, EXITS)
  params = EarlyExitClassifier(config).init_params(jax.random.key(0))
  rows = []
  settings = [(size, length) for size in args.batch_sizes for length in args.lengths]
  for size, length in settings:
    found = comparisons(config, params, size, length, max(size, args.rows), with_others=True)
    measure(found, args.repeats)
    rows += [one.row() for one in found]
    _print(rows[-len(found) :])
  if args.file_rows:
    found = [file_comparison(config, params, args.file_rows)]
    measure(found, max(3, args.repeats // 2))
    rows += [one.row() for one in found]
    _print(rows[-1:])
  if args.json:
    Path(args.json).write_text(json.dumps({'rows': rows}, indent=2) + '\n')
  return int(any(row['limit'] is not None and row['ratio'] > row['limit'] for row in rows))


def _print(rows):
  for row in rows:
    limit = '' if row['limit'] is None else f' (limit {row["limit"]})'
    print(
      f'batch {row["batch_size"]:2d} length {row["length"]:3d} {row["system"]:14s} depth'
      f' {row["mean_depth"]:.2f}: {row["seconds"]:.4f} s, {row["ratio"]:.3f} x {row["against"]}'
      f'{limit}',
      flush=True,
    )


if __name__ == '__main__':
  sys.exit(main())
