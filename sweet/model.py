"""An encoder with a classifier after some of its layers.

The exits are numbered from 1, as in the paper: classifier k stands after layer `exits[k - 1]`, and
block k is the layers between classifier k - 1 and it. B batch, T length, D emb_dim, C outputs.
Rotem et al., https://arxiv.org/abs/2306.02307.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calm.models import bert, deberta, encoder_layers, layers
from calm.settings import Count

ENCODERS: dict[type, Any] = {
  bert.BertConfig: bert.Bert,
  deberta.DebertaConfig: deberta.Deberta,
}
POOLINGS = ('cls', 'mean')
POOLERS = ('own', 'shared', 'none')
LEARNING_TO_EXIT = ('none', 'own', 'shared')
CLASSIFIER_INITS = ('normal', 'zero')


@dataclasses.dataclass(frozen=True)
class ExitsConfig:
  """Which encoder, where its classifiers stand, and what they are made of.

  Raises:
    ValueError: exits that the encoder does not have, or a choice that there is not.
  """

  encoder: Any  # a BertConfig or DebertaConfig
  exits: Sequence[Count] | None = None  # layers, from 1, ascending; None for the paper's
  num_outputs: Count = 2  # labels, or 1 for a regression
  pooling: str = 'cls'  # what is classified: the first token's state, or the 'mean' of all
  # The dense layer before a classifier: one for each ('own'), one for all ('shared', as in the
  # published code, where it gets every classifier's gradient), or 'none'.
  pooler: str = 'own'
  # A module that says whether the classifier is right: 'own', of each classifier (the published
  # code's), 'shared', one for all (BERxiT's), or 'none'.
  learning_to_exit: str = 'none'
  detach_exit_modules: bool = True  # Whether their loss trains nothing but them.
  # Whether DeBERTa's relative embeddings, which all layers read, are trained by every classifier;
  # otherwise they are classifier 1's.
  shared_relative_embeddings: bool = False
  # Where a classifier's weights start: a 'normal' draw with the encoder's deviation, or 'zero',
  # from where cross entropy leaves their sum over the labels at 0.
  classifier_init: str = dataclasses.field(default='normal', metadata={'identity': False})

  def __post_init__(self) -> None:
    depth = self.encoder.num_layers
    exits = default_exits(depth) if self.exits is None else tuple(self.exits)
    for name, known in (
      ('pooling', POOLINGS),
      ('pooler', POOLERS),
      ('learning_to_exit', LEARNING_TO_EXIT),
      ('classifier_init', CLASSIFIER_INITS),
    ):
      if getattr(self, name) not in known:
        raise ValueError(f'{name}: {getattr(self, name)!r} is not one of {", ".join(known)}.')
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in exits)
    if not exits or not whole or exits[0] < 1 or list(exits) != sorted(set(exits)):
      raise ValueError(f'exits are {exits!r}: ascending numbers of layers, from 1, are needed.')
    if exits[-1] > depth:
      raise ValueError(f'exits are {exits!r}, and the encoder has {depth} layers.')
    if self.num_outputs < 1:
      raise ValueError(f'num_outputs must be at least 1, not {self.num_outputs}.')
    # What lies behind the last exit is never run, and the encoder's own pooler and head are not
    # the classifiers'.
    encoder = dataclasses.replace(self.encoder, num_layers=exits[-1], pooler=False, num_labels=0)
    object.__setattr__(self, 'exits', exits)
    object.__setattr__(self, 'encoder', encoder)


def default_exits(num_layers: int) -> tuple[int, ...]:
  """The paper's exits for 12 and 24 layers, (1, 4, 6, 12) and (1, 6, 12, 24).

  For another depth L they are 1, L/3, L/2 and L, rounded up, as for 12; of 6 layers (1, 2, 3, 6).
  """
  if num_layers == 24:
    return (1, 6, 12, 24)
  return tuple(sorted({1, -(-num_layers // 3), -(-num_layers // 2), num_layers}))


class EarlyExitClassifier(nn.Module):
  """An encoder that can be read by a classifier, and left, after every exit.

  `block(k, ...)` runs from exit k - 1 to exit k and `classify(k, ...)` reads the state there;
  nothing else is needed to stop between any two.
  """

  config: ExitsConfig

  @property
  def exits(self) -> tuple[int, ...]:
    """The layers after which there are classifiers."""
    return tuple(self.config.exits or ())

  @property
  def layers_run(self) -> tuple[int, ...]:
    """Layers that are run for a row, by the exit that it leaves at."""
    return self.exits

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The encoder's: see `calm.training.sharding.by_rules`."""
    return ENCODERS[type(self.config.encoder)].partition_rules

  def setup(self) -> None:
    cfg, encoder = self.config, self.config.encoder
    self.encoder = ENCODERS[type(encoder)](encoder)
    self.dropout = layers.Dropout(encoder.dropout_rate)
    if cfg.pooler == 'shared':
      self.pooler = self._pooler()
    if cfg.learning_to_exit == 'shared':
      self.exit_module = self._dense(1)
    for k in range(1, len(self.exits) + 1):
      if cfg.pooler == 'own':
        setattr(self, f'pooler_{k}', self._pooler())
      if cfg.learning_to_exit == 'own':
        setattr(self, f'exit_module_{k}', self._dense(1))
      setattr(self, f'classifier_{k}', self._dense(cfg.num_outputs, cfg.classifier_init))

  def embed(
    self,
    tokens: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> jax.Array:
    """The state [B, T, D] before block 1 of int32 tokens[B, T] and their bool mask[B, T]."""
    return self.encoder.embed(tokens, mask, token_types, deterministic=deterministic)

  def block(
    self, k: int, state: jax.Array, mask: jax.Array, *, deterministic: bool = True
  ) -> jax.Array:
    """The state at exit k of that at exit k - 1, both [B, T, D]; k is from 1 and no array."""
    first = self.exits[k - 2] if k > 1 else 0
    for layer in range(first, self.exits[k - 1]):
      state = self.encoder.layer(layer, state, mask, deterministic=deterministic)
    return state

  def classify(
    self, k: int, state: jax.Array, mask: jax.Array, *, deterministic: bool = True
  ) -> tuple[jax.Array, jax.Array | None]:
    """What classifier k says of the state [B, T, D] at its exit.

    Returns:
      (float32 outputs[B, C], float32 exit scores[B] or None): logits of labels or the number of a
      regression, and the logit of the module that says whether to exit, if there is one. That sees
      what the classifier sees and has no gradient into it.
    """
    pooled = self._pooled(k, state, mask).astype(jnp.float32)
    outputs = getattr(self, f'classifier_{k}')(self.dropout(pooled, deterministic))
    if self.config.learning_to_exit == 'none':
      return outputs, None
    own = self.config.learning_to_exit == 'own'
    module = getattr(self, f'exit_module_{k}' if own else 'exit_module')
    # The published code lets this gradient through; then what is learned to exit also decides
    # what the layers learn.
    detached = self.config.detach_exit_modules
    return outputs, module(jax.lax.stop_gradient(pooled) if detached else pooled)[..., 0]

  def __call__(
    self,
    tokens: jax.Array,
    mask: jax.Array,
    token_types: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> tuple[tuple[jax.Array, jax.Array | None], ...]:
    """`classify` at every exit, in order; arguments are those of `embed`."""
    state = self.embed(tokens, mask, token_types, deterministic=deterministic)
    found = []
    for k in range(1, len(self.exits) + 1):
      state = self.block(k, state, mask, deterministic=deterministic)
      found.append(self.classify(k, state, mask, deterministic=deterministic))
    return tuple(found)

  @nn.nowrap
  def init_params(self, key: jax.Array) -> Any:
    """Fresh float32 parameters of the encoder, the poolers and the classifiers."""
    tokens = jnp.ones((1, 2), jnp.int32)
    return self.init(key, tokens, tokens > 0)['params']

  @nn.nowrap
  def stage(
    self,
    params: Any,
    k: int,
    inputs: Mapping[str, Any],
    state: Any,
    *,
    stopped: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Block k and its classifier on `state`, that at exit k - 1 (None before the first).

    Args:
      params: of the network.
      k: from 1.
      inputs: `tokens`, `token_types` int32[B, T] and `lengths` int32[B].
      state: float[B, T, D].
      stopped: train nothing but what classifier k owns (`owner`).
      key: of dropout; None is without.

    Returns:
      (state at exit k, outputs, exit scores or None).
    """
    if stopped:
      params = only_owned(self, params, k)
    mask = jnp.arange(inputs['tokens'].shape[1]) < inputs['lengths'][:, None]
    variables, rngs = {'params': params}, {} if key is None else {'dropout': key}

    def run(module: Any, state: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
      options = {'deterministic': key is None}
      if k == 1:
        state = module.embed(inputs['tokens'], mask, inputs['token_types'], **options)
      state = module.block(k, state, mask, **options)
      return state, *module.classify(k, state, mask, **options)

    found: Any = self.apply(variables, state, method=run, rngs=rngs)
    return found

  @nn.nowrap
  def owner(self, name: str) -> int | None:
    """The number of the classifier that a parameter belongs to, by its flat name.

    The first exit at or behind a layer owns the layer, classifier 1 the embeddings and DeBERTa's
    relative ones, each its own pooler and modules. What is shared has no owner: None.
    """
    layer = re.match(r'encoder/layers_(\d+)/', name)
    if layer:
      return next(k for k, exit in enumerate(self.exits, 1) if int(layer[1]) < exit)
    if name.startswith('encoder/'):
      trained_by_all = self.config.shared_relative_embeddings and 'rel_embeddings' in name
      return None if trained_by_all else 1
    own = re.match(r'(?:pooler|classifier|exit_module)_(\d+)/', name)
    return int(own[1]) if own else None

  @nn.nowrap
  def reads(self, k: int, name: str) -> bool:
    """Whether stage k reads a parameter, by its flat name; of some it may not, too."""
    layer = re.match(r'encoder/layers_(\d+)/', name)
    if layer:
      return (self.exits[k - 2] if k > 1 else 0) <= int(layer[1]) < self.exits[k - 1]
    if name.startswith('encoder/embeddings/'):
      return k == 1
    own = re.match(r'(?:pooler|classifier|exit_module)_(\d+)/', name)
    return own is None or int(own[1]) == k

  def _pooler(self) -> encoder_layers.Pooler:
    cfg = self.config.encoder
    activation = getattr(cfg, 'pooler_activation', 'tanh')
    return encoder_layers.Pooler(cfg.emb_dim, activation, cfg.init_stddev, cfg.dtype)

  def _dense(self, features: int, init: str = 'normal') -> encoder_layers.Dense:
    stddev = self.config.encoder.init_stddev if init == 'normal' else 0.0
    return encoder_layers.Dense(features, stddev)

  def _pooled(self, k: int, state: jax.Array, mask: jax.Array) -> jax.Array:
    if self.config.pooling == 'cls':
      pooled = state[:, 0]
    else:
      held = mask[..., None].astype(state.dtype)
      pooled = (state * held).sum(1) / jnp.maximum(held.sum(1), 1)
    if self.config.pooler == 'none':
      return pooled
    return getattr(self, f'pooler_{k}' if self.config.pooler == 'own' else 'pooler')(pooled)


def only_owned(model: EarlyExitClassifier, params: Any, k: int) -> Any:
  """Parameters of the same values; of those that another classifier owns, without a gradient."""

  def stop(path: jax.tree_util.KeyPath, value: jax.Array) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return value if model.owner(name) in (k, None) else jax.lax.stop_gradient(value)

  return jax.tree_util.tree_map_with_path(stop, params)
