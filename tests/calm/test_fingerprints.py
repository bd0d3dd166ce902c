"""Fingerprints and identities are equal for equals and differ for everything else."""

import dataclasses
import functools
import importlib
import json
import linecache
import sys

import numpy as np
import pytest

from calm import configuration, fingerprints
from calm.exits import confidence, rules, thresholds
from calm.fingerprints import differences, fingerprint, identity


@dataclasses.dataclass(frozen=True)
class _Sizes:
  width: int = 3
  names: tuple[str, ...] = ('a',)


@dataclasses.dataclass(frozen=True)
class _Others:
  width: int = 3
  names: tuple[str, ...] = ('a',)


def test_different_values_have_different_fingerprints():
  array = np.arange(6, dtype=np.int32)
  values = [
    None, True, 1, 1.0, '1', b'1', 'None', '', [], {}, ['ab'], ['a', 'b'], ['a', ['b']],
    [['a'], 'b'], {'a': 'b'}, {'a': ['b']}, {'b': 'a'}, array,
    array.reshape(2, 3), array.astype(np.int64), array.astype(np.float32), -array,
    np.int32(5), np.array([5], np.int32), np.dtype('float32'),
    _Sizes(), _Sizes(width=5), _Others(), {'width': 3, 'names': ['a']},
  ]  # fmt: skip
  found = [fingerprint(value) for value in values]
  assert len(set(found)) == len(values)
  assert all(f.startswith('sha256:') and len(f) == 71 for f in found)


def test_order_of_keys_and_memory_do_not_matter():
  square = np.arange(9.0).reshape(3, 3)
  one = {'a': {'kernel': square}, 'b': (1, 2)}
  other = {'b': [1, 2], 'a': {'kernel': np.asfortranarray(square)}}
  assert fingerprint(one) == fingerprint(other)


def test_a_single_weight_changes_the_fingerprint():
  params = {'layers_0': {'kernel': np.zeros((17, 13), np.float32)}}
  changed = {'layers_0': {'kernel': np.zeros((17, 13), np.float32)}}
  changed['layers_0']['kernel'][16, 12] = 1e-30
  assert fingerprint(params) != fingerprint(changed)


@pytest.mark.parametrize('value', [{'a': [1, object()]}, {'a': [1, np.array([None])]}])
def test_what_has_no_fingerprint_is_named(value):
  with pytest.raises(ValueError, match=r"value\['a'\]\[1\] is a"):
    fingerprint(value)


def test_keys_are_strings():
  with pytest.raises(ValueError, match='keys that are not strings'):
    fingerprint({1: 2})


MODULE = """# A rule of one's own.
import dataclasses
import functools

import numpy as np

FLOOR = 0.25
TABLE = {'a': [1, 2]}


def scale(x):
  \"\"\"Doubles.\"\"\"
  return x * 2


def unused(x):
  return x


def measure(logits, sharpness=1.0):
  return np.mean(scale(logits)) * sharpness > FLOOR + TABLE['a'][0]


def made(count):
  def inner(logits):
    return scale(logits) + count
  return inner


class Base:
  def may_exit(self, evidence):
    return scale(evidence) > 0


@dataclasses.dataclass(frozen=True)
class Rule(Base):
  start: int = 3

  @property
  def needs(self):
    return ('logits',)


class Callable:
  def __init__(self, width):
    self.width = width

  def __call__(self, logits):
    return logits[: self.width]
"""
# What a module may be asked for, each with a name.
THINGS = {
  'function': lambda module: module.measure,
  'partial': lambda module: functools.partial(module.measure, sharpness=2.0),
  'closure': lambda module: module.made(3),
  'rule': lambda module: module.Rule(),
  'instance': lambda module: module.Callable(5),
}


@pytest.fixture
def load(tmp_path, monkeypatch):
  """Loads a text as the module `mine`, as another process would."""

  def call(text, folder='mine'):
    place = tmp_path / folder
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    place.mkdir(exist_ok=True)
    (place / 'mine_of_tests.py').write_text(text)
    monkeypatch.syspath_prepend(place)
    sys.modules.pop('mine_of_tests', None)
    importlib.invalidate_caches()
    module = importlib.import_module('mine_of_tests')
    linecache.clearcache()
    return module

  yield call
  sys.modules.pop('mine_of_tests', None)


def edited(old, new):
  assert MODULE.count(old) == 1
  return MODULE.replace(old, new)


@pytest.mark.parametrize('thing', THINGS)
def test_code_counts_by_what_it_says_and_not_by_where_it_lies(load, thing):
  before = identity(THINGS[thing](load(MODULE)))
  assert json.loads(json.dumps(before)) == before
  assert identity(THINGS[thing](load(MODULE, 'moved'))) == before
  for other in (
    edited("# A rule of one's own.", '# Another remark.'),
    edited('Doubles.', 'Twice as much.'),
    edited('x * 2', 'x * 2  # twice\n'),
    edited('def unused(x):\n  return x\n', 'def unused(x):\n  return -x\n'),
  ):
    assert identity(THINGS[thing](load(other))) == before


@pytest.mark.parametrize(
  ('thing', 'old', 'new'),
  [
    ('function', '* sharpness >', '* sharpness >='),
    ('function', 'x * 2', 'x * 3'),  # What it calls,
    ('function', 'FLOOR = 0.25', 'FLOOR = 0.5'),  # and what it reads.
    ('function', "{'a': [1, 2]}", "{'a': [2, 2]}"),
    ('function', 'sharpness=1.0', 'sharpness=1.5'),
    ('partial', 'x * 2', 'x * 3'),
    ('closure', '+ count', '- count'),
    ('rule', 'start: int = 3', 'start: int = 4'),
    ('rule', "('logits',)", "('hidden',)"),
    ('rule', '> 0', '>= 0'),  # A base class,
    ('rule', 'x * 2', 'x * 3'),  # and what that calls.
    ('instance', '[: self.width]', '[self.width :]'),
  ],
)
def test_an_edit_that_decides_changes_the_identity(load, thing, old, new):
  before = identity(THINGS[thing](load(MODULE)))
  after = identity(THINGS[thing](load(edited(old, new))))
  assert before != after
  assert differences(before, after)


def test_bound_arguments_and_fields_count(load):
  module = load(MODULE)
  variants = [
    module.measure,
    functools.partial(module.measure, sharpness=2.0),
    functools.partial(module.measure, sharpness=3.0),
    module.made(3),
    module.made(4),
    module.Rule(3),
    module.Rule(4),
    module.Callable(5),
    module.Callable(6),
  ]
  found = [json.dumps(identity(variant)) for variant in variants]
  assert len(set(found)) == len(variants)


def test_what_gin_binds_counts(load, monkeypatch):
  import gin

  monkeypatch.setattr(fingerprints, 'BINDERS', [configuration.bound_arguments])
  module = load(MODULE)
  gin.clear_config()
  try:
    wrapped = gin.external_configurable(module.measure, module='mine_of_tests')
    plain = identity(wrapped)
    assert plain == identity(module.measure)
    gin.bind_parameter('mine_of_tests.measure.sharpness', 4.0)
    assert identity(wrapped)['bound'] == {'sharpness': 4.0}
  finally:
    gin.clear_config()


def test_a_rule_is_told_in_words():
  rule = rules.Confident(confidence.softmax_margin, thresholds.Decaying(0.9, 4.0, 64), 2)
  assert fingerprints.flatten(identity({'rule': rule})) == {
    'rule': 'calm.exits.rules.Confident',
    'rule.measure': 'calm.exits.confidence.softmax_margin',
    'rule.threshold': 'calm.exits.thresholds.Decaying',
    'rule.threshold.value': 0.9,
    'rule.threshold.tau': 4.0,
    'rule.threshold.max_length': 64,
    'rule.min_exit': 2,
  }


def test_a_function_at_the_top_has_a_name(load):
  function = identity(load(MODULE).measure)
  assert fingerprints.flatten(function)['function'] == 'mine_of_tests.measure'
  assert fingerprints.flatten({'answers': function})['answers'] == 'mine_of_tests.measure'


def test_differences_are_words_and_never_fingerprints():
  def described(measure, tau, seed):
    params = {'kernel': np.full((3, 5), seed, np.float32)}
    rule = rules.Confident(measure, thresholds.Decaying(0.9, tau, 64))
    return identity({'rule': rule, 'params': fingerprint(params), 'task': {'name': 'files'}})

  one = described(confidence.softmax_margin, 4.0, 1)
  assert differences(one, json.loads(json.dumps(one))) == {}
  assert differences(one, described(confidence.state_saturation, 2.0, 2)) == {
    'rule.measure': ('softmax_margin', 'state_saturation'),
    'rule.threshold.tau': ('4.0', '2.0'),
    'params': None,
  }


def test_what_comes_or_goes_with_a_rule_is_not_told_one_by_one():
  full = identity({'rule': rules.NeverExit(), 'seed': 1})
  early = identity({'rule': rules.Confident(confidence.softmax_margin, thresholds.Constant(0.9))})
  told = 'seed was 1 and is nothing'
  assert fingerprints.in_words(differences(full, early)) == (
    f'rule was NeverExit and is Confident; {told}'
  )
  told = 'seed was nothing and is 1'
  assert fingerprints.in_words(differences(early, full)) == (
    f'rule was Confident and is NeverExit; {told}'
  )


def test_settings_that_change_no_result_do_not_count():
  @dataclasses.dataclass
  class Settings:
    width: int
    remat: bool = dataclasses.field(default=False, metadata={'identity': False})

  assert identity(Settings(3, True)) == identity(Settings(3, False)) != identity(Settings(4, False))


def test_code_is_that_of_whole_packages_by_name(load, tmp_path):
  load(MODULE)
  fingerprints.code.cache_clear()
  before = fingerprints.code('mine_of_tests')
  load(edited('Doubles.', 'Twice.'))
  fingerprints.code.cache_clear()
  assert fingerprints.code('mine_of_tests') == before
  load(edited('return x\n', 'return -x\n'))
  fingerprints.code.cache_clear()
  assert fingerprints.code('mine_of_tests') != before
  assert fingerprints.code('calm.exits') != fingerprints.code('calm.models')
  with pytest.raises(ModuleNotFoundError, match='nowhere'):
    fingerprints.code('nowhere')


def test_what_refers_to_itself_is_refused():
  loop: list = []
  loop.append(loop)
  with pytest.raises(ValueError, match='refers to itself'):
    identity(loop)


def test_fields_may_have_any_name():
  @dataclasses.dataclass
  class Named:
    source: int
    function: str = 'f'

  one, other = identity({'a': Named(3)}), identity({'a': Named(4, 'g')})
  assert set(differences(one, other).values()) == {('3', '4'), ('f', 'g')}
