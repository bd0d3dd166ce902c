"""A run finds its place in the stream again, or says why it cannot."""

import copy
import json
import math

import pytest

from calm.training import resuming

SETTINGS = {'examples': 7, 'data': 'ab', 'seed': 0, 'pack': True, 'batch_size': 8}
SAVED = {
  'data': {'number': 5},
  'stream': SETTINGS,
  'meter': {'weight': 9.0, 'steps': 2, 'loss': 1.5},
  'seconds': 1.5,
}


@pytest.fixture
def settled(stream):
  """A stream with SETTINGS."""
  stream.settings = dict(SETTINGS)
  return stream


def test_what_is_saved_is_json_that_passes_the_check_and_finds_its_place(settled):
  settled.set_state({'number': 5})
  saved = json.loads(json.dumps(resuming.standing(settled, SAVED['meter'], 1.5)))
  assert saved == SAVED
  resuming.check(saved)
  settled.set_state({'number': 0})
  assert resuming.find_place(settled, saved) is None
  assert settled.number == 5


@pytest.mark.parametrize(
  ('name', 'value', 'told'),
  [
    ('examples', 8, 'examples was 7 and is 8'),
    ('data', 'cd', 'the tokens of the examples are others'),
    ('seed', 1, 'seed was 0 and is 1'),
    ('pack', False, 'pack was True and is False'),
    ('batch_size', 4, 'batch_size was 8 and is 4'),
  ],
)
def test_another_stream_stays_at_its_beginning_and_what_changed_is_told(settled, name, value, told):
  settled.settings[name] = value
  assert resuming.find_place(settled, SAVED) == told
  assert settled.number == 0


def test_a_place_that_is_none_of_the_stream_is_told(settled):
  told = resuming.find_place(settled, SAVED | {'data': {'next_index': 3}})
  assert told == "the saved place is none of this stream (KeyError: 'number')"
  assert settled.number == 0


@pytest.mark.parametrize('settings', [None, {}, {'seed': 0}])
def test_settings_that_one_side_does_not_know_change_nothing(settled, settings):
  saved = SAVED | {'stream': settings}
  if settings is None:
    del saved['stream']
  assert resuming.find_place(settled, saved) is None
  assert settled.number == 5


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('stream', [1]),
    ('meter', {'loss': 1.0}),
    ('meter', {'weight': 'x', 'steps': 1}),
    ('meter', 3),
    ('seconds', None),
    ('seconds', -1),
    ('seconds', math.inf),
    ('seconds', math.nan),
    ('seconds', True),
  ],
)
def test_progress_that_cannot_be_is_named(name, value):
  with pytest.raises(ValueError, match=f'its progress cannot have {name} '):
    resuming.check(copy.deepcopy(SAVED) | {name: value})


@pytest.mark.parametrize('value', [None, [], 'x', {}, {'data': {}}])
def test_progress_with_too_little_is_none(value):
  with pytest.raises(ValueError, match='its progress '):
    resuming.check(value)
