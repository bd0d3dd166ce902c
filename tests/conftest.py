"""How tests compile: in a hurry, unless their module asks for `optimized`."""

import contextlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

QUICK = {
  'jax_disable_most_optimizations': True,  # LLVM's; XLA's are as ever.
  'jax_persistent_cache_min_compile_time_secs': 0.1,
}


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
  """Compiles with few optimizations, and each program once."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  with _settings(QUICK | {'jax_compilation_cache_dir': folder}):
    yield


@pytest.fixture(scope='module')
def optimized():
  """Compiles as users do, and everything anew."""
  jax.clear_caches()
  with _settings({'jax_disable_most_optimizations': False, 'jax_enable_compilation_cache': False}):
    yield
  jax.clear_caches()
