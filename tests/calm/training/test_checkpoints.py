import os
import random
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from calm.models import t5
from calm.training import checkpoints, digests, guards


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


def test_saving_never_asks_whether_the_run_is_to_stop(tmp_path, monkeypatch):
  """Processes would agree on a step that one of them has left behind: the last one asked about."""
  asked = []
  monkeypatch.setattr(
    multihost_utils, 'reached_preemption_sync_point', lambda step: asked.append(step)
  )
  store = checkpoints.Checkpoints(tmp_path, keep=1)
  for step in (1, 2):
    store.save(step, _state(step), {})
  store.close()
  assert asked == []


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
  assert checkpoints.steps(saved) == [1, 2]
  store.set_aside()
  assert checkpoints.steps(saved) == [1]
  store.save(2, _state(7), {})
  store.close()
  assert checkpoints.steps(saved) == [1, 2]
  assert (saved / 'checkpoints' / 'unreadable-2-0').exists()


def _damaged_somewhere(folder, rng):
  """Damages a file below a folder: a bit flipped, cut off, deleted or zeroed; returns its path."""
  path = rng.choice(sorted(path for path in folder.rglob('*') if path.is_file()))
  content = bytearray(path.read_bytes())
  how = rng.choice(['flip', 'cut', 'delete', 'zero'])
  if how == 'flip':
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  elif how == 'cut':
    del content[rng.randrange(len(content)) :]
  elif how == 'zero':
    content = bytearray(len(content))
  path.write_bytes(content)
  if how == 'delete':
    path.unlink()
  return path


def test_damage_of_any_file_is_found_or_harmless(tmp_path, capfd):
  """200 checkpoints, each with one file damaged; of weights that take more than Orbax's index."""
  state = {'params': {'kernel': jnp.sin(jnp.arange(741.0)).reshape(13, 57), 'bias': jnp.ones(3)}}
  progress = {'data': {'number': 7}, 'seconds': 1.5}
  store = checkpoints.Checkpoints(tmp_path / 'whole')
  store.save(1, state, progress)
  store.close()
  rng, found = random.Random(0), []
  for _ in range(200):
    workdir = tmp_path / 'damaged'
    shutil.copytree(tmp_path / 'whole', workdir)
    folder = workdir / 'checkpoints' / '1'
    path = _damaged_somewhere(folder, rng)
    try:
      restored = checkpoints.Checkpoints(workdir).restore(_abstract(state))
    except checkpoints.CheckpointError as error:
      found.append((f'{folder} cannot be read: ', path.relative_to(folder), str(error)))
    else:
      jax.tree.map(np.testing.assert_array_equal, restored, (state, progress))
      assert path.parent == folder  # Of Orbax's own account or the digests, not of what is saved.
    shutil.rmtree(workdir)
  assert len(found) > 150
  assert all(told in error and str(name) in error for told, name, error in found)
  assert 'Traceback' not in capfd.readouterr().err


def test_a_checkpoint_without_digests_is_read_and_that_said(saved, capfd):
  for step in '12':
    (saved / 'checkpoints' / step / digests.FILE).unlink()
  assert int(checkpoints.Checkpoints(saved).restore(_abstract(_state(0)))[0]['step']) == 2
  assert 'checkpoints/2 has no digests.json' in capfd.readouterr().err
  np.testing.assert_array_equal(checkpoints.restore_params(saved)['kernel'], np.full((3, 5), 2.0))
  assert 'checkpoints/2 has no digests.json' in capfd.readouterr().err


def test_progress_that_cannot_be_makes_a_checkpoint_unreadable(saved, capfd):
  def check(progress):
    if progress['data']['number'] == 2:
      raise ValueError('2 is none')

  _, progress = checkpoints.Checkpoints(saved).restore(_abstract(_state(0)), check)
  assert progress == {'data': {'number': 1}}
  assert 'checkpoints/2 cannot be read: 2 is none' in capfd.readouterr().err


def test_a_copy_in_another_place_is_read(saved, tmp_path_factory, capfd):
  copy = tmp_path_factory.mktemp('else') / 'run [1]'
  shutil.copytree(saved, copy)
  assert int(checkpoints.Checkpoints(copy).restore(_abstract(_state(0)))[0]['step']) == 2
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize('name', ['a b', "it's", 'x,y', '{1}', 'é#%20$~'])
def test_odd_names_of_folders_are_names(tmp_path, name):
  guards.make_workdir(tmp_path / name)
  store = checkpoints.Checkpoints(tmp_path / name)
  store.save(1, _state(1), {})
  store.close()
  assert checkpoints.restore_params(tmp_path / name)['kernel'].shape == (3, 5)


@pytest.mark.parametrize('name', ['tr[1]', 'tr*', 'tr?', 'a\\b', '[ab]/run'])
def test_names_that_are_patterns_are_no_workdirs(tmp_path, name):
  with pytest.raises(guards.WorkdirError, match=r'cannot be a workdir: .* Give another --workdir'):
    guards.make_workdir(tmp_path / name)
  assert list(tmp_path.iterdir()) == []


# Orbax's event loop is closed before its last write has failed.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_what_cannot_be_read_back_is_an_error_and_takes_no_ones_place(saved):
  """Below a folder that is a pattern Orbax writes no index, and says nothing."""
  workdir = saved / 'run[1]'
  os.mkdir(workdir)
  (saved / 'checkpoints').rename(workdir / 'checkpoints')
  store = checkpoints.Checkpoints(workdir, keep=1)
  with pytest.raises(guards.WorkdirError, match='checkpoint 3 cannot be read back'):  # noqa: PT012
    store.save(3, _state(3), {})
    store.close()
  assert checkpoints.steps(workdir) == [1, 2]
  assert int(checkpoints.Checkpoints(workdir).restore(_abstract(_state(0)))[0]['step']) == 2


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


@pytest.mark.parametrize('how', ['metadata lost', 'overwritten', 'progress lost', 'empty folder'])
def test_parameters_are_of_the_newest_that_can_be_read_and_nothing_moves(saved, capfd, how):
  _damage(saved / 'checkpoints' / '2', how)
  params = checkpoints.restore_params(saved)
  np.testing.assert_array_equal(params['kernel'], np.full((3, 5), 1.0))
  assert f'{saved}/checkpoints/2 cannot be read: ' in capfd.readouterr().err
  assert checkpoints.steps(saved) == [1, 2]
  with pytest.raises(checkpoints.CheckpointError, match='checkpoints/2 cannot be read'):
    checkpoints.restore_params(saved, step=2)
  _damage(saved / 'checkpoints' / '1', how)
  with pytest.raises(checkpoints.CheckpointError, match=r'(?s)2 cannot be read.*1 cannot be read'):
    checkpoints.restore_params(saved)


def test_folders_of_other_names_are_no_checkpoints(saved):
  for name in ('\u00b2', '\u0663', '7.orbax-tmp', 'seven'):
    (saved / 'checkpoints' / name).mkdir()
  assert checkpoints.steps(saved) == [1, 2]


def test_no_checkpoint_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match='train first'):
    checkpoints.restore_params(tmp_path)
