"""Code from the current folder runs only if somebody asks for it."""

import importlib
import os
import sys

import pytest

from calm import imports

NAME = 'module_in_the_current_folder'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """A current folder with a module in it, which some ways to start Python put on the path."""
  (tmp_path / f'{NAME}.py').write_text('VALUE = 7\n')
  (tmp_path / 'deeper').mkdir()
  (tmp_path / 'deeper' / 'module_that_lies_deeper.py').write_text('')
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv('PYTHONPATH', raising=False)
  yield tmp_path
  for name in (NAME, 'module_that_lies_deeper'):
    sys.modules.pop(name, None)


@pytest.mark.parametrize('entry', ['', '.', 'absolute'])
def test_the_current_folder_is_not_looked_at_unless_it_is_named(entry, folder, monkeypatch):
  entry = str(folder) if entry == 'absolute' else entry
  monkeypatch.setattr(sys, 'path', [entry, *sys.path])
  before = [*sys.path]
  with imports.only_from([]), pytest.raises(ModuleNotFoundError) as info:
    importlib.import_module(NAME)
  assert sys.path == before
  assert imports.missing(info.value) == (
    f'{NAME} lies in the current folder, whose code runs only if you ask for it: '
    'give --import_from=. if you trust it.'
  )
  with imports.only_from(['.']):
    assert importlib.import_module(NAME).VALUE == 7


def test_any_folder_can_be_named_and_hides_nothing_installed(folder):
  (folder / 'deeper' / 'colorsys.py').write_text('raise RuntimeError')
  sys.modules.pop('colorsys', None)
  with imports.only_from(['deeper']):
    importlib.import_module('module_that_lies_deeper')
    importlib.import_module('colorsys')
  nowhere = imports.only_from(['nowhere'])
  with pytest.raises(NotADirectoryError, match='--import_from=nowhere: no such folder'), nowhere:
    pass


def test_the_path_that_python_was_started_with_asks_for_it(folder, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', f'/elsewhere{os.pathsep}{folder}')
  monkeypatch.setattr(sys, 'path', [str(folder), *sys.path])
  with imports.only_from([]):
    assert importlib.import_module(NAME).VALUE == 7
