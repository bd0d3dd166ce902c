import argparse

import jax
import pytest

from calm import commands, main, processes

ALL = ('--coordinator_address=localhost:1234', '--process_count=2', '--process_index=1')


def _join(*flags, shared=True):
  parser = argparse.ArgumentParser()
  processes.add_flags(parser)
  processes.join(parser.parse_args(flags), shared)


@pytest.fixture
def joined(monkeypatch):
  """What `jax.distributed.initialize` was called with, instead of calling it."""
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *args, **_: calls.append(args))
  return calls


def test_a_process_alone_joins_nothing(joined):
  _join()
  assert not joined


def test_three_flags_say_where_the_others_are(joined):
  _join(*ALL)
  assert joined == [('localhost:1234', 2, 1)]


def test_one_flag_leaves_it_to_jax_to_find_the_others(joined):
  _join('--multiprocess')
  assert joined == [(None, None, None)]


@pytest.mark.parametrize('left_out', range(3))
def test_some_of_the_three_name_what_is_missing(joined, left_out):
  given = [flag for number, flag in enumerate(ALL) if number != left_out]
  with pytest.raises(ValueError, match=f'^{processes.FLAGS[left_out]} missing: give all of'):
    _join(*given)
  assert not joined


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((*ALL, '--multiprocess'), 'either --multiprocess or all of'),
    ((*ALL, '--process_index=2'), 'process_index 2 is not below --process_count 2'),
    ((*ALL, '--process_index=-1'), 'process_index -1 is not'),
    ((*ALL, '--coordinator_address=localhost'), "'localhost' is not HOST:PORT"),
  ],
)
def test_flags_that_cannot_be_are_refused(joined, flags, message):
  with pytest.raises(ValueError, match=message):
    _join(*flags)
  assert not joined


def test_a_command_for_one_process_is_refused_before_it_waits_for_others(joined):
  with pytest.raises(ValueError, match='runs in one process, not in 2'):
    _join(*ALL, shared=False)
  assert not joined


def test_only_training_is_shared():
  assert [command.name for command in main.PROGRAM.commands if command.shared] == ['train']


def test_every_command_has_the_flags():
  parser = commands.make_parser(main.PROGRAM)
  for command in main.PROGRAM.commands:
    args = parser.parse_args([command.name, *ALL])
    assert (args.process_count, args.process_index) == (2, 1)


def test_processes_that_do_not_meet_are_an_error(monkeypatch):
  def initialize(*_, **__):
    raise RuntimeError('Failed to start RPC server')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with pytest.raises(ConnectionError, match=r'Failed to start RPC server \(a free port'):
    _join(*ALL)
  with pytest.raises(ConnectionError, match='give all of --coordinator_address'):
    _join('--multiprocess')
