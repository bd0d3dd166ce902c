"""What is asked of a served router, and what it answers, as JSON."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from calm import storage
from calm.evaluation.inputs import Reader
from calm.evaluation.predictor import Row
from calm.settings import Count, Positive
from calm.tasks.classification import Form
from calm.tasks.examples import Example
from calm.tasks.templates import FieldError, Template
from elang.routing import Router

KEYS = ('input', 'inputs', 'threshold')
ALL_KEPT = '-inf'  # JSON has no number for it; where nothing is kept, the threshold is null.


class RefusedError(ValueError):
  """What was asked cannot be answered; says in words why. `status` is HTTP's."""

  def __init__(self, what: str, status: int = 400):
    super().__init__(what)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may hold."""

  inputs: Count = 64
  letters: Count = 10_000  # of one input, its fields together
  body_bytes: Count = 1 << 20
  body_seconds: Positive = 30.0  # that its body may take to arrive


@dataclasses.dataclass(frozen=True)
class Reading:
  """How inputs are read: a text fills the template, or the one field of a classifier's form.

  Raises:
    ValueError: the template has no field, or one that is part of another, as in {a[b]}.
  """

  template: str = '{inputs}'
  form: Form | None = None

  def __post_init__(self) -> None:
    paths = Template(self.template).paths
    if self.form is None and (not paths or any(len(path) > 1 for path in paths)):
      raise ValueError(
        f'Template {self.template!r} cannot be filled on a page: it needs plain fields, {{name}}.'
      )

  @functools.cached_property
  def fields(self) -> tuple[str, ...]:
    """The names of the texts of an input, in order."""
    if self.form is not None:
      return tuple(self.form.fields)
    return tuple(dict.fromkeys(Template(self.template).fields))

  def texts(self, record: Mapping[str, str]) -> dict[str, str]:
    """The texts of an `Example`, of an input's fields."""
    if self.form is not None:
      return self.form.texts(record)
    return {'inputs': Template(self.template).fill(record, {})}

  def records(self, path: str, input_format: str | None, limits: Limits) -> list[dict[str, str]]:
    """The first inputs of a file, as many as one request may hold, by field; blank ones left out.

    Raises:
      FileNotFoundError, ValueError: as `calm.evaluation.inputs.Reader`; an input is too long.
    """
    plain = self.template if len(self.fields) > 1 else f'{{{self.fields[0]}}}'
    found = []
    for head, example in Reader(path, plain, input_format, None, self.form):
      if not example.texts:
        continue
      first = next(iter(example.texts.values()))
      record = {name: _as_text(head.get(name, first)) for name in self.fields}
      _check(record, example.where, limits)
      found.append(record)
      if len(found) == limits.inputs:
        break
    return found


@dataclasses.dataclass(frozen=True)
class Question:
  """What a request asks: inputs, and at which threshold if it says one."""

  examples: Sequence[Example]
  single: bool
  thresholds: tuple[float | Sequence[float] | None, ...] = ()  # One, or none.

  def of(self, router: Router) -> Router:
    """The router at this threshold.

    Raises:
      RefusedError: the router has no such threshold.
    """
    try:
      return router.at(*self.thresholds) if self.thresholds else router
    except ValueError as error:
      raise RefusedError(str(error)) from None


def read(body: bytes, reading: Reading, limits: Limits) -> Question:
  """What the body of a request asks.

  {"input": one} or {"inputs": [one, ...]}, and "threshold" if the router's own is not meant. One
  input is a text, or an object of texts by field. A threshold is a number, null (the last model
  answers all), "-inf" (the first one does), or a list of those, one for each model but the last.

  Raises:
    RefusedError: it is not JSON, or not this, or beyond the limits; says which input.
  """
  try:
    value = storage.parse_json(body.decode('utf-8'))
  except UnicodeDecodeError:
    raise RefusedError('The body is not UTF-8.') from None
  except ValueError as error:
    raise RefusedError(f'The body is not JSON: {error}.') from None
  if not isinstance(value, dict):
    raise RefusedError(f'The body is {_kind(value)}: an object with "input" or "inputs" is needed.')
  unknown = [key for key in value if key not in KEYS]
  if unknown:
    known = ', '.join(KEYS)
    raise RefusedError(f'There is no key {storage.shown(unknown[0])}: the keys are {known}.')
  if ('input' in value) == ('inputs' in value):
    raise RefusedError('Give one of "input" (a single one) and "inputs" (a list).')
  examples = [
    Example(i, where, texts, '', texts)
    for i, (where, texts) in enumerate(_inputs(value, reading, limits))
  ]
  thresholds = (_threshold(value['threshold']),) if 'threshold' in value else ()
  return Question(examples, 'input' in value, thresholds)


def answer(row: Row, router: Router) -> dict[str, Any]:
  """What is said of one input.

  'model' and 'prediction'; 'score' and 'threshold' of that model, or if it is the last one, of the
  one before it; 'scores' and 'thresholds' of all models but the last by name, a score null where
  one was not asked or had none; and 'flops' and 'seconds' of all that were asked, null where not
  all have such a price.
  """
  thresholds = router.thresholds.tolist()
  decided = min(row['costs']['passed_on'], len(thresholds) - 1)
  names = [model.name for model in router.models[:-1]]
  return {
    'model': row['model'],
    'prediction': row['prediction'],
    'score': row['scores'][decided],
    'threshold': written(thresholds[decided]),
    'scores': dict(zip(names, row['scores'], strict=True)),
    'thresholds': dict(zip(names, written(thresholds), strict=True)),
    'flops': storage.number(row['costs'].get('flops')),
    'seconds': storage.number(row['costs'].get('seconds')),
  }


def answers(rows: Sequence[Row], router: Router) -> dict[str, Any]:
  """What is said of several inputs: 'answers' in order, and the 'shares' that each model kept."""
  said = [answer(row, router) for row in rows]
  count = {model.name: 0 for model in router.models}
  for one in said:
    count[one['model']] += 1
  return {'answers': said, 'shares': {name: n / len(said) for name, n in count.items()}}


def written(threshold: Any) -> Any:
  """A threshold, or several, as requests say it."""
  if isinstance(threshold, Sequence):
    return [written(one) for one in threshold]
  return ALL_KEPT if threshold == -math.inf else storage.number(threshold)


def _inputs(value: dict, reading: Reading, limits: Limits) -> list[tuple[str, dict[str, str]]]:
  """(what errors call it, its texts) of each input."""
  if 'input' in value:
    return [('input', _texts('input', value['input'], reading, limits))]
  inputs = value['inputs']
  if not isinstance(inputs, list) or not inputs:
    what = 'an empty list' if inputs == [] else _kind(inputs)
    raise RefusedError(f'inputs is {what}: a list of one or more is needed.')
  if len(inputs) > limits.inputs:
    raise RefusedError(f'{len(inputs)} inputs: {limits.inputs} are answered at a time.', 413)
  named = zip(map('inputs[{}]'.format, itertools.count()), inputs, strict=False)
  return [(where, _texts(where, one, reading, limits)) for where, one in named]


def _texts(where: str, given: Any, reading: Reading, limits: Limits) -> dict[str, str]:
  fields = reading.fields
  record = {fields[0]: given} if isinstance(given, str) and len(fields) == 1 else given
  wanted = ', '.join(fields)
  if not isinstance(record, dict):
    kind = 'an object' if len(fields) > 1 else 'a text, or an object'
    raise RefusedError(f'{where} is {_kind(given)}: {kind} of {wanted} is needed.')
  unknown = [key for key in record if key not in fields]
  if unknown:
    raise RefusedError(f'{where} has a key {storage.shown(unknown[0])}: the keys are {wanted}.')
  for name, text in record.items():
    if not isinstance(text, str):
      raise RefusedError(f'{where}: {name} is {_kind(text)}, not a text.')
  _check(record, where, limits)
  try:
    return reading.texts(record)
  except FieldError as error:
    raise RefusedError(f'{where}: {error}') from None


def _check(record: Mapping[str, str], where: str, limits: Limits) -> None:
  """Raises a RefusedError for texts that are too long, blank, or none."""
  length = sum(map(len, record.values()))
  if length > limits.letters:
    raise RefusedError(f'{where} is {length} characters long: {limits.letters} are allowed.', 413)
  if not any(text.strip() for text in record.values()):
    raise RefusedError(f'{where} is blank.')
  if any('\ud800' <= letter <= '\udfff' for text in record.values() for letter in text):
    raise RefusedError(f'{where} has half a surrogate pair, which is no character.')


def _threshold(value: Any) -> float | Sequence[float] | None:
  if isinstance(value, list):
    if not any(isinstance(one, list) for one in value):
      found = [_threshold(one) for one in value]
      return [math.inf if one is None else cast(float, one) for one in found]
  elif value is None or value == ALL_KEPT:
    return None if value is None else -math.inf
  elif isinstance(value, int | float) and not isinstance(value, bool):
    try:
      return float(value)
    except OverflowError:
      pass
  raise RefusedError(
    f'threshold is {storage.shown(value)}: a number is needed, null or "{ALL_KEPT}", or a list of'
    ' those, one for each model but the last.'
  )


def _as_text(value: Any) -> str:
  return value if isinstance(value, str) else str(value)


def _kind(value: Any) -> str:
  kinds = {str: 'a text', list: 'a list', dict: 'an object', type(None): 'null', bool: 'a boolean'}
  return kinds.get(type(value), 'a number')
