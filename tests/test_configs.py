"""Every shipped config is built by gin and takes a step, on data of its form and at tiny sizes."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest
import tensorflow_datasets as tfds

import gin
from calm import configuration
from calm.decoding import sampling
from calm.evaluation.split import read_split
from calm.exits import confidence
from calm.models import pretrained, t5
from calm.training import loop, losses

ROOT = configuration.shipped_root()
ALL = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.gin'))
# The others are tested with their programs, by tests/<program>/test_main.py.
CONFIGS = [path for path in ALL if not path.startswith(('configs/sweet/', 'configs/elang/'))]
# Configs that are another's in another size, which a test holds: what else is shown of the other is
# shown of them.
LARGER = [config for config in CONFIGS if config.endswith('_base.gin')]
OF_A_TASK = [config for config in CONFIGS if config not in LARGER]
PARTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'gin').rglob('*.gin'))
# What each command's file in gin/runs goes with, beside a model and gin/runs/common.gin.
COMMANDS = {
  'vocab': (),
  'train': (),
  'evaluate': ('exits',),
  'calibrate': ('exits',),
  'study': ('exits', 'calibrate'),
  'decode': ('exits',),
  'export': ('exits',),
}
OLD_RUN = Path(__file__).parent / 'fixtures' / 'saved_config.gin'

# A record of the files that a config over files is for.
RECORDS = {
  'configs/calm/multi30k_en_fr.gin': {
    'en': 'Two young men are outside.',
    'fr': 'Deux jeunes hommes sont dehors.',
  },
  'configs/calm/glue_sst2.gin': {'sentence': 'a charming journey .', 'label': 1, 'idx': 0},
  'configs/calm/scitldr.gin': {
    'article': 'We show that a softmax saturates. Then we say why.',
    'highlights': 'Why a softmax saturates.',
    'references': ['Why a softmax saturates.', 'A softmax saturates.'],
  },
  'configs/calm/squad.gin': {
    'question': 'When did it begin?',
    'context': 'It began in October 1973.',
    'answers': {'text': ['October 1973', '1973'], 'answer_start': [12, 20]},
  },
}
# In place of the sizes that the configs are for.
TINY = {
  'NUM_STEPS': '1',
  'WARMUP_STEPS': '0',
  'BATCH_SIZE': '8',
  'INPUTS_LENGTH': '29',
  'TARGETS_LENGTH': '23',
  'TRUNCATE': 'True',
  'VOCABULARY': '@vocabularies.byte_vocabulary()',
  'VOCAB_SIZE': '259',
  'SIZE': "'tiny'",
  'DTYPE': "'float32'",
  't5.T5Config.emb_dim': '8',
  't5.T5Config.num_heads': '2',
  't5.T5Config.head_dim': '4',
  't5.T5Config.mlp_dim': '8',
  't5.T5Config.num_encoder_layers': '1',
  't5.T5Config.num_decoder_layers': '2',
  'losses.EncoderDecoderObjective.exit_weights': "'linear'",
  'loop.train.num_validation_batches': '1',
  'spelled_numbers.task.num_train': '31',
  'spelled_numbers.task.num_validation': '7',
  'spelled_numbers.task.num_test': '7',
}


@pytest.fixture(scope='module', autouse=True)
def data_sets():
  """Random records in the form of TensorFlow Datasets."""
  with tfds.testing.mock_data(num_examples=7):
    yield
  gin.clear_config()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """Weights of T5 'tiny' with a vocabulary of bytes, to begin with."""
  config = t5.published('tiny', vocab_size=259)
  params = jax.jit(t5.T5(config).init_params)(jax.random.key(0))
  return pretrained.save_huggingface(tmp_path_factory.mktemp('tiny'), config, params)


@pytest.fixture
def given(tmp_path, checkpoint):
  """given(config): what its user gives on the command line, as gin bindings."""

  def given(config):
    values = {'WORKDIR': tmp_path / 'run', 'CHECKPOINT': checkpoint}
    if config in RECORDS:
      for split in ('train', 'validation', 'test'):
        path = tmp_path / f'{split}.jsonl'
        path.write_text(f'{json.dumps(RECORDS[config])}\n' * 11)
        values[f'{split.upper()}_FILE'] = path
    return {name: repr(str(value)) for name, value in values.items()}

  return given


def build(config, bindings):
  """Parses a config with those of the bindings that it has a use for."""
  source = everything_included(config)
  lines = [
    f'{name} = {value}'
    for name, value in bindings.items()
    if (f'%{name}' in source if name.isidentifier() else f'{name.rpartition(".")[0]}' in source)
  ]
  configuration.parse([config], lines, [], {})


def everything_included(name):
  """The source of a config and of all that it includes."""
  source = (ROOT / name).read_text()
  included = re.findall(r"^include '(.*)'$", source, re.MULTILINE)
  return '\n'.join([source, *map(everything_included, included)])


def value_of(macro):
  return gin.get_configurable(f'{macro}/macro')()


@pytest.mark.parametrize('config', CONFIGS)
def test_a_config_describes_a_model_as_it_is_shipped(config, given):
  build(config, given(config))
  model_config = gin.get_configurable(t5.T5)().config
  assert isinstance(model_config, t5.T5Config)
  # Which refuses weights of exits for another number of layers.
  assert gin.get_configurable(losses.EncoderDecoderObjective)().model.config == model_config
  if config.startswith('configs/calm/paper/'):
    size = 't5_1_1_base' if config.endswith('_base.gin') else 't5_1_1_small'
    assert model_config == t5.published(size, dtype='bfloat16')
    assert model_config.vocab_size == 32128


@pytest.mark.parametrize('config', LARGER)
def test_a_larger_config_differs_from_the_smaller_in_its_size_alone(config, given):
  lines = []
  for size in ('base', 'small'):
    build(config.replace('_base.gin', f'_{size}.gin'), given(config))
    lines.append(set(gin.config_str().splitlines()))
  assert lines[0] ^ lines[1] == {"SIZE = 't5_1_1_base'", "SIZE = 't5_1_1_small'"}


@pytest.fixture(scope='module')
def stepped():
  """The programs of configs that have taken a step in this process."""
  return set()


def program(config):
  """What makes the programs of configs differ: not their data, since TINY has the lengths."""
  optimizers = re.findall(r'gin/optimizers/\w+', everything_included(config))
  return gin.get_configurable(losses.EncoderDecoderObjective)(), *optimizers


class Accepted(Exception):
  """Nothing is left that could refuse a run."""


def begin_to_train():
  """Reads data and weights and does all that a run does before its first step is compiled."""

  def accepted():
    raise Accepted

  with pytest.raises(Accepted):
    gin.get_configurable(loop.train)(accepted=accepted)


@pytest.mark.parametrize('config', OF_A_TASK)
def test_a_config_takes_a_step(config, given, tmp_path, stepped):
  build(config, given(config) | TINY)
  if program(config) in stepped:
    begin_to_train()
    return
  params, report = gin.get_configurable(loop.train)()
  assert params['token_embedder']['embedding'].shape[0] == 259
  assert 0 < report['loss'] < 100
  assert 0 < report['validation_loss'] < 100
  assert (tmp_path / 'run' / 'checkpoints' / '1').is_dir()
  stepped.add(program(config))


@pytest.mark.parametrize('config', OF_A_TASK)
def test_a_right_prediction_gets_the_best_score(config, given):
  build(config, given(config) | TINY)
  task, split = value_of('TASK'), value_of('EVALUATION_SPLIT')
  found = read_split(task, split)
  scores = found.score([example.target for example in found.examples])
  scores.pop('rouge2', None)  # Some of the mock's summaries are a single word.
  assert scores
  assert scores == pytest.approx(dict.fromkeys(scores, 100))


@pytest.mark.parametrize('config', ALL)
def test_a_config_says_how_it_is_run(config):
  header = (ROOT / config).read_text().partition('\n\n')[0]
  program = 'calm' if config in CONFIGS else Path(config).parts[1]
  if program == 'elang':  # Its models are there already.
    assert f'elang predict --gin_file={config} ' in header
  else:
    assert f'{program} train --gin_file={config} ' in header
    assert re.search(rf'{program} (evaluate|curve) --workdir=runs/\w+', header)
  assert all(len(line) <= 100 for line in (ROOT / config).read_text().splitlines())


@pytest.mark.parametrize('part', PARTS)
def test_a_building_block_is_used_or_pointed_out(part):
  pages = ['README.md', *(path.relative_to(ROOT) for path in (ROOT / 'docs').glob('*.md'))]
  others = [path for path in (*ALL, *PARTS, *pages) if path != part]
  assert any(part in (ROOT / path).read_text() for path in others)


def lines_of(source):
  """The lines of a config, without comments and blank ones."""
  return [line for line in source.splitlines() if line.strip() and not line.startswith('#')]


def test_a_task_on_files_of_ones_own_costs_few_lines(given, tmp_path):
  page = (ROOT / 'docs' / 'data.md').read_text()
  (source,) = re.findall(r'```\n(# my_task\.gin.*?)```', page, re.DOTALL)
  shipped = ('glue_sst2', 'scitldr', 'squad')
  sources = [source, *((ROOT / f'configs/calm/{name}.gin').read_text() for name in shipped)]
  assert max(len(lines_of(source)) for source in sources) <= 15
  config = tmp_path / 'my_task.gin'
  config.write_text(source)
  build(str(config), given('configs/calm/multi30k_en_fr.gin') | TINY)
  begin_to_train()


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_needs_no_others_file(command, tmp_path):
  files = [f'gin/runs/{name}.gin' for name in ('common', *COMMANDS[command], command)]
  needed = ['gin/models/t5.gin', *files, 'gin/models/t5_mini.gin', 'gin/tasks/bytes.gin']
  if command == 'train':
    needed.append('gin/optimizers/adamw.gin')
  task = {'TASK': '@spelled_numbers.task()', 'INPUTS_LENGTH': '9', 'TARGETS_LENGTH': '7'}
  numbers = {'WORKDIR': "'run'", 'BATCH_SIZE': '2', 'NUM_STEPS': '1'}
  config = tmp_path / 'config.gin'
  lines = ['from __gin__ import dynamic_registration', 'from calm.tasks import spelled_numbers']
  lines += [f"include '{path}'" for path in needed]
  lines += [f'{name} = {value}' for name, value in (task | numbers).items()]
  config.write_text('\n'.join(lines))
  configuration.parse([str(config)], [], [], {})


def test_all_commands_are_in_the_file_for_a_t5():
  source = (ROOT / 'gin/runs/t5.gin').read_text()
  included = set(re.findall(r"^include 'gin/runs/(.*)\.gin'$", source, re.MULTILINE))
  assert included == {'common', 'exits', *COMMANDS}


@pytest.mark.parametrize('stages', [[], ['add_exits'], ['add_exits', 'exit_classifier']])
def test_the_configuration_that_an_older_version_saved_is_understood(stages):
  files = [str(OLD_RUN), *(f'gin/runs/{name}.gin' for name in stages)]
  base = ["BASE_WORKDIR = 'run'", "WORKDIR = 'next'"] if stages else []
  configuration.parse(files, base, [], {})
  saved = gin.get_configurable(t5.T5)().config
  configuration.parse(['configs/quickstart.gin'], ["WORKDIR = 'run'"], [], {})
  today = gin.get_configurable(t5.T5)().config
  assert saved == dataclasses.replace(today, exit_classifier='exit_classifier' in stages)


def test_the_commands_of_an_older_run_are_those_of_today_with_its_macros(tmp_path):
  source = OLD_RUN.read_text().replace('MIN_EXIT = 1', 'MIN_EXIT = 2')
  config = tmp_path / 'config.gin'
  config.write_text(source)
  configuration.parse([str(config)], ["WORKDIR = 'run'"], [], {})
  operative = gin.config_str()
  assert 'calibrate.calibrate.predictor = %PREDICTOR' in operative
  assert 'MIN_EXIT = 2' in operative
  assert value_of('GATE_THRESHOLD') == 0.9
  assert gin.get_configurable(confidence.Gated)().gate_threshold == 0.9
  assert value_of('DISSIMILARITY').__name__ == 'exact_match'
  for gone in ('corpus', 'calibrating', 'evaluation.evaluate', 'decoder.Decoder', 'OPENS_AT'):
    assert gone not in operative


def test_a_run_of_before_tokens_were_drawn_takes_the_flags_of_today(tmp_path):
  configuration.parse(['configs/quickstart.gin'], ["WORKDIR = 'run'", 'MIN_EXIT = 2'], [], {})
  later = r'^(from calm.decoding import )?sampling\b.*\n|^generator.Generator.sampling = .*\n'
  later += r'|^(TEMPERATURE|TOP_K|TOP_P|NUM_SAMPLES|DECODE_PREFIX|DECODE_FORMAT) = .*\n'
  later += r'|^predict.predict.(prefix_template|input_format) = .*\n'
  saved, count = re.subn(later, '', gin.config_str(), flags=re.MULTILINE)
  assert count == 14
  (tmp_path / 'config.gin').write_text(saved)
  flags = ['TEMPERATURE = 0.5', 'DECODE_PREFIX = "one"']
  configuration.parse([str(tmp_path / 'config.gin')], flags, [], {})
  assert value_of('MIN_EXIT') == 2
  assert gin.query_parameter('predict.predict.prefix_template') is not None
  assert gin.get_configurable(sampling.choice)().temperature == 0.5


def test_records_are_kept_for_configs_over_files_only():
  over_files = [name for name in CONFIGS if "'gin/tasks/files.gin'" in everything_included(name)]
  assert sorted(RECORDS) == over_files
