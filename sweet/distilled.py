"""Classifiers that learn from another model's: soft targets beside the labels.

What soft targets are: `calm.training.distillation`. The teacher is what `sweet train` has trained,
or a directory of a BERT or DeBERTa with a classifier; it answers with its last classifier.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from calm import fingerprints
from calm.evaluation.predictor import Predictor
from calm.models import parameters, pretrained
from calm.tasks import wordpiece
from calm.tasks.classification import Form
from calm.training.distillation import SoftTargets, Taught, Teacher, cosine_distance
from sweet.model import ENCODERS, EarlyExitClassifier, ExitsConfig
from sweet.multi_model import MultiModel
from sweet.objectives import ExitsObjective
from sweet.predictor import ExitsPredictor


@dataclasses.dataclass(frozen=True, eq=False)
class Distilled(Taught):
  """The loss of classifiers whose rows another model has read, too.

  Every classifier has the soft targets of the teacher's last one, beside its labels: the squared
  error against its number, of a regression. Cosines are of the states that both last classifiers
  read, the mean over a row's tokens. The teacher runs without dropout in the same step.

  Raises:
    ValueError: the teacher has another number of labels or tokens, or its states another width.
  """

  student: ExitsObjective
  teacher: Teacher  # of EarlyExitClassifier or MultiModel
  targets: SoftTargets = dataclasses.field(default_factory=SoftTargets)

  def __post_init__(self) -> None:
    ours, theirs = (one.model.config for one in (self.student, self.teacher))
    check_fit(ours, theirs)
    self.targets.check_widths(ours.encoder.emb_dim, theirs.encoder.emb_dim)
    models = (self.student.model, self.teacher.model)
    if self.targets.cosine_weight and any(isinstance(one, MultiModel) for one in models):
      raise ValueError('cosine_weight (COSINE_WEIGHT): independent models share no state.')

  @property
  def needs_teacher(self) -> bool:
    """Whether soft targets or states count."""
    return self.targets.need_teacher

  def __call__(
    self, params: Any, batch: Mapping[str, Any], key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over the rows of a batch of `calm.tasks.length_sorted`.

    Returns:
      (summed loss, the student's sums, 'soft_loss_<k>' of each classifier if that counts, and
      'cosine_distance' if states are compared).
    """
    targets = self.targets
    if not targets.need_teacher:
      return self.student(params, batch, key)
    taught, said = answers(self.teacher, batch)

    def row_loss(loss: jax.Array, outputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
      if self.student.regression:
        soft = jnp.square(outputs - said)[..., 0]
      else:
        soft = targets.soft_loss(outputs, said)
      return targets.mixed(loss, soft), {'soft_loss': soft}

    total, sums, state = self.student.with_state(
      params, batch, key, row_loss if targets.weight else None
    )
    if targets.cosine_weight:
      there = jnp.arange(state.shape[1]) < batch['lengths'][:, None]
      distances = (cosine_distance(state, taught) * there).sum(1) / jnp.maximum(1, there.sum(1))
      distance = (distances * batch['weights']).sum()
      total += targets.cosine_weight * distance
      sums = {**sums, 'cosine_distance': distance}
    return total, sums


def answers(teacher: Teacher, batch: Any) -> tuple[Any, Any]:
  """What a teacher's last classifier reads [B, T, D] and says [B, C]; nothing flows back."""
  params = jax.lax.stop_gradient(teacher.params)
  state = outputs = None
  for k in range(1, len(teacher.model.exits) + 1):
    state, outputs, _ = teacher.model.stage(params, k, batch, state)
  return state, outputs


def teacher(predictor: Predictor, *, tokenizer: wordpiece.Tokenizer, labels: Form) -> Teacher:
  """The classifiers of a run, for others to learn from.

  Args:
    predictor: of the run: `calm.runs.predictor`.
    tokenizer: of the model that learns.
    labels: of its task.

  Raises:
    ValueError: the run is none of `sweet train`, or has other tokens or labels.
  """
  if not isinstance(predictor, ExitsPredictor):
    raise ValueError(
      f'TEACHER_WORKDIR is the run of a {type(predictor).__name__}: classifiers learn from what'
      ' `sweet train` has trained.'
    )
  _check_tokens(predictor.tokenizer, tokenizer)
  _check_labels(predictor.labels, labels)
  return Teacher(predictor.model, predictor.params)


def teacher_of_checkpoint(
  checkpoint: str, *, tokenizer: wordpiece.Tokenizer, labels: Form
) -> Teacher:
  """A BERT or DeBERTa with a classifier, as others trained it, for classifiers to learn from.

  Args:
    checkpoint: its directory, as `calm.models.pretrained.load` takes it.
    tokenizer: of the model that learns.
    labels: of its task; the checkpoint's are taken to stand in the same order.

  Raises:
    FileNotFoundError, ValueError: as `pretrained.load`; or it has no classifier, or other tokens or
      another number of labels.
  """
  config, params = pretrained.load(checkpoint)
  if type(config) not in ENCODERS or config.num_labels != labels.num_outputs:
    found = getattr(config, 'num_labels', 0)
    raise ValueError(
      f'{checkpoint} has a classifier of {found} labels, and the task needs {labels.num_outputs}.'
    )
  _check_tokens(wordpiece.load(checkpoint), tokenizer)
  model = EarlyExitClassifier(ExitsConfig(config, (config.num_layers,), config.num_labels))
  theirs = {'pooler': 'pooler_1', 'classifier': 'classifier_1'}
  flat = {}
  for name, value in parameters.flatten(params).items():
    part, _, rest = name.partition('/')
    flat[f'{theirs[part]}/{rest}' if part in theirs else f'encoder/{name}'] = value
  return Teacher(model, parameters.unflatten(flat))


def check_fit(ours: ExitsConfig, theirs: ExitsConfig) -> None:
  """Raises a ValueError if a model cannot learn from a teacher's outputs."""
  if ours.num_outputs != theirs.num_outputs:
    raise ValueError(
      f'The teacher gives {theirs.num_outputs} outputs, and the model {ours.num_outputs}: soft'
      ' targets need the same labels.'
    )
  if ours.encoder.vocab_size != theirs.encoder.vocab_size:
    raise ValueError(
      f'The teacher knows {theirs.encoder.vocab_size} tokens, and the model'
      f' {ours.encoder.vocab_size}: soft targets need one vocabulary.'
    )


def _check_tokens(theirs: wordpiece.Tokenizer, ours: wordpiece.Tokenizer) -> None:
  if different := fingerprints.differences(theirs.identity, ours.identity):
    raise ValueError(
      f"The teacher's tokenizer is another: {fingerprints.in_words(different)}. Soft targets need"
      ' one vocabulary: begin with a CHECKPOINT that has it.'
    )


def _check_labels(theirs: Form, ours: Form) -> None:
  names = [getattr(one, 'labels', ('a number',)) for one in (theirs, ours)]
  if names[0] != names[1]:
    before, now = (', '.join(one) for one in names)
    raise ValueError(
      f"The teacher's labels are ({before}), and the task's ({now}). If they mean the same, give"
      ' TEACHER_SETTINGS the LABEL_NAMES of the task.'
    )
