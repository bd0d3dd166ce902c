"""The paper's experiments and the quickstart start, on random records and made-up numbers."""

import json
import re

import pytest
import tensorflow_datasets as tfds

import gin
from calm import configuration
from calm.evaluation.split import read_split
from calm.models import bert, t5
from calm.tasks import batches
from calm.training import loop, losses
from elang import head_score, suggestions
from elang import train as head_training
from sweet import checkpoint, from_scratch
from sweet import train as sweet_training

ROOT = configuration.shipped_root()
PAPER = ROOT / 'configs' / 'elang' / 'paper'
GLUE = ('mnli', 'qnli', 'sst2', 'rte', 'mrpc', 'cola')
SUPER_GLUE = ('rte', 'boolq', 'multirc', 'copa', 'cb', 'wic', 'wsc')
T5_TASKS = [*(f'glue_{one}' for one in GLUE), *(f'super_glue_{one}' for one in SUPER_GLUE)]
T5_TASKS.append('wmt16_en_ro')
BERT_TASKS = (*GLUE, 'qqp')
ROUTERS = [*(f't5_{task}' for task in T5_TASKS), *(f'bert_{task}' for task in BERT_TASKS)]
TO_WORDS = ('super_glue_wsc', 'wmt16_en_ro')

ANSWERS = '''"""Answers of two runs: the large one knows all, the small one every other."""


def small(examples, threshold, measure=None):
  said = [(e.target if e.index % 2 else 'none', e.index % 2 + e.index / 100) for e in examples]
  return [row(text, score) for text, score in said]


def large(examples, threshold, measure=None):
  return [row(example.target, 1.0) for example in examples]


def row(text, score):
  return {'prediction': text, 'units': 1, 'costs': {}, 'confidence': score}
'''
RUN = """from __gin__ import dynamic_registration
from calm.evaluation import predictor
from calm.exits import confidence
import answers_of_the_paper
PREDICTOR = @predictor.FunctionPredictor()
MEASURE = @confidence.largest_probability
predictor.FunctionPredictor:
  function = @answers_of_the_paper.{function}
  version = %WORKDIR
  results = ('prediction', 'units', 'costs', 'confidence')
answers_of_the_paper.{function}.measure = %MEASURE
"""
# In place of the sizes that the paper's T5 are of.
TINY = {
  'NUM_STEPS': '1',
  'BATCH_SIZE': '8',
  'INPUTS_LENGTH': '29',
  'TARGETS_LENGTH': '23',
  'MAX_DECODE_STEPS': '3',
  'VOCABULARY': '@vocabularies.byte_vocabulary()',
  'VOCAB_SIZE': '259',
  'SIZE': "'tiny'",
  'DTYPE': "'float32'",
  'loop.train.num_validation_batches': '1',
}


@pytest.fixture(scope='module', autouse=True)
def data_sets():
  """Random records."""
  with tfds.testing.mock_data(num_examples=8):
    yield
  gin.clear_config()


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The workdirs of a small and a large model that are functions."""
  top = tmp_path_factory.mktemp('runs')
  (top / 'answers_of_the_paper.py').write_text(ANSWERS)
  for name in ('small', 'large'):
    (top / name).mkdir()
    (top / name / 'config.gin').write_text(RUN.format(function=name))
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(top)
    yield {'SWIFT_WORKDIR': repr(str(top / 'small')), 'SUPER_WORKDIR': repr(str(top / 'large'))}


def parse(config, bindings):
  lines = [f'{name} = {value}' for name, value in bindings.items()]
  configuration.parse([config], lines, [], {})


def value_of(macro):
  return gin.get_configurable(f'{macro}/macro')()


def test_every_task_of_the_paper_is_there():
  assert sorted(path.stem for path in PAPER.iterdir()) == sorted(ROUTERS)


@pytest.mark.parametrize('name', ROUTERS)
def test_a_router_finds_its_thresholds(name, runs, tmp_path, capsys):
  bindings = {**runs, 'WORKDIR': repr(str(tmp_path))}
  if name.startswith('t5'):
    # A function has no encoder to put a head on.
    bindings |= {'SWIFT': '@swift/cost.predictor_model()', 'SWIFT_SCORE': "'confidence'"}
  parse(f'configs/elang/paper/{name}.gin', bindings)
  record = gin.get_configurable(suggestions.suggest_thresholds)()
  assert json.loads(capsys.readouterr().out) == record
  assert (record['split'], record['num_examples']) == ('validation', 8)
  # No text is right of a WSC sentence whose pronoun does not stand for the target.
  assert record['super']['risk'] == 0 or name == 't5_super_glue_wsc'
  assert record['swift']['risk'] > 0.3
  assert record['points'][5]['risk'] < record['swift']['risk']


@pytest.mark.parametrize('task', T5_TASKS)
def test_a_head_has_the_labels_of_its_task_or_words(task, runs):
  parse(f'configs/elang/paper/t5_{task}.gin', {**runs, 'WORKDIR': "'head'"})
  labels = value_of('HEAD_LABELS')
  targets = {one.target for one in read_split(value_of('TASK'), 'validation').examples}
  assert (labels is None) == (task in TO_WORDS)
  assert labels is None or targets <= set(labels)


@pytest.mark.parametrize('size', ['small', 'base', 'large', '11b'])
def test_a_t5_of_every_size_is_as_published_and_trained_by_its_last_layer_alone(size):
  bindings = {'WORKDIR': "'run'", 'CHECKPOINT': "'t5'", 'TASK_NAME': "'glue_rte'"}
  parse('gin/elang/paper_t5_model.gin', {**bindings, 'SIZE': f"'t5_1_0_{size}'"})
  objective = gin.get_configurable(losses.EncoderDecoderObjective)()
  assert objective.model.config == t5.published(f't5_1_0_{size}', dtype='bfloat16')
  assert objective.exit_weights == 'last'


@pytest.mark.parametrize('task', T5_TASKS)
def test_a_t5_has_batches_of_every_task(task):
  given = {'WORKDIR': "'run'", 'CHECKPOINT': "'t5'", 'TASK_NAME': repr(task)}
  parse('gin/elang/paper_t5_model.gin', {**TINY, **given})
  batch = next(gin.get_configurable(batches.train_batches)())
  assert batch['encoder_input_tokens'].shape == (8, 29)
  assert batch['decoder_target_tokens'].any()


def test_a_fine_tuned_t5_gets_a_head_and_is_asked_by_it(tmp_path, runs):
  swift, router = (repr(str(tmp_path / name)) for name in ('swift', 'router'))
  begun = {'CHECKPOINT': "'t5'", 'INITIAL_PARAMS': 'None', 'TASK_NAME': "'glue_mnli'"}
  begun |= {'WORKDIR': swift}
  parse('gin/elang/paper_t5_model.gin', {**TINY, **begun})
  gin.get_configurable(loop.train)()
  configuration.save(str(tmp_path / 'swift'), configuration.to_save())
  config = 'configs/elang/paper/t5_glue_mnli.gin'
  given = {**runs, 'SWIFT_WORKDIR': swift, 'WORKDIR': router}
  parse(config, {**given, 'NUM_STEPS': '1'})
  gin.get_configurable(head_training.train_head)()
  parse(config, given)
  model = gin.get_configurable(head_score.of_run)()
  examples = read_split(value_of('TASK'), 'validation').examples[:2]
  asked = model.ask(examples)
  assert asked.scores.shape == (2,)
  assert asked.rows is None
  assert model.head.num_classes == 3


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
  """By depth, a workdir with an encoder of such a depth, four wide."""
  tokenizer = from_scratch.train_wordpiece(iter(['a b c', 'd e']), vocab_size=40)
  found = {}
  for depth in (4, 12):
    folder = tmp_path_factory.mktemp(f'bert_{depth}') / checkpoint.FOLDER
    folder.mkdir()
    sizes = {'emb_dim': 4, 'num_heads': 2, 'mlp_dim': 4, 'num_layers': depth}
    checkpoint.write_config(folder, bert.BertConfig(vocab_size=40, **sizes))
    (folder / 'tokenizer.json').write_text(tokenizer.to_str())
    found[depth] = folder.parent
  return found


@pytest.fixture
def started(monkeypatch):
  """start() trains what is configured, up to its first step, and returns what that would be of."""

  def start():
    found = {}
    monkeypatch.setattr(
      sweet_training.loop, 'train', lambda **given: found.update(given) or ({}, {})
    )
    gin.get_configurable(sweet_training.train)()
    return found

  return start


@pytest.mark.parametrize('depth', [4, 12])
@pytest.mark.parametrize('task', BERT_TASKS)
def test_a_bert_is_fine_tuned_with_one_classifier_on_every_task(task, depth, encoders, started):
  given = {'WORKDIR': repr(str(encoders[depth])), 'EXITS': f'({depth},)'}
  given |= {'CHECKPOINT': "'begun'", 'TASK_NAME': f"'glue_{task}'", 'NUM_HELD_OUT': '2'}
  parse('gin/elang/paper_bert_model.gin', given)
  found = started()
  assert found['objective'].model.exits == (depth,)
  assert found['objective'].model.config.num_outputs == (3 if task == 'mnli' else 2)
  assert float(found['optimizer'].learning_rate(0)) == pytest.approx(2e-5)
  assert len(next(found['batches'])['tokens']) == 32


@pytest.mark.parametrize('name', ROUTERS)
def test_a_config_is_marked_as_not_run_and_names_its_commands(name):
  source = (PAPER / f'{name}.gin').read_text()
  assert 'Not run here' in ' '.join(source.partition('#\n')[0].replace('#', ' ').split())
  lines = source.replace(' \\\n#', '').splitlines()
  files = re.findall(r'--gin_file=(\S+)', source)
  assert all((ROOT / file).is_file() for file in files)
  programs = [line.split()[1:3] for line in lines if line.startswith('#   ')]
  trained = ['calm', 'train'] if name.startswith('t5') else ['sweet', 'train']
  assert programs[0] == trained
  assert programs[-2:] == [['elang', 'report'], ['elang', 'predict']]


def test_the_quickstarts_models_and_its_router_start(runs, started, tmp_path, capsys):
  sizes = {'NUM_TRAIN': '60', 'NUM_VALIDATION': '20', 'NUM_TEST': '5', 'MAX_DIGITS': '3'}
  for workdir, changes in (('swift', {'EXITS': '(1,)', 'EMB_DIM': '8'}), ('super', {})):
    given = {'WORKDIR': repr(str(tmp_path / workdir)), 'NUM_HELD_OUT': '9', **sizes, **changes}
    parse('gin/elang/quickstart_model.gin', {**given, 'WARMUP_STEPS': '0'})
    gin.get_configurable(from_scratch.write_encoder)()
    found = started()
    assert found['objective'].model.exits == ((1,) if workdir == 'swift' else (2,))
    assert found['initial_params'] is None
  given = {**runs, **sizes, 'BUDGETS': "{'passed_on': 0.9}"}
  parse('configs/elang/quickstart.gin', {**given, 'WORKDIR': repr(str(tmp_path / 'router'))})
  capsys.readouterr()
  record = gin.get_configurable(suggestions.suggest_thresholds)()
  assert (record['num_examples'], record['super']['risk']) == (20, 0)
