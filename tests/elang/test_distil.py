"""A T5 learns from a run of another by the command, is stopped, and goes on."""

import shutil

import numpy as np
import pytest

import gin
from calm import configuration, main, runs
from calm.models import parameters
from calm.training import checkpoints

TINY = {
  'INPUTS_LENGTH': 89,
  'TARGETS_LENGTH': 89,
  'BATCH_SIZE': 4,
  'LEARNING_RATE': 0.01,
  'WARMUP_STEPS': 0,
  'MAX_DECODE_STEPS': 7,
  'VOCABULARY': '@vocabularies.byte_vocabulary()',
  'VOCAB_SIZE': 259,
  'spelled_numbers.task.num_train': 31,
  'spelled_numbers.task.num_validation': 5,
  'spelled_numbers.task.num_test': 3,
  't5.T5Config.emb_dim': 8,
  't5.T5Config.num_heads': 2,
  't5.T5Config.head_dim': 4,
  't5.T5Config.mlp_dim': 8,
  't5.T5Config.num_encoder_layers': 1,
  'losses.EncoderDecoderObjective.exit_weights': '"linear"',
  'loop.train.num_validation_batches': 1,
  'loop.train.steps_per_checkpoint': 1,
  'loop.train.steps_per_report': 1,
}
STUDENT = [f'--gin.{name}={value}' for name, value in TINY.items()]
STUDENT += ['--gin.t5.T5Config.num_decoder_layers=1', '--gin.NUM_STEPS=2']


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """A run of two decoder layers with weights that are made up."""
  workdir = tmp_path_factory.mktemp('runs') / 'large'
  settings = {**TINY, 't5.T5Config.num_decoder_layers': 2, 'WORKDIR': repr(str(workdir))}
  bindings = [f'{name} = {value}' for name, value in settings.items()]
  configuration.parse(['configs/quickstart.gin'], bindings, [], {})
  configuration.save(workdir, configuration.to_save())
  rng = np.random.default_rng(1)
  shapes = parameters.shapes(configuration.value('MODEL')).items()
  flat = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes}
  store = checkpoints.Checkpoints(workdir)
  store.save(1, {'params': parameters.unflatten(flat)}, {})
  store.close()
  yield workdir
  gin.clear_config()


def train(workdir, teacher, *arguments):
  files = ['--gin_file=configs/quickstart.gin', '--gin_file=gin/elang/distil.gin']
  given = [f'--workdir={workdir}', f'--gin.TEACHER_WORKDIR={teacher}', *STUDENT, *arguments]
  return main.main(['train', *files, *given])


def content(folder):
  return {
    path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def test_the_small_one_is_trained_stopped_and_goes_on_with_its_teacher_moved(
  teacher, tmp_path, capsys
):
  before = content(teacher)
  run, moved = tmp_path / 'small', tmp_path / 'moved'
  assert train(run, teacher, '--gin.NUM_STEPS=1') == 0
  kept = parameters.flatten(checkpoints.restore_params(run))
  assert not any('decoder/layers_1/' in name for name in kept)
  assert content(teacher) == before
  shutil.copytree(teacher, moved)
  assert train(run, tmp_path / 'nowhere') == 1
  assert 'No ' + str(tmp_path / 'nowhere' / 'config.gin') in capsys.readouterr().err
  assert train(run, moved) == 0
  assert checkpoints.steps(run)[-1] == 2
  assert content(moved) == before
  shutil.rmtree(moved)  # Nobody who uses the small one needs it.
  assert runs.load(run).predictor.generator.model.config.num_decoder_layers == 1
  # Another teacher in its place.
  other = tmp_path / 'other'
  shutil.copytree(teacher, other)
  found = checkpoints.restore_params(other)
  store = checkpoints.Checkpoints(other)
  found['token_embedder']['embedding'] = 1 + found['token_embedder']['embedding']
  store.save(2, {'params': found}, {})
  store.close()
  assert train(run, other, '--gin.NUM_STEPS=3') == 1
  assert 'has had other parameters so far' in capsys.readouterr().err


def test_a_teacher_of_another_vocabulary_or_kind_is_refused(teacher, tmp_path):
  seqio = pytest.importorskip('seqio')
  with pytest.raises(ValueError, match='extra_ids was 0 and is 7'):
    runs.teacher(teacher, seqio.ByteVocabulary(7))
  (tmp_path / 'config.gin').write_text('TASK = 1')
  with pytest.raises(ValueError, match='no run of `calm train`'):
    runs.teacher(tmp_path, seqio.ByteVocabulary())
