"""What is installed is what is used, in versions that were tested, and runs on its own."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import calm
from calm import main

ROOT = Path(__file__).parent.parent
PACKAGES = [name for name in ('calm', 'elang', 'sweet') if (ROOT / name).is_dir()]


def normal(name):
  """A distribution's name in the one spelling of them all."""
  return re.sub(r'[-_.]+', '-', name).lower()


def setup_argument(name):
  """What setup.py passes to setup(), if it is a literal."""
  (call,) = (
    node
    for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'setuptools.setup'
  )
  return ast.literal_eval(next(word.value for word in call.keywords if word.arg == name))


def imported_modules():
  """Top-level names that the packages import, apart from Python's own and themselves."""
  names = set()
  for path in (path for package in PACKAGES for path in (ROOT / package).rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Import):
        names |= {alias.name.partition('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names.add(node.module.partition('.')[0])
  return names - sys.stdlib_module_names - {*PACKAGES}


# What a command needs that says so if it is not there.
EXTRA = setup_argument('extras_require')['serve']


def test_every_import_is_a_requirement_and_every_requirement_imported():
  distributions = importlib.metadata.packages_distributions()
  required = {normal(Requirement(line).name) for line in setup_argument('install_requires')}
  imported = {name: {normal(one) for one in distributions[name]} for name in imported_modules()}
  extra = {normal(Requirement(line).name) for line in EXTRA}
  assert [name for name, one in imported.items() if not one & (required | extra)] == []
  assert extra <= set().union(*imported.values())
  # seqio opens public data sets with tensorflow-datasets, which prepares them with the other.
  used = set().union(*imported.values(), {'tensorflow-datasets', 'importlib-resources'})
  assert required - used == set()


def pinned_versions():
  """The version of each distribution in constraints.txt, by its normal name."""
  lines = (ROOT / 'constraints.txt').read_text().splitlines()
  pairs = [line.split('==') for line in lines if '==' in line]
  return {normal(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize('line', [*setup_argument('install_requires'), *EXTRA])
def test_a_requirement_begins_with_the_series_that_was_tested(line):
  requirement = Requirement(line)
  (bound,) = requirement.specifier
  pinned, lowest = pinned_versions()[normal(requirement.name)], Version(bound.version)
  assert bound.operator == '>='
  # Below 1.0 a patch may change what is there.
  assert lowest.release == (pinned.release if pinned.major == 0 else pinned.release[:2])


def test_the_program_and_the_package_have_the_version_of_the_changelog(capsys):
  with pytest.raises(SystemExit) as info:
    main.main(['--version'])
  assert info.value.code == 0
  assert capsys.readouterr().out == f'calm {calm.__version__}\n'
  changelog = (ROOT / 'CHANGELOG.md').read_text()
  assert re.findall(r'^## \[(\d.*?)\]', changelog, re.MULTILINE)[0] == calm.__version__
  assert f'\nversion: {calm.__version__}\n' in (ROOT / 'CITATION.cff').read_text()


def test_every_version_is_pinned():
  pinned = pinned_versions()
  extras = setup_argument('extras_require')
  waiting = [*setup_argument('install_requires')]
  waiting += [one for extra in ('serve', 'test', 'parity', 'dev') for one in extras[extra]]
  seen, loose = set(), set()
  while waiting:
    requirement = Requirement(waiting.pop())
    applies = requirement.marker is None or requirement.marker.evaluate({'extra': ''})
    if not applies or normal(requirement.name) in seen:
      continue
    seen.add(normal(requirement.name))
    # What another package pins itself, as torch does with CUDA's libraries, needs no pin here.
    if normal(requirement.name) not in pinned and '==' not in str(requirement.specifier):
      loose.add(requirement.name)
    try:
      waiting += importlib.metadata.requires(requirement.name) or []
    except importlib.metadata.PackageNotFoundError:
      continue  # Of an extra that is not installed.
  assert loose == set()


# A program beside calm: its folder has a main.py, and its configs one of its name.
BESIDE = {
  'beside/__init__.py': '',
  'beside/main.py': """import sys
from calm import commands

COMMANDS = (commands.Command('go', 'beside.work:go', 'go'),)
PROGRAM = commands.Program('beside', 'Goes.', COMMANDS)


def main():
  sys.exit(commands.main(PROGRAM))
""",
  'configs/beside/far.gin': '# Goes far.\n',
}


def test_an_installation_runs_the_configs_inside_it(tmp_path):
  try:
    importlib.metadata.version('wheel')
    setuptools = Version(importlib.metadata.version('setuptools'))
  except importlib.metadata.PackageNotFoundError:
    pytest.skip('setuptools and wheel are not installed')
  if setuptools < Version('77'):
    pytest.skip('setuptools is older than pyproject.toml demands')
  source, site = tmp_path / 'source', tmp_path / 'site'
  for name in (*PACKAGES, 'gin', 'configs'):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  for name, text in BESIDE.items():
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text(text)
  pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
  options = ['--no-deps', '--no-build-isolation', '--no-index', '--target', site]
  subprocess.run([*pip, 'install', *options, source], check=True)
  shutil.rmtree(source)

  for folder in ('gin', 'configs'):
    shipped = {path.relative_to(ROOT) for path in (ROOT / folder).rglob('*.gin')}
    shipped |= {Path(name) for name in BESIDE if name.startswith(f'{folder}/')}
    installed = (site / 'calm' / folder).rglob('*.gin')
    assert {path.relative_to(site / 'calm') for path in installed} == shipped
  assert all((site / name / 'py.typed').is_file() for name in PACKAGES)
  served = {path.name for path in (ROOT / 'elang' / 'page').iterdir()}
  assert {path.name for path in (site / 'elang' / 'page').iterdir()} == served
  (license_text,) = site.glob('adaptive_inference-*.dist-info/licenses/LICENSE')
  assert license_text.read_text() == (ROOT / 'LICENSE').read_text()

  def said_by(*command):
    environment = {**os.environ, 'PYTHONPATH': str(site)}
    return subprocess.run(
      command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout

  version = said_by(sys.executable, site / 'bin' / 'calm', '--version')
  assert version == f'calm {calm.__version__}\n'
  help_of_calm = said_by(sys.executable, site / 'bin' / 'calm', '--help')
  assert '\n  configs/calm/multi30k_en_fr.gin\n' in help_of_calm
  assert 'configs/beside' not in help_of_calm
  help_of_beside = said_by(sys.executable, site / 'bin' / 'beside', '--help')
  assert '\n  configs/beside/far.gin\n' in help_of_beside
  assert '\n  configs/quickstart.gin\n' in help_of_beside
  assert 'configs/calm' not in help_of_beside
  where = 'from calm import configuration; print(configuration.shipped_root())'
  assert said_by(sys.executable, '-c', where) == f'{site / "calm"}\n'
