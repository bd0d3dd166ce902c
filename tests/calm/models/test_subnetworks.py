"""Parts of a BERT: what they compute, and that moving heads and neurons about changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import bert, deberta, parameters, pretrained, subnetworks
from calm.reporting.cost_bert import EncoderCost

CONFIG = bert.BertConfig(31, 12, 4, 20, 4, 16, pooler=False)
TOKENS = jnp.array([[5, 6, 7, 0], [9, 8, 0, 0], [4, 3, 2, 30]])
FAR = bert.BertConfig(pooler=False)


@pytest.fixture(scope='module')
def params(varied_encoder):
  return varied_encoder(bert.Bert(CONFIG))


def states(config, params):
  """After every layer, at the tokens that are there."""

  def run(params):
    return bert.Bert(config).apply({'params': params}, TOKENS, TOKENS > 0)

  return np.stack(jax.jit(run)(params)) * np.asarray(TOKENS > 0)[..., None]


def silenced(params, width):
  """The whole, where heads and neurons beyond a width give nothing."""
  part, flat = subnetworks.smaller(CONFIG, width), {}
  for name, value in parameters.flatten(params).items():
    value = np.array(value)
    if name.endswith('attention/out/kernel'):
      value[part.num_heads * 3 :] = 0
    if name.endswith('mlp/wo/kernel'):
      value[part.mlp_dim :] = 0
    flat[name] = value
  return parameters.unflatten(flat)


@pytest.mark.parametrize('width', [0.25, 0.75, 1.0])
def test_a_narrow_network_is_the_whole_one_with_the_rest_silent(params, width):
  part = subnetworks.smaller(CONFIG, width)
  taken = subnetworks.take(params, CONFIG, width)
  assert {name: np.shape(value) for name, value in parameters.flatten(taken).items()} == (
    parameters.shapes(bert.Bert(part))
  )
  np.testing.assert_allclose(
    states(part, taken), states(CONFIG, silenced(params, width)), atol=2e-5
  )


def test_the_whole_is_a_part_of_itself(params):
  assert subnetworks.smaller(CONFIG) == CONFIG
  jax.tree.map(np.testing.assert_array_equal, subnetworks.take(params, CONFIG), params)


def test_a_shallow_network_runs_the_layers_that_are_kept(params):
  part = subnetworks.smaller(CONFIG, depth=0.5)
  taken = subnetworks.take(params, CONFIG, depth=0.5)
  model, mask = bert.Bert(CONFIG), TOKENS > 0

  def by_hand(module):
    state = module.embed(TOKENS, mask)
    for layer in (0, 2):
      state = module.layer(layer, state, mask)
    return state

  expected = model.apply({'params': params}, method=by_hand) * mask[..., None]
  np.testing.assert_allclose(states(part, taken)[-1], expected, atol=2e-5)


@pytest.mark.parametrize('num_layers', [6, 12, 24])
@pytest.mark.parametrize('dropped', [2, 3, 4])
def test_every_so_many_a_layer_is_dropped(num_layers, dropped):
  kept = subnetworks.kept_layers(num_layers, 1 - 1 / dropped)
  if num_layers % dropped == 0:
    assert kept == tuple(i for i in range(num_layers) if (i + 1) % dropped)


def test_layers_of_the_paper_of_e_lang_and_of_the_ends():
  assert subnetworks.kept_layers(12, 0.25) == (0, 4, 8)
  assert subnetworks.kept_layers(12, 1.0) == tuple(range(12))
  assert subnetworks.kept_layers(6, 0.01) == (0,)
  for num_layers in range(1, 25):
    for depth in np.linspace(0.05, 1, 20):
      kept = subnetworks.kept_layers(num_layers, depth)
      assert len(kept) == max(1, round(depth * num_layers))
      assert list(kept) == sorted({*kept})
      assert 0 <= kept[0] <= kept[-1] < num_layers


def test_sizes_and_flops_are_those_of_table_5():
  narrow = subnetworks.smaller(FAR, 0.5, 0.25)
  assert (narrow.num_heads, narrow.head_dim, narrow.mlp_dim, narrow.num_layers) == (6, 64, 1536, 3)
  assert subnetworks.smaller(FAR, 0.01).num_heads == 1
  flops = [
    EncoderCost(config).encoder(128, attention_products=False)
    for config in (FAR, narrow, subnetworks.smaller(FAR, 0.75))
  ]
  # 21.8, 2.7 and 16.3 of 10^9.
  np.testing.assert_allclose(np.array(flops) / 1e9, [21.8, 2.7, 16.3], rtol=0.01)


@pytest.fixture(scope='module')
def loss():
  """A loss of the last states."""
  target = np.sin(np.arange(12.0))

  @jax.jit
  def loss(params):
    last = bert.Bert(CONFIG).apply({'params': params}, TOKENS, TOKENS > 0)[-1]
    return jnp.square(jnp.where((TOKENS > 0)[..., None], last - target, 0)).sum()

  return loss


def scaled(params, layer, rest, rows, by):
  """With some rows of a kernel times a number."""
  flat = {name: np.array(value) for name, value in parameters.flatten(params).items()}
  flat[f'layers_{layer}/{rest}/kernel'][rows] *= by
  return parameters.unflatten(flat)


def test_importance_is_by_how_much_the_loss_changes_at_first(params, loss):
  found = subnetworks.importance(params, jax.grad(loss)(params), CONFIG)
  assert found.heads.shape == (4, 4)
  assert found.neurons.shape == (4, 20)
  for layer, rest, number, rows, value in (
    (0, 'attention/out', 2, slice(6, 9), found.heads),
    (3, 'attention/out', 0, slice(0, 3), found.heads),
    (1, 'mlp/wo', 17, slice(17, 18), found.neurons),
  ):
    ends = [loss(scaled(params, layer, rest, rows, 1 + step)) for step in (-1e-2, 1e-2)]
    slope = abs(float(ends[1] - ends[0])) / 2e-2
    assert value[layer, number] == pytest.approx(slope, rel=0.02)


def test_reordered_it_is_the_same_function_and_falls_in_importance(params, loss):
  before = subnetworks.importance(params, jax.grad(loss)(params), CONFIG)
  moved = subnetworks.reorder(params, CONFIG, before)
  np.testing.assert_allclose(states(CONFIG, moved), states(CONFIG, params), atol=2e-5)
  after = subnetworks.importance(moved, jax.grad(loss)(moved), CONFIG)
  for name in ('heads', 'neurons'):
    value = getattr(after, name)
    np.testing.assert_allclose(value, -np.sort(-getattr(before, name)), rtol=1e-2, atol=1e-3)
  assert any(
    not np.array_equal(value, parameters.flatten(params)[name])
    for name, value in parameters.flatten(moved).items()
  )


@pytest.mark.parametrize('share', [0.0, 1.5, float('nan')])
def test_shares_that_cannot_be_are_refused(share):
  with pytest.raises(ValueError, match='WIDTH'):
    subnetworks.smaller(CONFIG, width=share)
  with pytest.raises(ValueError, match='DEPTH'):
    subnetworks.smaller(CONFIG, depth=share)


def test_a_deberta_has_none():
  with pytest.raises(ValueError, match='this is a DebertaConfig'):
    subnetworks.smaller(deberta.DebertaConfig(), 0.5)


def test_a_sub_network_is_written_and_read_as_any_bert(params, tmp_path):
  part = subnetworks.smaller(CONFIG, 0.75, 0.5)
  taken = subnetworks.take(params, CONFIG, 0.75, 0.5)
  folder = pretrained.save_huggingface(tmp_path / 'part', part, taken)
  config, found = pretrained.load(folder)
  assert dataclasses.replace(config, dtype=part.dtype) == part
  jax.tree.map(np.testing.assert_array_equal, found, taken)


def test_a_size_of_heads_that_fills_the_state_is_no_other_config():
  assert dataclasses.replace(CONFIG, head_size=3) == CONFIG
  with pytest.raises(ValueError, match='head_size'):
    dataclasses.replace(CONFIG, head_size=0)
