"""Sub-networks of one BERT: fewer heads and neurons, fewer layers, of the same weights.

In the manner of DynaBERT (Hou et al., https://arxiv.org/abs/2004.04037), rounded as in its code:
of each layer the leftmost heads and neurons are kept, so that those that matter most are moved to
the left first. Parameters are those of a `calm.models.bert.Bert`, or of a network that has one
under a name of its own. N heads, F mlp_dim, L layers.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from calm.models import parameters
from calm.models.bert import BertConfig

# Which axis of a layer's parameter is that of its heads or of its neurons.
_AXES = (
  (r'attention/(?:query|key|value)/kernel', 'heads', 1),
  (r'attention/(?:query|key|value)/bias', 'heads', 0),
  (r'attention/out/kernel', 'heads', 0),
  (r'mlp/wi/kernel', 'neurons', 1),
  (r'mlp/wi/bias', 'neurons', 0),
  (r'mlp/wo/kernel', 'neurons', 0),
)


@dataclasses.dataclass(frozen=True)
class Importance:
  """How much the loss would change, to first order, without a head or a neuron."""

  heads: np.ndarray  # float[L, N]
  neurons: np.ndarray  # float[L, F]

  def __add__(self, other: 'Importance') -> 'Importance':
    return Importance(self.heads + other.heads, self.neurons + other.neurons)


def kept_layers(num_layers: int, depth: float) -> tuple[int, ...]:
  """The layers, from 0, that a depth multiplier keeps, evenly spread.

  Where 1 / (1 - depth) is a whole number d these are all but the d-th, 2d-th, ... layer; in general
  layers floor(i / depth) for i below round(depth num_layers), and at least one.

  Raises:
    ValueError: the multiplier is not in (0, 1].
  """
  _check(depth, 'depth')
  # So that two thirds, which no number is exactly, keep two layers of three.
  return tuple(math.floor(i / depth + 1e-9) for i in range(max(1, round(depth * num_layers))))


def smaller(config: BertConfig, width: float = 1.0, depth: float = 1.0) -> BertConfig:
  """The config of a sub-network.

  Args:
    config: of the whole.
    width: share of the heads of each layer, rounded to whole ones, and at least one; the neurons
      are the same share.
    depth: share of the layers: `kept_layers`.

  Raises:
    ValueError: a share is not in (0, 1], or the encoder is no BERT.
  """
  _check(width, 'width')
  if not isinstance(config, BertConfig):
    raise ValueError(f'Sub-networks are taken from a BERT, and this is a {type(config).__name__}.')
  heads = max(1, round(config.num_heads * width))
  return dataclasses.replace(
    config,
    num_heads=heads,
    head_size=config.head_dim,
    mlp_dim=max(1, int(heads / config.num_heads * config.mlp_dim)),
    num_layers=len(kept_layers(config.num_layers, depth)),
  )


def take(params: Any, config: BertConfig, width: float = 1.0, depth: float = 1.0) -> Any:
  """The parameters of a sub-network, a nested dict of parts of `params`.

  Args:
    params: of the whole; what is in no layer stays as it is.
    config: of the whole.
    width, depth: as `smaller` takes them.
  """
  part = smaller(config, width, depth)
  sizes = {'heads': part.joined_dim, 'neurons': part.mlp_dim}
  places = {layer: at for at, layer in enumerate(kept_layers(config.num_layers, depth))}
  taken = {}
  for name, value in parameters.flatten(params).items():
    before, layer, rest = _layer(name)
    if layer is None:
      taken[name] = value
    elif layer in places:
      if along := _axis(rest):
        value = value[(slice(None),) * along[1] + (slice(sizes[along[0]]),)]
      taken[f'{before}layers_{places[layer]}/{rest}'] = value
  return parameters.unflatten(taken)


def importance(params: Any, gradient: Any, config: BertConfig) -> Importance:
  """First-order importance of heads and neurons, of a gradient of a loss by parameters.

  |sum of w dL/dw| over the weights w that lead away from a head or a neuron: by so much the loss
  changes to first order if what it gives is left out (section 2.1).
  """
  found = {
    'heads': np.zeros((config.num_layers, config.num_heads)),
    'neurons': np.zeros((config.num_layers, config.mlp_dim)),
  }
  gradients = parameters.flatten(gradient)
  for name, value in parameters.flatten(params).items():
    _, layer, rest = _layer(name)
    if layer is not None and rest in ('attention/out/kernel', 'mlp/wo/kernel'):
      one = found['heads' if rest.startswith('attention') else 'neurons'][layer]
      products = np.asarray(value, np.float64) * np.asarray(gradients[name], np.float64)
      one[:] = np.abs(products.reshape(len(one), -1).sum(1))
  return Importance(found['heads'], found['neurons'])


def reorder(params: Any, config: BertConfig, of: Importance) -> Any:
  """The same network, whose heads and neurons stand by falling importance: the same function."""
  orders = {
    'heads': _over_numbers(np.argsort(-of.heads, axis=1, kind='stable'), config.head_dim),
    'neurons': np.argsort(-of.neurons, axis=1, kind='stable'),
  }

  moved = {}
  for name, value in parameters.flatten(params).items():
    _, layer, rest = _layer(name)
    along = None if layer is None else _axis(rest)
    moved[name] = value if along is None else value.take(orders[along[0]][layer], along[1])
  return parameters.unflatten(moved)


def _layer(name: str) -> tuple[str, int | None, str]:
  """What stands before a layer's name, its number, and the name within it."""
  match = re.fullmatch(r'(.*?)\blayers_(\d+)/(.*)', name)
  return (match[1], int(match[2]), match[3]) if match else ('', None, name)


def _axis(rest: str) -> tuple[str, int] | None:
  found = ((kind, axis) for pattern, kind, axis in _AXES if re.fullmatch(pattern, rest))
  return next(found, None)


def _over_numbers(heads: np.ndarray, head_dim: int) -> np.ndarray:
  """The order of the numbers [L, N H] of an order of heads [L, N]."""
  return (heads[..., None] * head_dim + np.arange(head_dim)).reshape(len(heads), -1)


def _check(share: float, name: str) -> None:
  if not 0 < share <= 1:
    raise ValueError(f'{name} ({name.upper()}) must be in (0, 1], not {share}.')
