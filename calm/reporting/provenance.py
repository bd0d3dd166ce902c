"""When, of what and on what numbers were made: what a reader needs to make them again."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import jax

import calm
from calm.training import checkpoints

CONFIGURATION = 'config.gin'


def provenance(folder: str | os.PathLike) -> dict[str, str]:
  """What is made now, of the run in `folder`: what is said of it, by what it is about.

  'date', 'code' (a commit, and whether files differ from it; the version, where there is none),
  'checkpoint' (the newest in `folder`), 'hardware' and 'software'.
  """
  return {
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'code': _code(Path(calm.__file__).resolve().parent.parent),
    'checkpoint': _checkpoint(folder),
    'hardware': _hardware(),
    'software': f'JAX {jax.__version__}, Python {platform.python_version()}, {platform.system()}',
  }


def configuration(folder: str | os.PathLike) -> str:
  """The configuration that the run in `folder` has saved; empty if there is none."""
  try:
    return Path(folder, CONFIGURATION).read_text(encoding='utf-8')
  except FileNotFoundError:
    return ''


def _code(root: Path) -> str:
  # Where the package is installed somewhere below another repository, that one's is not ours.
  if (root / '.git').exists():
    commit = _git(root, 'rev-parse', '--short=12', 'HEAD')
    changed = _git(root, 'status', '--porcelain', '--untracked-files=no')
    if commit:
      return f'commit {commit}{", with changes" if changed else ""}'
  try:
    return f'version {importlib.metadata.version("adaptive-inference")}'
  except importlib.metadata.PackageNotFoundError:
    return 'unknown'


def _git(root: Path, *arguments: str) -> str | None:
  """What git prints; None where it cannot be asked."""
  command = ['git', '-C', str(root), *arguments]
  try:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def _checkpoint(folder: str | os.PathLike) -> str:
  steps = checkpoints.steps(folder)
  return f'step {steps[-1]}' if steps else 'none in the workdir'


def _hardware() -> str:
  devices = jax.devices()
  kinds = dict.fromkeys(device.device_kind for device in devices)
  computes = [f'{sum(d.device_kind == kind for d in devices)} {kind}' for kind in kinds]
  host = f'{os.cpu_count()} cores of {_processor()}'
  return host if devices[0].platform == 'cpu' else f'{", ".join(computes)}; {host}'


def _processor() -> str:
  try:
    found = re.search(r'^model name\s*:\s*(.*)$', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
  except OSError:
    found = None
  return found[1] if found else platform.processor() or platform.machine()
