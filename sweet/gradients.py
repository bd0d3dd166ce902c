"""Conflicting gradients: do the classifiers want to move a layer the same way?

Rotem et al., section 3.1 and Figures 3 and 9, https://arxiv.org/abs/2306.02307.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from calm import storage
from calm.reporting import figures
from calm.settings import Count, Natural, Seed
from calm.tasks.length_sorted import padded_length
from sweet.data import Rows, draw
from sweet.model import EarlyExitClassifier
from sweet.objectives import ExitsObjective

FOLDER = 'gradients'


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


def measure(
  *,
  model: EarlyExitClassifier,
  params: Any,
  rows: Rows,
  workdir: str,
  split: str = 'train',
  num_held_out: Natural = 500,
  batch_size: Count = 16,
  num_batches: Count = 2,
  seed: Seed = 0,
) -> list[dict[str, Any]]:
  """Measures similarities on batches that were not trained on; prints and keeps them.

  `workdir`/gradients gets gradients.json and gradients.png, in the manner of Figures 3 and 9. The
  dashed lines of the picture are the deviation of the mean cosine of random directions.

  Args:
    model: of the run; the paper's was trained with `early_exit`, for 400 steps.
    params: of the model.
    rows: of the task.
    workdir: of the run.
    split: whose held-out rows are taken.
    num_held_out, seed: as the run was trained with; see `sweet.data.draw`.
    batch_size: rows of a batch.
    num_batches: how many are measured, each for itself; the paper's Figure 9 is a second one.

  Returns:
    Rows of 'batch' (from 1), 'layer', 'classifiers' (two), 'cosine' and 'random'.

  Raises:
    ValueError: the model is none whose classifiers share layers, or the held-out rows are too few.
  """
  if not isinstance(model, EarlyExitClassifier):
    raise ValueError(
      'The models of `multi_model` share no layer, so that their gradients cannot conflict: name a'
      ' run of another method.'
    )
  found = []
  batches = _batches(rows, split, num_held_out, seed, batch_size, num_batches)
  for number, batch in enumerate(batches, 1):
    measured = similarities(model, params, batch, regression=rows.regression)
    found += [{'batch': number, **dataclasses.asdict(one)} for one in measured]
  folder = Path(workdir, FOLDER)
  storage.write_json(folder / 'gradients.json', {'similarities': found})
  figures.save_png(figure(found), folder / 'gradients.png')
  print(markdown(found))
  return found


def figure(found: Sequence[Mapping[str, Any]]) -> Figure:
  """The picture of what `measure` returns: a plot for each layer, a place for each pair."""
  shown = [
    {
      'panel': f'layer {row["layer"]}',
      'place': 'C{}, C{}'.format(*row['classifiers']),
      'series': f'batch {row["batch"]}',
      'cosine': row['cosine'],
      'random': row['random'],
    }
    for row in found
  ]
  return figures.bars(shown, 'cosine', 'random', 'mean cosine of gradients')


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
  """The table of what `measure` returns: a line for each layer and pair, a column per batch."""
  numbers = sorted({row['batch'] for row in found})
  lines = [
    '| layer | classifiers |' + ''.join(f' batch {n} |' for n in numbers) + ' random |',
    '| ---: | --- |' + ' ---: |' * (len(numbers) + 1),
  ]
  places = dict.fromkeys((row['layer'], tuple(row['classifiers'])) for row in found)
  for layer, pair in places:
    of_pair = [row for row in found if (row['layer'], tuple(row['classifiers'])) == (layer, pair)]
    cells = [f'{row["cosine"]:.3f}' for row in of_pair] + [f'±{of_pair[0]["random"]:.3f}']
    lines.append(f'| {layer} | {pair[0]}, {pair[1]} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _batches(
  rows: Rows, split: str, num_held_out: int, seed: int, batch_size: int, num_batches: int
) -> Iterator[dict[str, Any]]:
  """The first held-out rows, in batches."""
  encoded = rows.encoded(split)
  held_out = draw(len(encoded), num_held_out=num_held_out, seed=seed).held_out
  if len(held_out) < batch_size * num_batches:
    raise ValueError(
      f'{num_batches} batches of {batch_size} need {batch_size * num_batches} held-out rows, and'
      f' {rows.task.name} {split} has {len(held_out)} (NUM_HELD_OUT, a tenth of all at most): set'
      ' NUM_BATCHES or BATCH_SIZE lower.'
    )
  held_out = np.random.default_rng(seed).permutation(held_out)
  lengths = np.diff(encoded.tokens.offsets)
  for start in range(0, batch_size * num_batches, batch_size):
    some = held_out[start : start + batch_size]
    batch = encoded.batch(some, batch_size, padded_length(int(lengths[some].max()), rows.length))
    yield {**batch, 'batch_number': np.zeros(batch_size, np.int32)}


@functools.partial(jax.jit, static_argnames=('model', 'k', 'regression'))
def _gradients(
  model: EarlyExitClassifier, params: Any, batch: Mapping[str, Any], k: int, regression: bool
) -> list[jax.Array]:
  """The gradients [F, D] of classifier k's loss, of the last matrix of each block but the last."""
  names = [f'layers_{layer - 1}' for layer in model.exits[:-1]]
  weights = [float(other == k) for other in range(len(model.exits))]
  objective = ExitsObjective(model, 'early_exit', weights, regression)
  held = [params['encoder'][name]['mlp']['wo']['kernel'] for name in names]

  def loss(kernels: Sequence[jax.Array]) -> jax.Array:
    encoder = dict(params['encoder'])
    for name, kernel in zip(names, kernels, strict=True):
      mlp = {**encoder[name]['mlp'], 'wo': {**encoder[name]['mlp']['wo'], 'kernel': kernel}}
      encoder[name] = {**encoder[name], 'mlp': mlp}
    total, sums = objective({**params, 'encoder': encoder}, batch)
    return total / jnp.maximum(sums['weight'], 1)

  return jax.grad(loss)(held)


def _cosines(one: jax.typing.ArrayLike, other: jax.typing.ArrayLike) -> np.ndarray:
  """Cosines [D] of the columns of two matrices [F, D]: the rows of theirs; 0 where one is 0."""
  one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
  lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
  return (one * other).sum(0) / np.where(lengths == 0, 1, lengths)
