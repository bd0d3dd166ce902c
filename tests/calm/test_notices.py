"""What a command says of its work: each thing once, on standard error, and nothing without one."""

import jax
import numpy as np
import pytest

from calm import notices

PARAMS = {'a': np.zeros((3, 5), np.float32), 'b': np.zeros(7, jax.numpy.bfloat16)}


def say_all():
  notices.devices()
  notices.parameters(PARAMS)
  notices.once('key', 'A line.')


def test_without_a_command_nothing_is_said(capfd):
  say_all()
  assert capfd.readouterr() == ('', '')


def test_each_thing_is_said_once_a_command(capfd):
  for _ in range(2):
    with notices.command('work'):
      say_all()
      say_all()
    out, err = capfd.readouterr()
    assert out == ''
    assert err == (
      f'Devices: 1 CPU; JAX {jax.__version__}.\nParameters: 22 (bfloat16, float32).\nA line.\n'
    )


def test_what_was_compiled_is_counted(capfd, monkeypatch):
  monkeypatch.setattr(notices, '_LONG', 0.0)
  with notices.command('work'):
    notices.devices()
    for number in range(2):

      def squared(x, number=number):
        return x * x + number

      jax.jit(squared)(PARAMS['a'])
  said = capfd.readouterr().err
  assert said.count('Compiled squared in ') == 1
  assert said.splitlines()[-1].startswith('work: ')
  assert said.splitlines()[-1].endswith('to compile 2 programs.')


@pytest.mark.parametrize(
  ('compiled', 'found', 'ends'),
  [
    (1, 0, ' s to compile 1 program.'),
    (0, 8, ' s to load 8 programs compiled before.'),
    (3, 1, ' s to compile 3 programs and load 1 program compiled before.'),
  ],
)
def test_the_last_line_says_what_was_compiled_and_what_was_found(compiled, found, ends, capfd):
  with notices.command('work'):
    notices._command.num_compiled, notices._command.num_found = compiled, found
  assert capfd.readouterr().err.endswith(f'{ends}\n')


def test_of_several_processes_the_first_speaks(capfd, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with notices.command('work'):
    say_all()
  assert capfd.readouterr() == ('', '')
