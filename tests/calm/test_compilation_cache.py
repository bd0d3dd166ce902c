"""Compiled programs on disk: found by who comes later, and never in anybody's way."""

import os
import pathlib
import re
import resource
import subprocess
import sys
import warnings
from unittest.mock import ANY

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from calm import compilation_cache, notices
from calm.decoding.generator import ROUNDING

X = np.sin(np.arange(49.0)).reshape(7, 7)
# In another process the same as `work` here.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_compilation_cache as here
here.compilation_cache.use()
print(*here.work())
"""


def work(times=3):
  """Numbers in all their digits, of two programs of the same code and other options."""

  def work_on(x):  # A new function, which JAX does not know from before.
    for _ in range(times):
      x = jax.numpy.tanh(x @ x.T) * 1.7
    return x.astype('float32').sum()

  x = jax.numpy.asarray(X, 'bfloat16')
  return [float(jax.jit(work_on, compiler_options=each)(x)) for each in (None, ROUNDING)]


@pytest.fixture
def user(tmp_path, monkeypatch):
  """The cache of a user who has told JAX nothing; as it was, afterwards."""
  names = ('jax_compilation_cache_dir', 'jax_enable_compilation_cache', *compilation_cache.SETTINGS)
  usual = {name: jax.config.values[name] for name in names}
  for name in names:
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  jax.config.update('jax_compilation_cache_dir', None)
  jax.config.update('jax_enable_compilation_cache', True)
  jax_cache.reset_cache()
  with warnings.catch_warnings():
    yield tmp_path / 'cache' / 'adaptive-inference' / 'compiled'
  for name, value in usual.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


@pytest.fixture
def run(user, capsys):
  """Makes a command that does `work`; gives (numbers, programs compiled and found, stderr)."""

  def run(folder=None, *, told=None):
    jax.config.update('jax_compilation_cache_dir', told)
    jax_cache.reset_cache()
    compilation_cache.use(folder)
    with notices.command('work'):
      notices.devices()
      numbers = work()
    said = capsys.readouterr().err
    counts = [re.search(rf'{what} (\d+) program', said) for what in ('compile', 'load')]
    return numbers, tuple(int(found[1]) if found else 0 for found in counts), said

  return run


def entries(folder):
  """The programs of `work` in a folder."""
  return sorted(folder.glob('jit_work_on-*-cache'))


def test_a_second_command_compiles_nothing_and_says_the_same(user, run):
  numbers, _, _ = run()
  again, counts, _ = run()
  assert counts == (0, 2)
  assert again == numbers
  assert user.stat().st_mode & 0o777 == 0o700


def test_programs_of_other_options_are_others(user, run):
  run()
  assert len(entries(user)) == 2


@pytest.mark.parametrize('how', [compilation_cache.OFF, 'environment'])
def test_switched_off_it_changes_nothing_and_writes_nothing(user, run, how):
  if how == 'environment':
    jax.config.update('jax_enable_compilation_cache', False)  # As JAX's own variable does.
  off, counts, _ = run(how if how == compilation_cache.OFF else None)
  assert counts == (2, 0)
  assert not user.exists()
  jax.config.update('jax_enable_compilation_cache', True)
  assert run()[0] == off
  assert run()[0] == off


def test_what_jax_has_been_told_holds(user, run, tmp_path):
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  run(told=str(tmp_path / 'own'))
  assert entries(tmp_path / 'own')
  assert not user.exists()
  run(str(tmp_path / 'given'), told=str(tmp_path / 'own'))
  assert entries(tmp_path / 'given')


def test_processes_at_once_share_it(user, run):
  there = [sys.executable, '-c', PROGRAM, str(pathlib.Path(__file__).parent)]
  both = [subprocess.Popen(there, stdout=subprocess.PIPE, text=True) for _ in range(2)]
  found = [process.communicate(timeout=120)[0].split() for process in both]
  assert [process.returncode for process in both] == [0, 0]
  numbers, counts, _ = run()
  assert counts == (0, 2)
  assert [[float(number) for number in each] for each in found] == [numbers, numbers]


def test_damaged_and_half_written_programs_are_made_again(user, run):
  numbers, *_ = run()
  cut, half = entries(user)
  cut.write_bytes(cut.read_bytes()[:-20])
  half.with_name(half.name.replace('-cache', '-atime')).unlink()
  again, counts, said = run()
  assert again == numbers
  assert counts == (2, 0)
  assert said.count('are damaged and compiled again') == 1
  assert 'Warning' not in said
  # JAX names the program and not the entry, so that those of one name go together; at the latest
  # the run after the next finds all.
  run()
  assert run()[1] == (0, 2)


def test_a_disk_that_is_full_is_told_in_a_line(user, run, capsys):
  compilation_cache.use()
  usual = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (500, usual[1]))  # No file may grow beyond.
  try:
    numbers = work()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
  said = capsys.readouterr().err
  assert re.fullmatch(rf'{user}: compiled programs cannot be kept \(OSError: .*\).\n', said)
  assert [path.stat().st_size for path in entries(user)] == [500]  # JAX gave up behind it.
  assert run() == (numbers, (2, 0), ANY)
  assert run() == (numbers, (0, 2), ANY)


@pytest.mark.parametrize('how', ['a file', 'writable by others', 'no home'])
def test_a_folder_that_cannot_be_used_is_told_and_left(user, run, monkeypatch, how):
  if how == 'a file':
    user.parent.mkdir(parents=True)
    user.write_text('')
  elif how == 'writable by others':
    user.mkdir(parents=True)
    user.chmod(0o777)
  else:
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(pathlib.Path, 'home', lambda: pathlib.Path('~none').expanduser())
  _, counts, said = run()
  assert counts == (2, 0)
  assert said.startswith('Compiled programs are not kept: ')
  assert 'Warning' not in said
  assert not user.is_dir() or os.listdir(user) == []


def test_what_was_not_used_for_longest_goes_first(user, run, monkeypatch):
  run()
  before = entries(user)
  size = sum(path.stat().st_size for path in before)
  monkeypatch.setitem(compilation_cache.SETTINGS, 'jax_compilation_cache_max_size', size)
  run()
  work(4)
  after = entries(user)
  assert after
  assert not {*before} <= {*after}
  assert sum(path.stat().st_size for path in user.glob('*-cache')) <= size
