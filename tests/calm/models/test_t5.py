import dataclasses
import functools
import math
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import layers, parameters, t5

TINY = t5.T5Config(37, 12, 3, 5, 17, 2, 3)
KINDS = {
  't5_1_1': TINY,
  't5_1_0': dataclasses.replace(TINY, mlp_activations=('relu',), logits_via_embedding=True),
}
# What concerns layers and not how they differ is shown by one kind.
one_kind = pytest.mark.parametrize('kind', ['t5_1_1'], indirect=True)
# As published, of which 1.1's are those of the checkpoints with an output projection.
PUBLISHED_COUNTS = {
  't5_1_0_small': 60_506_624,
  't5_1_0_base': 222_903_552,
  't5_1_0_large': 737_668_096,
  't5_1_0_3b': 2_851_598_336,
  't5_1_0_11b': 11_307_321_344,
  't5_1_1_small': 76_961_152,
  't5_1_1_base': 247_577_856,
  't5_1_1_large': 783_150_080,
  't5_1_1_xl': 2_849_757_184,
  't5_1_1_xxl': 11_135_332_352,
}


@functools.partial(jax.jit, static_argnames='model')
def _states(model, params, source, decoder_inputs, targets, source_ids=None, target_ids=None):
  variables = {'params': params}
  return model.apply(variables, source, decoder_inputs, targets, source_ids, target_ids)


@functools.partial(jax.jit, static_argnames='model')
def _head(model, params, hidden):
  return model.apply({'params': params}, hidden, method='head')


def _shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def _widened(tokens, amount):
  return np.pad(tokens, ((0, 0), (0, amount)))


@pytest.fixture(scope='module', params=KINDS)
def kind(request, varied_params, ragged_tokens):
  """Model, params, source[3, 7], targets[3, 5], of one kind of T5."""
  config = KINDS[request.param]
  source = ragged_tokens(config, [7, 4, 6])
  targets = ragged_tokens(config, [3, 5, 5], seed=6)
  return t5.T5(config), varied_params(config), source, targets


def _assert_states_close(states, expected, where):
  for ours, other in zip(states, expected, strict=True):
    np.testing.assert_allclose(
      np.asarray(ours)[where], np.asarray(other)[where], rtol=1e-4, atol=1e-4
    )


def test_there_is_a_state_after_every_decoder_layer(kind):
  model, params, source, targets = kind
  states = _states(model, params, source, _shifted(targets), targets)
  assert [state.shape for state in states] == 3 * [(3, 5, 12)]


def test_a_later_target_changes_no_earlier_state(kind):
  model, params, source, targets = kind
  inputs = _shifted(targets)
  before = _states(model, params, source, inputs, targets)
  changed = inputs.copy()
  changed[:, 3] = 2 + (changed[:, 3] + 5) % 35
  after = _states(model, params, source, changed, targets)
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert (a[1:, 3:] != b[1:, 3:]).any(-1).all()


def test_rows_do_not_see_each_other(kind):
  model, params, source, targets = kind
  together = _states(model, params, source, _shifted(targets), targets)
  for row in range(3):
    one = slice(row, row + 1)
    alone = _states(model, params, source[one], _shifted(targets)[one], targets[one])
    _assert_states_close(alone, [state[one] for state in together], targets[one] > 0)


def test_padding_changes_nothing(kind):
  model, params, source, targets = kind
  plain = _states(model, params, source, _shifted(targets), targets)
  inputs = _widened(_shifted(targets), 2)
  padded = _states(model, params, _widened(source, 4), inputs, _widened(targets, 2))
  _assert_states_close([state[:, :5] for state in padded], plain, targets > 0)


def test_packed_rows_equal_separate_rows(kind):
  model, params, source, targets = kind
  separate = _states(model, params, source, _shifted(targets), targets)

  def packed(tokens, shift=False):
    parts = [row[row > 0] for row in tokens]
    ids = np.concatenate([np.full(len(part), i + 1) for i, part in enumerate(parts)])
    if shift:
      parts = [np.pad(part, (1, 0))[:-1] for part in parts]
    return np.concatenate(parts)[None], ids[None]

  tokens, source_ids = packed(source)
  packed_targets, target_ids = packed(targets)
  inputs, _ = packed(targets, shift=True)
  states = _states(model, params, tokens, inputs, packed_targets, source_ids, target_ids)
  for row in range(3):
    length = (targets[row] > 0).sum()
    ours = [state[target_ids == row + 1] for state in states]
    _assert_states_close(ours, [state[row, :length] for state in separate], ...)


def test_exiting_after_a_layer_is_a_shallower_model(kind):
  model, params, source, targets = kind
  states = _states(model, params, source, _shifted(targets), targets)
  for depth in (1, 2):
    shallow = t5.T5(dataclasses.replace(model.config, num_decoder_layers=depth))
    kept = parameters.shapes(shallow)
    flat = parameters.flatten(params)
    cut = parameters.unflatten({name: flat[name] for name in kept})
    last = _states(shallow, cut, source, _shifted(targets), targets)[-1]
    logits, expected = _head(model, params, states[depth - 1]), _head(shallow, cut, last)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_layers_run_one_by_one_equal_the_whole(kind):
  model, params, source, targets = kind
  bound = model.bind({'params': params})
  states = _states(model, params, source, _shifted(targets), targets)
  positions = jnp.arange(5)
  valid = jnp.asarray(targets > 0)
  mask = layers.attention_mask(valid, valid) & layers.causal_mask(positions, positions)
  cross_mask = layers.attention_mask(valid, jnp.asarray(source > 0))
  cross = bound.cross_keys_values(bound.encode(source))
  bias = bound.self_attention_bias(positions, positions)
  hidden = bound.embed(_shifted(targets))
  for i in range(3):
    self_kv = bound.keys_values(i, hidden)
    assert self_kv.keys.shape == self_kv.values.shape == (3, 3, 5, 5)
    hidden = bound.attend(i, hidden, self_kv, cross[i], mask, bias, cross_mask)
    _assert_states_close([hidden], [states[i]], targets > 0)


def test_head_serves_any_leading_shape(kind):
  model, params, *_ = kind
  hidden = jnp.sin(jnp.arange(2 * 3 * 12.0)).reshape(2, 3, 12)
  logits = _head(model, params, hidden)
  assert logits.shape == (2, 3, 37)
  np.testing.assert_allclose(_head(model, params, hidden[1, 2]), logits[1, 2], rtol=1e-5, atol=1e-5)


def test_tied_logits_are_scaled_products_with_the_embedding(varied_params):
  config = KINDS['t5_1_0']
  params = varied_params(config)
  hidden = jnp.sin(jnp.arange(12.0))
  normed = (
    hidden / jnp.sqrt(jnp.mean(hidden**2) + 1e-6) * params['decoder']['decoder_norm']['scale']
  )
  expected = normed @ params['token_embedder']['embedding'].T / math.sqrt(12)
  logits = _head(t5.T5(config), params, hidden)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_activations_give_float32_logits(kind):
  model, params, source, targets = kind
  low = t5.T5(dataclasses.replace(model.config, dtype='bfloat16'))
  states = _states(low, params, source, _shifted(targets), targets)
  assert states[-1].dtype == jnp.bfloat16
  logits = _head(low, params, states[-1])
  assert logits.dtype == jnp.float32
  # A product that ends in bfloat16 would leave the lower half of every number empty.
  assert (np.asarray(logits).view(np.uint32) & 0xFFFF).any()
  fresh = jax.eval_shape(low.init_params, jax.random.key(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype('float32')}


@one_kind
def test_dropout_acts_in_training_only(kind):
  model, params, source, targets = kind

  def run(key):
    rngs = {'dropout': jax.random.key(key)}
    inputs = _shifted(targets)
    variables = {'params': params}
    return model.apply(variables, source, inputs, targets, deterministic=False, rngs=rngs)[-1]

  run = jax.jit(run)
  assert (run(1) != run(2)).any()
  np.testing.assert_array_equal(run(1), run(1))


@one_kind
def test_remat_changes_no_gradient(kind):
  model, params, source, targets = kind

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(remat, params):
    config = dataclasses.replace(model.config, remat=remat)

    def loss(params):
      def logits(module):
        return module.head(module(source, _shifted(targets), targets)[-1])

      return jnp.mean(jax.nn.logsumexp(t5.T5(config).apply({'params': params}, method=logits)))

    return jax.grad(loss)(params)

  plain, remat = gradient(False, params), gradient(True, params)
  for name, value in parameters.flatten(plain).items():
    assert jnp.abs(value).max() > 0, name
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain, remat)


def test_fields_that_do_not_count_change_no_bit_of_what_is_computed(kind):
  model, params, source, targets = kind
  others = {'dropout_rate': 0.7, 'dropout_broadcast': False, 'remat': True}
  fields = dataclasses.fields(model.config)
  assert {field.name for field in fields if not field.metadata.get('identity', True)} == set(others)
  changed = t5.T5(dataclasses.replace(model.config, **others))
  for states in zip(
    _states(model, params, source, _shifted(targets), targets),
    _states(changed, params, source, _shifted(targets), targets),
    strict=True,
  ):
    np.testing.assert_array_equal(*states)
  np.testing.assert_array_equal(_head(model, params, states[0]), _head(changed, params, states[0]))


@pytest.mark.parametrize('name', PUBLISHED_COUNTS)
def test_published_sizes_have_the_published_number_of_parameters(name):
  shapes = parameters.shapes(t5.T5(t5.published(name)))
  assert sum(math.prod(shape) for shape in shapes.values()) == PUBLISHED_COUNTS[name]


@pytest.mark.parametrize('config', KINDS.values(), ids=KINDS)
def test_every_parameter_but_norms_has_a_partition_rule(config):
  for name, shape in parameters.shapes(t5.T5(config)).items():
    specs = [spec for pattern, spec in t5.T5.partition_rules if re.search(pattern, name)]
    assert len(specs) == (0 if name.endswith('norm/scale') else 1), name
    assert all(len(spec) == len(shape) for spec in specs)


def test_every_partition_rule_is_of_use():
  names = [name for config in KINDS.values() for name in parameters.shapes(t5.T5(config))]
  for pattern, _ in t5.T5.partition_rules:
    assert any(re.search(pattern, name) for name in names), pattern


@pytest.mark.parametrize('config', KINDS.values(), ids=KINDS)
def test_lowers_for_tpu_and_gpu(config):
  model = t5.T5(config)
  params = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)

  @jax.jit
  def logits(params, source, inputs, targets):
    def run(module):
      return module.head(module(source, inputs, targets)[-1])

    return model.apply({'params': params}, method=run)

  exported = jax.export.export(logits, platforms=['tpu', 'cuda'])(params, tokens, tokens, tokens)
  assert exported.platforms == ('tpu', 'cuda')
  assert exported.out_avals[0].shape == (2, 7, 37)


def test_changes_to_a_published_size():
  config = t5.published('t5_1_1_base', num_decoder_layers=5, dtype='bfloat16')
  assert (config.num_encoder_layers, config.num_decoder_layers) == (12, 5)
  with pytest.raises(ValueError, match='t5_1_1_small'):
    t5.published('t5_small')


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('mlp_activations', ['swish']),
    ('dtype', 'float16'),
    ('emb_dim', 0),
    ('num_decoder_layers', 0),
    ('dropout_rate', 1.0),
  ],
)
def test_a_config_names_the_field_that_is_wrong(field, value):
  with pytest.raises(ValueError, match=field):
    dataclasses.replace(TINY, **{field: value})


def test_a_config_of_lists_and_names_equals_one_of_tuples_and_types():
  config = dataclasses.replace(TINY, mlp_activations=['gelu', 'linear'], dtype='float32')
  assert config == TINY
  assert hash(config) == hash(TINY)


def test_models_import_neither_tensorflow_nor_torch():
  code = """
import sys
from calm.models import layers, parameters, pretrained, t5
print(*sorted({'tensorflow', 'torch', 'transformers', 'seqio', 'gin'} & set(sys.modules)))
"""
  run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert run.stdout.strip() == ''
