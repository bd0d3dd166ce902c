"""What training minimises: every classifier's loss, and which parameters each may change.

- `early_exit`: the sum of all losses reaches everything (the paper's baseline);
- `sweet`: each loss stops at the exit below its classifier, so that a parameter is changed by one
  classifier only (section 4.1);
- `alternating`: the last classifier's loss alone and all losses in turn (BERxiT);
- `multi_model`: independent models.

Rotem et al., https://arxiv.org/abs/2306.02307; Xin et al., https://aclanthology.org/2021.eacl-main.8.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from calm.training.optimizers import Optimizer
from sweet.model import EarlyExitClassifier, ExitsConfig
from sweet.multi_model import MultiModel

METHODS = ('early_exit', 'sweet', 'multi_model', 'alternating')
Classifiers = EarlyExitClassifier | MultiModel
# Of the losses [B] by labels and outputs [B, C]: other losses [B], and sums to report, each of [B].
RowLoss = Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def classifiers(config: ExitsConfig, method: str = 'sweet') -> Classifiers:
  """The network that a method trains.

  Raises:
    ValueError: the method is none of METHODS.
  """
  check_method(method)
  return MultiModel(config) if method == 'multi_model' else EarlyExitClassifier(config)


def check_method(method: str) -> None:
  """Raises ValueError for what is none of METHODS."""
  if method not in METHODS:
    raise ValueError(f'method (METHOD): {method!r} is not one of {", ".join(METHODS)}.')


@dataclasses.dataclass(frozen=True)
class ExitsObjective:
  """The weighted sum of every classifier's loss, a `calm.training.losses.Objective`.

  The loss of a classification is the cross entropy in nats, of a regression (one output) the
  squared error. A module that learns to exit has the squared error of its probability against
  whether its classifier is right, of a regression against 1 - tanh(|error|) (BERxiT, section 3.3).

  Raises:
    ValueError: the method is none of METHODS or not the model's, or the weights do not fit.
  """

  unit = 'example'  # What weights count.

  model: Classifiers
  method: str = 'sweet'
  weights: Sequence[float] | None = None  # of the losses; None is 1 for each, as in the paper
  regression: bool = False

  def __post_init__(self) -> None:
    check_method(self.method)
    if isinstance(self.model, MultiModel) != (self.method == 'multi_model'):
      raise ValueError(f'method {self.method!r} does not train a {type(self.model).__name__}.')
    exits = self.model.exits
    weights = (1.0,) * len(exits) if self.weights is None else tuple(map(float, self.weights))
    if len(weights) != len(exits) or not all(0 <= weight < float('inf') for weight in weights):
      raise ValueError(f'weights are {weights}: {len(exits)} of 0 or more are needed.')
    object.__setattr__(self, 'weights', weights)
    if self.regression and self.model.config.num_outputs != 1:
      raise ValueError('A regression has num_outputs = 1.')

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The encoder's: see `calm.training.sharding.by_rules`."""
    return self.model.partition_rules

  def init(self, key: jax.Array) -> Any:
    """Fresh float32 parameters."""
    return self.model.init_params(key)

  def __call__(
    self, params: Any, batch: Mapping[str, Any], key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over the rows of a batch of `calm.tasks.length_sorted`.

    Returns:
      (summed loss, {'weight': number of rows, 'loss_<k>' of each classifier k, and 'accuracy_<k>'
      of a classification}).
    """
    total, sums, _ = self.with_state(params, batch, key)
    return total, sums

  def with_state(
    self,
    params: Any,
    batch: Mapping[str, Any],
    key: jax.Array | None = None,
    row_loss: RowLoss | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """As a call, with another loss of each row, and with the state that the last classifier read.

    Args:
      params, batch, key: as of a call.
      row_loss: gives the losses [B] of a classifier, and sums to report by name, each of [B], of
        the labels' losses [B] and of outputs [B, C]; None keeps the former.

    Returns:
      (summed loss, sums, state [B, T, D], None of models that share none).
    """
    losses, state = [], None
    sums: dict[str, jax.Array] = {}
    for k, weight in enumerate(self.weights or (), 1):
      if self.method == 'sweet':
        state = jax.lax.stop_gradient(state)
      state, outputs, scores = self.model.stage(
        params, k, batch, state, stopped=self.method == 'sweet', key=key
      )
      loss, rightness = self.row_losses(outputs, batch['labels'])
      of_rows = {'loss': loss} if self.regression else {'loss': loss, 'accuracy': rightness}
      if row_loss is not None:
        loss, more = row_loss(loss, outputs)
        of_rows |= more
      if scores is not None:
        target = jax.lax.stop_gradient(rightness)
        of_rows['exit_loss'] = jnp.square(jax.nn.sigmoid(scores) - target)
        loss += of_rows['exit_loss']
      losses.append(weight * (loss * batch['weights']).sum())
      sums |= {f'{name}_{k}': (rows * batch['weights']).sum() for name, rows in of_rows.items()}
    total = sum(losses)
    if self.method == 'alternating' and key is not None:
      # BERxiT's odd iterations, counted from 1, train the last classifier alone.
      total = jnp.where(batch['batch_number'][0] % 2 == 0, losses[-1], total)
    return total, {'weight': batch['weights'].sum(), **sums}, state

  def row_losses(self, outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each row its loss [B], and how right the classifier is, in [0, 1]."""
    if self.regression:
      error = outputs[..., 0] - labels.astype(jnp.float32)
      return jnp.square(error), 1 - jnp.tanh(jnp.abs(error))
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return loss, (outputs.argmax(-1) == labels).astype(jnp.float32)


def clipped_by_classifier(
  optimizer: Optimizer, model: Classifiers, max_gradient_norm: float = 1.0
) -> Optimizer:
  """An optimizer that first clips the gradient of what each classifier owns by its own norm.

  A norm over all parameters would couple the classifiers again. What has no owner is clipped as
  one more group.

  Raises:
    ValueError: max_gradient_norm is not above 0.
  """
  if not max_gradient_norm > 0:
    raise ValueError(f'max_gradient_norm must be above 0, not {max_gradient_norm}.')

  def owners(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: model.owner(jax.tree_util.keystr(path, simple=True, separator='/')) or 0, tree
    )

  clip = optax.clip_by_global_norm(max_gradient_norm)
  groups = optax.partition(dict.fromkeys(range(len(model.exits) + 1), clip), owners)
  return Optimizer(
    optax.chain(groups, optimizer.transformation),
    optimizer.learning_rate,
  )
