"""What the command line says is what gin is told, and what is saved says it again."""

import contextlib
import os
import sys
import textwrap

import pytest

import gin
from calm import arguments, configuration, imports

# A config without the weight of the real ones: it sets a function of Python's own library.
CONFIG = """# Wraps a text.
from __gin__ import dynamic_registration
import textwrap

WIDTH = 30
INDENT = %gin.REQUIRED
NOTES_FILE = ''
textwrap.fill:
  width = %WIDTH
  initial_indent = %INDENT
  subsequent_indent = %NOTES_FILE
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """A folder with wrap.gin, in which the test runs; gin and the module path are as they were."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  (tmp_path / 'wrap.gin').write_text(CONFIG)
  yield tmp_path
  gin.clear_config()


def parse(*bindings, files=('wrap.gin',), search_paths=(), flags=()):
  _, bindings = arguments.split_gin_arguments(bindings)
  configuration.parse(list(files), bindings, list(search_paths), dict(flags))


def test_later_configs_are_over_earlier_ones_and_the_command_line_over_all(folder):
  (folder / 'deeper').mkdir()
  (folder / 'deeper' / 'narrow.gin').write_text("WIDTH = 20\nINDENT = '> '\n")
  parse(files=['wrap.gin', 'narrow.gin'], search_paths=['deeper'])
  assert gin.get_configurable(textwrap.fill)('x ' * 12).splitlines()[0] == '> ' + 'x ' * 8 + 'x'
  parse('--gin.WIDTH=10', '--gin.INDENT', '- ', files=['wrap.gin', 'deeper/narrow.gin'])
  assert gin.get_configurable(textwrap.fill)('x ' * 12).splitlines()[0] == '- x x x x'


@pytest.mark.parametrize('name', ['textwrap.fill', 'fill'])
def test_a_parameter_is_set_by_its_name(name):
  parse('--gin.INDENT=', f'--gin.{name}.width=5')
  assert gin.get_configurable(textwrap.fill)('x ' * 12).splitlines()[0] == 'x x x'


def test_a_binding_may_name_what_configs_import(folder):
  parse('--gin.INDENT=@textwrap.dedent()', '--gin.textwrap.dedent.text', '> ')
  assert gin.get_configurable(textwrap.fill)('x') == '> x'
  with pytest.raises(AttributeError, match=r'textwrap\.nothing') as info:
    parse('--gin.INDENT=@textwrap.nothing')
  assert configuration.in_words(info.value) == (
    'There is no textwrap.nothing: its module has no nothing. (INDENT = @textwrap.nothing)'
  )


def test_a_module_of_the_users_is_found_where_it_is_said_to_lie(folder):
  (folder / 'my_own_texts.py').write_text('def shout(text):\n  return text.upper()\n')
  (folder / 'my.gin').write_text(
    'from __gin__ import dynamic_registration\nimport my_own_texts\nmy_own_texts.shout.text = %TEXT'
  )
  with imports.only_from(['.']):
    parse('--gin.TEXT=hi', files=['my.gin'])
  import my_own_texts

  assert gin.get_configurable(my_own_texts.shout)() == 'HI'


def test_a_folder_of_the_same_name_hides_no_config(folder):
  (folder / 'mine').mkdir()
  (folder / 'elsewhere' / 'mine').mkdir(parents=True)
  (folder / 'elsewhere' / 'mine' / 'narrow.gin').write_text("include 'wrap.gin'\nWIDTH = 20\n")
  parse('--gin.INDENT=', files=['mine/narrow.gin'], search_paths=['elsewhere'])
  assert configuration.macro('WIDTH') == 20


def test_an_unknown_config_is_named_beside_those_that_are_shipped(folder):
  (folder / 'here').mkdir()
  with pytest.raises(
    FileNotFoundError, match=r'No config nope\.gin in \., here, .*Shipped:'
  ) as info:
    parse(files=['nope.gin'], search_paths=['here'])
  assert '\n  configs/quickstart.gin\n' in str(info.value) + '\n'


def test_a_shipped_config_has_a_header_that_says_what_it_is():
  configs = configuration.shipped_configs()
  assert configs['configs/quickstart.gin'].startswith('The quickstart')
  assert all(len(header) > 20 for header in configs.values())
  assert all(header.endswith(('.', '?')) for header in configs.values())


@pytest.mark.parametrize(
  ('flags', 'flag'), [((), '--gin.INDENT'), ({'INDENT': '--dent'}, '--dent')]
)
def test_a_macro_without_a_value_is_named_with_its_flag(flags, flag):
  with pytest.raises(ValueError, match=f'^INDENT is not set: give {flag}=VALUE'):
    parse(flags=flags)


def test_a_macro_that_a_config_reads_and_never_sets_is_named(folder):
  (folder / 'wider.gin').write_text(CONFIG.replace('= %WIDTH', '= %WIDER'))
  with pytest.raises(ValueError, match=r'^WIDER is not set: give --gin\.WIDER=VALUE'):
    parse('--gin.INDENT=', files=['wider.gin'])


def test_a_macro_that_nothing_reads_is_an_error():
  with pytest.raises(ValueError, match=r'--gin\.WITDH: no config reads WITDH; did you mean WIDTH'):
    parse('--gin.INDENT=', '--gin.WITDH=3')
  with pytest.raises(ValueError, match='--split: no config reads EVALUATION_SPLIT; there are'):
    parse('--gin.INDENT=', '--gin.EVALUATION_SPLIT=test', flags={'EVALUATION_SPLIT': '--split'})


def test_what_libraries_print_when_loaded_is_dropped_unless_asked_for(folder, capfd):
  (folder / 'my_loud_module.py').write_text('import os\nos.write(2, b"chatter")\n')
  loud = 'from __gin__ import dynamic_registration\nimport my_loud_module\n'
  (folder / 'loud.gin').write_text(loud + 'NOTHING = 1\nthis is no gin')
  for hushed, said in ((True, ''), (False, 'chatter')):
    sys.modules.pop('my_loud_module', None)
    with contextlib.suppress(SyntaxError), imports.only_from(['.']):
      configuration.parse(['loud.gin'], [], [], {}, hushed=hushed)
    assert said in capfd.readouterr().err.split('\n')


def test_a_saved_config_says_the_same(folder):
  long = 'a text that is longer than a line of a saved config, with {fields} and "quotes" ' * 3
  parse('--gin.WIDTH=7', f'--gin.INDENT={long}')
  configuration.save('run', configuration.to_save())
  text = gin.config_str()
  parse(files=['run/config.gin'])
  assert gin.config_str() == text
  assert configuration.macro('INDENT') == long
  assert os.listdir('run') == ['config.gin']


def test_a_saved_path_is_found_from_everywhere(folder, monkeypatch):
  for value in ('notes.txt', '../notes-*.txt', 'gs://bucket/notes.txt', '/notes.txt', 'None'):
    parse('--gin.INDENT=dent', f'--gin.NOTES_FILE={value}')
    configuration.save('run', configuration.to_save())
    monkeypatch.chdir('/')
    parse(files=[f'{folder}/run/config.gin'])
    absolute = {
      'notes.txt': f'{folder}/notes.txt',
      '../notes-*.txt': f'{folder.parent}/notes-*.txt',
      'None': None,
    }
    assert configuration.macro('NOTES_FILE') == absolute.get(value, value)
    assert configuration.macro('INDENT') == 'dent'
    monkeypatch.chdir(folder)
