"""What the terminal shows of an error is a sentence, and none of Python's or gin's."""

import json
import re
import textwrap
from pathlib import Path

import pytest

import gin
from calm import configuration, errors, settings

PYTHONS = re.compile(
  r'Error\b|Traceback|object has no|positional argument|not supported|NoneType|<class|<function'
  r'|In call to|In file|codec|Errno|unexpected keyword|invalid literal'
)


def said(error):
  return errors.in_words(error, lambda name, value: None)


def raised(call):
  with pytest.raises(Exception) as info:
    call()
  return info.value


@pytest.mark.parametrize(
  'call',
  [
    lambda: 'a' + 1,
    lambda: None.x,
    lambda: {}['a'],
    lambda: [][3],
    lambda: 1 / 0,
    lambda: int('abc'),
    lambda: b'\xff'.decode(),
    lambda: Path('/nowhere/file').read_text(),
    lambda: __import__('no_such_module'),
    lambda: (lambda a: a)(),
    lambda: textwrap.fill('a', widht=3),
    lambda: json.loads('{'),
    lambda: [0] * (1, 2),
    lambda: compile('a = ', 'x.gin', 'exec'),
    lambda: min([]),
    lambda: (_ for _ in ()).throw(AssertionError()),
  ],
)
def test_no_words_of_python_reach_the_terminal(call):
  text = said(raised(call))
  assert len(text) > 20
  assert not PYTHONS.search(text)


@pytest.mark.parametrize(
  'text',
  [
    'No such thing: make it.',
    'missing:\n  a\n  b',
    'There is no vocabulary to make: bytes need none.',
    'answers[text] is an empty list, and a reference is needed.',
    '--split is not in the list of splits.',
  ],
)
def test_a_sentence_of_this_house_stays_as_it_is(text):
  assert said(ValueError(text)) == text
  assert said(FileNotFoundError(text)) == text


def test_errors_of_this_houses_own_classes_are_sentences():
  class NoNumberError(FloatingPointError):
    """Of a base that Python has for itself."""

  NoNumberError.__module__ = 'calm.training.guards'
  assert said(NoNumberError('The loss at step 3 is NaN.')) == 'The loss at step 3 is NaN.'


def test_an_error_of_the_system_names_the_file():
  assert (
    said(raised(lambda: Path('/nowhere/file').read_text()))
    == '/nowhere/file: No such file or directory.'
  )


def test_a_setting_is_named_by_the_macro_that_gave_it():
  error = settings.SettingError('min_exit', 99, 'a layer')
  assert errors.in_words(
    error, lambda name, value: {('min_exit', 99): 'MIN_EXIT'}[name, value]
  ) == ('MIN_EXIT: min_exit must be a layer, not 99.')


@pytest.fixture
def odd(tmp_path, monkeypatch):
  """Reads lines of a config, calls textwrap.fill as they say, and gives the error in words."""
  monkeypatch.chdir(tmp_path)

  def call(lines):
    text = f'from __gin__ import dynamic_registration\nimport textwrap\n\n{lines}\n'
    (tmp_path / 'odd.gin').write_text(text)

    def parse_and_call():
      configuration.parse(['odd.gin'], [], [], {})
      gin.get_configurable(textwrap.fill)()

    return configuration.in_words(raised(parse_and_call))

  yield call
  gin.clear_config()


@pytest.mark.parametrize(
  ('lines', 'expected'),
  [
    (
      'textwrap.dedent.txt = 3',
      'textwrap.dedent has no parameter txt; did you mean text. '
      '("odd.gin" line 4: textwrap.dedent.txt = 3)',
    ),
    (
      'textwrap.nothing.text = 3',
      'There is no textwrap.nothing: its module has no nothing. '
      '("odd.gin" line 4: textwrap.nothing.text = 3)',
    ),
    (
      'metrics.bleu.a = 3',
      'Nothing called metrics is imported: import its module at the top of the config. '
      '("odd.gin" line 4: metrics.bleu.a = 3)',
    ),
    (
      'import no_such_module_here',
      'There is no module no_such_module_here: install it, or say where it lies with '
      '--import_from=DIR. ("odd.gin" line 4: import no_such_module_here)',
    ),
    (
      "include 'nowhere.gin'",
      'No config nowhere.gin to include. ("odd.gin" line 4: include \'nowhere.gin\')',
    ),
    (
      'A == 3',
      '"odd.gin" line 4 cannot be read as gin: \'A == 3\'. A line is NAME = VALUE, with texts in '
      'quotes.',
    ),
    ('A = (1,', '"odd.gin" ends within brackets or quotes that are not closed.'),
    ("textwrap.fill:\n  text = 'x'\n  width = 0", 'invalid width 0 (must be > 0)'),
  ],
)
def test_an_error_in_a_config_names_its_line(odd, lines, expected):
  assert odd(lines) == expected


@pytest.mark.parametrize('lines', ["textwrap.fill:\n  text = 'x'\n  width = 'wide'", ''])
def test_what_nobody_expected_tells_where_it_was(odd, lines):
  text = odd(lines)
  assert text.startswith('fill cannot work with what it is given (')
  assert text.endswith('look at its settings; --traceback shows what happened.')
