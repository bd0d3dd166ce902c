"""The parameters of a network as flat names and shapes, and whether others fit them.

A flat name is the path in the parameter tree, joined by '/': 'decoder/layers_0/mlp/wo/kernel'.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import PartitionSpec

from calm import fingerprints


class Network(Protocol):
  """A Flax module that knows its parameters, as those of this folder do."""

  @property
  def config(self) -> Any:
    """Its sizes and choices, a frozen dataclass."""

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """How parameters are split over a ('data', 'model') mesh.

    The first pattern found in a flat name decides; what none fits is replicated.
    """

  def init_params(self, key: jax.Array) -> Any:
    """Fresh float32 parameters, all that the network has: a nested dict."""

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Flax's: runs the network, or another of its methods, with given parameters."""

  def __hash__(self) -> int:
    """Of its fields: a network is a key of caches."""


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter of a `Network`, by flat name. Nothing is allocated."""
  return dict(_shapes(network))


@functools.lru_cache(maxsize=16)
def _shapes(network: Network) -> tuple[tuple[str, tuple[int, ...]], ...]:
  tree = jax.eval_shape(network.init_params, jax.random.key(0))
  return tuple((name, value.shape) for name, value in flatten(tree).items())


def fresh(network: Network, pattern: str | None, seed: int = 0) -> dict[str, np.ndarray]:
  """The parameters of a new network in whose flat names `pattern` is found, and no others.

  Args:
    network: a `Network`.
    pattern: as `re.search` takes it; None is found nowhere.
    seed: of the new network.

  Returns:
    NumPy arrays by flat name.

  Raises:
    ValueError: the pattern is found in no name; the message lists them, '*' for numbers.
  """
  if not pattern:
    return {}
  names = [name for name in shapes(network) if re.search(pattern, name)]
  if not names:
    listed = ', '.join(sorted({re.sub(r'_\d+\b', '_*', name) for name in shapes(network)}))
    raise ValueError(f'fresh: {pattern!r} is found in no parameter; there are {listed}.')

  @jax.jit  # So that only these are made.
  def make(key: jax.Array) -> dict[str, jax.Array]:
    flat = flatten(network.init_params(key))
    return {name: flat[name] for name in names}

  return jax.device_get(make(jax.random.key(seed)))


def flatten(params: Any) -> dict[str, Any]:
  """A nested dict of arrays as one dict by flat name."""
  return traverse_util.flatten_dict(params, sep='/')


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`: a plain nested dict."""
  return traverse_util.unflatten_dict(flat, sep='/')


def require_fit(
  where: str,
  expected: Mapping[str, Sequence[int]],
  found: Mapping[str, Sequence[int]],
  settings: Sequence[str] = (),
  mends: Sequence[str] = (),
) -> None:
  """Checks found shapes against expected ones, both dicts by name.

  Args:
    where: what was looked at, to begin the message with.
    expected: the shape that each parameter must have.
    found: the shape that each parameter has.
    settings: lines about settings that differ, where shapes cannot tell.
    mends: lines to end the message with.

  Raises:
    ValueError: something differs; the message lists all that is missing, all that is unexpected,
      and every shape that differs.
  """
  missing = [f'{name} {_shape(expected[name])}' for name in sorted(expected.keys() - found.keys())]
  unexpected = [f'{name} {_shape(found[name])}' for name in sorted(found.keys() - expected.keys())]
  different = [
    f'{name}: expected {_shape(expected[name])}, found {_shape(found[name])}'
    for name in sorted(expected.keys() & found.keys())
    if tuple(expected[name]) != tuple(found[name])
  ]
  if not (missing or unexpected or different or settings):
    return
  lists = {'missing': missing, 'unexpected': unexpected, 'shapes that differ': different}
  if settings:
    lists['settings that differ'] = list(settings)
  text = ''.join(
    f'\n{title}: {len(lines) or "none"}' + ''.join(f'\n  {line}' for line in lines)
    for title, lines in lists.items()
  )
  text += ''.join(f'\n{line}' for line in mends)
  raise ValueError(f'{where} does not fit the model.{text}')


def _shape(shape: Sequence[int]) -> str:
  return '[' + ', '.join(map(str, shape)) + ']'


def fingerprint(params: Any) -> str:
  """`calm.fingerprints.fingerprint` of parameters; the last ones' is remembered."""
  return _fingerprint(_Identical(params))


@dataclasses.dataclass(frozen=True)
class _Identical:
  """Parameters as a key of a cache: the very same arrays are equal, no others."""

  params: Any

  def __hash__(self) -> int:
    return hash(tuple(map(id, jax.tree.leaves(self.params))))

  def __eq__(self, other: Any) -> bool:
    mine, its = jax.tree.leaves(self.params), jax.tree.leaves(other.params)
    return len(mine) == len(its) and all(a is b for a, b in zip(mine, its, strict=True))


@functools.lru_cache(maxsize=1)
def _fingerprint(key: _Identical) -> str:
  return fingerprints.fingerprint(key.params)
