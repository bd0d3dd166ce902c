"""A linear head on a frozen T5 encoder, whose energy says which inputs the Swift model keeps.

Akbari et al., section 3.2.1, Eq. 7 and 8, https://arxiv.org/abs/2203.00748. A BERT needs none: its
own logits have an energy. The paper leaves open how states become one row of features, and which of
a source's positions is to predict which of the target's words. Chosen here:

- 'pooled': the mean of the states ('mean'), or the first of them ('first'), is one classification:
  of labels (Eq. 7), or, of text to text, of each word of the target alike. A product with the
  vocabulary for each text.
- 'aligned': position m of the source predicts word m of the target (Eq. 8), as far as both go. A
  product with the vocabulary for each position of the source: over 32,128 words of a T5 small as
  much as the encoder itself.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy

from calm import settings
from calm.models.parameters import Network
from calm.training import losses
from elang import energy

HEAD = 'energy_head'
FILE = 'energy_head.safetensors'  # in the workdir of a head
ENCODER = ('token_embedder', 'encoder')  # All of a T5 that a head needs.
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class EnergyHead:
  """One linear layer over the encoder's last states, and minus the free energy of what it gives.

  It starts from 'zero', so that cross entropy over two classes leaves the sum of its weights there
  and energies grow with the gap of the logits alone; or from 'normal', with `stddev`, where the sum
  stays as it was drawn.
  """

  num_classes: settings.Count  # labels, or the words of the vocabulary
  positions: Literal['pooled', 'aligned'] = 'pooled'
  pooling: Literal['mean', 'first'] = 'mean'
  start: Literal['zero', 'normal'] = 'zero'
  stddev: float = 0.02
  temperature: float = 1.0

  def __post_init__(self) -> None:
    settings.check_fields(self)

  def init(self, key: jax.Array, emb_dim: int) -> dict[str, jax.Array]:
    """Fresh kernel[D, C] and bias[C]."""
    shape = (emb_dim, self.num_classes)
    kernel = jnp.zeros(shape) if self.start == 'zero' else jax.random.normal(key, shape)
    scale = 1.0 if self.start == 'zero' else self.stddev
    return {'kernel': scale * kernel, 'bias': jnp.zeros(self.num_classes)}

  def features(self, encoded: jax.Array, mask: jax.Array) -> jax.Array:
    """What is multiplied, of encoded[B, S, D] and bool mask[B, S]: [B, D], or [B, S, D] aligned."""
    encoded = encoded.astype(jnp.float32)
    if self.positions == 'aligned':
      return encoded
    if self.pooling == 'first':
      return encoded[:, 0]
    weights = mask / jnp.maximum(1, mask.sum(-1, keepdims=True))
    return jnp.einsum('BSD,BS->BD', encoded, weights)

  def logits(self, params: Params, encoded: jax.Array, mask: jax.Array) -> jax.Array:
    """Float32 logits[B, C] of encoded[B, S, D] and bool mask[B, S], or [B, S, C] if aligned."""
    return self.features(encoded, mask) @ params['kernel'] + params['bias']

  def score(self, params: Params, encoded: jax.Array, mask: jax.Array) -> jax.Array:
    """Minus the free energy [B] of Eq. 7, or of Eq. 8, the mean over the source's positions."""
    features = self.features(encoded, mask)

    def of_features(rows: jax.Array) -> jax.Array:
      return energy.negative_energy(rows @ params['kernel'] + params['bias'], self.temperature)

    if self.positions == 'pooled':
      return of_features(features)
    # A position at a time: the logits of all over a vocabulary are large.
    return energy.mean_over(jax.lax.map(of_features, features.swapaxes(0, 1)).T, mask)

  def flops(self, length: int, emb_dim: int) -> int:
    """FLOPs for a source of so many tokens: F_h of Eq. 16."""
    rows = length if self.positions == 'aligned' else 1
    return 2 * rows * emb_dim * self.num_classes


@dataclasses.dataclass(frozen=True)
class EnergyHeadObjective:
  """Cross entropy of a head on a frozen encoder, for `calm.training.loop`.

  Its parameters are the encoder's and the head's, under 'energy_head'; no decoder is needed, and
  only the head has a gradient: train with `optimizers.train_only(optimizer, 'energy_head')`, which
  keeps the rest as it is. `begin` makes them of a T5's. Batches are `calm.tasks.batches`'s, not
  packed.

  With `classes`, the tokens of each label's text, the class is the one that the target is; without,
  the words of the target are what is to be predicted.

  Where `margins` are given, the loss of Liu et al., section 3.2, https://arxiv.org/abs/2010.03759,
  is added with `margin_weight`: it fixes the constant that cross entropy does not see. Scores of
  inputs are to lie above the first of them, scores of auxiliary inputs, here the same words in an
  order of chance, below the second.

  Raises:
    ValueError: classes that are not as many as the head's, or are to be predicted by position.
  """

  model: Network  # a calm.models.t5.T5
  head: EnergyHead
  classes: tuple[tuple[int, ...], ...] | None = None
  margins: tuple[float, float] | None = None
  margin_weight: float = 0.1

  unit = 'example'  # What weights count.

  def __post_init__(self) -> None:
    if self.classes is None:
      return
    object.__setattr__(self, 'classes', tuple(tuple(map(int, one)) for one in self.classes))
    if len(self.classes) != self.head.num_classes:
      raise ValueError(f'{len(self.classes)} classes for a head of {self.head.num_classes}.')
    if self.head.positions == 'aligned':
      raise ValueError("A text has one class: a head of classes is 'pooled', not 'aligned'.")

  @property
  def partition_rules(self) -> Any:
    """The network's."""
    return self.model.partition_rules

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of the encoder and the head."""
    return self.begin(self.model.init_params(key), key)

  def begin(self, params: Params, key: jax.Array) -> dict[str, Any]:
    """A T5's parameters, of which the encoder's are kept, and a fresh head."""
    head = self.head.init(key, self.model.config.emb_dim)
    return {**{name: params[name] for name in ENCODER}, HEAD: head}

  def __call__(
    self, params: Params, batch: Mapping[str, jax.Array], key: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over the rows of a batch; the encoder runs without dropout.

    Returns:
      (summed loss in nats, {'weight': rows with a target, 'accuracy': share of the class, or mean
      share of the words, that have the largest logit, 'score': mean of minus the free energy}).
    """
    tokens, targets = batch['encoder_input_tokens'], batch['decoder_target_tokens']
    encoded, mask = encode(self.model, params, tokens), tokens > 0
    logits = self.head.logits(params[HEAD], encoded, mask)
    wanted, weights = self._wanted(targets, mask)
    if logits.ndim == 2:
      logits = jnp.broadcast_to(logits[:, None], (*wanted.shape, logits.shape[-1]))
    logits = logits[:, : wanted.shape[1]]
    shares = weights / jnp.maximum(1, weights.sum(-1, keepdims=True))
    loss = (losses.cross_entropy(logits, wanted) * shares).sum()
    right = ((logits.argmax(-1) == wanted) * shares).sum()
    scores, rows = self.head.score(params[HEAD], encoded, mask), weights.any(-1)
    if self.margins is not None and key is not None:
      loss += self.margin_weight * self._margin_loss(params, tokens, scores, rows, key)
    sums = {'weight': rows.sum(), 'accuracy': right, 'score': jnp.where(rows, scores, 0).sum()}
    return loss, {name: value.astype(jnp.float32) for name, value in sums.items()}

  def _wanted(self, targets: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What is to be predicted, int32[B, M], and its weights bool[B, M]."""
    if self.classes is not None:
      matches = jnp.stack([_equals(targets, tokens) for tokens in self.classes], axis=-1)
      return matches.argmax(-1)[:, None], matches.any(-1)[:, None]
    if self.head.positions == 'pooled':
      return targets, targets > 0
    both = min(targets.shape[1], mask.shape[1])
    return targets[:, :both], (targets[:, :both] > 0) & mask[:, :both]

  def _margin_loss(
    self,
    params: Params,
    tokens: jax.Array,
    scores: jax.Array,
    rows: jax.Array,
    key: jax.Array,
  ) -> jax.Array:
    lowest, highest = self.margins or (0.0, 0.0)
    other = shuffled(tokens, key)
    others = self.head.score(params[HEAD], encode(self.model, params, other), other > 0)
    squares = jnp.maximum(0, lowest - scores) ** 2 + jnp.maximum(0, others - highest) ** 2
    return jnp.where(rows, squares, 0).sum()


def encode(model: Network, params: Params, tokens: jax.Array) -> jax.Array:
  """The frozen encoder's last states [B, S, D] of int32 tokens[B, S]; nothing flows back."""
  frozen = jax.lax.stop_gradient({name: params[name] for name in ENCODER})
  return model.apply({'params': frozen}, tokens, method='encode')


def shuffled(tokens: jax.Array, key: jax.Array) -> jax.Array:
  """The tokens[B, S] of each row in an order of chance, 0 at the end."""
  order = jnp.where(tokens > 0, jax.random.uniform(key, tokens.shape), 2.0).argsort(-1)
  return jnp.take_along_axis(tokens, order, axis=-1)


def save(path: str | Path, head: EnergyHead, params: Params) -> None:
  """Writes a head and its parameters to a file of safetensors."""
  metadata = {'energy_head': json.dumps(dataclasses.asdict(head))}
  arrays = {name: jax.device_get(params[name]) for name in ('kernel', 'bias')}
  safetensors.numpy.save_file(arrays, path, metadata)


def load(path: str | Path) -> tuple[EnergyHead, dict[str, Any]]:
  """Reads what `save` wrote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is none of these files.
  """
  if not Path(path).is_file():
    raise FileNotFoundError(f'There is no head at {path}.')
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      head = EnergyHead(**json.loads((file.metadata() or {})['energy_head']))
      params = {name: file.get_tensor(name) for name in ('kernel', 'bias')}
  except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} is no energy head: `elang.heads.save` writes one.') from error
  if {array.shape[-1] for array in params.values()} != {head.num_classes}:
    raise ValueError(f'{path} is damaged: its arrays are not of {head.num_classes} classes.')
  return head, params


def _equals(targets: jax.Array, tokens: tuple[int, ...]) -> jax.Array:
  """Where targets[B, T] are these tokens and then nothing."""
  length = targets.shape[1]
  if len(tokens) > length:
    return jnp.zeros(len(targets), bool)
  wanted = jnp.array(tokens + (0,) * (length - len(tokens)), jnp.int32)
  return (targets == wanted).all(-1)
