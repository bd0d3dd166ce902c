"""FLOPs of encoders: by hand, against what XLA counts, and the published number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import bert, deberta
from calm.reporting.cost_bert import EncoderCost

SIZES = {'vocab_size': 50, 'emb_dim': 768, 'num_heads': 12, 'mlp_dim': 3072, 'num_layers': 2}
KINDS = {
  'bert': bert.Bert(bert.BertConfig(**SIZES, num_labels=3)),
  'deberta': deberta.Deberta(
    deberta.DebertaConfig(**SIZES, num_labels=3, max_relative_positions=24)
  ),
  'deberta_c2p': deberta.Deberta(
    deberta.DebertaConfig(**SIZES, num_labels=3, position_terms=('c2p',))
  ),
}


def xla_flops(model, length):
  """What XLA counts in one row's logits."""

  def logits(params, tokens):
    def run(module, tokens):
      return module.classify(module.pool(module(tokens, tokens > 0)[-1]))

    return model.apply({'params': params}, tokens, method=run)

  params = jax.eval_shape(model.init_params, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  return jax.jit(logits).lower(params, tokens).cost_analysis()['flops']


@pytest.mark.parametrize('length', [16, 48, 128])
@pytest.mark.parametrize('kind', sorted(KINDS))
def test_a_text_costs_what_xla_counts(kind, length):
  model = KINDS[kind]
  assert EncoderCost(model.config)(length) == pytest.approx(xla_flops(model, length), rel=0.05)


def test_the_published_number_of_bert_base_is_128_tokens_without_attention_products():
  cost = EncoderCost(bert.published('bert_base'))
  assert cost(128, attention_products=False) == pytest.approx(21.8e9, rel=0.005)
  assert cost(128) == pytest.approx(22.4e9, rel=0.005)
  # TinyBERT of 4 layers, 312 wide: 1.2e9.
  tiny = bert.BertConfig(emb_dim=312, mlp_dim=1200, num_layers=4)
  assert EncoderCost(tiny)(128, attention_products=False) == pytest.approx(1.2e9, rel=0.05)


def test_parts_by_hand():
  # D = 2, F = 5, T = 3: projections 4 * 2 * 3 * 4 = 96, feed-forward 4 * 3 * 10 = 120,
  # two products of 2 * 9 * 2 = 36; a pooler of 8 and a head of 7 * 4.
  config = bert.BertConfig(9, 2, 1, 5, 2, num_labels=7)
  cost = EncoderCost(config)
  assert cost.layer(3, attention_products=False) == 96 + 120
  assert cost.layer(3) == 96 + 120 + 72
  assert cost.head() == 8 + 28
  assert cost(3) == 2 * 288 + 36
  assert cost.encoder(3, num_layers=1) == 288
  np.testing.assert_array_equal(cost.layer(np.array([3, 3])), [288, 288])


def test_each_position_term_costs_its_weights_and_its_products():
  sizes = (9, 2, 1, 5, 2)
  bare = EncoderCost(deberta.DebertaConfig(*sizes, position_terms=()))
  both = EncoderCost(deberta.DebertaConfig(*sizes, max_relative_positions=2))
  assert bare.layer(3) == EncoderCost(bert.BertConfig(*sizes)).layer(3)
  # Of 2 * min(3, 2) distances the embeddings, 2 * 4 * 4 for each term; 2 * 3 * 6 * 2 in products.
  assert both.layer(3) - bare.layer(3) == 2 * (2 * 4 * 4 + 2 * 3 * 6 * 2)


def test_without_pooler_and_labels_there_is_no_head():
  config = dataclasses.replace(bert.published('tiny'), pooler=False)
  assert EncoderCost(config).head() == 0
  assert EncoderCost(config).head(5) == 2 * 32 * 5
