"""The gin files of tasks and vocabularies fit together under gin/runs/t5.gin."""

import sys

import pytest
import seqio
import tensorflow_datasets as tfds

import gin
from calm import configuration
from calm.tasks import batches, files, public, registered, vocabularies

CONFIG = """
from __gin__ import dynamic_registration
from calm.models import t5
include 'gin/runs/t5.gin'
include 'gin/tasks/{task}.gin'
include 'gin/tasks/{vocabulary}.gin'
include 'gin/optimizers/adamw.gin'
CONFIG = @t5.T5Config()
INPUTS_LENGTH = 31
TARGETS_LENGTH = 31
BATCH_SIZE = 2
NUM_STEPS = 3
WORKDIR = '{folder}'
"""
PUBLIC = ["TASK_NAME = 'wmt15_en_fr'"]


@pytest.fixture
def parse(tmp_path):
  """parse(task, vocabulary, bindings): reads a config of these two into gin."""

  def parse(task, vocabulary, bindings=()):
    path = tmp_path / 'config.gin'
    path.write_text(CONFIG.format(task=task, vocabulary=vocabulary, folder=tmp_path))
    configuration.parse([str(path)], list(bindings), [], {})

  yield parse
  gin.clear_config()


def call(function, **arguments):
  """Calls a function with what gin supplies."""
  return gin.get_configurable(function)(**arguments)


def test_a_public_task_in_bytes_gives_batches(parse):
  parse('public', 'bytes', [*PUBLIC, 'TRUNCATE = True', 'PACK = False'])
  with tfds.testing.mock_data(num_examples=2):
    batch = next(call(batches.train_batches))
  start = 'translate English to French: '
  for row in batch['encoder_input_tokens']:
    assert bytes(token - 3 for token in row.tolist() if token > 2).decode().startswith(start)
  assert configuration.macro('VOCAB_SIZE') == 259


def test_a_public_task_is_evaluated_on_validation_and_finds_its_folder(parse):
  parse('public', 'bytes', [*PUBLIC, "TFDS_DATA_DIR = 'elsewhere'"])
  task = call(public.task)
  assert task.name == 'wmt15_en_fr'
  assert task.source.tfds_dataset.data_dir == 'elsewhere'
  assert configuration.macro('EVALUATION_SPLIT') in task.splits


def test_a_public_task_without_a_name_names_the_macro(parse):
  with pytest.raises(ValueError, match=r'TASK_NAME is not set: give --gin\.TASK_NAME'):
    parse('public', 'bytes')


MODULE = """
import seqio
import tensorflow as tf

def read(split, shuffle_files, seed=None):
  return tf.data.Dataset.from_tensors({'inputs': 'a', 'targets': 'b'})

feature = seqio.Feature(seqio.ByteVocabulary(7))
seqio.TaskRegistry.add(
  'gin_task',
  source=seqio.FunctionDataSource(read, splits=('train',)),
  output_features={'inputs': feature, 'targets': feature},
  preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
)
seqio.MixtureRegistry.add('gin_mixture', [('gin_task', 1.0)])
"""


@pytest.mark.parametrize('name', ['gin_task', 'gin_mixture'])
def test_what_a_module_registers_gives_batches_and_its_vocabulary(
  parse, tmp_path, monkeypatch, name
):
  (tmp_path / 'module_for_gin.py').write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  modules = "TASK_MODULES = ('module_for_gin',)"
  try:
    parse('registered', 'bytes', [f"TASK_NAME = '{name}'", modules, 'PACK = False'])
    assert next(call(batches.train_batches))['encoder_input_tokens'][0, :2].tolist() == [100, 1]
    assert call(registered.vocabulary).vocab_size == 266
  finally:
    sys.modules.pop('module_for_gin', None)
    seqio.MixtureRegistry.remove('gin_mixture')
    seqio.TaskRegistry.remove('gin_task')


def test_bytes_have_no_vocabulary_to_make(parse):
  parse('public', 'bytes', PUBLIC)
  with pytest.raises(ValueError, match='no vocabulary to make: bytes need none'):
    call(vocabularies.write_vocabulary)


def test_a_task_over_files_has_the_name_that_it_is_given(parse, write):
  train = write('train.jsonl', [{'en': 'a', 'fr': 'c'}])
  form = ["INPUTS = '{en}'", "TARGETS = '{fr}'", f'TRAIN_FILE = {train!r}']
  parse('files', 'bytes', form)
  assert call(files.task).name == 'files'
  parse('files', 'bytes', [*form, "TASK_NAME = 'intents'"])
  assert call(files.task).name == 'intents'


def test_a_vocabulary_of_pieces_is_made_and_found_in_the_workdir(parse, write, tmp_path):
  train = write('train.jsonl', [{'en': 'a bc', 'fr': 'c ba'}] * 3)
  form = ["INPUTS = '{en}'", "TARGETS = '{fr}'", f'TRAIN_FILE = {train!r}']
  parse('files', 'sentencepiece', [*form, 'VOCAB_SIZE = 8', 'PACK = False'])
  assert call(vocabularies.write_vocabulary) == str(tmp_path / 'vocabulary.model')
  batch = next(call(batches.train_batches))
  vocabulary = vocabularies.sentencepiece(str(tmp_path / 'vocabulary.model'))
  assert vocabulary.decode(batch['encoder_input_tokens'][0].tolist()) == 'a bc'


def test_a_vocabulary_of_pieces_may_lie_elsewhere(parse, write, tmp_path):
  train = write('train.jsonl', [{'en': 'a bc', 'fr': 'c ba'}] * 3)
  form = ["INPUTS = '{en}'", "TARGETS = '{fr}'", f'TRAIN_FILE = {train!r}', 'VOCAB_SIZE = 8']
  parse('files', 'sentencepiece', [*form, f"VOCABULARY_PATH = '{tmp_path}/shared.model'"])
  assert call(vocabularies.write_vocabulary) == str(tmp_path / 'shared.model')
  assert call(vocabularies.sentencepiece).vocab_size == 8


def test_t5s_vocabulary_is_googles_or_a_copy_and_is_not_made(parse, tmp_path):
  parse('public', 't5_vocabulary', PUBLIC)
  assert call(vocabularies.t5) == vocabularies.t5()
  assert configuration.macro('VOCAB_SIZE') == 32128
  parse('public', 't5_vocabulary', [*PUBLIC, f"VOCABULARY_PATH = '{tmp_path}/spiece.model'"])
  assert call(vocabularies.t5) == vocabularies.t5(f'{tmp_path}/spiece.model')
  with pytest.raises(ValueError, match=r"no vocabulary to make: .* T5's own is there"):
    call(vocabularies.write_vocabulary)


LABELLED = """
from __gin__ import dynamic_registration
include 'gin/sweet/run.gin'
include 'gin/tasks/labelled_{kind}.gin'
WORKDIR = 'run'
"""


@pytest.mark.parametrize(
  ('kind', 'bindings', 'num_outputs'),
  [
    ('public', ["TASK_NAME = 'glue_mnli'"], 3),
    ('public', ["TASK_NAME = 'glue_stsb'"], 1),
    ('files', ["FIELDS = ('a', 'b')", "LABEL_NAMES = ('x', 'y')", "TRAIN_FILE = 'a.tsv'"], 2),
    ('files', ["FIELDS = ('a',)", 'LABELS = @classification.Regression()', "TEST_FILE = 't'"], 1),
  ],
)
def test_labelled_texts_and_what_is_asked_of_them_come_together(
  tmp_path, kind, bindings, num_outputs
):
  path = tmp_path / 'config.gin'
  path.write_text(LABELLED.format(kind=kind))
  configuration.parse([str(path)], bindings, [], {})
  task, labels = (gin.get_configurable(f'{macro}/macro')() for macro in ('TASK', 'LABELS'))
  gin.clear_config()
  assert task.source.labels == labels
  assert labels.num_outputs == num_outputs
