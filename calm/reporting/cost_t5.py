"""FLOPs of a T5, counted from its sizes: of generated tokens, and of the source they answer.

A multiplication and an addition make two. Products with weights, keys and values are counted, which
is nearly all there is: norms, softmax and activations are left out. `DecoderCost` leaves out, too,
what is computed once per sequence whatever the rule (the encoder, cross-attention keys and values):
that is `SourceCost`. Counted is what a row needs on its own; a batch may compute more for it, while
other rows are undecided.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from calm.exits import confidence
from calm.exits.rules import ExitRule


@dataclasses.dataclass(frozen=True)
class DecoderCost:
  """FLOPs of the parts of a T5's decoder, each for one token of one row."""

  config: Any  # a calm.models.t5.T5Config

  @property
  def keys_values(self) -> int:
    """The K/V half of a layer: all that state propagation computes for a skipped layer."""
    return 2 * 2 * self.config.emb_dim * self._joined

  def attend(self, position: int | np.ndarray, source_length: int | np.ndarray) -> int | np.ndarray:
    """The other half of a layer: attention, cross-attention and feed-forward.

    `position` (from 0) is the token's: it sees position + 1 keys, and source_length of the source.
    Numbers or arrays.
    """
    cfg = self.config
    query_and_out = 2 * 2 * cfg.emb_dim * self._joined
    over_keys = 2 * 2 * self._joined * (position + 1 + source_length)
    branches = len(cfg.mlp_activations)
    return 2 * query_and_out + over_keys + 2 * (branches + 1) * cfg.emb_dim * cfg.mlp_dim

  def head(self, num_logits: int | np.ndarray | None = None) -> int | np.ndarray:
    """The output projection, for the whole vocabulary or so many logits (a number or an array)."""
    return 2 * self.config.emb_dim * (self.config.vocab_size if num_logits is None else num_logits)

  def steps(
    self,
    exit_layers: Sequence[int] | np.ndarray,
    source_length: int,
    rule: ExitRule,
    num_logits: Sequence[int] | np.ndarray | int | None = None,
  ) -> np.ndarray:
    """FLOPs float64[T] of the tokens of a sequence, but for what skipped layers are filled with.

    Args:
      exit_layers: layers run for each token, int[T], from 1.
      source_length: tokens of the input.
      rule: by which they stopped; says what it looked at on the way, logits aside.
      num_logits: the logits made for each token, int[T], or for all alike; 0 leaves the head out;
        by default those of the vocabulary, once.
    """
    layers = np.asarray(exit_layers, np.int64)
    positions = np.arange(len(layers))
    run = layers * (self.keys_values + self.attend(positions, source_length))
    head = self.head(None if num_logits is None else np.asarray(num_logits, np.int64))
    return (run + layers * self._looking(rule) + head).astype(np.float64)

  def sequence(
    self,
    exit_layers: Sequence[int] | np.ndarray,
    source_length: int,
    rule: ExitRule,
    num_logits: Sequence[int] | np.ndarray | int | None = None,
  ) -> float:
    """FLOPs of a whole sequence; `steps`, and the keys and values of skipped layers."""
    steps = self.steps(exit_layers, source_length, rule, num_logits).sum()
    return float(steps + num_filled(exit_layers) * self.keys_values)

  @property
  def _joined(self) -> int:
    return self.config.num_heads * self.config.head_dim

  def _looking(self, rule: ExitRule) -> int:
    """FLOPs at a layer of what a measure asks for beside logits: a linear classifier, a cosine."""
    measure = getattr(rule, 'measure', None)
    names = () if measure is None else confidence.needs(measure)
    return self.config.emb_dim * (2 * ('exit_score' in names) + 3 * 2 * ('previous' in names))


@dataclasses.dataclass(frozen=True)
class SourceCost:
  """FLOPs of what is computed once for a source of S tokens; S is a number or an array."""

  config: Any  # a calm.models.t5.T5Config

  def encoder(
    self, source_length: int | np.ndarray, attention_products: bool = True
  ) -> int | np.ndarray:
    """All encoder layers, with or without the products that grow with the square of S."""
    cfg = self.config
    joined = cfg.num_heads * cfg.head_dim
    projections = 4 * 2 * source_length * cfg.emb_dim * joined
    branches = len(cfg.mlp_activations)
    feed_forward = 2 * (branches + 1) * source_length * cfg.emb_dim * cfg.mlp_dim
    products = 2 * 2 * source_length**2 * joined if attention_products else 0
    return cfg.num_encoder_layers * (projections + feed_forward + products)

  def cross_keys_values(self, source_length: int | np.ndarray) -> int | np.ndarray:
    """Keys and values of the source for all decoder layers."""
    keys_values = DecoderCost(self.config).keys_values
    return self.config.num_decoder_layers * source_length * keys_values


def num_filled(exit_layers: Sequence[int] | np.ndarray) -> int:
  """How often a token's skipped layer gets keys and values after all, in one sequence.

  A layer is filled up when a later token reaches it, so that what no one reads is never made: see
  `calm.decoding.early_exit`. Of [1, 3, 2, 1] the first token's layers 2 and 3 are filled.
  """
  layers = np.asarray(exit_layers, np.int64)
  # later[t]: the deepest layer that a token after t runs.
  deepest = np.maximum.accumulate(layers[::-1])[::-1]
  later = np.append(deepest[1:], 0)
  return int(np.maximum(0, later - layers).sum())
