"""What a step minimises: token losses, and CALM's weighted loss over all decoder layers (Eq. 6).

An `Objective` ties a model to its loss; the loop (`calm.training.loop`) knows nothing else of
either. It returns sums over tokens or examples, never means: the loop adds the sums of all
micro-batches and devices and divides once, so that how a batch is cut changes nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm import settings
from calm.models.parameters import Network

Batch = Mapping[str, jax.Array]  # Rows first, by feature.


class Objective(Protocol):
  """A model with its loss.

  `partition_rules` pairs patterns of parameter paths with PartitionSpecs over ('data', 'model').

  It may hold arrays that are not trained, as a teacher's parameters: a tree `frozen`, with a method
  `holding(frozen)` that gives the same objective with others of their shapes. They are placed on
  devices once and never saved; a run goes on with the same ones only.
  """

  @property
  def unit(self) -> str:
    """What 'weight' counts, in the singular: 'token' or 'example'."""

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The network's."""

  def init(self, key: jax.Array) -> Any:
    """Fresh parameters."""

  def __call__(
    self, params: Any, batch: Batch, key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (summed loss, sums) for a batch of arrays with rows first.

    `sums` holds 'weight', what the loss is to be divided by, and whatever else is to be reported
    divided by it. Without a key there is no dropout and nothing is sampled: evaluation.
    """


@jax.custom_vjp
def normaliser_and_target(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Log of the summed exponentials of logits[..., V], and the logit of targets[...]; each [...].

  Its gradient is one element-wise pass over the exponentials kept; that of a gather would be a
  scatter.
  """
  return _keep_exponentials(logits, targets)[0]


def _keep_exponentials(
  logits: jax.Array, targets: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
  largest = logits.max(-1)
  exponentials = jnp.exp(logits - largest[..., None])
  total = exponentials.sum(-1)
  target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return (jnp.log(total) + largest, target_logit), (exponentials, total, targets)


def _logits_gradient(
  kept: tuple[jax.Array, jax.Array, jax.Array], gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, None]:
  exponentials, total, targets = kept
  of_log_z, of_target = gradients
  is_target = jnp.arange(exponentials.shape[-1]) == targets[..., None]
  through_log_z = exponentials * (of_log_z / total)[..., None]
  return through_log_z + jnp.where(is_target, of_target[..., None], 0), None


normaliser_and_target.defvjp(_keep_exponentials, _logits_gradient)


def cross_entropy(
  logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> jax.Array:
  """Cross-entropy in nats of float32 logits[..., V] against int32 targets[...]; same shape.

  Smoothed targets put 1 - label_smoothing on the target and spread the rest over the other
  tokens; their entropy is subtracted, so that a perfect prediction costs 0. `z_loss` times the
  squared log-normaliser is added (Mesh TensorFlow; as in T5X). No [..., V] target is made.
  """
  vocab_size = logits.shape[-1]
  log_z, target_logit = normaliser_and_target(logits, targets)
  loss = log_z - target_logit
  if label_smoothing:
    confidence = 1.0 - label_smoothing
    rest = label_smoothing / (vocab_size - 1)
    entropy = -(confidence * jnp.log(confidence) + label_smoothing * jnp.log(rest))
    # The smoothed target q sums to 1, so sum_v q_v (log_z - logit_v) needs two sums of logits.
    loss = log_z - (confidence - rest) * target_logit - rest * logits.sum(-1) - entropy
  if z_loss:
    loss += z_loss * jnp.square(log_z)
  return loss


def weighted_sum(
  loss_at: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
  weights: Sequence[jax.typing.ArrayLike],
  keys: Sequence[jax.Array | None],
) -> Callable[[Any, Sequence[jax.Array]], tuple[jax.Array, Any]]:
  """Sums weights[i] * loss over hiddens[i], for `loss_at(params, hidden, key) -> (loss, aux)`.

  Returns a function of (params, hiddens) that gives (sum, aux of the last). Where a gradient is
  wanted it is computed along with each loss and added up, so that the logits are neither kept for
  the backward pass nor made again in it. `aux` has no gradient.
  """
  exits = tuple(zip(weights, keys, strict=True))

  @jax.custom_vjp
  def weighted(params: Any, hiddens: Sequence[jax.Array]) -> tuple[jax.Array, Any]:
    total = jnp.float32(0)
    for hidden, (weight, key) in zip(hiddens, exits, strict=True):
      loss, aux = loss_at(params, hidden, key)
      total += weight * loss
    return total, aux

  def with_gradients(
    params: Any, hiddens: Sequence[jax.Array]
  ) -> tuple[tuple[jax.Array, Any], tuple[Any, tuple[jax.Array, ...]]]:
    gradient = jax.value_and_grad(loss_at, (0, 1), has_aux=True)
    total, of_params, of_hiddens = jnp.float32(0), jax.tree.map(jnp.zeros_like, params), []
    for hidden, (weight, key) in zip(hiddens, exits, strict=True):
      (loss, aux), (of_param, of_hidden) = gradient(params, hidden, key)
      total += weight * loss
      of_params = jax.tree.map(lambda sum, g, w=weight: sum + w * g, of_params, of_param)
      of_hiddens.append((weight * of_hidden).astype(hidden.dtype))
    return (total, aux), (of_params, tuple(of_hiddens))

  def scaled(gradients: Any, of_outputs: tuple[jax.Array, Any]) -> Any:
    return jax.tree.map(lambda g: (g * of_outputs[0]).astype(g.dtype), gradients)

  weighted.defvjp(with_gradients, scaled)
  return weighted


def decoder_states(model: Network, params: Any, batch: Batch, key: jax.Array | None = None) -> Any:
  """Teacher-forced states of a T5 after every decoder layer: a tuple of L arrays [B, T, D].

  `batch` is as `calm.tasks.batches` makes it; without a key there is no dropout.
  """
  return model.apply(
    {'params': params},
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    batch.get('encoder_segment_ids'),
    batch.get('decoder_segment_ids'),
    deterministic=key is None,
    rngs=_rngs(key),
  )


def exit_weights(weights: str | Sequence[float], num_layers: int) -> tuple[float, ...]:
  """Weights of the losses after decoder layers 1 to L, summing to 1: a tuple of L floats.

  'linear' is i / sum(i), CALM's choice (section 3.4, Eq. 6); 'uniform' weighs all alike; 'last'
  trains the last layer only, the plain T5; numbers are used as they are, divided by their sum.

  Raises:
    ValueError: an unknown name, the wrong number of weights, or one that is negative or NaN.
  """
  if isinstance(weights, str):
    named = {
      'linear': range(1, num_layers + 1),
      'uniform': [1] * num_layers,
      'last': [0] * (num_layers - 1) + [1],
    }
    if weights not in named:
      wanted = f'one of {", ".join(named)}, or numbers'
      raise settings.SettingError('exit_weights', weights, wanted)
    weights = named[weights]
  weights = [float(weight) for weight in weights]
  if len(weights) != num_layers:
    wanted = f'a weight for each of {num_layers} decoder layers'
    raise settings.SettingError('exit_weights', weights, wanted)
  if not all(0 <= weight < float('inf') for weight in weights) or not sum(weights):
    raise settings.SettingError('exit_weights', weights, 'numbers of at least 0, and not all 0')
  return tuple(weight / sum(weights) for weight in weights)


class EncoderDecoder(Network, Protocol):
  """A network whose every decoder layer has the same head, as `calm.models.t5.T5`."""

  def head_params(self, params: Any) -> Any:
    """The part of its parameters that `head` reads."""


@dataclasses.dataclass(frozen=True)
class EncoderDecoderObjective:
  """Negative log-likelihood of the targets, at one or at all decoder layers.

  CALM's Eq. 6: the weighted mean over decoder layers of the loss of the shared head on that
  layer's state. Schuster et al., section 3.4, https://arxiv.org/abs/2207.07061.

  `num_sampled_exits` saves heads: of the layers that have a weight, the last and so many less one
  of the others are computed in a step, drawn without replacement; the drawn ones' weights are
  scaled up so that the expected loss is the full one.
  """

  model: EncoderDecoder
  label_smoothing: settings.ShareBelow1 = 0.0
  z_loss: settings.NonNegative = 1e-4
  exit_weights: str | Sequence[settings.NonNegative] = 'linear'
  num_sampled_exits: settings.Count | None = None

  unit = 'token'  # What weights count.

  def __post_init__(self) -> None:
    settings.check_fields(self)
    if not isinstance(self.exit_weights, str):  # Lists arrive from gin; keep it hashable.
      object.__setattr__(self, 'exit_weights', tuple(self.exit_weights))
    weights = exit_weights(self.exit_weights, self.model.config.num_decoder_layers)
    sampled = self.num_sampled_exits
    if sampled is not None and sampled < 1 + any(weights[:-1]):
      wanted = 'at least 2, which leaves one for the layers before the last'
      raise settings.SettingError('num_sampled_exits', sampled, wanted)

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The network's: see `calm.training.sharding.by_rules`."""
    return self.model.partition_rules

  def init(self, key: jax.Array) -> Any:
    """Fresh float32 parameters of the network."""
    return self.model.init_params(key)

  def __call__(
    self, params: Any, batch: Batch, key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over target tokens of a batch as `calm.tasks.batches` makes it.

    Returns:
      (summed loss of Eq. 6 in nats, {'weight': number of target tokens, 'loss_last_layer':
      summed negative log-likelihood after the last layer in nats, 'accuracy': number of tokens
      that the last layer predicts}).
    """
    total, sums, _ = self.with_states(params, batch, key)
    return total, sums

  def with_states(
    self,
    params: Any,
    batch: Batch,
    key: jax.Array | None = None,
    token_loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array], Sequence[jax.Array]]:
    """As a call, with another loss of each token, and with the states that it is of.

    Args:
      params, batch, key: as of a call.
      token_loss: gives the losses [B, T] after a layer of the likelihood's losses [B, T] and of
        logits [B, T, V]; None keeps the former.

    Returns:
      (summed loss, sums, states [B, T, D] after each decoder layer).
    """
    dropout_key, head_key, exit_key = _split(key)
    states = decoder_states(self.model, params, batch, dropout_key)
    targets = batch['decoder_target_tokens']
    token_weights = batch['decoder_loss_weights'].astype(jnp.float32)

    def losses_at(
      params: Any, hidden: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
      logits: Any = self.model.apply(
        {'params': params},
        hidden,
        deterministic=key is None,
        rngs=_rngs(key),
        method='head',
      )
      loss = cross_entropy(logits, targets, self.label_smoothing, self.z_loss)
      if token_loss is not None:
        loss = token_loss(loss, logits)
      log_z, target_logit = normaliser_and_target(logits, targets)
      # Where the target's is the largest logit; ties count as predicted.
      correct = target_logit >= logits.max(-1)
      loss, nll, correct = (
        (x * token_weights).sum() for x in (loss, log_z - target_logit, correct)
      )
      return loss, (nll, correct)

    hiddens, weights = zip(*self._exits(states, exit_key), strict=True)
    keys = [
      None if head_key is None else jax.random.fold_in(head_key, i) for i in range(len(weights))
    ]
    # The last of the exits is the last layer.
    of_head = self.model.head_params(params)
    total, (nll, correct) = weighted_sum(losses_at, weights, keys)(of_head, hiddens)
    sums = {'weight': token_weights.sum(), 'loss_last_layer': nll, 'accuracy': correct}
    return total, sums, states

  def _exits(
    self, states: Sequence[jax.Array], key: jax.Array | None
  ) -> list[tuple[jax.Array, jax.typing.ArrayLike]]:
    """Pairs of a state[B, T, D] and its weight, the last layer's at the end."""
    weights = exit_weights(self.exit_weights, len(states))
    last = (states[-1], weights[-1])
    others = [pair for pair in zip(states[:-1], weights[:-1], strict=True) if pair[1]]
    num_drawn = len(others) if self.num_sampled_exits is None else self.num_sampled_exits - 1
    if key is None or num_drawn >= len(others):
      return [*others, last]
    stacked, stacked_weights = (jnp.stack(column) for column in zip(*others, strict=True))
    drawn = jax.random.choice(key, len(others), (num_drawn,), replace=False)
    scale = len(others) / num_drawn
    return [*((stacked[i], stacked_weights[i] * scale) for i in drawn), last]


def _split(key: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None, jax.Array | None]:
  """Keys for the network's dropout, the heads' dropout and the draw of exits; None without one."""
  return (None, None, None) if key is None else tuple(jax.random.split(key, 3))


def _rngs(key: jax.Array | None) -> dict[str, jax.Array]:
  return {} if key is None else {'dropout': key}
