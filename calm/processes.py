"""Several processes as one run: flags that say how they find each other, named as in T5X.

Every process of a run is given the same command; process 0 alone writes what is not a checkpoint.
"""

import argparse
import contextlib
import re
from collections.abc import Iterator

FLAGS = ('--coordinator_address', '--process_count', '--process_index')
LOST = 'The other processes of this run do not answer: {}. Start all again with the same command.'

# In messages of Gloo, of JAX's coordination service, and of Orbax about the latter.
_OF_OTHERS = (
  r'(?i)gloo|operation to complete|barrier|coordination|deadline_exceeded|unavailable|heartbeat'
)


class ProcessError(ConnectionError):
  """Another process of the run has ended, or is too far behind."""


def add_flags(parser: argparse.ArgumentParser, shown: bool = True) -> None:
  """Adds the flags to an argparse parser, whose help is silent about them if they are not shown."""

  def said(text: str) -> str:
    return text if shown else argparse.SUPPRESS

  group = parser.add_argument_group('several processes')
  group.add_argument(
    '--coordinator_address', metavar='HOST:PORT', help=said('where process 0 listens')
  )
  group.add_argument('--process_count', type=int, metavar='N', help=said('how many there are'))
  group.add_argument('--process_index', type=int, metavar='I', help=said('which this is, from 0'))
  group.add_argument(
    '--multiprocess',
    action='store_true',
    help=said('instead of the three: ask the TPU pod, Slurm or Open MPI that started this process'),
  )


def join(args: argparse.Namespace, shared: bool) -> None:
  """Joins the other processes, if the flags in `args` say that there are any.

  To be called before anything asks JAX for its devices.

  Args:
    args: of a parser with `add_flags`.
    shared: whether several processes can share the command.

  Raises:
    ValueError: flags that do not go together, or several processes for a command of one.
    ConnectionError: the other processes cannot be reached.
  """
  given = {flag: getattr(args, flag.removeprefix('--')) for flag in FLAGS}
  missing = [flag for flag, value in given.items() if value is None]
  if len(missing) == len(FLAGS) and not args.multiprocess:
    return
  if args.multiprocess and len(missing) < len(FLAGS):
    raise ValueError(f'Give either --multiprocess or all of {", ".join(FLAGS)}.')
  if missing and not args.multiprocess:
    raise ValueError(f'{", ".join(missing)} missing: give all of {", ".join(FLAGS)}, or none.')
  if not args.multiprocess:
    _check(**{flag.removeprefix('--'): value for flag, value in given.items()})
    _refuse(args.process_count, shared)

  import jax
  from jax.experimental import multihost_utils

  try:
    jax.distributed.initialize(
      args.coordinator_address, args.process_count, args.process_index, shutdown_timeout_seconds=60
    )
  except (RuntimeError, ValueError) as error:
    mend = f'give all of {", ".join(FLAGS)}' if args.multiprocess else 'a free port there will do'
    raise ConnectionError(f'The processes of this run do not meet: {error} ({mend}).') from error
  _refuse(jax.process_count(), shared)
  # Now they wait for each other; later, one that reads its data for long would keep them too long.
  multihost_utils.sync_global_devices('joined')


@contextlib.contextmanager
def answering() -> Iterator[None]:
  """Raises ProcessError for what fails inside because another process has ended or lags behind."""
  import jax

  try:
    yield
  except (jax.errors.JaxRuntimeError, TimeoutError) as error:
    if jax.process_count() == 1 or not re.search(_OF_OTHERS, str(error)):
      raise
    raise ProcessError(LOST.format(str(error).strip().partition('\n')[0])) from error


def _check(coordinator_address: str, process_count: int, process_index: int) -> None:
  if not re.fullmatch(r'\S+:\d+', coordinator_address):
    raise ValueError(f'--coordinator_address {coordinator_address!r} is not HOST:PORT.')
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'--process_index {process_index} is not below --process_count {process_count}, from 0.'
    )


def _refuse(count: int, shared: bool) -> None:
  if count > 1 and not shared:
    raise ValueError(f'This command runs in one process, not in {count}: start it once, alone.')
