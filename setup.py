"""Package metadata. The gin files are installed beside the code, inside `calm`.

Each folder here with a `main.py` is a package and a program of that name.
"""

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
  version='0.1.0',
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
  package_data={name: ['*.gin'] for name in GIN},
  install_requires=[
    'flax',
    'gin-config',
    'grain',
    'importlib-resources',  # TensorFlow Datasets prepares with it, and does not say so.
    'jax',
    'matplotlib',
    'ml_dtypes',
    'num2words',
    'numpy',
    'optax',
    'orbax-checkpoint',
    'regex',
    'rouge-score',
    'sacrebleu',
    'safetensors',
    'scipy',
    'sentencepiece',
    'seqio',
    'tensorboard',
    'tensorflow',
    'tensorflow-datasets',
    'tensorstore',
    'tokenizers',
    'tqdm',
  ],
  extras_require={
    'test': ['pytest', 'pytest-xdist'],
    'parity': ['pytest', 'pytest-xdist', 'torch', 'transformers'],
    # T5X is not on the package index: the extra installs it from its repository.
    't5x': ['t5x @ git+https://github.com/google-research/t5x'],
    'dev': ['pytest', 'pytest-xdist', 'ruff', 'mypy', 'pre-commit'],
  },
  entry_points={'console_scripts': [f'{name} = {name}.main:main' for name in PROGRAMS]},
)
