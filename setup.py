"""Package metadata. The gin files are installed beside the code, inside `calm`.

Each folder here with a `main.py` is a package and a program of that name.
"""

import runpy
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent


def gin_folders(top):
  """Package names for every folder of gin files below `top`, as `calm.<folder>`."""
  folders = sorted({path.parent.relative_to(ROOT) for path in (ROOT / top).rglob('*.gin')})
  return {'calm.' + '.'.join(folder.parts): str(folder) for folder in folders}


PROGRAMS = sorted(path.parent.name for path in ROOT.glob('*/main.py'))
GIN = gin_folders('gin') | gin_folders('configs')

setuptools.setup(
  name='adaptive-inference',
  version=runpy.run_path(str(ROOT / 'calm' / '__init__.py'))['__version__'],
  description='Early exits for language models in JAX and Flax, with a guarantee on quality.',
  long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(
    include=[f'{name}{end}' for name in PROGRAMS for end in ('', '.*')]
  )
  + list(GIN),
  package_dir=GIN,
  package_data={name: ['*.gin'] for name in GIN}
  | {name: ['py.typed', 'page/*'] for name in PROGRAMS},
  # Not older than what was tested (constraints.txt): its minor version, or below 1.0 its patch.
  install_requires=[
    'filelock>=4.2',
    'flax>=0.12.8',
    'gin-config>=0.5.0',
    'grain>=0.2.18',
    'importlib-resources>=7.1',  # TensorFlow Datasets prepares with it, and does not say so.
    'jax>=0.10.2',
    'matplotlib>=3.11',
    'ml_dtypes>=0.6.0',
    'num2words>=0.5.14',
    'numpy>=2.4',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'protobuf>=7.36',
    'regex>=2026.11',
    'requests>=2.34',
    'rouge-score>=0.1.2',
    'sacrebleu>=2.6',
    'safetensors>=0.8.0',
    'scipy>=1.17',
    'sentencepiece>=0.2.3',
    'seqio>=0.0.20',
    'tensorboard>=2.21',
    'tensorflow-datasets>=4.9',
    'tensorflow>=2.21',
    'tensorstore>=0.1.86',
    'tokenizers>=0.23.3',
    'tqdm>=4.70',
  ],
  extras_require={
    # Two small libraries on anyio and h11, one the routes and one the sockets; no framework.
    'serve': ['starlette>=1.10', 'uvicorn>=0.54.0'],
    'test': ['pytest', 'pytest-xdist', 'starlette>=1.10', 'uvicorn>=0.54.0'],
    'parity': ['pytest', 'pytest-xdist', 'torch', 'transformers'],
    # T5X is not on the package index: the extra installs it from its repository.
    't5x': ['t5x @ git+https://github.com/google-research/t5x'],
    'dev': ['pytest', 'pytest-xdist', 'ruff', 'mypy', 'pre-commit'],
  },
  entry_points={'console_scripts': [f'{name} = {name}.main:main' for name in PROGRAMS]},
)
