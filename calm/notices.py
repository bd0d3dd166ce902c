"""What long work says of itself on standard error, each thing once a command.

Outside of a command nothing is said: whoever calls a function from Python knows what it does. Of
several processes the first speaks.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Any

_COMPILED = '/jax/core/compile/backend_compile_duration'
_FOUND = '/jax/compilation_cache/cache_hits'
_LONG = 1.0  # seconds of compiling that are worth a line of their own


@dataclasses.dataclass
class _Command:
  """What has been said and compiled since a command began."""

  said: set[str] = dataclasses.field(default_factory=set)
  num_compiled: int = 0
  num_found: int = 0  # programs that an earlier command had compiled
  seconds: float = 0.0
  found: bool = False  # Whether this holds of the program that JAX is about to tell of.


_command: _Command | None = None
_listens = False


@contextlib.contextmanager
def command(name: str) -> Iterator[None]:
  """Lets others speak while the block runs; at its end says what all compiling took."""
  global _command
  before, _command = _command, _Command()
  start = time.monotonic()
  try:
    yield
    _summarize(name, time.monotonic() - start, _command)
  finally:
    _command = before


def once(key: str, text: str) -> None:
  """Says a line, if the command has said none by this key yet."""
  if _command is None or key in _command.said:
    return
  _command.said.add(key)
  _say(text)


def devices() -> None:
  """Says what JAX computes on, and from now on listens to what it compiles."""
  if _command is None or 'devices' in _command.said:
    return
  import jax

  _listen()
  kinds = [(device.platform, device.device_kind) for device in jax.devices()]
  named = ', '.join(
    f'{kinds.count((platform, kind))} {platform.upper()}'
    + ('' if kind.lower() == platform else f' ({kind})')
    for platform, kind in dict.fromkeys(kinds)
  )
  processes = f', of {jax.process_count()} processes' if jax.process_count() > 1 else ''
  once('devices', f'Devices: {named}{processes}; JAX {jax.__version__}.')


def parameters(params: Any) -> None:
  """Says how many numbers a tree of parameters holds, and of which types."""
  if _command is None or 'parameters' in _command.said:
    return
  import jax

  leaves = jax.tree.leaves(params)
  types = ', '.join(sorted({str(leaf.dtype) for leaf in leaves}))
  once('parameters', f'Parameters: {sum(leaf.size for leaf in leaves):,} ({types}).')


def _listen() -> None:
  """Has JAX tell of all it compiles, from the first call on: nothing public ends that."""
  global _listens
  if _listens:
    return
  _listens = True
  import jax

  jax.monitoring.register_event_listener(_on_event)
  jax.monitoring.register_event_duration_secs_listener(_on_duration)


def _on_event(event: str, **_: Any) -> None:
  if _command is not None and event == _FOUND:
    _command.found = True


def _on_duration(event: str, duration_secs: float, **names: Any) -> None:
  if _command is None or event != _COMPILED:
    return
  found, _command.found = _command.found, False
  _command.num_compiled += not found
  _command.num_found += found
  _command.seconds += duration_secs
  if duration_secs >= _LONG and not found:
    name = names.get('fun_name', '').removeprefix('jit(').removesuffix(')')
    once(f'compiled {name}', f'Compiled {name} in {duration_secs:.1f} s.')


def _summarize(name: str, seconds: float, done: _Command) -> None:
  counts = {'compile {}': done.num_compiled, 'load {} compiled before': done.num_found}
  parts = [
    text.format(f'{count} program{"s" * (count != 1)}') for text, count in counts.items() if count
  ]
  if parts:
    _say(f'{name}: {seconds:.1f} s, of which {done.seconds:.1f} s to {" and ".join(parts)}.')


def _say(text: str) -> None:
  import jax
  import tqdm

  if jax.process_index() == 0:
    tqdm.tqdm.write(text, file=sys.stderr)  # Above a bar, if there is one.
    sys.stderr.flush()
