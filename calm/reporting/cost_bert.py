"""FLOPs of an encoder such as BERT or DeBERTa, counted from its sizes and the length of a text.

A multiplication and an addition make two. Products of matrices are counted, which is nearly all
there is: embeddings are looked up, and norms, softmax and activations left out. Products of states
with states, which grow with the square of the length, can be left out, too: BERT-base's published
21.8e9 is that of 128 tokens without them, and TinyBERT's 1.2e9 likewise (Jiao et al.,
https://arxiv.org/abs/1909.10351, Table 1).
"""

import dataclasses

import numpy as np

from calm.models.deberta import DebertaConfig
from calm.models.encoder import EncoderConfig

Length = int | np.ndarray


@dataclasses.dataclass(frozen=True)
class EncoderCost:
  """FLOPs of the parts of a BERT or DeBERTa for one text of T tokens; T is a number or an array.

  Of a batch it is what its padded length costs, for each row.
  """

  config: EncoderConfig

  def layer(self, length: Length, attention_products: bool = True) -> Length:
    """One layer: projections and feed-forward, and the products of attention unless left out."""
    cfg = self.config
    projections = 4 * 2 * length * cfg.emb_dim * cfg.joined_dim
    feed_forward = 2 * 2 * length * cfg.emb_dim * cfg.mlp_dim
    products = self.attention_products(length) if attention_products else 0
    return projections + feed_forward + self._positions(length) + products

  def attention_products(self, length: Length) -> Length:
    """Products of states with states in one layer: scores, and what is mixed by them.

    Of DeBERTa's position terms each multiplies all states with the 2T distances between them.
    """
    terms = 2 + 2 * len(self._position_terms)
    return terms * 2 * length**2 * self.config.joined_dim

  def encoder(
    self, length: Length, attention_products: bool = True, num_layers: int | None = None
  ) -> Length:
    """The layers, all of them or the first `num_layers`."""
    layers = self.config.num_layers if num_layers is None else num_layers
    return layers * self.layer(length, attention_products)

  def head(self, num_outputs: int | None = None, pooler: bool | None = None) -> int:
    """A linear head on one state, and the pooler below it; by default those of the config.

    `num_outputs` numbers, as many as a vocabulary has for each position of Eq. 8 of E-LANG.
    """
    cfg = self.config
    outputs = cfg.num_labels if num_outputs is None else num_outputs
    pools = cfg.pooler if pooler is None else pooler
    return 2 * cfg.emb_dim * (outputs + cfg.emb_dim * pools)

  def __call__(self, length: Length, attention_products: bool = True) -> Length:
    """Encoder and head together."""
    return self.encoder(length, attention_products) + self.head()

  @property
  def _position_terms(self) -> tuple[str, ...]:
    return self.config.position_terms if isinstance(self.config, DebertaConfig) else ()

  def _positions(self, length: Length) -> Length:
    """Products of the relative positions' embeddings with their own weights, in one layer."""
    if not isinstance(self.config, DebertaConfig):
      return 0
    distances = 2 * np.minimum(length, self.config.max_relative_positions)
    return len(self._position_terms) * 2 * distances * self.config.emb_dim**2
