"""Trains an energy head on the encoder of a T5 that is trained already."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax

from calm import settings
from calm.models.parameters import Network
from calm.training import loop, optimizers
from elang import heads
from elang.heads import FILE, HEAD, EnergyHead, EnergyHeadObjective


class Stage(Protocol):
  """What is taken from the run whose encoder it is; `calm.runs.stage` reads it."""

  @property
  def model(self) -> Network:
    """A calm.models.t5.T5."""

  @property
  def params(self) -> Any:
    """Its parameters."""

  @property
  def vocabulary(self) -> Any:
    """A seqio.Vocabulary."""

  @property
  def batches(self) -> Any:
    """An endless stream of training examples as `calm.tasks.batches` makes it, not packed."""


def train_head(
  *,
  workdir: str,
  stage: Stage,
  labels: Sequence[str] | None = None,
  positions: Literal['pooled', 'aligned'] = 'pooled',
  pooling: Literal['mean', 'first'] = 'mean',
  start: Literal['zero', 'normal'] = 'zero',
  stddev: settings.NonNegative = 0.02,
  temperature: settings.Positive = 1.0,
  margins: tuple[settings.Finite, settings.Finite] | None = None,
  margin_weight: settings.NonNegative = 0.1,
  num_steps: settings.Count = 500,
  learning_rate: settings.Positive = 3e-3,
  weight_decay: settings.NonNegative = 0.0,
  seed: settings.Seed = 0,
) -> tuple[EnergyHead, dict[str, jax.Array]]:
  """Trains a head and writes it to `workdir`/energy_head.safetensors; goes on where it stopped.

  The encoder stays as it is, and no decoder is read or run. Checkpoints in `workdir` are of the
  encoder and the head.

  Args:
    workdir: folder of the head.
    stage: the T5 and the examples it was trained on.
    labels: the texts of a classification's labels; without, the words of the targets are classes.
    positions, pooling, start, stddev, temperature: of `elang.heads.EnergyHead`.
    margins, margin_weight: of `elang.heads.EnergyHeadObjective`.
    num_steps: in all.
    learning_rate: of AdamW, constant.
    weight_decay: of the kernel, another thing that fixes the constant cross entropy does not see.
    seed: of the head's start and of margins' shuffled inputs.

  Returns:
    The head and its parameters.

  Raises:
    ValueError: settings that cannot be; and what `calm.training.loop.train` raises.
  """
  vocabulary = stage.vocabulary
  classes = None
  if labels is not None:
    classes = tuple((*vocabulary.encode(label), vocabulary.eos_id) for label in labels)
  head = EnergyHead(
    stage.model.config.vocab_size if classes is None else len(classes),
    positions,
    pooling,
    start,
    stddev,
    temperature,
  )
  objective = EnergyHeadObjective(stage.model, head, classes, margins, margin_weight)
  adamw = optimizers.adamw(learning_rate, weight_decay=weight_decay)
  params, _ = loop.train(
    workdir=workdir,
    objective=objective,
    optimizer=optimizers.train_only(adamw, f'{HEAD}/'),
    batches=stage.batches,
    num_steps=num_steps,
    initial_params=lambda: objective.begin(stage.params, jax.random.key(seed)),
    seed=seed,
  )
  heads.save(Path(workdir, FILE), head, params[HEAD])
  return head, params[HEAD]
