"""A kind of value says which values are of it, in words that end the sentence 'it must be'."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import jax
import numpy as np
import pytest

from calm import settings

NAN, INF = float('nan'), float('inf')


class Rule(Protocol):
  """What has an attribute `needs` and can be called."""

  @property
  def needs(self) -> tuple: ...

  def __call__(self, evidence): ...


class Never:
  """Such a rule."""

  needs = ()

  def __call__(self, evidence):
    return False


KINDS: list[tuple[Any, str, list, list]] = [
  (
    settings.Count,
    'a whole number of at least 1',
    [1, np.int64(7), np.array(7)],
    [0, np.array(2.0), 2.5, 1.0, '1', True, None],
  ),
  (settings.Natural, 'a whole number of at least 0', [0, 3], [-1, 0.0, False]),
  (settings.Seed, 'a whole number in [0, 4294967295]', [0, 2**32 - 1], [-1, 2**32, 0.5]),
  (
    settings.Share,
    'a number in [0, 1]',
    [0, 1, 0.5, np.float32(0.5), jax.numpy.float32(0.5)],
    [1.5, -0.1, NAN, 'a', True, jax.numpy.float32(1.5), jax.numpy.bool_(True)],
  ),
  (settings.ShareBelow1, 'a number in [0, 1)', [0], [1, NAN]),
  (settings.Level, 'a number in (0, 1)', [0.1], [0, 1, NAN, (0.1,)]),
  (settings.Positive, 'a number above 0', [1e-9], [0, -1, INF, NAN]),
  (settings.NonNegative, 'a number of at least 0', [0], [-1e-9, INF]),
  (settings.Finite, 'a number', [-3, 0.5], [INF, NAN, '1']),
  (bool, 'True or False', [True, False], [1, 0, 'true', None]),
  (str, 'a text', ['', 'a'], [1, None, ['a']]),
  (settings.Count | None, 'a whole number of at least 1 or None', [None, 1], [0, 'None']),
  (Literal['a', 'b'], "one of 'a', 'b'", ['a'], ['c', 1, None]),
  (Sequence[settings.Level], 'a list, each of it a number in (0, 1)', [(), [0.1]], [0.1, [2], 'a']),
  (tuple[str, ...], 'a list, each of it a text', [('a',)], ['a', (1,)]),
  (
    Mapping[str, settings.Count],
    'a mapping to a whole number of at least 1',
    [{'a': 1}],
    [{'a': 0}],
  ),
  (Callable, 'a function (@module.name)', [math.sin, Never()], [1, 'sin', None]),
  (Rule, 'an object of the kind Rule (@module.name())', [Never()], [math.sin, 0.5, 'Never', None]),
  (
    Annotated[jax.typing.ArrayLike, settings.Range(0, 1)],
    'a number in [0, 1]',
    [0, 0.5, np.float32(1), np.array(0.5)],
    [1.5, NAN, 'a', True, np.array(1.5)],
  ),
  (Annotated[int | jax.Array, settings.Range(1)], 'a whole number of at least 1', [1], [0, 1.5]),
  (
    Annotated[Sequence[str], settings.NotEmpty()],
    'a list, each of it a text, not empty',
    [['a']],
    [[], (), [1], None],
  ),
  (Any, 'something else', [1, 'a', None], []),
]


@pytest.mark.parametrize(('kind', 'words', 'right', 'wrong'), KINDS, ids=[row[1] for row in KINDS])
def test_a_kind_has_words_and_tells_its_values_from_others(kind, words, right, wrong):
  assert settings.words(kind) == words
  assert all(settings.fits(kind, value) for value in right)
  assert not any(settings.fits(kind, value) for value in wrong)


def test_what_is_traced_or_made_later_is_not_judged():
  seen = []

  def judge(value):
    seen.append(settings.fits(Annotated[jax.typing.ArrayLike, settings.Range(0, 1)], value))
    return value

  jax.eval_shape(judge, 7.0)
  assert seen == [True]
  assert settings.fits(settings.Count, settings.Made('@a.b()'))


@pytest.mark.parametrize(
  ('kind', 'made', 'may_be'),
  [
    (settings.Count, int, True),
    (settings.Share, int, True),
    (settings.Count, Never, False),
    (str, Never, False),
    (Rule, Never, True),
    (Rule, float, False),
    (Sequence[int], Never, False),
    (Sequence[float] | None, tuple[float, ...] | None, True),
    (Sequence[float], float | None, False),
    (settings.Share, int | None, True),
  ],
)
def test_of_what_a_call_makes_the_kind_is_judged(kind, made, may_be):
  assert settings.fits(kind, settings.Made('@a.b()', made)) == may_be


def train(*, num_steps: settings.Count, rate: settings.Share = 0.5, anything=None):
  settings.check(train, num_steps=num_steps, rate=rate, anything=anything)


@dataclasses.dataclass(frozen=True)
class Sizes:
  width: settings.Count = 3
  names: Sequence[str] = ()

  def __post_init__(self):
    settings.check_fields(self)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: train(num_steps=2.5), 'num_steps must be a whole number of at least 1, not 2.5.'),
    (lambda: train(num_steps=1, rate=NAN), 'rate must be a number in [0, 1], not nan.'),
    (lambda: Sizes('3'), "width must be a whole number of at least 1, not '3'."),
    (lambda: Sizes(names='ab'), "names must be a list, each of it a text, not 'ab'."),
  ],
)
def test_whoever_consumes_a_value_names_it_with_its_range(call, message):
  with pytest.raises(settings.SettingError) as info:
    call()
  assert str(info.value) == message


def test_what_fits_passes():
  train(num_steps=1, anything=object())
  assert Sizes(2, ('a',)).width == 2


@pytest.mark.parametrize(
  'value', ['x' * 10**6, [0] * 10**6, {'a': 'x' * 10**6}, -(10**3000)], ids=type
)
def test_an_error_never_shows_a_megabyte(value):
  with pytest.raises(settings.SettingError) as info:
    train(num_steps=value)
  assert len(str(info.value)) < 300
