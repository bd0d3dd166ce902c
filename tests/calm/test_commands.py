"""A table of commands is a program, which shows and lists its own and ends as programs do."""

import io
import os
import signal
import sys

import pytest

import gin
from calm import commands, configuration
from calm.commands import Command, Option

WORK = """
def begin(answer, workdir, accepted=None):
  '''Does what it is told.'''
  print('answer', answer)
  if answer == 'refuse':
    raise ValueError('refused')
  if answer != 'nothing to do':
    accepted()
  if answer == 'stop':
    raise KeyboardInterrupt
  return answer


def look(answer):
  print('saw', answer, type(answer).__name__)
"""
CONFIGS = {
  'configs/quickstart.gin': '# For all programs.\n',
  'configs/calm/translate.gin': '# Translates.\n',
  'configs/other/go.gin': """# Goes.
from __gin__ import dynamic_registration
import work_of_other
ANSWER = 3
work_of_other.begin:
  answer = %ANSWER
  workdir = %WORKDIR
work_of_other.look.answer = %ANSWER
""",
  'configs/other/deeper/further.gin': '# Goes further.\n',
}
OTHER = commands.Program(
  'other',
  'Another method.',
  (
    Command('begin', 'work_of_other:begin', 'begin a SWEET run', begins_run=True, shared=True),
    Command(
      'look',
      'work_of_other:look',
      'look at it',
      options=(Option('--answer', 'ANSWER', 'to be given', 'TEXT'),),
    ),
    Command(
      'count',
      'work_of_other:look',
      'count it',
      options=(Option('--number', 'ANSWER', 'to be given', 'N', literal=True),),
    ),
  ),
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """A folder with another program's configs as those shipped, and the module behind it."""
  for name, text in CONFIGS.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  library = tmp_path / 'library'
  library.mkdir()
  (library / 'work_of_other.py').write_text(WORK)
  monkeypatch.setattr(configuration, 'shipped_root', lambda: tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path, str(library)])
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  gin.clear_config()


def call(*arguments):
  return commands.main(OTHER, list(arguments))


def begin(*arguments):
  return call('begin', '--gin_file=configs/other/go.gin', '--workdir=run', *arguments)


def shown(capsys, *arguments):
  """The help of a command line."""
  with pytest.raises(SystemExit) as info:
    call(*arguments)
  assert info.value.code == 0
  return capsys.readouterr().out


@pytest.mark.parametrize('arguments', [['--help'], ['begin', '--help'], ['look', '--help']])
def test_help_lists_the_programs_own_configs_and_those_for_all(arguments, capsys):
  said = shown(capsys, *arguments)
  assert said.startswith('usage: other ')
  listed = said.partition('shipped configs:\n')[2].splitlines()
  assert [line.strip() for line in listed[::2]] == [
    'configs/other/deeper/further.gin',
    'configs/other/go.gin',
    'configs/quickstart.gin',
  ]
  assert [line.strip() for line in listed[1::2]] == ['Goes further.', 'Goes.', 'For all programs.']


def test_help_says_which_commands_there_are_and_what_they_read(capsys):
  assert 'COMMAND\n    begin     begin a SWEET run\n    look      look at it\n' in shown(
    capsys, '--help'
  )
  assert 'Begin a SWEET run. Without ' in shown(capsys, 'begin', '--help')
  assert 'what `other begin` saved in the workdir is the' in ' '.join(
    shown(capsys, 'look', '--help').split()
  )


def test_help_shows_flags_of_several_processes_where_they_can_be_used(capsys):
  assert '--process_count N' in shown(capsys, 'begin', '--help')
  alone = shown(capsys, 'look', '--help')
  assert not any(word in alone for word in ('process_count', 'multiprocess', 'several processes'))
  flags = ['--coordinator_address=localhost:1', '--process_count=2', '--process_index=0']
  assert call('look', '--gin_file=configs/other/go.gin', *flags) == 1
  assert 'This command runs in one process, not in 2' in capsys.readouterr().err


@pytest.mark.parametrize('columns', [60, 80, 200])
def test_help_is_as_wide_as_the_terminal_but_no_wider_than_is_read_well(
  columns, capsys, monkeypatch
):
  monkeypatch.setenv('COLUMNS', str(columns))
  text = shown(capsys, 'look', '--help').partition('shipped configs:')[0]
  assert 0.8 * min(columns, 100) < max(map(len, text.splitlines())) <= min(columns, 100)


def test_a_command_reads_what_the_run_was_begun_with(capsys):
  assert begin('--gin.ANSWER=7') == 0
  assert call('look', '--workdir=run') == 0
  assert call('look', '--workdir=run', '--answer=8') == 0
  assert capsys.readouterr().out == 'answer 7\nsaw 7 int\nsaw 8 str\n'


def test_a_run_goes_on_with_what_it_was_begun_with_unless_told_otherwise(folder, capsys):
  assert call('begin', '--workdir=run') == 1
  assert 'Name a config with --gin_file' in capsys.readouterr().err
  assert begin('--gin.ANSWER=7') == 0
  saved = (folder / 'run' / 'config.gin').read_text()
  assert call('begin', '--workdir=run') == 0
  assert (folder / 'run' / 'config.gin').read_text() == saved
  assert call('begin', '--workdir=run', '--gin.ANSWER=8') == 0
  assert call('look', '--workdir=run') == 0
  assert capsys.readouterr().out == 'answer 7\nanswer 7\nanswer 8\nsaw 8 int\n'
  assert 'Without --gin_file, the run in the workdir goes on' in ' '.join(
    shown(capsys, 'begin', '--help').split()
  )


@pytest.mark.parametrize(('value', 'said'), [('0.5', '0.5 float'), ('x', 'x str')])
def test_a_flag_for_a_number_gives_a_number(value, said, capsys):
  assert begin() == 0
  capsys.readouterr()
  assert call('count', '--workdir=run', f'--number={value}') == 0
  assert capsys.readouterr().out == f'saw {said}\n'


def test_what_a_run_has_saved_runs_no_code_from_the_current_folder_unasked(folder, capsys):
  assert begin('--gin.ANSWER=7') == 0
  (folder / 'left_in_this_folder.py').write_text('print("ran")\n')
  saved = folder / 'run' / 'config.gin'
  dynamic = 'from __gin__ import dynamic_registration\n'
  text = saved.read_text().replace(dynamic, f'{dynamic}import left_in_this_folder\n')
  saved.write_text(text)
  capsys.readouterr()
  for arguments in (['--workdir=run'], ['--gin_file=run/config.gin']):
    assert call('look', *arguments) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert 'left_in_this_folder lies in the current folder' in err
    assert '--import_from=.' in err
  assert call('look', '--workdir=run', '--import_from=.') == 0
  assert capsys.readouterr().out == 'ran\nsaw 7 int\n'


@pytest.mark.parametrize(('answer', 'code'), [('refuse', 1), ('nothing to do', 0)])
def test_a_run_that_is_not_accepted_keeps_the_configuration_it_had(folder, answer, code):
  assert begin('--gin.ANSWER=7') == 0
  before = {path.name: path.read_bytes() for path in (folder / 'run').iterdir()}
  assert before.keys() == {'config.gin', 'operative_config.gin'}
  assert begin(f'--gin.ANSWER={answer}') == code
  assert {path.name: path.read_bytes() for path in (folder / 'run').iterdir()} == before
  assert begin(f'--gin.ANSWER={answer}', '--workdir=new') == code
  assert not (folder / 'new').exists()


def test_a_run_that_is_accepted_keeps_its_configuration_however_it_ends(folder, capsys):
  assert begin('--gin.ANSWER=stop') == 130
  assert call('look', '--workdir=run') == 0
  assert capsys.readouterr().out == 'answer stop\nsaw stop str\n'


def test_an_error_is_one_line_and_its_exit_code_is_1(capsys):
  assert begin('--gin.ANSWER=refuse') == 1
  assert capsys.readouterr().err == 'other begin: refused\n'
  with pytest.raises(ValueError, match='refused'):
    begin('--gin.ANSWER=refuse', '--traceback')


def test_a_message_is_never_a_megabyte(capsys):
  assert call('look', '--gin_file=' + 'x' * 10**6) == 1
  assert len(capsys.readouterr().err) < 10**4


@pytest.mark.parametrize('encoding', ['ascii', 'iso-8859-1'])
def test_what_is_printed_is_utf8_in_any_language(encoding, monkeypatch):
  out = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out, encoding=encoding))
  assert begin('--gin.ANSWER=日本 é') == 0
  assert out.getvalue().decode() == 'answer 日本 é\n'


def test_a_config_that_is_missing_is_told_with_the_programs_own(capsys):
  assert call('begin', '--gin_file=nope.gin') == 1
  said = capsys.readouterr().err
  assert 'other begin: No config nope.gin in ' in said
  assert 'configs/other/go.gin' in said
  assert 'configs/calm' not in said
  assert call('begin') == 1
  assert '`other begin --help` lists those shipped' in capsys.readouterr().err


def test_ctrl_c_has_the_shells_exit_code(capsys):
  assert begin('--gin.ANSWER=stop') == 128 + signal.SIGINT
  assert capsys.readouterr().err == 'other begin: interrupted; the same command goes on.\n'


def test_an_output_that_nobody_reads_ends_quietly(monkeypatch, capfd):
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, 'w') as closed, monkeypatch.context() as patch:
    patch.setattr(sys, 'stdout', closed)
    assert begin() == 128 + signal.SIGPIPE
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
  'arguments', [[], ['train'], ['look', '--workdir'], ['begin', '--answer=1']]
)
def test_a_command_line_that_cannot_be_read_shows_the_usage(arguments, capsys):
  with pytest.raises(SystemExit) as info:
    call(*arguments)
  assert info.value.code == 2
  assert capsys.readouterr().err.startswith('usage: other')
