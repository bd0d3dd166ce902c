"""Eq. 16 by hand and by a router's rows, and seconds that are what was waited."""

import dataclasses
import time
import types

import numpy as np
import pytest

from calm.decoding.text_predictor import TextPredictor
from calm.evaluation.predictor import FunctionPredictor
from calm.exits import rules
from calm.models import bert, t5
from calm.reporting.cost_bert import EncoderCost
from calm.reporting.cost_t5 import DecoderCost, SourceCost
from calm.tasks.examples import Example
from elang.black_box import BlackBox
from elang.cost import (
  EncoderFlops,
  TextFlops,
  joint_flops,
  predictor_model,
  text_prices,
  time_router,
)
from elang.heads import EnergyHead
from elang.recorded import Recorded
from elang.routing import Router

EXAMPLE = Example(0, 'in.txt:1', {'inputs': 'four'}, '', {})
CONFIG = t5.published('tiny')


@pytest.fixture
def predictor():
  """Of a T5 whose tokens are letters."""
  generator = types.SimpleNamespace(
    model=types.SimpleNamespace(config=CONFIG), rule=rules.NeverExit()
  )
  return types.SimpleNamespace(
    generator=generator, tokenize=lambda example: list(example.texts['inputs'])
  )


def test_all_pay_for_the_swift_encoder_and_then_for_who_answers():
  parts = {'swift_encoder': 3, 'head': 1, 'swift_decoder': 6, 'super_model': 100}
  assert joint_flops(3, 1, **parts) == (3 * 10 + 104) / 4
  assert joint_flops(1, 0, **parts) == 10
  with pytest.raises(ValueError, match='no input'):
    joint_flops(0, 0, **parts)


@pytest.mark.parametrize('threshold', [3.0, 0.0, -4.0])
def test_a_routers_rows_cost_what_eq_16_says(threshold, asked_first, models, examples):
  router = Router((asked_first, models[2]))
  rows = [row for row in router.recording(examples) if row['models']]
  found = Recorded(router, rows, np.zeros((2, len(rows))))
  passed = int(found.answered(threshold).sum())
  # One FLOP of asking takes the place of encoder and head.
  expected = joint_flops(
    9 - passed, passed, swift_encoder=1, head=0, swift_decoder=1, super_model=100
  )
  assert found.costs_at('flops', threshold).mean() == pytest.approx(expected)


def test_a_text_pays_for_its_source_its_tokens_and_their_layers(predictor):
  source, decoder = SourceCost(CONFIG), DecoderCost(CONFIG)
  once = source.encoder(4) + source.cross_keys_values(4)
  price = TextFlops(predictor)
  never = rules.NeverExit()
  assert price(EXAMPLE, {'units': 3}) == once + decoder.sequence([2, 2, 2], 4, never)
  early = {'units': 3, 'exit_layers': [1, 2, 1], 'num_logits': [128, 128, 256]}
  assert price(EXAMPLE, early) == once + decoder.sequence([1, 2, 1], 4, never, [128, 128, 256])
  # A head of 5 words at each of 4 positions, 32 wide.
  prices = text_prices(predictor, EnergyHead(5, 'aligned'))
  asking, rest = (prices[name]['flops'] for name in ('prices_of_asking', 'prices'))
  assert asking(EXAMPLE, {}) == source.encoder(4) + 2 * 4 * 32 * 5
  assert rest(EXAMPLE, early) == price(EXAMPLE, early) - source.encoder(4)


def test_a_t5_has_a_price_in_flops_beside_those_given():
  function = FunctionPredictor(lambda examples, threshold: [])
  assert predictor_model('swift', function, prices={'seconds': 2.0}).prices == {'seconds': 2.0}
  decoder = TextPredictor.__new__(TextPredictor)
  model = predictor_model('swift', decoder, prices={'seconds': 2.0})
  assert model.prices == {'flops': TextFlops(decoder), 'seconds': 2.0}


def test_an_encoder_pays_for_its_length_and_the_layers_it_ran():
  cost = EncoderCost(bert.published('tiny'))
  price = EncoderFlops(cost, lambda example: len(example.texts['inputs']), 3)
  assert price(EXAMPLE, {}) == cost.encoder(4) + cost.head(3)
  assert price(EXAMPLE, {'exit_layer': 1}) == cost.layer(4) + cost.head(3)


@pytest.mark.parametrize(('pooler', 'pools'), [('own', True), ('none', False)])
def test_classifiers_pay_for_their_tokens_layers_and_heads(pooler, pools):
  encoder = bert.published('tiny')
  config = types.SimpleNamespace(encoder=encoder, num_outputs=3, pooler=pooler)
  predictor = types.SimpleNamespace(
    model=types.SimpleNamespace(config=config),
    tokenize=lambda examples: [([*one.texts['inputs']], None) for one in examples],
  )
  price = predictor_model('swift', predictor).prices['flops']
  cost = EncoderCost(encoder)
  head = cost.head(3, pools)
  assert price(EXAMPLE, {}) == cost.encoder(4) + head
  # Of independent models side by side, the second answered: the layers of both were run.
  row = {'exit': 2, 'exit_layer': 2, 'costs': {'layers': 3}}
  assert price(EXAMPLE, row) == 3 * cost.layer(4) + 2 * head


def test_seconds_are_those_of_the_models_that_were_asked():
  waits = {'small': 0.002, 'large': 0.01}

  def waiting(name):
    def answer(texts):
      time.sleep(waits[name])
      return ['x'] * len(texts), [float(len(text)) for text in texts]

    return BlackBox(name=name, version='1', function=answer)

  examples = [dataclasses.replace(EXAMPLE, texts={'inputs': 'x' * (i % 2)}) for i in range(1, 9)]
  router = Router((waiting('small'), waiting('large')), 1.0)
  found = time_router(router, examples, batch_size=4, repeats=2)
  assert found.reached == {'small': 1.0, 'large': 0.5}
  assert found.models['small'].p50 >= 0.002 / 4
  assert found.models['large'].p95 >= found.models['large'].p50 >= 0.01 / 4
  # It waits for both, and a batch half as large takes as long here.
  assert found.router.mean >= 0.012 / 4
  assert found.ratio == found.router.p50 / (
    found.models['small'].p50 + found.models['large'].p50 / 2
  )
  assert len(found.router.values) == 4
  only = time_router(router.at(None), examples, batch_size=4, repeats=1)
  assert only.reached == {'small': 0.0, 'large': 1.0}
  with pytest.raises(ValueError, match='nothing to measure'):
    time_router(router, [])
