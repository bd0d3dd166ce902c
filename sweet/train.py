"""Trains the classifiers of an encoder as the paper does, then fits their temperatures.

Rotem et al., section 3.2 and appendix A, https://arxiv.org/abs/2306.02307; what the paper leaves
open is the published code's: AdamW without decay of weights and without warm-up.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import storage
from calm.settings import Count, Natural, NonNegative, Positive, Seed
from calm.training import checkpoints, loop, optimizers
from calm.training.losses import Objective
from sweet import checkpoint as begin
from sweet import temperature
from sweet.data import Rows, draw, num_steps, train_batches
from sweet.objectives import Classifiers, ExitsObjective, clipped_by_classifier

RECORD = 'training.json'
CLIPPINGS = ('per_classifier', 'global')


def train(
  *,
  model: Classifiers,
  rows: Rows,
  workdir: str,
  method: str = 'sweet',
  checkpoint: str | None = None,
  split: str = 'train',
  num_examples: Count | None = None,
  num_held_out: Natural = 500,
  num_epochs: Positive = 2,
  batch_size: Count = 16,
  window: Count = 50,
  learning_rate: Positive | Mapping[str, Positive] = 3e-5,
  warmup_steps: Natural = 0,
  weight_decay: NonNegative = 0.0,
  max_gradient_norm: Positive | None = 1.0,
  clipping: str | None = None,
  weights: Sequence[NonNegative] | None = None,
  learns_from: Callable[[ExitsObjective], Objective] | None = None,
  initial_params: Callable[[], Any] | None = None,
  seed: Seed = 0,
  accepted: Callable[[], None] | None = None,
  **settings: Any,
) -> tuple[Any, dict[str, float]]:
  """Trains a model, or goes on where a run stopped; when all is done, it fits temperatures.

  The workdir gets checkpoints, metrics.jsonl, TensorBoard events, the encoder's config and
  tokenizer, training.json (what was trained) and temperatures.json.

  Args:
    model: of the method: `sweet.objectives.classifiers`.
    rows: of the task.
    workdir: of the run.
    method: 'early_exit', 'sweet', 'multi_model' or 'alternating'.
    checkpoint: directory of the encoder that the run begins with; None begins with fresh
      parameters, and needs a workdir that has an encoder.
    split: of the task.
    num_examples: rows that are drawn to be trained on, for each seed; None is all.
    num_held_out: rows that are drawn and not trained on, to fit temperatures on.
    num_epochs: how often each row is seen.
    batch_size: rows, over all hosts.
    window: batches within which rows are sorted by length.
    learning_rate: at the beginning, or that of each method, by its name; it falls linearly to 0.
    warmup_steps: in which it rises linearly before.
    weight_decay: AdamW's.
    max_gradient_norm: of gradients, which are clipped to it; None clips nothing.
    clipping: whether norms are taken 'per_classifier', of what each owns, or 'global'. None is per
      classifier for `sweet` and `multi_model`, where a global norm would couple what is apart, and
      global for the others, as in the published code.
    weights: of the classifiers' losses; None is 1 for each.
    learns_from: makes another objective of the classifiers' own, which has a teacher, too:
      `sweet.distillation.Distilled`, `sweet.subnetworks.Family`.
    initial_params: gives the parameters to begin with, in place of `checkpoint`'s.
    seed: of the draw of rows, their order, fresh parameters and dropout.
    accepted: called once nothing can refuse the work any more.
    settings: what else `calm.training.loop.train` takes.

  Returns:
    (params, metrics of the last report).

  Raises:
    ValueError: a setting that cannot be, or a row that cannot be trained on.
    Exception: as `calm.training.loop.train`.
  """
  begin.check_texts(model, rows.tokenizer, rows.length)
  rate = rate_of(learning_rate, method)
  batches = train_batches(
    rows,
    batch_size=batch_size,
    split=split,
    num_examples=num_examples,
    num_held_out=num_held_out,
    seed=seed,
    window=window,
  )
  steps = num_steps(batches, num_epochs)
  optimizer = make_optimizer(
    model,
    learning_rate=optimizers.warmup_linear(rate, num_steps=steps, warmup_steps=warmup_steps),
    weight_decay=weight_decay,
    max_gradient_norm=max_gradient_norm,
    clipping=clipping or default_clipping(method),
  )

  def begun() -> None:
    begin.keep(checkpoint, workdir)
    temperature.forget(workdir)
    storage.write_record(
      Path(workdir, RECORD),
      {
        'task': rows.task.name,
        'method': method,
        'pooling': model.config.pooling,
        'seed': seed,
        'learning_rate': rate,
        'num_examples': num_examples,
        'rows': batches.settings['examples'],
        'num_epochs': num_epochs,
        'batch_size': batch_size,
      },
    )
    if accepted is not None:
      accepted()

  objective: Any = ExitsObjective(model, method, weights, rows.regression)
  if initial_params is None and checkpoint:
    initial_params = functools.partial(begin.initial_params, checkpoint, model, seed=seed)
  params, report = loop.train(
    workdir=workdir,
    objective=objective if learns_from is None else learns_from(objective),
    optimizer=optimizer,
    batches=batches,
    num_steps=steps,
    initial_params=initial_params,
    seed=seed,
    accepted=begun,
    **settings,
  )
  if checkpoints.steps(workdir)[-1:] == [steps] and not rows.regression:
    encoded = rows.encoded(split)
    held_out = draw(len(encoded), num_held_out=num_held_out, seed=seed).held_out
    temperature.fit_run(workdir, model, params, encoded.rows(held_out), steps)
  return params, report


def rate_of(learning_rate: float | Mapping[str, float], method: str) -> float:
  """A method's learning rate, of one for all or of those by method.

  Raises:
    ValueError: there is none for the method.
  """
  if not isinstance(learning_rate, Mapping):
    return learning_rate
  if method not in learning_rate:
    raise ValueError(
      f'learning_rate (LEARNING_RATE) is of {", ".join(learning_rate)}, and there is none for'
      f' {method!r}: give a number.'
    )
  return learning_rate[method]


def default_clipping(method: str) -> str:
  """What norms of gradients are taken over, if nothing else is said."""
  return 'per_classifier' if method in ('sweet', 'multi_model') else 'global'


def make_optimizer(
  model: Classifiers,
  *,
  learning_rate: optimizers.Schedule,
  weight_decay: float,
  max_gradient_norm: float | None,
  clipping: str,
) -> optimizers.Optimizer:
  """AdamW as the paper sets it (beta 0.9 and 0.999, epsilon 1e-8); see `train`.

  Raises:
    ValueError: a clipping that there is not.
  """
  if clipping not in CLIPPINGS:
    raise ValueError(f'clipping: {clipping!r} is not one of {", ".join(CLIPPINGS)}.')
  in_all = max_gradient_norm if clipping == 'global' else None
  optimizer = optimizers.adamw(
    learning_rate,
    b1=0.9,
    b2=0.999,
    epsilon=1e-8,
    weight_decay=weight_decay,
    max_gradient_norm=in_all,
  )
  if clipping == 'global' or max_gradient_norm is None:
    return optimizer
  return clipped_by_classifier(optimizer, model, max_gradient_norm)
