"""T5X's names of macros mean here what they mean there, or are refused with what to write."""

import copy
import sys

import pytest

import gin
from calm import configuration, t5x_names
from calm.arguments import split_gin_arguments

# Reads each of our macros, and none of T5X's.
CONFIG = """from __gin__ import dynamic_registration
import textwrap
INITIAL_PARAMS = None
textwrap.fill:
  width = (%WORKDIR, %NUM_STEPS, %INPUTS_LENGTH, %TARGETS_LENGTH, %CHECKPOINT, %DTYPE)
  initial_indent = %INITIAL_PARAMS
"""
OURS = {
  'WORKDIR': 'w',
  'NUM_STEPS': 1,
  'INPUTS_LENGTH': 2,
  'TARGETS_LENGTH': 3,
  'CHECKPOINT': 'c',
  'DTYPE': 'float32',
}
MEANT = [
  ('MODEL_DIR', "'elsewhere'", {'WORKDIR': 'elsewhere'}),
  ('TRAIN_STEPS', '100', {'NUM_STEPS': 100}),
  (
    'TASK_FEATURE_LENGTHS',
    "{'inputs': 64, 'targets': 32}",
    {'INPUTS_LENGTH': 64, 'TARGETS_LENGTH': 32},
  ),
  ('INITIAL_CHECKPOINT_PATH', "'gone'", {'CHECKPOINT': 'gone'}),
  ('ACTIVATION_DTYPE', "'bfloat16'", {'DTYPE': 'bfloat16'}),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """A folder in which the test runs, with all.gin, which sets and reads each of our macros."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  values = ''.join(f'{name} = {value!r}\n' for name, value in OURS.items())
  (tmp_path / 'all.gin').write_text(CONFIG + values)
  yield tmp_path
  gin.clear_config()


def parse(*arguments, files=('all.gin',)):
  _, bindings = split_gin_arguments([f'--gin.{text}' for text in arguments])
  configuration.parse(list(files), bindings, [], {})


def test_a_meaning_is_known_for_every_name_that_is_accepted():
  assert {name for name, *_ in MEANT} == t5x_names.RENAMED.keys()


@pytest.mark.parametrize(('name', 'value', 'ours'), MEANT)
@pytest.mark.parametrize('where', ['command line', 'config', 'included'])
def test_a_name_that_means_the_same_is_accepted(folder, name, value, ours, where):
  if where == 'command line':
    parse(f'{name}={value}')
  elif where == 'config':
    (folder / 'mine.gin').write_text(f"include 'all.gin'\n{name} = {value}  # {name} = 1\n")
    parse(files=['mine.gin'])
  else:
    (folder / 'part.gin').write_text(f'# As in T5X.\n{name} = \\\n    {value}')
    (folder / 'mine.gin').write_text("include 'all.gin'\ninclude 'part.gin'\n")
    parse(files=['mine.gin'])
  assert {name: configuration.macro(name) for name in OURS} == OURS | ours
  assert configuration.macro(name) is None


@pytest.mark.parametrize('name', t5x_names.RENAMED)
def test_a_config_that_reads_such_a_name_reads_ours(folder, name):
  (folder / 'reads.gin').write_text(
    'from __gin__ import dynamic_registration\nimport copy\n'
    f'copy.copy:\n  x = [%{name}, "%{name}"]  # %{name}\n'
  )
  parse(files=['all.gin', 'reads.gin'])
  ours = t5x_names.RENAMED[name]
  value = OURS[ours] if isinstance(ours, str) else {key: OURS[one] for key, one in ours.items()}
  assert gin.get_configurable(copy.copy)() == [value, f'%{name}']


@pytest.mark.parametrize('where', ['command line', 'config'])
@pytest.mark.parametrize(('name', 'mend'), t5x_names.ANSWERED.items())
def test_a_name_without_effect_is_answered(folder, name, mend, where):
  files = ['all.gin']
  if where == 'config':
    (folder / 'mine.gin').write_text(f'{name} = 1\n')
    files.append('mine.gin')
  with pytest.raises(ValueError) as info:
    parse(*([] if where == 'config' else [f'{name}=1']), files=files)
  assert str(info.value) == f"{name} is T5X's name: here {mend}."


def test_the_answer_comes_before_what_is_missing(folder):
  (folder / 'open.gin').write_text(CONFIG.replace('None', '%TASK_NAME'))
  with pytest.raises(ValueError, match=r'include gin/tasks/registered\.gin or .* set TASK_NAME'):
    parse('MIXTURE_OR_TASK_NAME=squad', files=['open.gin'])


def test_a_name_that_a_config_reads_is_its_own_affair(folder):
  (folder / 'mine.gin').write_text(
    "include 'all.gin'\nRANDOM_SEED = 3\ntextwrap.fill.drop_whitespace = %RANDOM_SEED\n"
  )
  parse(files=['mine.gin'])
  assert configuration.macro('RANDOM_SEED') == 3


@pytest.mark.parametrize(
  'value', ['64', "{'inputs': 64}", '%gin.REQUIRED', "{'inputs': 1, 'x': 2}"]
)
def test_lengths_that_are_not_those_of_inputs_and_targets_are_refused(value):
  with pytest.raises(ValueError, match='write that, or set INPUTS_LENGTH and TARGETS_LENGTH'):
    parse(f'TASK_FEATURE_LENGTHS={value}')


def test_a_checkpoint_that_nothing_would_begin_with_is_refused(folder):
  (folder / 'scratch.gin').write_text((folder / 'all.gin').read_text().replace('%CHECKPOINT, ', ''))
  with pytest.raises(ValueError, match="INITIAL_CHECKPOINT_PATH is T5X's name of CHECKPOINT here"):
    parse('INITIAL_CHECKPOINT_PATH=c', files=['scratch.gin'])


def test_steps_that_would_count_the_checkpoints_are_refused():
  with pytest.raises(ValueError, match='set NUM_STEPS, the steps of this run'):
    parse('TRAIN_STEPS=1_100_000', 'INITIAL_PARAMS=c')
  parse('NUM_STEPS=100_000', 'INITIAL_PARAMS=c')
  assert configuration.macro('NUM_STEPS') == 100_000


@pytest.mark.parametrize('source', ['TRAIN_STEPS = (', 'TRAIN_STEPS =', '  TRAIN_STEPS\n = "', ''])
def test_what_is_no_gin_is_left_to_gin_to_complain_about(source):
  assert t5x_names.translate(source)[0].replace('NUM', 'TRAIN').strip() == source.strip()


def test_only_lines_end_a_line():
  source = "A = 'a\u2028b\x0c'\nMODEL_DIR = 'w'\n"
  assert t5x_names.translate(source)[0] == source.replace('MODEL_DIR', 'WORKDIR')


def test_an_error_in_a_config_still_names_its_place(folder):
  (folder / 'odd.gin').write_text('TRAIN_STEPS = 3\nthis is no gin\n')
  with pytest.raises(SyntaxError) as info:
    parse(files=['odd.gin'])
  assert 'odd.gin' in str(info.value)
  assert info.value.lineno == 2
