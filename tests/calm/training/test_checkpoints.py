import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import t5
from calm.training import checkpoints


def _state(value):
  return {'step': jnp.int32(value), 'params': {'kernel': jnp.full((3, 5), float(value))}}


def _abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture
def saved(tmp_path):
  """A workdir with checkpoints 1 and 2."""
  store = checkpoints.Checkpoints(tmp_path, keep=3)
  for step in (1, 2):
    store.save(step, _state(step), {'data': {'number': step}})
  store.close()
  return tmp_path


def test_the_newest_comes_back_with_its_progress(saved):
  state, progress = checkpoints.Checkpoints(saved).restore(_abstract(_state(0)))
  np.testing.assert_array_equal(state['params']['kernel'], np.full((3, 5), 2.0))
  assert progress == {'data': {'number': 2}}


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  assert checkpoints.Checkpoints(tmp_path).restore(_abstract(_state(0))) is None
  assert checkpoints.steps(tmp_path / 'nowhere') == []


def test_only_the_newest_are_kept(tmp_path):
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  for step in (1, 2, 3, 4):
    store.save(step, _state(step), {})
  store.close()
  assert checkpoints.steps(tmp_path) == [3, 4]


def _damage(folder, how):
  metadata = folder / 'state' / '_METADATA'
  if how == 'empty folder':
    shutil.rmtree(folder)
    folder.mkdir()
  elif how == 'a file, not a folder':
    shutil.rmtree(folder)
    folder.write_text('garbage')
  elif how == 'metadata lost':
    metadata.unlink()
  elif how == 'metadata cut off':
    metadata.write_bytes(metadata.read_bytes()[:50])
  elif how == 'metadata of nothing':
    metadata.write_text('{}')
  elif how == 'index cut off':
    index = folder / 'state' / 'manifest.ocdbt'
    index.write_bytes(index.read_bytes()[:-20])
  elif how == 'progress lost':
    shutil.rmtree(folder / 'progress')
  elif how == 'progress cut off':
    (folder / 'progress' / 'metadata').write_text('{"data": {"num')
  elif how == 'half of each array file':
    for path in (folder / 'state').rglob('d/*'):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  elif how == 'an array file lost':
    max((folder / 'state').rglob('d/*'), key=lambda path: path.stat().st_size).unlink()
  elif how == 'overwritten':
    for path in (folder / 'state').rglob('d/*'):
      path.write_bytes(b'\0' * path.stat().st_size)


@pytest.mark.parametrize(
  'how',
  [
    'empty folder',
    'a file, not a folder',
    'metadata lost',
    'metadata cut off',
    'metadata of nothing',
    'index cut off',
    'progress lost',
    'progress cut off',
    'half of each array file',
    'an array file lost',
    'overwritten',
  ],
)
def test_a_damaged_newest_is_reported_set_aside_and_the_one_before_used(saved, capfd, how):
  _damage(saved / 'checkpoints' / '2', how)
  store = checkpoints.Checkpoints(saved)
  state, progress = store.restore(_abstract(_state(0)))
  assert int(state['step']) == 1
  assert progress == {'data': {'number': 1}}
  assert f'{saved}/checkpoints/2 cannot be read: ' in capfd.readouterr().err
  assert checkpoints.steps(saved) == [1]
  store.save(2, _state(7), {})
  store.close()
  assert checkpoints.steps(saved) == [1, 2]
  assert (saved / 'checkpoints' / 'unreadable-2-0').exists()


def test_a_save_that_was_cut_off_is_not_a_checkpoint(saved):
  (saved / 'checkpoints' / '3.orbax-checkpoint-tmp').mkdir()
  assert checkpoints.steps(saved) == [1, 2]
  assert int(checkpoints.Checkpoints(saved).restore(_abstract(_state(0)))[0]['step']) == 2


def test_nothing_readable_is_an_error_that_lists_all_and_moves_none(saved):
  for step in '12':
    _damage(saved / 'checkpoints' / step, 'metadata lost')
  with pytest.raises(checkpoints.CheckpointError, match=r'(?s)checkpoints/2.*checkpoints/1'):
    checkpoints.Checkpoints(saved).restore(_abstract(_state(0)))
  assert checkpoints.steps(saved) == [1, 2]


def test_a_checkpoint_of_another_model_is_an_error_and_stays(saved):
  other = {'params': {'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(4)}}
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.Checkpoints(saved).restore(_abstract(other))
  assert 'missing: params/bias (4,)' in str(error.value)
  assert 'unexpected: step ()' in str(error.value)
  assert 'shape differs: params/kernel is (3, 5), needed is (3, 4)' in str(error.value)
  assert checkpoints.steps(saved) == [1, 2]


def test_parameters_alone_can_be_restored_for_a_model(tmp_path):
  model = t5.T5(t5.published('tiny'))
  params = jax.tree.map(
    lambda leaf: np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape),
    jax.eval_shape(model.init_params, jax.random.key(0)),
  )
  store = checkpoints.Checkpoints(tmp_path)
  store.save(5, {'step': jnp.int32(5), 'params': params, 'opt_state': [jnp.zeros(3)]}, {})
  store.close()
  restored = checkpoints.restore_params(tmp_path, model)
  jax.tree.map(np.testing.assert_array_equal, restored, params)
  larger = t5.T5(t5.published('tiny', num_decoder_layers=3))
  with pytest.raises(checkpoints.CheckpointError, match='missing: decoder/layers_2'):
    checkpoints.restore_params(tmp_path, larger)
  with pytest.raises(FileNotFoundError, match=r'No checkpoint 4 .* there are \[5\]'):
    checkpoints.restore_params(tmp_path, model, step=4)


class Regressor(nn.Module):
  """A network of another kind: a body, and a head for each of two tasks."""

  config: int  # values that the first head gives

  partition_rules = ()

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.config, name='first_head')(nn.Dense(5, name='body')(x))

  @nn.nowrap
  def init_params(self, key):
    return self.init(key, jnp.zeros((1, 3)))['params']


def save_params(workdir, params):
  store = checkpoints.Checkpoints(workdir)
  store.save(5, {'step': jnp.int32(5), 'params': params}, {})
  store.close()


@pytest.mark.parametrize('restore', [checkpoints.restore_params, checkpoints.initial_params])
def test_any_network_begins_with_its_body_trained_and_its_head_fresh(tmp_path, restore):
  trained = Regressor(2).init_params(jax.random.key(1))
  save_params(tmp_path, trained)
  jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, Regressor(2)), trained)
  begun = restore(tmp_path, Regressor(7), fresh='_head/', seed=3)
  new = Regressor(7).init_params(jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, begun['body'], trained['body'])
  jax.tree.map(np.testing.assert_array_equal, begun['first_head'], new['first_head'])
  assert begun.keys() == new.keys()


def test_what_is_not_fresh_must_fit(tmp_path):
  trained = Regressor(2).init_params(jax.random.key(1))
  save_params(tmp_path, {'torso': trained['body'], 'first_head': trained['first_head']})
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.initial_params(tmp_path, Regressor(7), fresh='_head/')
  assert 'missing: body/kernel (3, 5)' in str(error.value)
  assert 'unexpected: torso/kernel (3, 5)' in str(error.value)
  assert 'first_head' not in str(error.value)
  with pytest.raises(ValueError, match=r"'heads/' is found in no parameter; .*first_head/kernel"):
    checkpoints.initial_params(tmp_path, Regressor(7), fresh='heads/')
  with pytest.raises(ValueError, match=r"fresh: '_head/' needs a model"):
    checkpoints.restore_params(tmp_path, fresh='_head/')


def test_no_checkpoint_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match='train first'):
    checkpoints.restore_params(tmp_path)
