"""Fine-tunes an encoder in torch as our multi-model's deepest model is, and compares the scores.

  python scripts/compare_finetuning.py --checkpoint=minilm --data=glue --runs=runs/experiments \
    --task=sst2 --learning_rate=1e-4

transformers' BertModel with a mean of its states, the checkpoint's pooler and a fresh classifier,
torch's AdamW: the rows in the order, the rate, seeds, schedule, clipping and number of steps of
`scripts/sweet_experiments.py`; only dropout and the classifier's start are drawn by torch.
Beside each seed's score stands that of the last model of the multi-model run below --runs. Scores
found are kept in --output, and an interrupted command goes on. Needs torch and transformers.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sweet_experiments
import torch
import transformers

from calm import storage
from sweet import data


class Classifier(torch.nn.Module):
  """The mean of the last states, the pooler, dropout, a linear layer."""

  def __init__(self, checkpoint: str, num_labels: int):
    super().__init__()
    self.encoder = transformers.BertModel.from_pretrained(checkpoint)
    config = self.encoder.config
    self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
    self.classifier = torch.nn.Linear(config.hidden_size, num_labels)
    torch.nn.init.normal_(self.classifier.weight, std=config.initializer_range)
    torch.nn.init.zeros_(self.classifier.bias)

  def forward(self, tokens, token_types, lengths):
    """Logits [B, C] of int64 tokens[B, T]."""
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    states = self.encoder(
      input_ids=tokens, token_type_ids=token_types, attention_mask=mask.long()
    ).last_hidden_state
    pooled = (states * mask[..., None]).sum(1) / lengths[:, None].clamp(min=1)
    pooler = self.encoder.pooler
    return self.classifier(self.dropout(pooler.activation(pooler.dense(pooled))))


def inputs(batch: dict[str, np.ndarray]) -> list[torch.Tensor]:
  """What a Classifier takes of a batch."""
  return [torch.from_numpy(np.int64(batch[name])) for name in ('tokens', 'token_types', 'lengths')]


def train(flags: argparse.Namespace, rows: data.Rows, seed: int) -> Classifier:
  """A classifier trained on the rows that a seed draws."""
  torch.manual_seed(seed)
  model = Classifier(flags.checkpoint, rows.num_outputs).train()
  batches = data.train_batches(
    rows, batch_size=flags.batch_size, num_examples=flags.num_examples, seed=seed
  )
  steps = data.num_steps(batches, flags.num_epochs)
  optimizer = torch.optim.AdamW(model.parameters(), flags.learning_rate, weight_decay=0.0)
  schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
  start = time.monotonic()
  for step in range(steps):
    batch = next(batches)
    held = batch['weights'] > 0
    logits = model(*inputs(batch))[torch.from_numpy(held)]
    labels = torch.from_numpy(np.int64(batch['labels'][held]))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    if (step + 1) % 50 == 0:
      left = (time.monotonic() - start) / (step + 1) * (steps - step - 1)
      print(
        f'seed {seed} step {step + 1}/{steps} loss={loss.item():.4f} left={left:.0f}s', flush=True
      )
  return model.eval()


def score(model: Classifier, rows: data.Rows) -> float:
  """Its accuracy on the validation split, in percent."""
  encoded = rows.encoded('validation')
  order = np.argsort(np.diff(encoded.tokens.offsets), kind='stable')
  right = 0
  with torch.inference_mode():
    for start in range(0, len(order), 32):
      some = order[start : start + 32]
      longest = max(len(encoded.tokens[i]) for i in some)
      said = model(*inputs(encoded.batch(some, len(some), longest))).argmax(-1).numpy()
      right += int((said == encoded.labels[some]).sum())
  return 100 * right / len(order)


def of_ours(flags: argparse.Namespace, seed: int) -> float | None:
  """The accuracy of the multi-model run's last model; None if there is no such run."""
  run = sweet_experiments.Run(
    'main', flags.task, 'multi_model', seed, flags.num_examples, 'mean', flags.learning_rate
  )
  paths = list(Path(flags.runs, run.name, 'curves').glob('validation_*.json'))
  return storage.read_record(paths[0])['classifiers'][-1]['accuracy'] if paths else None


def main(argv: Sequence[str] | None = None) -> int:
  """Trains what is not kept yet and prints the table; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--checkpoint', required=True, help='directory of a BERT')
  parser.add_argument('--data', required=True, help='folder of the tasks')
  parser.add_argument('--runs', required=True, help='--output of the experiments')
  parser.add_argument('--output', default='finetuning.json', help='where scores are kept')
  parser.add_argument('--task', default='sst2', help='of those scored by accuracy')
  parser.add_argument('--learning_rate', type=float, default=1e-4)
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--num_examples', type=int, default=6000)
  parser.add_argument('--num_epochs', type=float, default=2)
  parser.add_argument('--batch_size', type=int, default=16)
  flags = parser.parse_args(argv)
  experiments = sweet_experiments.Experiments(flags)
  rows = experiments.rows(flags.task)
  kept: dict[str, Any] = {}
  if Path(flags.output).is_file():
    kept = json.loads(Path(flags.output).read_text())
  pairs = []
  for seed in flags.seeds:
    name = f'{flags.task}/{flags.num_examples}/{flags.learning_rate:g}/seed_{seed}'
    if name not in kept:
      kept[name] = score(train(flags, rows, seed), rows)
      storage.write_text(flags.output, json.dumps(kept, indent=2) + '\n')
    ours = of_ours(flags, seed)
    shown = 'not run' if ours is None else f'{ours:.2f}'
    print(f'{name}: transformers {kept[name]:.2f}, multi-model {shown}')
    if ours is not None:
      pairs.append((kept[name], ours))
  if pairs:
    theirs, ours = map(statistics.mean, zip(*pairs, strict=True))
    print(f'mean of {len(pairs)}: transformers {theirs:.2f}, multi-model {ours:.2f}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
