"""Every setting is used, of its kind, or named: on the command line and in files."""

import collections.abc
import inspect
import re
import typing

import pytest

import gin
from calm import arguments, commands, configuration, imports, main, settings

QUICKSTART = '--gin_file=configs/quickstart.gin'
PAPER = ['--gin_file=configs/calm/paper/squad_small.gin', '--gin.CHECKPOINT=there']


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """A folder in which the test runs; gin is as it was."""
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  gin.clear_config()


def read(*argv, command='evaluate'):
  """Reads what a command is given, and calls nothing."""
  others, given = arguments.split_gin_arguments([command, *argv])
  args = commands.make_parser(main.PROGRAM).parse_args(others)
  with imports.only_from(args.import_from):
    commands.read(main.PROGRAM, args, given)


def refused(*argv, **command):
  """What is said of settings that cannot be."""
  with pytest.raises(ValueError) as info:
    read(*argv, **command)
  return configuration.in_words(info.value)


def quickstart(*lines, folder):
  """Flags of the quickstart with a file of more lines."""
  (folder / 'mine.gin').write_text('\n'.join(lines) + '\n')
  return [QUICKSTART, '--gin_file=mine.gin', '--workdir=w']


@pytest.mark.parametrize(
  ('setting', 'said'),
  [
    ('NUM_STEPS=2.5', 'must be a whole number of at least 1, not 2.5 (num_steps of'),
    ('NUM_STEPS=abc', "must be a whole number of at least 1, not 'abc' (num_steps of"),
    ('LEARNING_RATE=-1', 'must be a number of at least 0, not -1 (learning_rate of'),
    ('WARMUP_STEPS=-1', 'must be a whole number of at least 0, not -1 (warmup_steps of'),
    ('DELTAS=0.1', 'must be a list, each of it a number in (0, 1), not empty, not 0.1 (deltas of'),
    ('TRUNCATE=1', 'must be True or False, not 1 (truncate of'),
    ('MEASURES=()', ', not empty, not () (measures of'),
    ('RULE=@rules.confident', 'must be an object of the kind ExitRule (@module.name()), not @conf'),
    ('BATCH_SIZE=@spelled_numbers.task()', 'whole number of at least 1, not @spelled_numbers.task'),
    ('TASK=%TASK', 'TASK leads back to itself: TASK -> TASK.'),
    ('loop.train.num_microbatches=0', 'must be a whole number of at least 1, not 0 (num_microba'),
    ('t5.T5Config.relpos_num_buckets=0', 'must be a whole number of at least 4, not 0 (relpos_'),
  ],
)
def test_a_value_of_another_kind_is_named_with_its_range_and_place(setting, said, folder):
  name, _, value = setting.partition('=')
  line = f'{name} = {arguments.as_gin_value(value)}'
  head = 'from __gin__ import dynamic_registration'
  rooms = ('exits import rules', 'models import t5', 'tasks import spelled_numbers')
  lines = [head, *(f'from calm.{room}' for room in (*rooms, 'training import loop')), line]
  on_line = refused(QUICKSTART, '--workdir=w', f'--gin.{setting}')
  in_file = refused(*quickstart(*lines, folder=folder))
  assert said in on_line
  assert said in in_file
  if 'leads back' not in said:
    assert on_line.startswith(f'--gin.{name} must be ')
    assert in_file.startswith(f'"mine.gin" line 6: {name} must be ')


@pytest.mark.parametrize('value', ['nan', '1.5', '-0.1'])
def test_a_threshold_is_a_confidence(value):
  said = refused(
    QUICKSTART, '--workdir=w', '--gin.RULE=@rules.confident()', f'--gin.LAMBDA={value}'
  )
  assert said.startswith('--gin.LAMBDA must be a number in [0, 1], not ')


def test_a_circle_that_nothing_reaches_is_found_as_well(folder):
  lines = ['LAMBDA = %TAU', 'TAU = %LAMBDA']
  assert 'leads back to itself: ' in refused(*quickstart(*lines, folder=folder))


def test_the_flag_of_a_macro_is_named_with_it():
  assert refused(QUICKSTART, '--workdir=w', '--gin.EVALUATION_SPLIT=3').startswith(
    '--split (EVALUATION_SPLIT) must be a text, not 3'
  )
  assert refused(QUICKSTART, '--workdir=w', '--split=test', '--gin.EVALUATION_SPLIT=test') == (
    '--split and --gin.EVALUATION_SPLIT are the same: give one of them.'
  )
  assert refused(QUICKSTART, '--workdir=w', '--gin.MODEL_DIR=w') == (
    '--workdir and --gin.MODEL_DIR are the same: give one of them.'
  )
  assert refused(QUICKSTART, '--workdir=').startswith('--workdir is empty: name a folder')


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    ([QUICKSTART, '--gin.LAMBDA=0.5'], 'only rules.confident.value reads it'),
    ([QUICKSTART, '--gin.TAU=2.0'], 'only thresholds.Decaying.tau reads it'),
    ([*PAPER, '--gin.t5.T5Config.emb_dim=64'], 'nothing that is configured uses t5.T5Config'),
    ([QUICKSTART, '--gin.rules.FixedLayer.layer=2'], 'nothing that is configured uses rules.Fixed'),
  ],
)
def test_what_the_configuration_never_uses_is_named(argv, said):
  assert said in refused(*argv, '--workdir=w')


@pytest.mark.parametrize(
  'argv',
  [
    [QUICKSTART, '--gin.LAMBDA=0.5', '--gin.RULE=@rules.confident()'],
    [QUICKSTART, '--gin.TAU=2.0', '--gin.THRESHOLD=@thresholds.Decaying'],
    [QUICKSTART, '--gin.GATE_THRESHOLD=0.5', '--gin.NUM_STEPS=300', '--gin.DELTAS=(0.1,)'],
    [*PAPER, '--gin.t5.published.num_heads=4'],
  ],
)
@pytest.mark.parametrize('command', ['train', 'evaluate', 'calibrate'])
def test_what_some_command_of_the_configuration_uses_is_taken_by_all(argv, command):
  read(*argv, '--workdir=w', command=command)


def test_a_misspelt_macro_is_found_in_a_file_as_on_the_command_line(folder):
  said = 'no config reads NUM_STPES; did you mean NUM_STEPS?'
  assert refused(QUICKSTART, '--workdir=w', '--gin.NUM_STPES=3') == f'--gin.NUM_STPES: {said}'
  lines = quickstart('SEED = 3', 'NUM_STPES = 3', folder=folder)
  assert refused(*lines) == f'"mine.gin" line 2: {said}'


def test_what_a_file_sets_idly_is_told_once_and_taken(folder, capsys):
  read(*quickstart('LAMBDA = 0.8', 'SEED = 3', 'CHECKPOINT = "x"', folder=folder))
  assert capsys.readouterr().err == (
    'Not used as things are configured: LAMBDA ("mine.gin" line 1), '
    'CHECKPOINT ("mine.gin" line 3).\n'
  )


def test_what_a_run_has_saved_is_taken_as_it_is_and_flags_for_others_are_told(folder, capsys):
  read(QUICKSTART, '--workdir=w', command='train')
  configuration.save('w', configuration.to_save())
  read('--workdir=w', '--gin.MAX_DECODE_STEPS=3')
  assert capsys.readouterr().err == ''
  read('--workdir=w', '--gin.NUM_STEPS=3')
  assert capsys.readouterr().err == 'calm evaluate does not use NUM_STEPS.\n'


CONFIDENT = '--gin.RULE=@rules.confident()'
SURE = '--certificate=there.json'
NO_EXITS = 'does not use {}: without --certificate RULE says which tokens exit; '


@pytest.mark.parametrize(
  ('command', 'argv', 'said'),
  [
    ('evaluate', ['--gin.MEASURE=@confidence.classifier'], NO_EXITS.format('MEASURE')),
    ('decode', ['--gin.MIN_EXIT=2', '--gin.TEMPERATURE=1'], NO_EXITS.format('MIN_EXIT')),
    ('evaluate', ['--gin.MEASURE=@confidence.classifier', CONFIDENT], ''),
    ('evaluate', ['--gin.MEASURE=@confidence.classifier', SURE], ''),
    ('evaluate', ['--gin.LAMBDA=0.5', CONFIDENT], ''),
    ('evaluate', ['--gin.LAMBDA=0.5', CONFIDENT, SURE], 'LAMBDA: the threshold is that of the cer'),
    ('calibrate', ['--gin.LAMBDA=0.5', CONFIDENT], 'LAMBDA: a calibration tries the thresholds of'),
    ('calibrate', ['--gin.MEASURE=@confidence.classifier'], ''),
  ],
)
def test_what_a_command_looks_at_beside_or_without_a_certificate(
  command, argv, said, folder, capsys
):
  read(QUICKSTART, '--workdir=w', command='train')
  configuration.save('w', configuration.to_save())
  read('--workdir=w', *argv, command=command)
  err = capsys.readouterr().err
  assert said in err
  assert len(err.splitlines()) == bool(said)


@pytest.mark.parametrize(
  ('setting', 'said'),
  [
    (
      'MEASURE=@confidence.softmax_margin()',
      '--gin.MEASURE must be a function (@module.name), not @confidence.softmax_margin() ',
    ),
    ('RULE=@rules.FixedLayer()', 'RULE: rules.FixedLayer needs layer: set rules.FixedLayer.layer '),
  ],
)
def test_an_argument_that_is_missing_is_named_before_anything_is_called(setting, said):
  assert refused(QUICKSTART, '--workdir=w', f'--gin.{setting}').startswith(said)


@pytest.mark.parametrize('path', configuration.shipped_configs('calm'))
def test_every_shipped_config_is_of_the_kinds_it_sets(path, capsys):
  needed = {'CHECKPOINT': 'there', 'TRAIN_FILE': 'there'}
  text = (configuration.shipped_root() / path).read_text()
  flags = [f'--gin.{name}={value}' for name, value in needed.items() if name in text]
  read(f'--gin_file={path}', '--workdir=w', *flags)
  assert capsys.readouterr().err == ''


def parse_with_what_it_needs(path):
  """Parses a config; what it leaves open gets some value, as it is asked for."""
  needed = ["WORKDIR = 'w'"]
  for _ in range(20):
    try:
      return configuration.parse([path], needed, [], {})
    except ValueError as error:
      name = re.match(r'(\w+) is not set', str(error))
      if name is None:  # Of another kind than what it was given: all has been read by then.
        return None
      needed.append(f"{name[1]} = 'a'")


def public_configurables():
  """Functions and classes of ours that shipped configs set, by what configs call them."""
  for path in configuration.shipped_configs():
    parse_with_what_it_needs(path)
    for _, selector, _ in configuration.everything().all():
      if selector.startswith(('calm.', 'sweet.', 'elang.')):
        yield selector, configuration.function_of(selector)


def has_a_plain_number(kind):
  """Whether an annotation allows any number, of whatever size."""
  if kind is int or kind is float:
    return True
  if typing.get_origin(kind) is typing.Annotated:
    return not any(isinstance(one, settings.Range) for one in typing.get_args(kind)[1:]) and (
      has_a_plain_number(typing.get_args(kind)[0])
    )
  if typing.get_origin(kind) is collections.abc.Callable:
    return False
  inside = typing.get_args(kind)
  return any(map(has_a_plain_number, inside))


# Numbers of any size: an end that is none, and thresholds that calibration alone knows.
ANY_SIZE = {
  'grid',
  'highest',
  'lowest',
  'prices',
  'stop_after_seconds',
  'threshold',
  'thresholds',
  'value',
  'values',
  'version',
}


def test_every_number_that_a_config_may_set_has_a_kind():
  plain = set()
  for selector, function in dict(public_configurables()).items():
    hints = settings.hints_of(function)
    for one in inspect.signature(function).parameters.values():
      is_number = isinstance(one.default, int | float) and not isinstance(one.default, bool)
      kind = hints.get(one.name, int if is_number else None)
      if has_a_plain_number(kind) and one.name not in ANY_SIZE:
        plain.add(f'{selector}.{one.name}')
  assert plain == set()
