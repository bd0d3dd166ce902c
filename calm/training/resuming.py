"""Where a run stands besides its arrays, as JSON that is saved with them.

A stream's place means something only on the same stream. What a stream depends on it says itself,
in `settings`; it is saved with the place, and a run that goes on with other settings begins an
epoch of the new stream, and says so: other examples, lengths, packing or batch sizes are all
reasonable to go on with, but half an epoch of one is no half of the other's.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from calm.models import parameters
from calm.training import losses
from calm.training.guards import all_processes, reason


class Stream(Protocol):
  """Batches without end, rows first, that know where they stand.

  It may have `settings`, a dict in JSON of what its states depend on.
  """

  def __next__(self) -> Mapping[str, np.ndarray]:
    """The next batch."""

  def get_state(self) -> Any:
    """Where it stands, as JSON takes it."""

  def set_state(self, state: Any) -> None:
    """Goes on from where `get_state` was called."""


def standing(
  batches: Stream, meter: Mapping[str, float], seconds: float, held: str | None = None
) -> dict[str, Any]:
  """What a checkpoint keeps of a run.

  Args:
    batches: the stream: its place, and its `settings` if it has any.
    meter: the state of the report under way.
    seconds: of training so far.
    held: of `held_by`, if anything is.
  """
  settings = _settings(batches)
  found = {'data': batches.get_state(), 'stream': settings, 'meter': meter, 'seconds': seconds}
  return found if held is None else {**found, 'frozen': held}


def held_by(objective: losses.Objective) -> str | None:
  """The fingerprint of what an objective holds frozen, wherever it was read; None for nothing."""
  frozen = getattr(objective, 'frozen', None)
  return None if frozen is None else parameters.fingerprint(frozen)


def check_held(saved: Mapping[str, Any], held: str | None) -> None:
  """Raises a ValueError unless a run so far held what it holds now, or does not say.

  Args:
    saved: of `standing`.
    held: of `held_by`.
  """
  before = saved.get('frozen')
  if before is not None and held is not None and before != held:
    raise ValueError(
      'The teacher of this run has had other parameters so far. Name the one it began with'
      ' (TEACHER_WORKDIR), wherever that lies now, or give another --workdir.'
    )


def check(saved: Any) -> None:
  """Raises ValueError, with what is wrong, unless `saved` is what `standing` made."""
  if not isinstance(saved, dict):
    raise ValueError('its progress is no JSON object')
  meter, seconds = saved.get('meter', {}), saved.get('seconds', -1)
  right = {
    'data': 'data' in saved,
    'stream': isinstance(saved.get('stream', {}), dict),
    'meter': isinstance(meter, dict)
    and all(map(_is_number, meter.values()))
    and (not meter or {'weight', 'steps'} <= meter.keys()),
    'seconds': _is_number(seconds) and 0 <= seconds < math.inf,
    'frozen': isinstance(saved.get('frozen', ''), str),
  }
  for name, is_right in right.items():
    if not is_right:
      raise ValueError(f'its progress cannot have {name} {str(saved.get(name))[:80]}')


def find_place(batches: Stream, saved: Mapping[str, Any]) -> str | None:
  """Moves a stream to where it stood in a run, if it is the run's stream, in all processes alike.

  Args:
    batches: the stream, at its beginning.
    saved: of `standing`; from a checkpoint of an earlier version without the stream's settings.

  Returns:
    None, or why the stream stays at its beginning, in a line.
  """
  beginning = batches.get_state()
  changes = _changes(saved.get('stream', {}), _settings(batches))
  if not changes:
    try:
      batches.set_state(saved['data'])
    except Exception as error:  # Of whatever kind a stream raises for what is not its own.
      kind = type(error).__name__
      changes = [f'the saved place is none of this stream ({kind}: {reason(error)})']
  if all_processes(not changes):
    return None
  batches.set_state(beginning)
  return ', '.join(changes) or 'another process reads another stream'


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """What differs between two settings, of what both know, in words."""
  different = [name for name in before if name in now and before[name] != now[name]]
  return [
    'the tokens of the examples are others'
    if name == 'data'
    else f'{name} was {before[name]} and is {now[name]}'
    for name in different
  ]


def _settings(batches: Stream) -> dict[str, Any]:
  return dict(getattr(batches, 'settings', {}))


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
