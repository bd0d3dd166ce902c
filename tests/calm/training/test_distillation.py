"""What soft targets are, and what learning from a teacher changes and leaves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from calm.models import t5
from calm.training import checkpoints, distillation, losses
from calm.training.distillation import DistilledObjective, SoftTargets, Teacher
from calm.training.step import init_state, train_step

# Of the student, and of a teacher with more layers.
CONFIG = t5.T5Config(19, 8, 2, 3, 11, 1, 2, dropout_rate=0.1)
LARGE = dataclasses.replace(CONFIG, num_decoder_layers=3, mlp_dim=13)
LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], np.float32)
TAUGHT = np.array([[0.5, 0.5, -2.0], [4.0, 1.0, 0.0]], np.float32)


@pytest.fixture(scope='module')
def student():
  return losses.EncoderDecoderObjective(t5.T5(CONFIG), z_loss=0.0)


@pytest.fixture(scope='module')
def teacher(made_up):
  return Teacher(t5.T5(LARGE), made_up(LARGE))


@pytest.fixture(scope='module')
def small(made_up):
  """Parameters of the student."""
  return made_up(CONFIG)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('scaled', [True, False])
def test_the_soft_loss_is_the_cross_entropy_of_the_softened_less_the_teachers_entropy(
  temperature, scaled
):
  p = scipy.special.softmax(TAUGHT / temperature, -1)
  cross_entropy = -(p * scipy.special.log_softmax(LOGITS / temperature, -1)).sum(-1)
  expected = cross_entropy - scipy.stats.entropy(p, axis=-1)
  found = distillation.soft_loss(LOGITS, TAUGHT, temperature, scaled)
  np.testing.assert_allclose(found, expected * (temperature**2 if scaled else 1), rtol=1e-5)
  same = distillation.soft_loss(TAUGHT, TAUGHT + 3, temperature)  # Whatever is added to all.
  np.testing.assert_allclose(same, 0, atol=1e-5)


def test_scaled_the_gradient_keeps_its_size_at_high_temperatures():
  def size(temperature, scaled):
    gradient = jax.grad(lambda s: distillation.soft_loss(s, TAUGHT, temperature, scaled).sum())
    return float(jnp.linalg.norm(gradient(LOGITS)))

  # Of Hinton et al., Eq. 4: (z - v) / (N T^2) of centred logits.
  limit = (LOGITS - LOGITS.mean(-1, keepdims=True)) - (TAUGHT - TAUGHT.mean(-1, keepdims=True))
  assert size(100.0, True) == pytest.approx(float(np.linalg.norm(limit)) / 3, rel=0.02)
  assert size(100.0, False) * 100**2 == pytest.approx(size(100.0, True), rel=1e-4)


def test_a_cosine_distance_is_that_of_directions():
  a, b = np.array([[3.0, 4.0], [1, 0], [0, 0]]), np.array([[6.0, 8.0], [-2, 0], [1, 1]])
  np.testing.assert_allclose(distillation.cosine_distance(a, b), [0, 2, 1], atol=1e-6)
  gradient = jax.grad(lambda a: distillation.cosine_distance(a, b).sum())(jnp.asarray(a))
  assert np.isfinite(gradient).all()


def by_hand(student, teacher, params, batch, targets):
  """The loss of Eq. 6 with soft targets, from logits alone."""

  def logits(model, params):
    states = losses.decoder_states(model, params, batch)
    return states, [model.apply({'params': params}, one, method='head') for one in states]

  states, ours = jax.tree.map(np.float64, logits(student.model, params))
  taught, theirs = jax.tree.map(np.float64, logits(teacher.model, teacher.params))
  total, weights = 0.0, batch['decoder_loss_weights']
  of_exits = losses.exit_weights(student.exit_weights, len(ours))
  t = targets.temperature
  for share, one in zip(of_exits, ours, strict=True):
    log_p = scipy.special.log_softmax(one, -1)
    hard = -np.take_along_axis(log_p, batch['decoder_target_tokens'][..., None], -1)[..., 0]
    p = scipy.special.softmax(theirs[-1] / t, -1)
    soft = (p * (np.log(p) - scipy.special.log_softmax(one / t, -1))).sum(-1) * t**2
    total += share * (((1 - targets.weight) * hard + targets.weight * soft) * weights).sum()
  a, b = states[-1], taught[-1]
  cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
  return total + targets.cosine_weight * ((1 - cosine) * weights).sum()


@pytest.mark.parametrize(
  'targets', [SoftTargets(0.3, 1.5, cosine_weight=0.7), SoftTargets(1.0, 3.0)]
)
def test_the_loss_is_what_numpy_says(student, teacher, small, stream, targets):
  batch = next(stream)
  total, sums = DistilledObjective(student, teacher, targets)(small, batch)
  expected = by_hand(student, teacher, small, batch, targets)
  np.testing.assert_allclose(total, expected, rtol=1e-4)
  plain = student(small, batch)[1]
  assert float(sums['loss_last_layer']) == float(plain['loss_last_layer'])


def test_without_weight_it_is_the_plain_loss_bit_for_bit_and_no_teacher_is_held(
  student, teacher, small, stream
):
  objective = DistilledObjective(student, teacher, SoftTargets(0.0))
  assert objective.frozen is None
  batch, key = next(stream), jax.random.key(3)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.jit(objective)(small, batch, key),
    jax.jit(student)(small, batch, key),
  )


def test_with_all_the_weight_the_targets_of_the_data_count_for_nothing(
  student, teacher, small, stream
):
  objective = DistilledObjective(student, teacher, SoftTargets(1.0))
  batch = next(stream)
  other = {**batch, 'decoder_target_tokens': np.roll(batch['decoder_target_tokens'], 1, axis=-1)}
  # What the decoder has read stays as it is, and what masks its tokens.
  other['decoder_target_tokens'] *= batch['decoder_loss_weights']
  losses_of_both = [
    float(objective(small, one)[0])
    for one in (
      batch,
      {**batch, 'decoder_target_tokens': np.maximum(1, other['decoder_target_tokens'])},
    )
  ]
  assert losses_of_both[0] == pytest.approx(losses_of_both[1], rel=1e-6)


def test_a_teacher_gets_no_gradient(student, teacher, small, stream):
  objective = DistilledObjective(student, teacher, SoftTargets(0.5, cosine_weight=1.0))
  batch = next(stream)
  of_teacher = jax.grad(lambda frozen: objective.holding(frozen)(small, batch)[0])(teacher.params)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(of_teacher))


def test_one_step_leaves_the_teacher_and_changes_the_student(student, teacher, small, stream, adam):
  objective = DistilledObjective(student, teacher, SoftTargets(1.0))
  state = init_state(objective, adam, jax.random.key(0), small)
  before = jax.tree.map(np.array, teacher.params)
  step = jax.jit(functools.partial(train_step, objective, adam, 1))
  after, _ = step(state, next(stream), jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, teacher.params, before)
  assert jax.tree.structure(after.params) == jax.tree.structure(small)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.params, small)
  assert all(change > 0 for change in jax.tree.leaves(moved))


def test_a_teacher_of_another_vocabulary_or_width_is_refused(student, teacher, made_up):
  other = dataclasses.replace(LARGE, vocab_size=23)
  with pytest.raises(ValueError, match='knows 23 tokens, and the model 19'):
    DistilledObjective(student, Teacher(t5.T5(other), None))
  wide = Teacher(t5.T5(dataclasses.replace(LARGE, emb_dim=10)), None)
  DistilledObjective(student, wide)
  with pytest.raises(ValueError, match='COSINE_WEIGHT = 0'):
    DistilledObjective(student, wide, SoftTargets(cosine_weight=0.1))


@pytest.mark.parametrize('change', [{'weight': 1.5}, {'temperature': 0.0}, {'cosine_weight': -1}])
def test_settings_that_cannot_be_are_refused(change):
  with pytest.raises(ValueError, match=next(iter(change))):
    SoftTargets(**change)


@dataclasses.dataclass(frozen=True, eq=False)
class Pulled:
  """The network of these tests, pulled to a teacher's kernels."""

  network: object
  frozen: object
  unit = 'token'

  @property
  def partition_rules(self):
    return self.network.partition_rules

  def holding(self, frozen):
    return dataclasses.replace(self, frozen=frozen)

  def init(self, key):
    return self.network.init(key)

  def __call__(self, params, batch, key=None):
    loss, sums = self.network(params, batch, key)
    pull = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), params, self.frozen)
    return loss + sums['weight'] * sum(jax.tree.leaves(pull)), sums


def frozen(network, value):
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes)


def test_what_is_frozen_is_read_and_never_saved_and_the_run_goes_on_with_it_alone(
  network, run, stream, tmp_path
):
  objective = Pulled(network(), frozen(network(), 0.25))
  run(tmp_path / 'whole', objective=objective, validation_batches=type(stream)())
  run(tmp_path / 'run', objective=objective, num_steps=6)
  kept = checkpoints.restore_params(tmp_path / 'run')
  assert set(kept) == {'wi', 'wo'}
  other = Pulled(network(), frozen(network(), 0.5))
  with pytest.raises(ValueError, match='TEACHER_WORKDIR'):
    run(tmp_path / 'run', objective=other)
  again = Pulled(network(), frozen(network(), 0.25))  # Read anew, from wherever.
  run(tmp_path / 'run', objective=again)
  whole, parts = (checkpoints.restore_params(tmp_path / name) for name in ('whole', 'run'))
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  assert (again.frozen['wi']['kernel'] == 0.25).all()


def test_the_program_of_a_step_has_the_teacher_for_an_argument(network, adam, stream):
  from calm.training import sharding
  from calm.training.step import Trainer

  objective = Pulled(network(), frozen(network(), 0.25))
  trainer = Trainer(objective, adam, mesh=sharding.make_mesh())
  state, batch = trainer.init(), trainer.place(next(stream))
  trainer.check(state, batch, [next(stream)])
  args = trainer.step.program.trace(trainer.step.first, state, batch, trainer.key)
  assert len(args.jaxpr.in_avals) == len(jax.tree.leaves((objective.frozen, state, batch))) + 1
