"""A small model learns from a large one's answers: soft targets beside the data's own.

Hinton et al., https://arxiv.org/abs/1503.02531, section 2; states as Sanh et al. compare them,
https://arxiv.org/abs/1910.01108, section 3. E-LANG distils its Swift model so while it is
fine-tuned (Akbari et al., section 4.1 and Table 3, https://arxiv.org/abs/2203.00748).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm import settings
from calm.training import losses


def soft_loss(
  logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0, scaled: bool = True
) -> jax.Array:
  """Divergence in nats of a model's logits[..., V] from a teacher's, both softened; [...].

  KL(softmax(t / T) || softmax(s / T)): the cross entropy of Hinton et al. less what no model can
  change, so that 0 is the teacher itself. Its gradient is about 1 / T^2 of that of hard targets;
  `scaled` multiplies it by T^2, so that the weights of both mean the same at any temperature.
  """
  of_teacher, of_model = (
    jax.nn.log_softmax(one.astype(jnp.float32) / temperature) for one in (teacher_logits, logits)
  )
  divergence = (jnp.exp(of_teacher) * (of_teacher - of_model)).sum(-1)
  return divergence * temperature**2 if scaled else divergence


def cosine_distance(states: jax.Array, teacher_states: jax.Array) -> jax.Array:
  """1 less the cosine of two states [..., D], in [0, 2]; of a state of zeros it is 1."""
  a, b = (one.astype(jnp.float32) for one in (states, teacher_states))
  squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
  # Not the square root of 0, which has no gradient.
  product = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 1.0)
  return 1 - (a * b).sum(-1) / product


@dataclasses.dataclass(frozen=True)
class SoftTargets:
  """How much of a loss is the teacher's.

  (1 - weight) of the data's loss and `weight` of the soft one, and `cosine_weight` times the
  cosine distance of the last states, for which student and teacher are to be of one width.
  """

  weight: settings.Share = 0.5
  temperature: settings.Positive = 2.0
  scaled: bool = True  # by the square of the temperature
  cosine_weight: settings.NonNegative = 0.0

  def __post_init__(self) -> None:
    settings.check_fields(self)

  @property
  def need_teacher(self) -> bool:
    """Whether the teacher says anything."""
    return self.weight > 0 or self.cosine_weight > 0

  def soft_loss(self, logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """`soft_loss` of logits[..., V] against the teacher's, [...]."""
    return soft_loss(logits, teacher_logits, self.temperature, self.scaled)

  def mixed(self, hard: jax.Array, soft: jax.Array) -> jax.Array:
    """The loss [...] of `hard`, that of the data, and of `soft`, that of the teacher."""
    if self.weight in (0, 1):  # Then the other one is not computed.
      return soft if self.weight else hard
    return (1 - self.weight) * hard + self.weight * soft

  def check_widths(self, width: int, teacher_width: int) -> None:
    """Raises a ValueError if states are to be compared and are not of one width."""
    if self.cosine_weight and width != teacher_width:
      raise ValueError(
        f'cosine_weight: states are {width} wide, and the teacher has {teacher_width}: their angle'
        ' needs one width. Set COSINE_WEIGHT = 0, or take another teacher.'
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
  """A trained network; its parameters stay as they are."""

  model: Any  # a calm.models.parameters.Network
  params: Any


class Taught:
  """What an objective with a `student` objective and a `teacher` has of both.

  The teacher's parameters are `frozen`: an argument of the step, in no checkpoint.
  """

  student: Any
  teacher: Any

  @property
  def unit(self) -> str:
    """What weights count: the student's."""
    return self.student.unit

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The student's network's: see `calm.training.sharding.by_rules`."""
    return self.student.partition_rules

  @property
  def needs_teacher(self) -> bool:
    """Whether the teacher has a say."""
    return True

  @property
  def frozen(self) -> Any:
    """The teacher's parameters; None if it has no say."""
    return self.teacher.params if self.needs_teacher else None

  def holding(self, frozen: Any) -> Self:
    """The same with other parameters of the teacher."""
    teacher = dataclasses.replace(self.teacher, params=frozen)
    return dataclasses.replace(self, teacher=teacher)  # type: ignore[type-var]

  def init(self, key: jax.Array) -> Any:
    """Fresh float32 parameters of the student."""
    return self.student.init(key)


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledObjective(Taught):
  """The loss of a T5 whose tokens another T5 has read, too.

  After every decoder layer that has a weight the soft targets are the teacher's after its last
  layer, for each token of the target and given the target so far; the teacher runs without dropout
  in the same step. Cosines are of the states after the last decoder layers, at the target's tokens.

  Raises:
    ValueError: the teacher has another vocabulary, or its states another width.
  """

  student: losses.EncoderDecoderObjective
  teacher: Teacher
  targets: SoftTargets = dataclasses.field(default_factory=SoftTargets)

  def __post_init__(self) -> None:
    ours, theirs = (one.model.config for one in (self.student, self.teacher))
    if ours.vocab_size != theirs.vocab_size:
      raise ValueError(
        f'The teacher knows {theirs.vocab_size} tokens, and the model {ours.vocab_size}: soft'
        ' targets need one vocabulary.'
      )
    self.targets.check_widths(ours.emb_dim, theirs.emb_dim)

  @property
  def needs_teacher(self) -> bool:
    """Whether soft targets or states count."""
    return self.targets.need_teacher

  def __call__(
    self, params: Any, batch: losses.Batch, key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over target tokens of a batch as `calm.tasks.batches` makes it.

    Returns:
      (summed loss, the student's sums and, if states are compared, 'cosine_distance').
    """
    if not self.targets.need_teacher:
      return self.student(params, batch, key)
    teacher = dataclasses.replace(self.teacher, params=jax.lax.stop_gradient(self.teacher.params))
    taught = losses.decoder_states(teacher.model, teacher.params, batch)[-1]
    token_loss = None
    if self.targets.weight:
      said: Any = teacher.model.apply({'params': teacher.params}, taught, method='head')

      def token_loss(loss: jax.Array, logits: jax.Array) -> jax.Array:
        return self.targets.mixed(loss, self.targets.soft_loss(logits, said))

    total, sums, states = self.student.with_states(params, batch, key, token_loss)
    if self.targets.cosine_weight:
      weights = batch['decoder_loss_weights'].astype(jnp.float32)
      distance = (cosine_distance(states[-1], taught) * weights).sum()
      total += self.targets.cosine_weight * distance
      sums = {**sums, 'cosine_distance': distance}
    return total, sums
