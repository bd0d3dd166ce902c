"""What stands on a command line is what gin is told, and no flag takes another for its value."""

import argparse
import math

import pytest

import gin
from calm import arguments


@pytest.mark.parametrize(
  'text',
  [
    'data/train.jsonl',
    'gs://bucket/train-*.jsonl',
    'two words',
    'question: ',
    ' ',
    "it's",
    'a "quoted" word',
    'back\\slash',
    '',
    '2024-01-01',
    '{en}',
    '{question} at 50%',
    '{user}@{host}',
    '{{}}',
    '(see @home)',
    '[en] is {en}',
    'one\ntwo',
  ],
)
def test_a_text_needs_no_quotes(text):
  assert gin.config.parse_value(arguments.as_gin_value(text)) == text


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('100', 100),
    ('1e-3', 1e-3),
    ('-2', -2),
    ('True', True),
    ('None', None),
    ('true', True),
    ('false', False),
    ('FALSE', False),
    ('none', None),
    ("(true, 'true', [none])", (True, 'true', [None])),
    ("{'none': false}", {'none': False}),
    ("'100'", '100'),
    ('"two words"', 'two words'),
    ("(1, 'a')", (1, 'a')),
    ("{'label': ('no', 'yes')}", {'label': ('no', 'yes')}),
  ],
)
def test_what_is_a_value_of_python_is_one(text, value):
  assert gin.config.parse_value(arguments.as_gin_value(text)) == value


@pytest.mark.parametrize(
  'text',
  ['@files.task()', '@bleu', '%SEED', '(@metrics.bleu, @metrics.chrf)', "{'a': [%B, @c.d()]}"],
)
def test_references_are_left_to_gin(text):
  assert arguments.as_gin_value(text) == text


def test_bindings_are_taken_out_of_the_arguments():
  argv = ['train', '--gin.A=1', '--workdir', 'w', '--gin.b.c.d', 'x=y', '--gin.E=', '--gin.F = 2']
  others, bindings = arguments.split_gin_arguments(argv)
  stands = '--gin.NAME='  # Where one stood.
  assert others == ['train', stands, '--workdir', 'w', stands, stands, stands]
  assert bindings == ['A = 1', "b.c.d = 'x=y'", "E = ''", 'F = 2']


@pytest.mark.parametrize('argument', ['--gin.A', '--gin.=1', '--gin.'])
def test_a_binding_without_name_or_value_is_named(argument):
  with pytest.raises(ValueError, match=f'{argument}: write it as --gin.NAME=value'):
    arguments.split_gin_arguments(['train', argument])


@pytest.mark.parametrize('follows', [['--workdir=w'], ['--gin.B=1'], ['-h'], []])
def test_a_binding_takes_no_flag_for_its_value(follows):
  with pytest.raises(ValueError, match=r'--gin\.A: write it as --gin\.NAME=value'):
    arguments.split_gin_arguments(['train', '--gin.A', *follows])


@pytest.mark.parametrize('number', ['-2', '-.5', '-1e-3'])
def test_a_negative_number_is_a_value(number):
  _, bindings = arguments.split_gin_arguments(['train', '--gin.A', number])
  assert bindings == [f'A = {number}']


def test_a_flag_takes_nothing_from_beyond_a_binding(capsys):
  parser = argparse.ArgumentParser(allow_abbrev=False)
  parser.add_argument('command')
  parser.add_argument('--workdir')
  parser.add_argument('--gin.NAME', dest='gin_binding')
  others, _ = arguments.split_gin_arguments(['train', '--gin.A=1', '--workdir', 'w'])
  assert parser.parse_args(others).workdir == 'w'
  others, _ = arguments.split_gin_arguments(['train', '--workdir', '--gin.A=1', 'w'])
  with pytest.raises(SystemExit):
    parser.parse_args(others)
  assert 'argument --workdir: expected one argument' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('source', 'meant'),
  [
    ('A = true', 'A = True'),
    ('a.b:\n  c = FALSE\n  d = (none, [true])', 'a.b:\n  c = False\n  d = (None, [True])'),
    ("A = 'true'  # none", "A = 'true'  # none"),
    ('true.b = @none.false()', 'true.b = @none.false()'),
    ('A = {1: none}', 'A = {1: None}'),
  ],
)
def test_a_config_may_write_the_words_of_python_in_any_case(source, meant):
  assert arguments.with_words_of_python(source) == meant


@pytest.mark.parametrize(
  ('text', 'value'), [('inf', math.inf), ('-inf', -math.inf), ('null', None), ('-0.5', -0.5)]
)
def test_a_number_may_be_written_as_it_is_printed(text, value):
  assert gin.config.parse_value(arguments.as_gin_number(text)) == value
