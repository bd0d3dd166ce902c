"""A calibration's outcome and what it holds for, as a JSON file that can be checked again."""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calm.calibration import bounds, testing

FORMAT = 'calm-certificate-1'
REQUIRED_FINGERPRINTS = ('model', 'data', 'code')


def _now():
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate(testing.Calibration):
  """What `testing.calibrate` found, for which objective, and for what it holds.

  `objective` says in words which loss is bounded. `fingerprints` maps 'model', 'data' and 'code',
  and whatever else the losses depend on ('task', 'rule', ...), to strings that change with it; see
  `calm.calibration.fingerprints`. `created` is the time in ISO 8601.
  """

  objective: str
  fingerprints: Mapping[str, str]
  created: str = dataclasses.field(default_factory=_now)

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, 'fingerprints', dict(self.fingerprints))
    missing = [name for name in REQUIRED_FINGERPRINTS if name not in self.fingerprints]
    if missing:
      raise ValueError(f'The certificate lacks the fingerprint of {", ".join(missing)}.')
    for name, value in self.fingerprints.items():
      if not isinstance(value, str) or not value:
        raise ValueError(f'The fingerprint of {name} must be a non-empty string, not {value!r}.')
    for field in ('objective', 'bound', 'procedure', 'created'):
      if not isinstance(getattr(self, field), str):
        raise ValueError(f'{field} must be a string, not {getattr(self, field)!r}.')
    datetime.datetime.fromisoformat(self.created)

  def __str__(self):
    tested = f'{self.num_examples} examples, {self.bound}, {self.procedure}'
    if self.threshold is None:
      return (
        f'Never exit: of {self.objective}, no threshold could be certified to keep the expected '
        f'loss at {self.delta:g} or below ({tested}).'
      )
    return (
      f'At threshold {self.threshold:g} the expected loss of {self.objective} is at most '
      f'{self.delta:g}, with probability at least {1 - self.epsilon:g} over the calibration '
      f'examples ({tested}).'
    )

  def check(self, fingerprints: Mapping[str, str]) -> None:
    """Refuses to serve another model, task or whatever else `fingerprints` names.

    Only what is named is compared: to evaluate on other data, leave 'data' out.

    Raises:
      ValueError: names all that differ, with both fingerprints.
    """
    differing = [name for name in fingerprints if self.fingerprints.get(name) != fingerprints[name]]
    if differing:
      details = '\n'.join(
        f'  {name}: certified for {self.fingerprints.get(name, "nothing")}, '
        f'here {fingerprints[name]}'
        for name in differing
      )
      raise ValueError(
        f'This certificate was made for another {", ".join(differing)}. Use what it was made for, '
        f'or calibrate again.\n{details}'
      )

  def recheck(self) -> bool:
    """Computes the p-values again from the mean losses, and the threshold from the p-values.

    Returns whether everything could be computed again: the p-values of 'betting' and of a user's
    bound need the losses themselves, a user's procedure its code. What can be, is.

    Raises:
      ValueError: names what does not follow.
    """
    bound = bounds.BOUNDS_OF_MEAN.get(self.bound)
    if bound is not None:
      again = bound(np.array(self.mean_losses), self.num_examples, self.delta)
      if not np.allclose(again, self.p_values, rtol=1e-6, atol=1e-300):
        raise ValueError(
          f'The p-values do not follow from the mean losses by {self.bound}: '
          f'{list(self.p_values)} are written, {again.tolist()} follow.'
        )
    procedure = testing.PROCEDURES.get(self.procedure)
    if procedure is not None:
      threshold = testing.lowest_certified(self.grid, self.p_values, self.epsilon, procedure)
      if threshold != self.threshold:
        raise ValueError(
          f'The threshold does not follow from the p-values by {self.procedure}: '
          f'{_named(self.threshold)} is written, {_named(threshold)} follows.'
        )
    return bound is not None and procedure is not None

  def save(self, path: str | Path) -> None:
    """Writes the certificate to a JSON file, whole or not at all; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
      with open(temporary, 'w', encoding='utf-8') as file:
        file.write(_to_json(self))
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


def certify(
  calibration: testing.Calibration,
  *,
  objective: str,
  fingerprints: Mapping[str, str],
  created: str | None = None,
) -> Certificate:
  """The certificate of a calibration; see `Certificate` for the fields.

  Raises:
    ValueError: the fingerprint of the model, the data or the code is missing.
  """
  fields = {
    field.name: getattr(calibration, field.name)
    for field in dataclasses.fields(testing.Calibration)
  }
  return Certificate(
    **fields, objective=objective, fingerprints=fingerprints, created=created or _now()
  )


def load(path: str | Path) -> Certificate:
  """Reads and rechecks a certificate.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a certificate, or contradicts itself; names the file and the field.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'There is no certificate at {path}: `calm calibrate` writes one.')
  try:
    certificate = _from_json(path.read_text(encoding='utf-8'))
    certificate.recheck()
  except ValueError as error:
    raise ValueError(f'{path} is not a valid certificate: {error}') from error
  return certificate


def _to_json(certificate):
  fields = {'format': FORMAT, **dataclasses.asdict(certificate)}
  return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + '\n'


def _from_json(text):
  fields: Any = json.loads(text)
  if not isinstance(fields, dict) or fields.pop('format', None) != FORMAT:
    raise ValueError(f'its "format" is not {FORMAT!r}.')
  expected = {field.name for field in dataclasses.fields(Certificate)}
  missing, unexpected = sorted(expected - set(fields)), sorted(set(fields) - expected)
  if missing or unexpected:
    raise ValueError(f'missing fields: {missing}; unexpected fields: {unexpected}.')
  try:
    return Certificate(**fields)
  except TypeError as error:  # A field of another type: null for a number, say.
    raise ValueError(str(error)) from error


def _named(threshold):
  return 'never exiting' if threshold is None else str(threshold)
