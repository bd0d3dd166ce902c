"""A room imports only from rooms above it; what configures is above the rooms and not in them."""

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top down. Rooms that share a floor do not see each other.
FLOORS = (
  (
    'storage',
    'sources',
    'model_folders',
    'fingerprints',
    'settings',
    'arguments',
    'bindings',
    'checks',
    'reader',
    'imports',
    'errors',
    't5x_names',
    'earlier_names',
    'configuration',
    'processes',
    'notices',
    'compilation_cache',
    'commands',
  ),
  ('models', 'tasks'),
  ('exits', 'calibration'),
  ('decoding', 'training'),
  ('evaluation',),
  ('reporting',),
  ('sweet', 'elang'),
  ('main', 'runs'),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
# Rooms that see less than all that is above them.
SEES = {'evaluation': 3}
PACKAGES = ('calm', 'sweet', 'elang')
CONFIGURES = {'configuration', 'reader', 'errors', 'commands', 'main'}
FILES = sorted(
  path.relative_to(ROOT)
  for package in PACKAGES
  for path in (ROOT / package).rglob('*.py')
  if path.name != '__init__.py'
)


def room_of(names):
  """The room of a module, as ('calm', 'decoding', 'loop'), or None if it is not ours."""
  if names[0] not in PACKAGES or len(names) == 1:
    return None
  if names[1] == 'main':
    return 'main'
  return names[1] if names[0] == 'calm' else names[0]


def imported(path):
  """What a file imports, wherever in it, as ('calm', 'decoding', 'loop')."""
  for node in ast.walk(ast.parse((ROOT / path).read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (tuple(alias.name.split('.')) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: an import that begins with a dot'
      yield from ((*node.module.split('.'), alias.name) for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=str)
def test_a_file_sees_only_its_room_and_what_is_above(path):
  room = room_of(path.with_suffix('').parts)
  lowest = SEES.get(room, FLOOR_OF[room] - 1)
  seen = {one for one in map(room_of, imported(path)) if one} - {room}
  if FLOOR_OF[room] == 1:  # Files, not rooms: what one needs of another is up to them.
    seen -= {*FLOORS[0]}
  assert {one for one in seen if FLOOR_OF[one] > lowest} == set()


@pytest.mark.parametrize('path', FILES, ids=str)
def test_only_what_configures_imports_gin(path):
  gin = any(names[0] == 'gin' for names in imported(path))
  assert not gin or room_of(path.with_suffix('').parts) in CONFIGURES


def test_every_file_and_folder_has_a_floor():
  rooms = {room_of(path.with_suffix('').parts) for path in FILES}
  assert rooms <= FLOOR_OF.keys()
  assert len(FLOOR_OF) == len([*itertools.chain(*FLOORS)])
