"""Checkpoint directories of T5X: a msgpack tree, and tensorstore arrays beside it.

The file `checkpoint` holds the tree of the train state. Its leaves are small arrays themselves or
tensorstore specs of zarr arrays in folders named like `target.decoder.layers_0.mlp.wo.kernel`.
Only `target`, the parameters, is read; the optimizer state may be absent
(https://github.com/google-research/t5x, t5x/checkpoints.py).
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorstore as ts
from flax import serialization

from calm.models.t5 import T5, T5Config

TREE = 'checkpoint'


class Directory:
  """What a checkpoint directory of T5X holds; arrays are read one by one, when asked for.

  Attributes:
    network: the class of the network, T5.
    config_class: that of its config.
    shapes: the shape of every parameter found, by name: 'decoder.layers_0.mlp.wo.kernel'.

  Raises:
    ValueError: a file is damaged, or its content is not a T5X checkpoint's.
  """

  network = T5
  config_class = T5Config

  def __init__(self, directory: Path):
    self._path = directory
    leaves = dict(_leaves(_read_target(directory / TREE)))
    if not leaves:
      raise ValueError(f'{directory / TREE} holds no parameters under "target".')
    opening = {name: self._open(name, leaf) for name, leaf in leaves.items()}
    self._arrays = {name: self._result(name, array) for name, array in opening.items()}
    self.shapes = {name: tuple(array.shape) for name, array in self._arrays.items()}

  @property
  def config(self) -> T5Config:
    """A T5Config inferred from the shapes; says on stderr what they cannot tell.

    Raises:
      ValueError: an array that tells a size is missing.
    """
    vocab_size, emb_dim = self._sizes('token_embedder.embedding')
    num_heads, num_buckets = self._sizes('decoder.relpos_bias.rel_embedding')
    _, joined = self._sizes('decoder.layers_0.self_attention.query.kernel')
    mlp_dim, _ = self._sizes('decoder.layers_0.mlp.wo.kernel')
    gated = 'decoder.layers_0.mlp.wi_0.kernel' in self.shapes
    if joined % num_heads:
      raise ValueError(f'{self._path}: query kernels of width {joined} for {num_heads} heads.')
    config = T5Config(
      vocab_size=vocab_size,
      emb_dim=emb_dim,
      num_heads=num_heads,
      head_dim=joined // num_heads,
      mlp_dim=mlp_dim,
      num_encoder_layers=self._count('encoder'),
      num_decoder_layers=self._count('decoder'),
      mlp_activations=('gelu', 'linear') if gated else ('relu',),
      logits_via_embedding='decoder.logits_dense.kernel' not in self.shapes,
      relpos_num_buckets=num_buckets,
    )
    print(
      f'{self._path}: sizes inferred from the shapes, which do not tell the activation '
      f'(taken as {config.mlp_activations[0]}), relpos_max_distance ({config.relpos_max_distance}) '
      f'and norm_epsilon ({config.norm_epsilon}). Give a config if they differ.',
      file=sys.stderr,
    )
    return config

  @staticmethod
  def name(flat: str) -> str:
    """T5X's name of the parameter with the flat name `flat`."""
    return flat.replace('/', '.')

  @staticmethod
  def shape(flat: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in which T5X keeps a parameter of our `shape`: the same."""
    del flat
    return tuple(shape)

  def read(self, flat: str) -> np.ndarray:
    """The parameter with flat name `flat`, as a float32 array."""
    name = self.name(flat)
    array = self._arrays[name]
    if isinstance(array, ts.TensorStore):
      array = self._result(name, array.read())
    return np.array(array, np.float32)

  def differences(self, config: T5Config) -> list[str]:
    """Lines about settings that differ; T5X keeps none."""
    del config
    return []

  def beyond(self, config: T5Config) -> list[str]:
    """Names of the parameters of decoder layers beyond those of `config`."""
    layers = ((name, re.match(r'decoder\.layers_(\d+)\.', name)) for name in self.shapes)
    return [name for name, at in layers if at and int(at[1]) >= config.num_decoder_layers]

  def left_out(self, config: T5Config) -> list[str]:
    """Names of the parameters for which a network of `config` has no place: none are let pass."""
    del config
    return []

  def _open(self, name: str, leaf: Any) -> Any:
    """An array, or the future of an open tensorstore."""
    if isinstance(leaf, np.ndarray):
      return leaf
    where = f'{self._path / TREE}: {name}'
    if not isinstance(leaf, dict):
      raise ValueError(f'{where} is neither an array nor a tensorstore spec.')
    if leaf.get('driver') != 'zarr':
      raise ValueError(f'{where} is kept by {leaf.get("driver")!r}; only zarr is supported.')
    kvstore = leaf.get('kvstore')
    folder = PurePosixPath(str(kvstore.get('path', '') if isinstance(kvstore, dict) else '')).name
    if folder in ('', '..'):
      raise ValueError(f'{where} names no folder.')
    # The spec may tell of the storage where the checkpoint was written; it lies here, in a folder
    # of the same name. A chunk that is missing is an error: it would read as zeros.
    path = f'{self._path / folder}/'
    kvstore = {'driver': 'file', 'path': path}
    spec = {'driver': 'zarr', 'kvstore': kvstore, 'fill_missing_data_reads': False}
    return ts.open(spec, open=True, read=True)

  def _result(self, name: str, array: Any) -> Any:
    if isinstance(array, np.ndarray):
      return array
    try:
      return array.result()
    except Exception as error:
      raise ValueError(f'{self._path}: {name} cannot be read: {error}') from error

  def _sizes(self, name: str) -> tuple[int, ...]:
    shape = self.shapes.get(name, ())
    if len(shape) != 2:
      raise ValueError(f'{self._path}: sizes are read off {name}, which is absent: give a config.')
    return shape

  def _count(self, stack: str) -> int:
    numbers = (re.match(rf'{stack}\.layers_(\d+)\.', name) for name in self.shapes)
    return len({number[1] for number in numbers if number})


def _read_target(path: Path) -> dict[str, Any]:
  """The tree of parameters in the msgpack file `path`."""
  try:
    tree = serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # Whatever msgpack and NumPy make of foreign bytes.
    raise ValueError(f'{path} is not a whole msgpack file: {error}') from error
  state = tree.get('optimizer', tree) if isinstance(tree, dict) else {}
  target = state.get('target') if isinstance(state, dict) else None
  if not isinstance(target, dict):
    raise ValueError(f'{path} is no T5X checkpoint: there is no "target" in it.')
  return target


def _leaves(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
  """Pairs of a '.'-joined name and an array or tensorstore spec."""
  for key, value in tree.items():
    if isinstance(value, dict) and 'driver' not in value:
      yield from _leaves(value, (*prefix, str(key)))
    else:
      yield '.'.join((*prefix, str(key))), value
