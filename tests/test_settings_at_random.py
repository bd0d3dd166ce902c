"""Wrong settings are named in sentences, right ones taken; scripts/check_settings.py has them."""

import dataclasses
import importlib.util

import pytest

import gin
from calm import configuration

FAULTLESS = "calm evaluate: --gin.SEED must be a whole number, not 'a' (seed of loop.train).\n"


@pytest.fixture(scope='module')
def script():
  """The script as a module, run where the shipped configs are found from anywhere."""
  path = configuration.shipped_root() / 'scripts' / 'check_settings.py'
  spec = importlib.util.spec_from_file_location('check_settings', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  yield module
  gin.clear_config()


def test_settings_at_random_are_taken_if_right_and_named_if_wrong(script, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert script.check(60, seed=11) == []


@pytest.mark.parametrize(
  ('changes', 'code', 'said', 'fault'),
  [
    ({}, 1, FAULTLESS, None),
    ({}, 1, "calm: TypeError: '<' not supported between instances of 'str' and 'int'", 'Python'),
    ({}, 1, 'calm: SEED needs one more positional argument', 'Python'),
    ({}, 0, '', 'was taken'),
    ({}, 1, 'calm evaluate: a setting is wrong.', 'SEED is not named'),
    ({'right': True}, 1, FAULTLESS, 'was refused'),
    ({'right': True}, 0, '', None),
  ],
)
def test_the_script_knows_a_fault(script, changes, code, said, fault):
  one = dataclasses.replace(script.Trial('number', ('SEED=a',), names='SEED'), **changes)
  found = script.fault(one, code, said)
  assert found is None if fault is None else fault in found


@pytest.mark.parametrize(
  ('text', 'allowed', 'right'),
  [
    ('3', (1, 9, True, False), True),
    ('2.5', (1, 9, True, False), False),
    ('2.5', (1, 9, False, False), True),
    ('nan', (1, 9, False, False), False),
    ('10', (1, 9, True, False), False),
    ('none', (1, 9, True, True), True),
    ('none', (1, 9, True, False), False),
    ('abc', (1, 9, False, False), False),
  ],
)
def test_the_script_knows_what_is_right(script, text, allowed, right):
  assert script.is_right(text, allowed) == right
