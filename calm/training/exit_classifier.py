"""CALM's second stage: a linear classifier that says whether a token may stop after a layer.

It sees the state alone and predicts whether the shared head, on this state, would say what it says
on the last layer's. Everything else is frozen, so that the model is what it was (Schuster et al.,
section 3.5, https://arxiv.org/abs/2207.07061).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from calm import settings
from calm.models.parameters import Network
from calm.training import losses

Kind = Literal['independent', 'geometric']
KINDS = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class ExitClassifierObjective:
  """Cross-entropy of the classifier against whether a layer predicts what the last one does.

  'independent' is CALM's choice: the mean of the layers before the last, each on its own.
  'geometric' is the geometric-like loss of Elbayad et al., https://arxiv.org/abs/1910.10073: with
  s_n the probability of stopping after layer n, a token exits there with
  q(n) = s_n prod_{k<n} (1 - s_k), and after the last layer with what is left. The loss is
  -log q(n) of the first layer that agrees with the last; what comes after it is ignored.

  Its parameters are the whole tree, and only the classifier's have a gradient: the network is run
  forwards, without dropout. `calm.training.optimizers.train_only` keeps the rest as it is.
  """

  model: Network
  kind: Kind = 'independent'

  unit = 'token'  # What weights count.

  def __post_init__(self) -> None:
    settings.check_fields(self)
    if not self.model.config.exit_classifier:
      raise ValueError('The model has no exit classifier: set T5Config.exit_classifier = True.')
    if self.model.config.num_decoder_layers < 2:
      raise ValueError('num_decoder_layers: an exit classifier needs at least 2, not 1.')

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The network's: see `calm.training.sharding.by_rules`."""
    return self.model.partition_rules

  def init(self, key: jax.Array) -> Any:
    """Fresh float32 parameters of the network, its classifier's among them."""
    return self.model.init_params(key)

  def __call__(
    self, params: Any, batch: losses.Batch, key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over target tokens of a batch as `calm.tasks.batches` makes it; draws nothing.

    Returns:
      (summed loss in nats, {'weight': number of target tokens, 'agreement': share of the layers
      before the last that predict what it does, 'accuracy': share of them where the classifier is
      right at a threshold of 0.5, 'false_exits': share where it stops and should not}).

    Always stopping has the accuracy `agreement` and `1 - agreement` false exits; the best constant
    probability has the entropy of `agreement` for a loss, if that is the independent one.
    """
    del key
    frozen = jax.lax.stop_gradient(params)
    states = jnp.stack(losses.decoder_states(self.model, frozen, batch))  # [L, B, T, D]

    def predict(hidden: jax.Array) -> jax.Array:
      logits: Any = self.model.apply({'params': frozen}, hidden, method='head')
      return logits.argmax(-1)

    predicted = jax.lax.map(predict, states)  # One layer at a time: the logits of all are large.
    agrees = predicted[:-1] == predicted[-1]  # [L-1, B, T]
    scores: Any = self.model.apply({'params': params}, states[:-1], method='exit_score')
    cross_entropies = optax.sigmoid_binary_cross_entropy(scores, agrees)
    if self.kind == 'geometric':
      # Up to the first layer that agrees, -log q is the same cross-entropy, summed.
      agreed_before = jnp.cumsum(agrees, axis=0) - agrees > 0
      loss = jnp.where(agreed_before, 0.0, cross_entropies).sum(0)
    else:
      loss = cross_entropies.mean(0)
    stops = scores >= 0
    shares = {
      'agreement': agrees,
      'accuracy': stops == agrees,
      'false_exits': stops & ~agrees,
    }
    weights = batch['decoder_loss_weights'].astype(jnp.float32)
    sums = {name: (share.mean(0) * weights).sum() for name, share in shares.items()}
    return (loss * weights).sum(), {'weight': weights.sum(), **sums}
