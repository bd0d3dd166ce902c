"""A T5 whose encoder and head say how sure it is, before its decoder begins (Eq. 9)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calm import fingerprints
from calm.decoding.text_predictor import TextPredictor, padded_length
from calm.evaluation.predictor import Identity, Row
from calm.exits import buckets
from calm.tasks import tokenization
from calm.tasks.examples import Example
from elang.black_box import PredictorModel
from elang.cost import text_prices
from elang.heads import FILE, EnergyHead, Params, encode, load
from elang.model import Asked, Price, Priced, as_scores, paid, with_evidence


@functools.partial(jax.jit, static_argnames=('model', 'head'))
def _encoded_and_scored(
  model: Any, head: EnergyHead, params: Params, head_params: Params, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
  encoded = encode(model, params, tokens)
  return encoded, head.score(head_params, encoded, tokens > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderScored(Priced):
  """A T5 that is scored by a head on its encoder, and decodes only what it keeps.

  What is encoded for the score is decoded from there: the encoder runs once. `prices_of_asking` is
  what encoder and head cost, `prices` what the decoder adds (F_E + F_h, and F_D, of Eq. 16):
  `elang.cost.text_prices` gives both in FLOPs.
  """

  predictor: TextPredictor
  head: EnergyHead
  params: Params  # the head's
  prices_of_asking: Mapping[str, Price] = dataclasses.field(default_factory=dict)

  score_name = 'encoder energy'

  @property
  def identity(self) -> Identity:
    """The predictor's, and the head's with its parameters."""
    arrays = {name: jax.device_get(self.params[name]) for name in ('kernel', 'bias')}
    score = {'head': fingerprints.identity(self.head), 'params': fingerprints.fingerprint(arrays)}
    version = {'version': self.version} if self.version else {}
    return {**self.predictor.identity, 'score': score, **version}

  @property
  def priced(self) -> tuple[str, ...]:
    """The names of its prices, and of those of asking."""
    return tuple(dict.fromkeys((*self.prices, *self.prices_of_asking)))

  @property
  def pricing(self) -> Identity:
    """Both."""
    return fingerprints.identity({'prices': self.prices, 'asking': self.prices_of_asking})

  @property
  def with_evidence(self) -> 'EncoderScored':
    """The same with rows that hold what other scores could be made of."""
    return dataclasses.replace(self, predictor=with_evidence(self.predictor))

  def check(self, examples: Sequence[Example]) -> None:
    """The predictor's check."""
    self.predictor.check(examples)

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """The predictor's rows."""
    return PredictorModel(name=self.name, predictor=self.predictor).answer(examples)

  def ask(self, examples: Sequence[Example]) -> Asked:
    """Encodes and scores all; decodes those that it is asked to answer."""
    states: list[np.ndarray] = []
    scores: list[float] = []
    for at in range(0, len(examples), self.predictor.batch_size):
      found = self._encode(examples[at : at + self.predictor.batch_size])
      states += found[0]
      scores += found[1]
    return Asked(as_scores(scores), functools.partial(self._decode, examples, states))

  def costs(self, example: Example, row: Row) -> dict[str, float]:
    """Encoder, head and decoder."""
    asked = self.costs_of_asking(example, row)
    added = super().costs(example, row)
    return {name: asked.get(name, 0.0) + added.get(name, 0.0) for name in self.priced}

  def costs_of_asking(self, example: Example, row: Row) -> dict[str, float]:
    """Encoder and head."""
    del row
    return {name: paid(price, example, {}) for name, price in self.prices_of_asking.items()}

  def _encode(self, examples: Sequence[Example]) -> tuple[list[np.ndarray], list[float]]:
    """Of each example the states [n, D] of its n tokens, and its score."""
    inputs = [self.predictor.tokenize(example) for example in examples]
    length = padded_length(max(map(len, inputs)), self.predictor.inputs_length)
    tokens = tokenization.pad_rows(inputs, length, buckets.next_size(len(inputs)))
    model, params = self.predictor.generator.model, self.predictor.params
    found = _encoded_and_scored(model, self.head, params, self.params, tokens)
    encoded, scores = jax.device_get(found)
    states = [row[: len(own)] for row, own in zip(encoded, inputs, strict=False)]
    return states, scores[: len(inputs)].tolist()

  def _decode(
    self, examples: Sequence[Example], states: Sequence[np.ndarray], places: Sequence[int]
  ) -> list[Row]:
    rows: list[Row] = []
    for at in range(0, len(places), self.predictor.batch_size):
      some = places[at : at + self.predictor.batch_size]
      fitted = dataclasses.replace(self.predictor, batch_size=buckets.next_size(len(some)))
      rows += fitted([examples[i] for i in some], [states[i] for i in some])
    return rows


def of_run(name: str, predictor: TextPredictor, workdir: str) -> EncoderScored:
  """A T5 with the head that `elang head` wrote into a workdir, and its prices in FLOPs.

  Raises:
    FileNotFoundError, ValueError: there is no head, or none of this encoder's width.
  """
  path = Path(workdir, FILE)
  head, params = load(path)
  width = predictor.generator.model.config.emb_dim
  if params['kernel'].shape[0] != width:
    raise ValueError(
      f'{path} is for encoders {params["kernel"].shape[0]} wide, and {name} is {width}: name the'
      ' run it was trained on.'
    )
  prices = text_prices(predictor, head)
  return EncoderScored(
    name=name,
    predictor=predictor,
    head=head,
    params=params,
    prices=prices['prices'],
    prices_of_asking=prices['prices_of_asking'],
  )
