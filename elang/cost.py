"""What a router costs: FLOPs of Eq. 16 by each input's length, and seconds as they are measured.

The paper's FLOPs are of one length for all inputs, which it does not name. No pair of lengths of
source and target gives its four figures for T5 (small 0.33, base 1.24, large 4.25, 11B 87, in
1e11). Here each input pays for its own length.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calm.decoding.text_predictor import TextPredictor
from calm.evaluation.predictor import Predictor, Row
from calm.models.encoder import EncoderConfig
from calm.reporting.cost_bert import EncoderCost
from calm.reporting.cost_t5 import DecoderCost, SourceCost
from calm.tasks.examples import Example
from elang.black_box import PredictorModel, RowScore
from elang.heads import EnergyHead
from elang.model import Price
from elang.routing import Router


def joint_flops(
  num_swift: int,
  num_super: int,
  *,
  swift_encoder: float,
  head: float,
  swift_decoder: float,
  super_model: float,
) -> float:
  """FLOPs per input of Eq. 16: all pay for the Swift encoder and head, and then for who answers.

  Of `num_swift` inputs that the Swift model answers and `num_super` that are passed on.

  Raises:
    ValueError: there is no input.
  """
  if num_swift + num_super < 1:
    raise ValueError('There is no input to share the FLOPs.')
  kept, passed = swift_encoder + head + swift_decoder, swift_encoder + head + super_model
  return (num_swift * kept + num_super * passed) / (num_swift + num_super)


@dataclasses.dataclass(frozen=True)
class TextFlops:
  """The FLOPs of a T5's answer, as a price: source, generated tokens, and the layers they ran.

  Layers are those of the row's `exit_layers`, which a predictor gives with `per_token`; without,
  all of them.
  """

  # Its sizes and its tokens are what counts, and stand in the model's own identity.
  predictor: TextPredictor = dataclasses.field(metadata={'identity': False})

  def __call__(self, example: Example, row: Row) -> float:
    """Encoder, keys and values of the source, and decoder."""
    return self.encoder(example, row) + self.decoder(example, row)

  def encoder(self, example: Example, row: Row) -> float:
    """The encoder alone."""
    del row
    return float(SourceCost(self._config).encoder(self._length(example)))

  def decoder(self, example: Example, row: Row) -> float:
    """The decoder, with keys and values of the source."""
    config, length = self._config, self._length(example)
    layers = row.get('exit_layers', [config.num_decoder_layers] * row['units'])
    source = float(SourceCost(config).cross_keys_values(length))
    return source + DecoderCost(config).sequence(
      layers, length, self.predictor.generator.rule, row.get('num_logits')
    )

  def asking(self, head: EnergyHead) -> Callable[[Example, Row], float]:
    """Encoder and head."""
    return functools.partial(self._asking, head)

  def _asking(self, head: EnergyHead, example: Example, row: Row) -> float:
    return self.encoder(example, row) + head.flops(self._length(example), self._config.emb_dim)

  @property
  def _config(self) -> Any:
    return self.predictor.generator.model.config

  def _length(self, example: Example) -> int:
    return len(self.predictor.tokenize(example))


def text_prices(predictor: TextPredictor, head: EnergyHead) -> dict[str, dict[str, Any]]:
  """FLOPs as `elang.head_score.EncoderScored` takes them: `prices` and `prices_of_asking`."""
  flops = TextFlops(predictor)
  return {'prices': {'flops': flops.decoder}, 'prices_of_asking': {'flops': flops.asking(head)}}


def predictor_model(
  name: str,
  predictor: Predictor,
  score: RowScore = 'confidence',
  prices: Mapping[str, Price] | None = None,
) -> PredictorModel:
  """A predictor as a model, with a price in FLOPs if it is a T5 or an encoder's classifiers.

  Prices that are given stand beside it.
  """
  flops = flops_of(predictor)
  own = {} if flops is None else {'flops': flops}
  return PredictorModel(
    name=name, predictor=predictor, score=score, prices={**own, **(prices or {})}
  )


def flops_of(predictor: Any) -> Price | None:
  """What a predictor's answers cost in FLOPs; None where its sizes are not known."""
  if isinstance(predictor, TextPredictor):
    return TextFlops(predictor)
  config: Any = getattr(getattr(predictor, 'model', None), 'config', None)
  if not isinstance(getattr(config, 'encoder', None), EncoderConfig):
    return None
  length_of = functools.partial(_num_tokens, predictor)
  pools = config.pooler != 'none'
  return EncoderFlops(EncoderCost(config.encoder), length_of, config.num_outputs, pools)


def _num_tokens(predictor: Any, example: Example) -> int:
  ((tokens, _),) = predictor.tokenize([example])
  return len(tokens)


@dataclasses.dataclass(frozen=True)
class EncoderFlops:
  """The FLOPs of an encoder's answer, as a price: by the number of tokens of the example's texts.

  A row says how many layers were run for it (its cost `layers`, or its `exit_layer`; all, where it
  says neither), of how many classifiers (`exit`; one, where it does not), and how many tokens were
  read (`num_tokens`; where it does not, they are counted once more).
  """

  cost: EncoderCost
  length_of: Callable[[Example], int] = dataclasses.field(metadata={'identity': False})
  num_outputs: int | None = None  # Of a head; by default the config's.
  pooler: bool | None = None  # Below each head; by default the config's.

  def __call__(self, example: Example, row: Row) -> float:
    """Layers, and heads."""
    layers = row.get('costs', {}).get('layers', row.get('exit_layer'))
    length = row.get('num_tokens') or self.length_of(example)
    encoder = self.cost.encoder(length, num_layers=layers)
    return float(encoder + row.get('exit', 1) * self.cost.head(self.num_outputs, self.pooler))


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Seconds per row, in each batch of each repeat."""

  values: np.ndarray  # float64[repeats * batches]

  @property
  def mean(self) -> float:
    """Of all."""
    return float(self.values.mean())

  @property
  def p50(self) -> float:
    """The median."""
    return float(np.quantile(self.values, 0.5))

  @property
  def p95(self) -> float:
    """Exceeded by one in twenty."""
    return float(np.quantile(self.values, 0.95))


@dataclasses.dataclass(frozen=True)
class RouterSeconds:
  """Seconds per row of a router, and of each of its models on all rows, measured in turns."""

  models: Mapping[str, Seconds]
  router: Seconds
  reached: Mapping[str, float]  # the share of rows that each model was asked for

  @property
  def expected(self) -> float:
    """Of the models at those shares: Swift + s x Super, for two and a share s passed on."""
    return sum(self.reached[name] * one.p50 for name, one in self.models.items())

  @property
  def ratio(self) -> float:
    """The router's median by what is expected; above 1 is what scoring and gathering take."""
    return self.router.p50 / self.expected


def time_router(
  router: Router, examples: Sequence[Example], *, batch_size: int = 32, repeats: int = 5
) -> RouterSeconds:
  """Times a router at its threshold and its models alone, in turns; compilation is not in it.

  Each batch is answered by all in turn, every time in another order: what slows the machine down
  for a while slows all of them. Batches pass rows on within themselves only.

  Raises:
    ValueError: nothing to answer, or no repeat.
  """
  known = [example for example in examples if example.texts]
  if not known or repeats < 1:
    raise ValueError(f'{len(known)} texts, {repeats} repeats: there is nothing to measure.')
  batches = [known[at : at + batch_size] for at in range(0, len(known), batch_size)]
  ways: dict[str, Callable[[Sequence[Example]], Any]] = {'': router}
  for model in router.models[:-1]:
    ways[model.name] = functools.partial(_asked_and_answered, model)
  ways[router.models[-1].name] = router.models[-1].answer
  warm = [row for batch in batches for row in router(batch)]
  taken: dict[str, list[float]] = {name: [] for name in ways}
  for repeat in range(-1, repeats):  # The first time compiles.
    for number, batch in enumerate(batches):
      names = np.roll(list(ways), repeat + number).tolist()
      for name in names:
        start = time.perf_counter()
        ways[name](batch)
        if repeat >= 0:
          taken[name].append((time.perf_counter() - start) / len(batch))
  measured = {name: Seconds(np.array(values)) for name, values in taken.items()}
  overall = measured.pop('')
  passed = np.array([row['costs']['passed_on'] for row in warm])
  reached = {
    model.name: float((passed >= number).mean()) if _is_asked(router, number) else 0.0
    for number, model in enumerate(router.models)
  }
  return RouterSeconds(measured, overall, reached)


def _asked_and_answered(model: Any, examples: Sequence[Example]) -> Any:
  asked = model.ask(examples)
  return asked.answer(range(len(examples)))


def _is_asked(router: Router, number: int) -> bool:
  return number == len(router.thresholds) or bool(router.thresholds[number] < np.inf)
