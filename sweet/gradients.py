"""Conflicting gradients: do the classifiers want to move a layer the same way?

Rotem et al., section 3.1 and Figures 3 and 9, https://arxiv.org/abs/2306.02307.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sweet.model import EarlyExitClassifier
from sweet.objectives import ExitsObjective


@dataclasses.dataclass(frozen=True)
class Similarity:
  """How alike two classifiers' gradients of one layer are."""

  layer: int  # from 1, the last of a block
  classifiers: tuple[int, int]  # from 1, both at or behind the layer
  cosine: float  # mean over the rows, in [-1, 1]
  random: float  # the deviation of that mean if both had random directions


def similarities(
  model: EarlyExitClassifier, params: Any, batch: Mapping[str, Any], *, regression: bool = False
) -> list[Similarity]:
  """The mean cosine of the rows of gradients, of each layer before an exit but the last.

  The gradients are those of each classifier's own loss (the joint model's, nothing stopped,
  without dropout) with respect to the last feed-forward matrix of the layer. A row holds the
  weights into one output, as in the published code, whose matrices are [outputs, inputs].

  Args:
    model: with two exits at least.
    params: of the model.
    batch: of `calm.tasks.length_sorted`.
    regression: whether the labels are numbers.

  Raises:
    ValueError: there is a single exit.
  """
  exits = model.exits
  if len(exits) < 2:
    raise ValueError('Gradients of a single classifier conflict with none: give more exits.')
  found = []
  gradients = [_gradients(model, params, batch, k, regression) for k in range(len(exits))]
  for exit, layer in enumerate(exits[:-1]):
    of_layer = {k: gradients[k][exit] for k in range(exit, len(exits))}
    width, rows = next(iter(of_layer.values())).shape
    for first, second in itertools.combinations(of_layer, 2):
      cosine = float(np.mean(_cosines(of_layer[first], of_layer[second])))
      level = 1 / np.sqrt(width * rows)
      found.append(Similarity(layer, (first + 1, second + 1), cosine, float(level)))
  return found


@functools.partial(jax.jit, static_argnames=('model', 'k', 'regression'))
def _gradients(model, params, batch, k, regression):
  """The gradients [F, D] of classifier k's loss, of the last matrix of each block but the last."""
  names = [f'layers_{layer - 1}' for layer in model.exits[:-1]]
  weights = [float(other == k) for other in range(len(model.exits))]
  objective = ExitsObjective(model, 'early_exit', weights, regression)
  held = [params['encoder'][name]['mlp']['wo']['kernel'] for name in names]

  def loss(kernels):
    encoder = dict(params['encoder'])
    for name, kernel in zip(names, kernels, strict=True):
      mlp = {**encoder[name]['mlp'], 'wo': {**encoder[name]['mlp']['wo'], 'kernel': kernel}}
      encoder[name] = {**encoder[name], 'mlp': mlp}
    total, sums = objective({**params, 'encoder': encoder}, batch)
    return total / jnp.maximum(sums['weight'], 1)

  return jax.grad(loss)(held)


def _cosines(one, other):
  """Cosines [D] of the columns of two matrices [F, D]: the rows of theirs; 0 where one is 0."""
  one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
  lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
  return (one * other).sum(0) / np.where(lengths == 0, 1, lengths)
