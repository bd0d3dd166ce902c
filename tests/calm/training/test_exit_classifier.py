import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import parameters, pretrained, t5
from calm.training import checkpoints, exit_classifier, loop, losses, optimizers
from calm.training.exit_classifier import ExitClassifierObjective
from calm.training.step import init_state, train_step

CONFIG = t5.T5Config(19, 8, 2, 3, 11, 1, 3, dropout_rate=0.1, exit_classifier=True)
CLASSIFIER = ('decoder/exit_classifier/bias', 'decoder/exit_classifier/kernel')

# What four layers predict for a row of three tokens, the last of them padding, and the
# classifier's scores of the first three layers.
PREDICTED = np.array([[[5, 2, 4]], [[3, 2, 4]], [[5, 6, 1]], [[5, 2, 4]]])
SCORES = np.array([[[0.5, 2.0, 9.0]], [[-1.5, -0.25, 9.0]], [[1.0, 3.0, 9.0]]])
WEIGHTS = np.array([[1, 1, 0]])


@dataclasses.dataclass(frozen=True)
class Given:
  """A model whose states[L, B, T, D] are given, with the logits and last the score in them."""

  states: object
  config = dataclasses.replace(CONFIG, num_decoder_layers=4)

  def apply(self, variables, *args, method=None, **_):
    if method is None:
      return tuple(self.states)
    if method == 'head':
      return args[0][..., :-1]
    assert method == 'exit_score'
    return args[0] @ variables['params']['kernel'] + variables['params']['bias']


def given(predicted, scores):
  """Returns a Given model, parameters that read its scores, and a batch."""
  scores = np.pad(scores, ((0, 1), (0, 0), (0, 0)))
  states = jnp.asarray(np.concatenate([np.eye(7)[predicted], scores[..., None]], -1), jnp.float32)
  params = {'kernel': jnp.asarray(np.eye(8)[7], jnp.float32), 'bias': jnp.float32(0)}
  names = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  batch = {name: WEIGHTS for name in names}
  return Given(states), params, {**batch, 'decoder_loss_weights': WEIGHTS}


def loss_and_sums(kind, predicted=PREDICTED, scores=SCORES):
  model, params, batch = given(predicted, scores)
  loss, sums = ExitClassifierObjective(model, kind)(params, batch)
  return float(loss), {name: float(value) for name, value in sums.items()}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_the_independent_loss_is_the_mean_cross_entropy_of_the_layers_before_the_last():
  first = [-np.log(sigmoid(0.5)), -np.log(1 - sigmoid(-1.5)), -np.log(sigmoid(1.0))]
  second = [-np.log(sigmoid(2.0)), -np.log(sigmoid(-0.25)), -np.log(1 - sigmoid(3.0))]
  loss, _ = loss_and_sums('independent')
  assert loss == pytest.approx(np.mean(first) + np.mean(second), rel=1e-5)


def test_the_geometric_loss_is_that_of_exiting_at_the_first_layer_that_agrees():
  predicted = PREDICTED.copy()
  predicted[0, 0, 0] = 1  # The first token agrees from layer 3 on, the second from layer 1.
  exits_third = (1 - sigmoid(0.5)) * (1 - sigmoid(-1.5)) * sigmoid(1.0)
  loss, _ = loss_and_sums('geometric', predicted)
  assert loss == pytest.approx(-np.log(exits_third) - np.log(sigmoid(2.0)), rel=1e-5)


def test_the_geometric_loss_of_a_token_that_none_agrees_on_is_that_of_running_all_layers():
  predicted = PREDICTED.copy()
  predicted[:3, 0, 0] = 1
  never = (1 - sigmoid(0.5)) * (1 - sigmoid(-1.5)) * (1 - sigmoid(1.0))
  loss, _ = loss_and_sums('geometric', predicted)
  assert loss == pytest.approx(-np.log(never) - np.log(sigmoid(2.0)), rel=1e-5)


def test_geometric_probabilities_of_all_exits_sum_to_one():
  scores = np.tile(np.array([0.5, -1.5, 1.0])[:, None, None], (1, 1, 3))
  total = 0.0
  for first in range(4):
    predicted = np.where(np.arange(4) < first, 2, 1)[:, None, None] * np.ones((1, 1, 3), int)
    total += np.exp(-loss_and_sums('geometric', predicted, scores)[0] / 2)  # Of two tokens.
  assert total == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(('kind', 'ignored'), [('geometric', True), ('independent', False)])
def test_only_the_geometric_loss_ignores_layers_after_the_first_that_agrees(kind, ignored):
  scores, predicted = SCORES.copy(), PREDICTED.copy()
  scores[1:] = 7.0
  predicted[1:3] = 1
  loss, _ = loss_and_sums(kind)
  assert (loss_and_sums(kind, predicted, scores)[0] == loss) == ignored


@pytest.mark.parametrize('kind', exit_classifier.KINDS)
def test_wrong_decisions_of_great_confidence_cost_their_score_and_no_more(kind):
  scores = np.zeros((3, 1, 3))
  scores[0, 0, :2] = -1e4
  predicted = np.ones((4, 1, 3), int)
  expected = {'geometric': 2e4, 'independent': 2 * (1e4 + 2 * np.log(2)) / 3}
  assert loss_and_sums(kind, predicted, scores)[0] == pytest.approx(expected[kind], rel=1e-6)


@pytest.mark.parametrize('kind', exit_classifier.KINDS)
def test_sums_count_right_decisions_agreement_and_false_exits(kind):
  _, sums = loss_and_sums(kind)
  # Agreement of the first token: yes, no, yes; of the second: yes, yes, no.
  # Stops at a threshold of 0.5: yes, no, yes; yes, no, yes.
  assert sums == {
    'weight': 2,
    'agreement': pytest.approx(4 / 3),
    'accuracy': pytest.approx(1 + 1 / 3),
    'false_exits': pytest.approx(1 / 3),
  }


@pytest.mark.parametrize('kind', exit_classifier.KINDS)
def test_what_a_line_separates_is_learnt_perfectly(kind):
  rng = np.random.default_rng(0)
  predicted = rng.integers(0, 2, (4, 1, 3))
  predicted[:, 0, :2] = [[1, 0], [0, 1], [1, 0], [1, 1]]
  # The state tells by its last entry, as large as those of a T5 are.
  model, params, batch = given(predicted, 300.0 * (predicted[:-1] == predicted[-1]) - 200.0)
  objective = ExitClassifierObjective(model, kind)
  optimizer = optimizers.adamw(0.01, weight_decay=0.0)
  state = init_state(objective, optimizer, None, jax.tree.map(jnp.zeros_like, params))
  step = jax.jit(functools.partial(train_step, objective, optimizer, 1))
  for _ in range(60):
    state, metrics = step(state, batch, jax.random.key(0))
  assert float(metrics['accuracy']) == 1
  assert float(metrics['loss']) < 0.05
  assert 0 < float(metrics['agreement']) < 1


@pytest.fixture(scope='module')
def model():
  """A T5 of three decoder layers with a classifier."""
  return t5.T5(CONFIG)


@pytest.fixture(scope='module')
def params(made_up):
  """Its parameters, the classifier's no less than others."""
  flat = parameters.flatten(made_up(CONFIG))
  for name in CLASSIFIER:
    flat[name] = jnp.sin(jnp.arange(1.0, flat[name].size + 1)).reshape(flat[name].shape)
  return parameters.unflatten(flat)


def test_states_and_predictions_are_those_of_the_model(model, params, stream):
  batch = next(stream)
  states = jax.jit(losses.decoder_states, static_argnums=0)(model, params, batch)
  head = jax.jit(lambda hidden: model.apply({'params': params}, hidden, method='head'))
  predicted = [head(hidden).argmax(-1) for hidden in states]
  classifier = params['decoder']['exit_classifier']
  expected = 0.0
  for hidden, words in zip(states[:-1], predicted[:-1], strict=True):
    p = sigmoid(np.asarray(hidden, np.float64) @ classifier['kernel'] + classifier['bias'])[..., 0]
    right = np.where(words == predicted[-1], p, 1 - p)
    expected -= (np.log(right) * batch['decoder_loss_weights']).sum() / 2
  loss, _ = jax.jit(ExitClassifierObjective(model))(params, batch)
  np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize('kind', exit_classifier.KINDS)
def test_only_the_classifier_has_a_gradient(model, params, stream, kind):
  gradient = jax.jit(jax.grad(ExitClassifierObjective(model, kind), has_aux=True))
  flat = parameters.flatten(gradient(params, next(stream))[0])
  assert sorted(name for name, value in flat.items() if np.any(value)) == sorted(CLASSIFIER)


def test_a_gradient_costs_hardly_more_than_the_forward_pass(model, params, stream):
  def flops(objective, differentiated):
    both = jax.value_and_grad(objective, has_aux=True)
    computed = jax.jit(both if differentiated else objective)
    return computed.lower(params, next(stream)).cost_analysis()['flops']

  frozen, whole = ExitClassifierObjective(model), losses.EncoderDecoderObjective(model)
  assert flops(frozen, True) < 1.05 * flops(frozen, False)
  assert flops(whole, True) > 2 * flops(whole, False)  # As it is where the network learns.


def test_logits_are_made_of_one_layer_at_a_time(model, params, stream):
  jaxpr = str(jax.make_jaxpr(ExitClassifierObjective(model))(params, next(stream)))
  assert 'f32[8,5,19]' in jaxpr  # [B, T, V]
  assert 'f32[3,8,5,19]' not in jaxpr


@pytest.mark.parametrize('kind', exit_classifier.KINDS)
def test_padding_and_packing_change_nothing(model, params, kind):
  objective = jax.jit(ExitClassifierObjective(model, kind))
  first, second = ([5, 6, 1], [7, 1]), ([8, 1], [9, 10, 1])

  def sums(rows, length):
    names = ('encoder_input_tokens', 'encoder_segment_ids', 'decoder_input_tokens',
      'decoder_target_tokens', 'decoder_segment_ids', 'decoder_loss_weights')  # fmt: skip
    columns = {name: np.zeros((len(rows), length), np.int32) for name in names}
    for row, examples in enumerate(rows):
      s = t = 0
      for number, (source, target) in enumerate(examples, 1):
        here, there = slice(s, s + len(source)), slice(t, t + len(target))
        columns['encoder_input_tokens'][row, here] = source
        columns['encoder_segment_ids'][row, here] = number
        columns['decoder_target_tokens'][row, there] = target
        columns['decoder_input_tokens'][row, t + 1 : there.stop] = target[:-1]
        columns['decoder_segment_ids'][row, there] = number
        columns['decoder_loss_weights'][row, there] = 1
        s, t = here.stop, there.stop
    loss, sums = objective(params, columns)
    return {'loss': float(loss), **{name: float(value) for name, value in sums.items()}}

  apart = sums([[first], [second]], 4)
  assert apart['weight'] == 5
  assert sums([[first, second], [], []], 9) == pytest.approx(apart, rel=1e-5)
  assert sums([[first], [], [second]], 9) == pytest.approx(apart, rel=1e-5)


def test_a_classifier_without_a_place_or_a_use_is_refused(model):
  with pytest.raises(
    ValueError, match="kind must be one of 'independent', 'geometric', not 'poisson'"
  ):
    ExitClassifierObjective(model, 'poisson')
  with pytest.raises(ValueError, match=r'set T5Config\.exit_classifier = True'):
    ExitClassifierObjective(t5.T5(dataclasses.replace(CONFIG, exit_classifier=False)))
  with pytest.raises(ValueError, match=r'num_decoder_layers: .* at least 2'):
    ExitClassifierObjective(t5.T5(dataclasses.replace(CONFIG, num_decoder_layers=1)))


def train(workdir, model, params, stream, num_steps):
  return loop.train(
    workdir=workdir,
    objective=ExitClassifierObjective(model),
    optimizer=optimizers.train_only(optimizers.adamw(1e-2, weight_decay=0.0), 'exit_classifier/'),
    batches=stream,
    num_steps=num_steps,
    initial_params=params,
  )[0]


def test_training_changes_the_classifier_alone_and_goes_on_where_it_stopped(
  tmp_path, model, params, stream
):
  trained = parameters.flatten(train(tmp_path / 'whole', model, params, stream, 4))
  for name, before in parameters.flatten(params).items():
    same = np.asarray(trained[name]).tobytes() == np.asarray(before).tobytes()
    assert same == (name not in CLASSIFIER)
  stream.set_state({'number': 0})
  train(tmp_path / 'parts', model, params, stream, 2)
  resumed = parameters.flatten(train(tmp_path / 'parts', model, None, stream, 4))
  for name, value in trained.items():
    np.testing.assert_array_equal(resumed[name], value)


def test_the_optimizer_holds_state_for_the_classifier_alone(model, params):
  adamw = optimizers.train_only(optimizers.adamw(1e-2, weight_decay=0.0), 'exit_classifier/')
  state = adamw.transformation.init(params)
  sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert sum(sizes) == 2 * (CONFIG.emb_dim + 1)  # Two moments of D + 1 parameters.


@pytest.fixture
def trained(params):
  """What a first stage leaves: parameters without a classifier, as flat names."""
  flat = parameters.flatten(params)
  return {name: np.asarray(value) for name, value in flat.items() if name not in CLASSIFIER}


def save_run(workdir, step, flat):
  store = checkpoints.Checkpoints(workdir)
  state = {'step': jnp.int32(step), 'params': parameters.unflatten(flat)}
  store.save(step, {**state, 'opt_state': [jnp.zeros(3)]}, {})
  store.close()


def initial_params(directory, model, step=None):
  return checkpoints.initial_params(directory, model, step, fresh='exit_classifier/')


def assert_with_fresh_classifier(params, trained):
  flat = parameters.flatten(params)
  assert flat.keys() == trained.keys() | set(CLASSIFIER)
  for name, value in flat.items():
    np.testing.assert_array_equal(value, 0 if name in CLASSIFIER else trained[name])
  assert {name: value.shape for name, value in flat.items()} == parameters.shapes(t5.T5(CONFIG))


def test_the_second_stage_begins_with_a_runs_newest_weights(tmp_path, model, trained):
  save_run(tmp_path, 3, {name: value + 1 for name, value in trained.items()})
  save_run(tmp_path, 5, trained)
  assert_with_fresh_classifier(initial_params(tmp_path, model), trained)
  older = parameters.flatten(initial_params(tmp_path, model, step=3))
  np.testing.assert_array_equal(
    older['decoder/decoder_norm/scale'], trained['decoder/decoder_norm/scale'] + 1
  )


def test_a_classifier_that_was_trained_before_is_replaced(tmp_path, model, params, trained):
  save_run(tmp_path, 5, parameters.flatten(params))
  assert_with_fresh_classifier(initial_params(tmp_path, model), trained)


def test_the_second_stage_begins_with_weights_from_elsewhere(tmp_path, model, trained):
  config = dataclasses.replace(CONFIG, exit_classifier=False)
  exported = pretrained.save_huggingface(tmp_path / 'hf', config, parameters.unflatten(trained))
  assert_with_fresh_classifier(initial_params(exported, model), trained)
  t5x = Path(__file__).parents[2] / 'fixtures/t5x_1_1_tiny/checkpoint_1200'
  config, weights = pretrained.load(t5x)
  params = initial_params(t5x, t5.T5(dataclasses.replace(config, exit_classifier=True)))
  assert params['decoder'].pop('exit_classifier')['kernel'].shape == (config.emb_dim, 1)
  jax.tree.map(np.testing.assert_array_equal, params, weights)


def test_weights_that_do_not_fit_or_are_not_there_are_named(tmp_path, model, trained):
  del trained['decoder/decoder_norm/scale']
  save_run(tmp_path, 5, trained)
  with pytest.raises(checkpoints.CheckpointError, match=r'missing: decoder/decoder_norm/scale'):
    initial_params(tmp_path, model)
  with pytest.raises(FileNotFoundError, match=r'No checkpoint 4 .* there are \[5\]'):
    initial_params(tmp_path, model, step=4)
  with pytest.raises(FileNotFoundError, match='There is no directory'):
    initial_params(tmp_path / 'nowhere', model)
  with pytest.raises(FileNotFoundError, match=r'no workdir of a run: there is no checkpoint 4'):
    initial_params(tmp_path / 'nowhere', model, step=4)
