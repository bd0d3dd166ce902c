"""Classifiers of many sizes in one set of weights, and each of them as a run of its own.

A family is trained as DynaBERT is (Hou et al., https://arxiv.org/abs/2004.04037): a classifier that
is trained already is the teacher and, with its heads and neurons reordered by importance, what is
begun with; in every step the losses of all widths and depths are summed. E-LANG routes between two
of them (Akbari et al., Table 5, https://arxiv.org/abs/2203.00748).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from calm import storage
from calm.models import parameters, subnetworks
from calm.settings import Count, Natural, NonNegative, Seed, check_fields
from calm.tasks.length_sorted import LengthSortedBatches
from calm.training import checkpoints
from calm.training.distillation import SoftTargets, Taught, Teacher
from sweet import checkpoint
from sweet.data import Rows, draw
from sweet.distilled import check_fit
from sweet.model import EarlyExitClassifier
from sweet.objectives import Classifiers, ExitsObjective
from sweet.predictor import ExitsPredictor


def smaller(model: Classifiers, width: float = 1.0, depth: float = 1.0) -> EarlyExitClassifier:
  """The classifier of a sub-network; shares as `calm.models.subnetworks.smaller` takes them.

  Raises:
    ValueError: a share that cannot be, no BERT, or classifiers before the last layer.
  """
  if not isinstance(model, EarlyExitClassifier) or len(model.exits) != 1:
    raise ValueError(
      'Sub-networks have one classifier, after their last layer: train with'
      f' EXITS = ({model.exits[-1]},) and METHOD = "early_exit".'
    )
  encoder = subnetworks.smaller(model.config.encoder, width, depth)
  return EarlyExitClassifier(
    dataclasses.replace(model.config, encoder=encoder, exits=(encoder.num_layers,))
  )


def take(
  model: Classifiers, params: Any, width: float = 1.0, depth: float = 1.0
) -> tuple[EarlyExitClassifier, Any]:
  """A sub-network: (its classifier, its parameters, which are parts of `params`)."""
  part = smaller(model, width, depth)
  return part, subnetworks.take(params, model.config.encoder, width, depth)


@dataclasses.dataclass(frozen=True, eq=False)
class Family(Taught):
  """The sum over sub-networks of their losses, each against the teacher: for `sweet train`.

  A loss is that of `targets`, the soft one alone by default as in DynaBERT, and `states_weight`
  times the squared differences from the teacher's states: the mean over a row's tokens and the
  state's numbers, summed over the states before each kept layer and after the last.

  Raises:
    ValueError: shares that cannot be, or a teacher that is not what the student is in full.
  """

  student: ExitsObjective
  teacher: Teacher
  widths: Sequence[float] = (1.0, 0.75, 0.5, 0.25)
  depths: Sequence[float] = (1.0,)
  targets: SoftTargets = dataclasses.field(default_factory=lambda: SoftTargets(1.0, 1.0))
  states_weight: NonNegative = 0.1

  def __post_init__(self) -> None:
    check_fields(self)
    for name in ('widths', 'depths'):
      object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
      if not getattr(self, name):
        raise ValueError(f'{name} ({name.upper()}): at least one is needed.')
    for width, depth in self.members:
      smaller(self.student.model, width, depth)
    smaller(self.teacher.model)
    ours, theirs = (one.model.config for one in (self.student, self.teacher))
    check_fit(ours, theirs)
    student, teacher = (parameters.shapes(one.model) for one in (self.student, self.teacher))
    parameters.require_fit('The teacher (TEACHER_WORKDIR)', student, teacher)
    if self.targets.cosine_weight:
      raise ValueError('cosine_weight (COSINE_WEIGHT): a family compares states by STATES_WEIGHT.')

  @property
  def members(self) -> tuple[tuple[float, float], ...]:
    """Width and depth of each sub-network."""
    return tuple((width, depth) for depth in self.depths for width in self.widths)

  def __call__(
    self, params: Any, batch: Mapping[str, Any], key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over the rows of a batch of `calm.tasks.length_sorted`.

    Returns:
      (summed loss, {'weight': number of rows, and of each sub-network, by width and depth as in
      'loss_0.5_1': the 'loss' of its labels, 'soft_loss', 'states_loss' and, of a classification,
      'accuracy'}).
    """
    model, weights = self.student.model, batch['weights']
    taught, said = states_and_outputs(
      self.teacher.model, jax.lax.stop_gradient(self.teacher.params), batch
    )
    total, sums = jnp.float32(0), {'weight': weights.sum()}
    for width, depth in self.members:
      part, own = take(model, params, width, depth)
      states, outputs = states_and_outputs(part, own, batch, key)
      kept = subnetworks.kept_layers(model.config.encoder.num_layers, depth)
      loss, of_rows = self._losses(outputs, said, batch['labels'])
      others = [taught[layer] for layer in (*kept, -1)]
      of_rows['states_loss'] = _squared_differences(states, others, batch['lengths'])
      loss += self.states_weight * of_rows['states_loss']
      total += (loss * weights).sum()
      sums |= {
        f'{name}_{width:g}_{depth:g}': (rows * weights).sum() for name, rows in of_rows.items()
      }
    return total, sums

  def _losses(
    self, outputs: jax.Array, said: jax.Array, labels: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Of each row its loss [B], and what is to be reported of it."""
    hard, rightness = self.student.row_losses(outputs, labels)
    if self.student.regression:
      soft, more = jnp.square(outputs - said)[..., 0], {}
    else:
      soft, more = self.targets.soft_loss(outputs, said), {'accuracy': rightness}
    return self.targets.mixed(hard, soft), {'loss': hard, 'soft_loss': soft, **more}


def states_and_outputs(
  model: Any, params: Any, inputs: Any, key: Any = None
) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """What a classifier of one exit makes of rows.

  Args:
    model, params: its.
    inputs: `tokens`, `token_types` int32[B, T] and `lengths` int32[B].
    key: of dropout; None is without.

  Returns:
    (the states [B, T, D] before each layer and after the last, outputs [B, C]).
  """
  mask = jnp.arange(inputs['tokens'].shape[1]) < inputs['lengths'][:, None]
  options = {'deterministic': key is None}

  def run(module: Any) -> tuple[tuple[jax.Array, ...], jax.Array]:
    states = [module.embed(inputs['tokens'], mask, inputs['token_types'], **options)]
    for layer in range(module.exits[-1]):
      states.append(module.encoder.layer(layer, states[-1], mask, **options))
    return tuple(states), module.classify(1, states[-1], mask, **options)[0]

  rngs = {} if key is None else {'dropout': key}
  return model.apply({'params': params}, method=run, rngs=rngs)


def begin(
  *,
  teacher: Teacher,
  rows: Rows,
  split: str = 'train',
  num_held_out: Natural = 500,
  seed: Seed = 0,
  batch_size: Count = 32,
  reorder: bool = True,
) -> Any:
  """A teacher's parameters with heads and neurons in the order of their importance.

  Importance is `calm.models.subnetworks.importance` of the labels' loss, summed over batches of the
  rows that `sweet train` with the same seed holds out. Without `reorder` all stay where they are:
  those of a family are in order, and its sub-networks would become others.

  Raises:
    ValueError: no rows are held out.
  """
  smaller(teacher.model)
  if not reorder:
    return teacher.params
  encoded = rows.encoded(split)
  held_out = draw(len(encoded), num_held_out=num_held_out, seed=seed).held_out
  if not len(held_out):
    raise ValueError('No rows are held out (NUM_HELD_OUT): importance is measured on them.')
  batches = LengthSortedBatches(
    encoded.rows(held_out), batch_size=batch_size, limit=rows.length, seed=seed
  )
  objective = ExitsObjective(teacher.model, 'early_exit', regression=rows.regression)

  @jax.jit
  def gradient_of_labels(params: Any, batch: Mapping[str, Any]) -> Any:
    return jax.grad(lambda params: objective(params, batch)[0])(params)

  encoder, params = teacher.model.config.encoder, jax.device_get(teacher.params)
  found = [
    subnetworks.importance(
      params, jax.device_get(gradient_of_labels(params, next(batches))), encoder
    )
    for _ in range(batches.batches_per_epoch)
  ]
  return subnetworks.reorder(params, encoder, sum(found[1:], found[0]))


def export(
  *, workdir: str, family_workdir: str, predictor: ExitsPredictor, width: float, depth: float
) -> None:
  """Writes a sub-network of a family as a run of its own, for all commands that predict.

  The workdir gets the encoder's sizes and tokenizer, a checkpoint and the family's configuration
  with the sub-network's exit. It has no temperatures, which were fitted on the whole: logits are
  taken as they are.

  Args:
    workdir: of the new run.
    family_workdir: of a run of `sweet train`, on sub-networks or not.
    predictor: of that run: `calm.runs.predictor`.
    width, depth: as `calm.models.subnetworks.smaller` takes them.

  Raises:
    FileExistsError: there is a run in the workdir already.
    ValueError: shares that cannot be, or the run has no such sub-networks.
  """
  if not isinstance(predictor, ExitsPredictor):
    raise ValueError(
      f'{family_workdir} is no run of `sweet train`: sub-networks are taken from one.'
    )
  model, params = take(predictor.model, predictor.params, width, depth)
  if checkpoints.steps(workdir) or Path(workdir, checkpoint.FOLDER).exists():
    raise FileExistsError(f'{workdir} holds a run already: give another --workdir.')
  config = Path(family_workdir, 'config.gin').read_text(encoding='utf-8')
  checkpoint.write(model.config.encoder, Path(family_workdir, checkpoint.FOLDER), workdir)
  store = checkpoints.Checkpoints(workdir)
  store.save(checkpoints.steps(family_workdir)[-1], {'params': params}, {})
  store.close()
  lines = (f'EXITS = {model.exits!r}', f'WORKDIR = {str(Path(workdir).absolute())!r}')
  storage.write_text(Path(workdir, 'config.gin'), '\n'.join([config.rstrip(), *lines, '']))
  count = sum(value.size for value in parameters.flatten(params).values())
  cfg = model.config.encoder
  print(
    f'{workdir}: {cfg.num_layers} layers of {cfg.num_heads} heads and {cfg.mlp_dim} neurons,'
    f' {count:,} parameters.'
  )


def _squared_differences(
  states: Sequence[jax.Array], others: Sequence[jax.Array], lengths: jax.Array
) -> jax.Array:
  """Of each row the mean square [B] over its tokens and numbers, summed over pairs [B, T, D]."""
  there = jnp.arange(states[0].shape[1]) < lengths[:, None]
  squares = sum(jnp.square(a - b).mean(-1) for a, b in zip(states, others, strict=True))
  return (squares * there).sum(1) / jnp.maximum(1, there.sum(1))
