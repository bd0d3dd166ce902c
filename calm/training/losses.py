"""What a step minimises: token losses, and CALM's weighted loss over all decoder layers (Eq. 6).

An `Objective` ties a model to its loss; the loop (`calm.training.loop`) knows nothing else of
either. It returns sums over tokens or examples, never means: the loop adds the sums of all
micro-batches and devices and divides once, so that how a batch is cut changes nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from calm.models import t5


class Objective(Protocol):
  """A model with its loss.

  `partition_rules` pairs patterns of parameter paths with PartitionSpecs over ('data', 'model').
  """

  partition_rules: Sequence[tuple[str, jax.sharding.PartitionSpec]]

  def init(self, key: jax.Array) -> Any:
    """Fresh parameters."""

  def __call__(self, params, batch, key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (summed loss, sums) for a batch of arrays with rows first.

    `sums` holds 'weight', what the loss is to be divided by, and whatever else is to be reported
    divided by it. Without a key there is no dropout and nothing is sampled: evaluation.
    """


def cross_entropy(logits, targets, label_smoothing=0.0, z_loss=0.0):
  """Cross-entropy in nats of float32 logits[..., V] against int32 targets[...]; same shape.

  Smoothed targets put 1 - label_smoothing on the target and spread the rest over the other
  tokens; their entropy is subtracted, so that a perfect prediction costs 0. `z_loss` times the
  squared log-normaliser is added (Mesh TensorFlow; as in T5X). No [..., V] target is made.
  """
  vocab_size = logits.shape[-1]
  log_z = jax.nn.logsumexp(logits, axis=-1)
  # A masked sum, whose gradient is element-wise; that of a gather is a scatter.
  is_target = jnp.arange(vocab_size) == targets[..., None]
  target_logit = jnp.where(is_target, logits, 0).sum(-1)
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


def decoder_states(model, params, batch, key=None) -> Any:
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


def exit_weights(weights, num_layers):
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
      raise ValueError(f'exit_weights: {weights!r} is not one of {sorted(named)}.')
    weights = named[weights]
  weights = [float(weight) for weight in weights]
  if len(weights) != num_layers:
    raise ValueError(f'exit_weights: {len(weights)} weights for {num_layers} decoder layers.')
  if not all(0 <= weight < float('inf') for weight in weights) or not sum(weights):
    raise ValueError(f'exit_weights must be 0 or more and not all 0: {weights}.')
  return tuple(weight / sum(weights) for weight in weights)


@dataclasses.dataclass(frozen=True)
class EncoderDecoderObjective:
  """Negative log-likelihood of the targets, at one or at all decoder layers.

  CALM's Eq. 6: the weighted mean over decoder layers of the loss of the shared head on that
  layer's state. Schuster et al., section 3.4, https://arxiv.org/abs/2207.07061.

  `num_sampled_exits` saves heads: of the layers that have a weight, the last and so many less one
  of the others are computed in a step, drawn without replacement; the drawn ones' weights are
  scaled up so that the expected loss is the full one.
  """

  model: t5.T5
  label_smoothing: float = 0.0
  z_loss: float = 1e-4
  exit_weights: str | Sequence[float] = 'linear'
  num_sampled_exits: int | None = None
  partition_rules: Any = t5.PARTITION_RULES

  def __post_init__(self):
    if not isinstance(self.exit_weights, str):  # Lists arrive from gin; keep it hashable.
      object.__setattr__(self, 'exit_weights', tuple(self.exit_weights))
    weights = exit_weights(self.exit_weights, self.model.config.num_decoder_layers)
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f'label_smoothing must be in [0, 1), not {self.label_smoothing}.')
    sampled = self.num_sampled_exits
    if sampled is not None and sampled < 1 + any(weights[:-1]):
      raise ValueError(f'num_sampled_exits: {sampled} leaves none for the layers before the last.')

  def init(self, key):
    """Fresh float32 parameters, the tree of a T5X checkpoint's `target`."""
    return t5.init_params(self.model.config, key)

  def __call__(self, params, batch, key=None):
    """Sums over target tokens of a batch as `calm.tasks.batches` makes it.

    Returns:
      (summed loss of Eq. 6 in nats, {'weight': number of target tokens, 'loss_last_layer':
      summed negative log-likelihood after the last layer in nats, 'accuracy': number of tokens
      that the last layer predicts}).
    """
    dropout_key, head_key, exit_key = _split(key)
    states = decoder_states(self.model, params, batch, dropout_key)
    targets = batch['decoder_target_tokens']
    token_weights = batch['decoder_loss_weights'].astype(jnp.float32)

    # Logits are made again in the backward pass: kept, those of all layers would fill the memory.
    @jax.checkpoint
    def token_losses(hidden, key):
      logits: Any = self.model.apply(
        {'params': params},
        hidden,
        deterministic=key is None,
        rngs=_rngs(key),
        method='head',
      )
      loss = cross_entropy(logits, targets, self.label_smoothing, self.z_loss)
      nll = cross_entropy(jax.lax.stop_gradient(logits), targets)
      # Where the target's is the largest logit; ties count as predicted.
      correct = nll <= jax.nn.logsumexp(logits, axis=-1) - logits.max(-1)
      return tuple((x * token_weights).sum() for x in (loss, nll, correct))

    total = jnp.float32(0)
    for number, (hidden, weight) in enumerate(self._exits(states, exit_key)):
      layer_key = None if head_key is None else jax.random.fold_in(head_key, number)
      loss, nll, correct = token_losses(hidden, layer_key)
      total += weight * loss
    # The last of the exits is the last layer.
    sums = {'weight': token_weights.sum(), 'loss_last_layer': nll, 'accuracy': correct}
    return total, sums

  def _exits(self, states, key):
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


def _split(key):
  """Keys for the network's dropout, the heads' dropout and the draw of exits; None without one."""
  return (None, None, None) if key is None else tuple(jax.random.split(key, 3))


def _rngs(key):
  return {} if key is None else {'dropout': key}
