"""A calibration's outcome and what it holds for, in words: a JSON file that can be checked again.

A certificate holds for a system and a task. Both stand in it as `calm.fingerprints.identity` tells
them: measure, threshold family, rule, gate, fill, templates and the like in words and numbers,
weights, code and data by fingerprint.
"""

import contextlib
import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm import fingerprints, storage
from calm.calibration import bounds, testing

FORMAT = 'calm-certificate-2'
# The parts of `system` that are told apart from its settings: code warns, the rest refuses.
CODE = 'code'
NEVER = 'the full system answers'


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate(testing.Calibration):
  """What `testing.calibrate` found, and what it is of.

  `objective` says which loss is bounded ('textual' or 'risk'), `dissimilarity` by which function.
  `system` is what answers at whatever threshold, `task` what is made of a record, both identities;
  `split` and `data` (a fingerprint) are what was calibrated on; `versions` are those of the code,
  `fallback` says what happens where no threshold is certified. `created` is the time in ISO 8601.
  """

  objective: str
  dissimilarity: Mapping[str, Any]
  system: Mapping[str, Any]
  task: Mapping[str, Any]
  split: str
  data: str
  versions: Mapping[str, str]
  fallback: str = NEVER
  created: str = dataclasses.field(default_factory=_now)

  def __post_init__(self) -> None:
    super().__post_init__()
    for field in ('dissimilarity', 'system', 'task', 'versions'):
      value = getattr(self, field)
      if not isinstance(value, Mapping) or not value:
        raise ValueError(f'{field} must say what it is, not {value!r}.')
      object.__setattr__(self, field, fingerprints.identity(value))
    for field in ('objective', 'bound', 'procedure', 'created', 'split', 'data', 'fallback'):
      value = getattr(self, field)
      if not isinstance(value, str) or not value:
        raise ValueError(f'{field} must be a text, not {value!r}.')
    datetime.datetime.fromisoformat(self.created)

  def __str__(self) -> str:
    by = fingerprints.words(next(iter(fingerprints.flatten(self.dissimilarity).values())))
    loss = f'{self.objective} consistency by {by} on {self.task.get("name", "task")} {self.split}'
    tested = f'{self.num_examples} examples, {self.bound}, {self.procedure}'
    if self.threshold is None:
      return (
        f'Never exit: of {loss}, no threshold could be certified to keep the expected '
        f'loss at {self.delta:g} or below ({tested}).'
      )
    return (
      f'At threshold {self.threshold:g} the expected loss of {loss} is at most '
      f'{self.delta:g}, with probability at least {1 - self.epsilon:g} over the calibration '
      f'examples ({tested}).'
    )

  @property
  def claim(self) -> dict[str, Any]:
    """All that is certified and how, but for the outcome, its date and code: equal for equals."""
    outcome = ('p_values', 'mean_losses', 'losses', 'threshold', 'created', 'versions')
    fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in outcome}
    fields['system'] = {k: v for k, v in self.system.items() if k != CODE}
    return fingerprints.identity(fields)

  def check(
    self,
    system: Mapping[str, Any],
    task: Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
  ) -> None:
    """Refuses to serve another system or task; of other code it warns on standard error.

    Args:
      system: what is to answer, as in the certificate.
      task: what it is to answer, likewise; None where there is no task, as of plain lines.
      flags: which flag sets a part of them, by the part's path or the beginning of it.

    Raises:
      ValueError: names all that differs, with both values and the flag that mends it.
    """
    theirs, ours = dict(self.system), dict(fingerprints.identity(system))
    if theirs.pop(CODE, None) != ours.pop(CODE, None):
      storage.warn(
        'The code has changed since this certificate was made '
        f'(version {self.versions.get("calm", "unknown")}, {self.created}): calibrate again to be '
        'sure.'
      )
    differing = fingerprints.differences(theirs, ours)
    if task is not None:
      others = fingerprints.differences(self.task, fingerprints.identity(task))
      differing |= {f'task.{path}': pair for path, pair in others.items()}
    if differing:
      lines = '\n'.join(_line(path, pair, flags or {}) for path, pair in differing.items())
      raise ValueError(f'This certificate was made for something else:\n{lines}')

  def recheck(self, functions: Sequence[Callable] = ()) -> None:
    """Computes the p-values again from the losses or their means, and the threshold from them.

    Args:
      functions: a bound or procedure of the user's own, if the certificate names one.

    Raises:
      ValueError: names what does not follow, or a bound or procedure that is not known.
    """
    if self.losses is not None:
      losses = np.array(self.losses, np.float64).reshape(len(self.mean_losses), -1)
      _require('mean losses', 'losses', self.mean_losses, losses.mean(axis=-1))
    of_mean = bounds.BOUNDS_OF_MEAN.get(self.bound)
    if of_mean is not None:
      again = of_mean(np.array(self.mean_losses), self.num_examples, self.delta)
      _require('p-values', f'mean losses by {self.bound}', self.p_values, again)
    else:
      bound = _function('bound', self.bound, self.bound_arguments, bounds.BOUNDS, functions)
      if self.losses is None:
        raise ValueError(f'losses are missing, and {self.bound} needs them.')
      again = np.array([float(bound(np.array(row), self.delta)) for row in self.losses])
      _require('p-values', f'losses by {self.bound}', self.p_values, again)
    procedure = _function(
      'procedure', self.procedure, self.procedure_arguments, testing.PROCEDURES, functions
    )
    threshold = testing.lowest_certified(self.grid, self.p_values, self.epsilon, procedure)
    if threshold != self.threshold:
      raise ValueError(
        f'The threshold does not follow from the p-values by {self.procedure}: '
        f'{_named(self.threshold)} is written, {_named(threshold)} follows.'
      )

  def save(self, path: str | Path) -> None:
    """Writes the certificate to a JSON file, whole or not at all; folders are made."""
    storage.write_record(path, {'format': FORMAT, **dataclasses.asdict(self)})


def certify(calibration: testing.Calibration, **claims: Any) -> Certificate:
  """The certificate of a calibration; `claims` are the other fields of `Certificate`.

  Raises:
    ValueError: a claim says nothing.
  """
  fields = {
    field.name: getattr(calibration, field.name)
    for field in dataclasses.fields(testing.Calibration)
  }
  return Certificate(**fields, **claims)


def read(path: str | Path) -> Certificate:
  """Reads a certificate as it was written, without computing anything again.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a certificate, or has been changed; names the file and the field.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'There is no certificate at {path}: `calibrate` writes one.')
  with _naming(path):
    if storage.read_json(path).get('format') != FORMAT:
      raise ValueError(f'its "format" is not {FORMAT!r}: calibrate again.')
    return _from_fields(storage.read_record(path))


def load(path: str | Path, functions: Sequence[Callable] = ()) -> Certificate:
  """Reads and rechecks a certificate; `functions` are as in `Certificate.recheck`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: as `read`, or it contradicts itself.
  """
  certificate = read(path)
  with _naming(path):
    certificate.recheck(functions)
  return certificate


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{path} is not a valid certificate: {error}') from error


def _from_fields(fields: dict[str, Any]) -> Certificate:
  fields.pop('format')
  expected = {field.name for field in dataclasses.fields(Certificate)}
  missing, unexpected = sorted(expected - set(fields)), sorted(set(fields) - expected)
  if missing or unexpected:
    raise ValueError(f'missing fields: {missing}; unexpected fields: {unexpected}.')
  try:
    return Certificate(**fields)
  except TypeError as error:  # A field of another type: null for a number, say.
    raise ValueError(str(error)) from error


def _function(
  kind: str,
  name: str,
  arguments: Mapping[str, Any],
  known: Mapping[str, Callable],
  given: Sequence[Callable],
) -> Callable:
  """The function of a name, with its arguments."""
  if name in known:
    return functools.partial(known[name], **arguments)
  for function in given:
    if testing.name_of(function) == name:
      return function
  macro = {'bound': 'P_VALUE', 'procedure': 'PROCEDURE'}[kind]
  raise ValueError(
    f'its {kind} {name!r} is not known: there are {", ".join(known)}; one of your own is to be '
    f'given as {macro}, as when it was made.'
  )


def _require(
  what: str, source: str, written: Sequence[float], again: np.ndarray | Sequence[float]
) -> None:
  if not np.allclose(again, written, rtol=1e-6, atol=1e-300):
    raise ValueError(
      f'The {what} do not follow from the {source}: {list(written)} are written, '
      f'{np.asarray(again).tolist()} follow.'
    )


def _line(path: str, pair: tuple[str, str] | None, flags: Mapping[str, str]) -> str:
  """A difference, and the flag of the longest beginning of its path that has one."""
  said = 'is another' if pair is None else f'certified for {pair[0]}, here {pair[1]}'
  beginnings = [one for one in flags if path == one or path.startswith((f'{one}.', f'{one}['))]
  mend = f' (set {flags[max(beginnings, key=len)]})' if beginnings else ''
  return f'  {path}: {said}{mend}'


def _named(threshold: float | None) -> str:
  return 'never exiting' if threshold is None else str(threshold)
