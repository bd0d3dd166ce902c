"""What all tests do in a hurry: compile, unless their module asks for `optimized`, and shuffle."""

import contextlib
import functools
import gc
import os
import shutil

import jax
import pytest
from grain._src.python.dataset.transformations import shuffle
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

# Before anything compiles, and for the processes that tests start, too: emitting fusions by way of
# MLIR is half of what it takes to compile small programs, and cutting them into parts for LLVM to
# compile side by side a quarter of the rest.
FLAGS = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {FLAGS}'
QUICK = {
  'jax_disable_most_optimizations': True,  # LLVM's; XLA's are as ever.
  'jax_persistent_cache_min_compile_time_secs': 0.1,
}
ANEW = {'jax_enable_compilation_cache': False}
USUAL = ANEW | {'jax_disable_most_optimizations': False}


def pytest_collection_finish():
  """Spares the garbage collector all that the libraries made when they were imported.

  And lets it look seldom at what tracing makes, of which it frees hardly anything.
  """
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


@contextlib.contextmanager
def _settings(values):
  """Sets options of JAX, for the processes that tests start, too."""
  usual = {name: jax.config.values[name] for name in values}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in values.items():
      jax.config.update(name, value)
      patch.setenv(name.upper(), str(value))
    compilation_cache.reset_cache()  # It looks for its folder only once.
    yield
  for name, value in usual.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='session', autouse=True)
def _quick_compilation(tmp_path_factory):
  """Compiles with few optimizations, and each program once, whichever of the workers needs it."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  with _settings(QUICK | {'jax_compilation_cache_dir': str(folder / 'compiled')}):
    yield


@pytest.fixture(scope='session', autouse=True)
def _quick_shuffling():
  """Remembers where grain puts each example.

  It walks through up to 65,536 places to find that of one, so that a stream of batches of a few
  examples takes a second to begin; and all streams of a seed and a size walk alike.
  """
  remembered = functools.cache(shuffle.index_shuffle.index_shuffle)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shuffle.index_shuffle, 'index_shuffle', remembered)
    yield


@contextlib.contextmanager
def _usual_fusions():
  """Makes of a program for XLA what users get."""
  get_options = compiler.get_compile_options

  def usual_options(*args, env_options_overrides=None, **kwargs):
    overrides = {'xla_cpu_use_fusion_emitters': True} | (env_options_overrides or {})
    return get_options(*args, env_options_overrides=overrides, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compiler, 'get_compile_options', usual_options)
    yield


@pytest.fixture(scope='module')
def optimized():
  """Compiles as users do, and everything anew."""
  jax.clear_caches()
  with _settings(USUAL), _usual_fusions():
    yield
  jax.clear_caches()


@pytest.fixture(scope='module')
def optimized_hlo():
  """Compiles to the HLO that users get, anew, for tests that read and do not run it.

  What LLVM makes of it, in most of the time, is left as it is elsewhere.
  """
  with _settings(ANEW), _usual_fusions():
    yield


@pytest.fixture(scope='session')
def chromium():
  """Chromium's path and the flags that all who look at a page give it; skipped where there is none.

  To be asked for before what is costly to make for it.
  """
  names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
  path = next(filter(None, map(shutil.which, names)), None)
  if path is None:
    pytest.skip(
      f'none of {", ".join(names)} is on PATH: install the package chromium to see the page'
    )
  return (
    path,
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  )
