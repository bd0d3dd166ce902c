"""What a router adds to its models' seconds.

  python scripts/benchmark_router.py --checkpoint=minilm --json=router.json

Two classifiers of one checkpoint, of its first layers and of all of them, with fresh heads; texts
are words drawn from the vocabulary. A router, the Swift model alone and the Super model alone
answer the same inputs in turn in one process, several rounds; ratios are medians over the rounds.

  overhead   a router that passes nothing on, against its Swift model
  joint      a router that passes on a share s, against Swift + s x Super

Rows have the limit of their ratio.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import numpy as np

from calm.tasks import examples, wordpiece
from calm.tasks.classification import Classification
from elang import cost, routing
from sweet import checkpoint, objectives
from sweet.predictor import ExitsPredictor

LABELS = Classification(('text',), ('no', 'yes'))


def classifier(folder: str, layers: int, tokenizer: Any, batch_size: int) -> ExitsPredictor:
  """The checkpoint's first layers with a fresh head."""
  config = checkpoint.exits_config(
    checkpoint=folder, exits=(layers,), labels=LABELS, pooling='mean'
  )
  model = objectives.classifiers(config, 'early_exit')
  params = jax.device_get(checkpoint.initial_params(folder, model))
  rng = np.random.default_rng(layers)
  head = params['classifier_1']['kernel']
  params['classifier_1']['kernel'] = rng.normal(0, 1, head.shape).astype(head.dtype)
  return ExitsPredictor(model, params, tokenizer, LABELS, length=128, max_batch_size=batch_size)


def texts_of(folder: str, count: int, words: int) -> list[str]:
  """Texts of so many words of the vocabulary that stand for themselves."""
  lines = Path(folder, 'vocab.txt').read_text(encoding='utf-8').split('\n')
  known = [word for word in lines if word.isascii() and word.isalpha()]
  rng = np.random.default_rng(0)
  return [' '.join(rng.choice(known, words)) for _ in range(count)]


def seconds(systems: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
  """Of each system by round, measured in turn; the first round, which compiles, is left out."""
  found: dict[str, list[float]] = {name: [] for name in systems}
  names = list(systems)
  for repeat in range(-1, repeats):
    shift = repeat % len(names)
    for name in names[shift:] + names[:shift]:
      start = time.perf_counter()
      systems[name]()
      if repeat >= 0:
        found[name].append(time.perf_counter() - start)
  return found


def main() -> int:
  """Measures and prints a table; returns the exit code: 1 if a limit is exceeded."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--checkpoint', required=True, help='directory of a BERT')
  parser.add_argument('--swift_layers', type=int, nargs='+', default=[1, 2])
  parser.add_argument('--super_layers', type=int, default=6)
  parser.add_argument('--words', type=int, nargs='+', default=[20, 60])
  parser.add_argument('--shares', type=float, nargs='+', default=[0.1, 0.25, 0.5])
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--batches', type=int, default=8, help='of a measurement')
  parser.add_argument('--repeats', type=int, default=9)
  parser.add_argument('--json', help='where to write the rows')
  flags = parser.parse_args()
  tokenizer = wordpiece.load(flags.checkpoint)
  large = classifier(flags.checkpoint, flags.super_layers, tokenizer, flags.batch_size)
  rows = []
  for layers in flags.swift_layers:
    small = classifier(flags.checkpoint, layers, tokenizer, flags.batch_size)
    models = [cost.predictor_model('swift', small), cost.predictor_model('super', large)]
    router = routing.Router(models)
    for words in flags.words:
      count = flags.batch_size * flags.batches
      inputs = examples.of_texts(texts_of(flags.checkpoint, count, words))
      found = _measured(router, small, large, inputs, flags)
      for row in found:
        rows.append({'swift_layers': layers, 'words': words, **row})
        print(json.dumps(rows[-1]), flush=True)
  if flags.json:
    Path(flags.json).write_text(json.dumps({'rows': rows}, indent=2) + '\n', encoding='utf-8')
  return int(any(row['ratio'] > row['limit'] for row in rows))


def _measured(router, small, large, inputs, flags) -> list[dict[str, Any]]:
  batches = [inputs[at : at + flags.batch_size] for at in range(0, len(inputs), flags.batch_size)]
  scores = np.array([[row['confidence'] for row in small(batch)] for batch in batches])
  # Each batch has a threshold of its own, so that each passes on the share.
  thresholds = {share: np.quantile(scores, share, axis=1) for share in flags.shares}

  def over_batches(system):
    return lambda: [system(batch) for batch in batches]

  def routed(share):
    routers = [router.at(float(at)) for at in thresholds[share]]
    return lambda: [one(batch) for one, batch in zip(routers, batches, strict=True)]

  systems = {
    'swift': over_batches(small.at(None)),
    'super': over_batches(large.at(None)),
    'keeps all': over_batches(router.at(-np.inf)),
    **{f'share {share:g}': routed(share) for share in flags.shares},
  }
  took = seconds(systems, flags.repeats)
  found = [_row('overhead', 0.0, took['keeps all'], took['swift'], 1.03)]
  for share in flags.shares:
    passed = float((scores < thresholds[share][:, None]).mean())
    both = [a + passed * b for a, b in zip(took['swift'], took['super'], strict=True)]
    found.append(_row('joint', passed, took[f'share {share:g}'], both, 1.05))
  return found


def _row(name, share, took, against, limit) -> dict[str, Any]:
  return {
    'measure': name,
    'share': share,
    'seconds': statistics.median(took),
    'against_seconds': statistics.median(against),
    'ratio': statistics.median(a / b for a, b in zip(took, against, strict=True)),
    'limit': limit,
  }


if __name__ == '__main__':
  sys.exit(main())
