"""Functions, predictors and decoders as models: what is asked, what is refused, what counts."""

import dataclasses
import math
import types

import numpy as np
import pytest

from calm.decoding import loop
from calm.decoding.text_predictor import TextPredictor
from calm.evaluation.predictor import FunctionPredictor
from calm.exits import rules
from calm.tasks.examples import Example
from elang import black_box
from elang.black_box import BlackBox, PredictorModel, ScoredFirst, TokenScore
from elang.routing import Router


def box(function, **changes):
  return BlackBox(name='mine', version='1', function=function, **changes)


def answered(examples, threshold):
  """Rows that say how sure they are."""
  return [
    {'prediction': f'{threshold}', 'units': 1, 'costs': {}, 'confidence': float(example.index)}
    for example in examples
  ]


@dataclasses.dataclass(frozen=True)
class Echo:
  """A generator without a network: says 'a' and ends, surer of inputs of more tokens."""

  shapes: list = dataclasses.field(default_factory=list)
  eos_id: int = 1
  draws: bool = False
  fill: str = 'exit_state'
  max_decode_steps: int = 2
  rule: rules.NeverExit = dataclasses.field(default_factory=rules.NeverExit)
  sampling: types.SimpleNamespace = dataclasses.field(
    default_factory=lambda: types.SimpleNamespace(num_samples=1)
  )
  model: types.SimpleNamespace = dataclasses.field(
    default_factory=lambda: types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=300))
  )

  def __call__(self, params, tokens, *, prompts=None, key=None):
    self.shapes.append(tokens.shape)
    there = np.array((tokens > 0).any(-1), np.int32)
    ones = np.stack([there, there], 1)
    log_prob = -2.0 / np.maximum(1, (tokens > 0).sum(-1))
    words = there[:, None] * np.array([[ord('a') + 3, 1]], np.int32)
    return loop.Decoded(words, ones, ones, ones, ones, ones, log_prob, log_prob)


def test_one_text_is_given_as_it_is_and_several_by_name():
  given = []
  model = box(lambda texts: (given.extend(texts), ['x'] * len(texts))[1])
  model.answer([Example(0, 'a', {'inputs': 'one'}, '', {})])
  model.answer([Example(0, 'a', {'first': 'one', 'second': 'two'}, '', {})])
  assert given == ['one', {'first': 'one', 'second': 'two'}]


@pytest.mark.parametrize(
  ('says', 'message'),
  [
    (lambda texts: ['x'], 'mine gives 1 predictions for 9 inputs'),
    (lambda texts: 'x' * 9, 'mine gives str as predictions: a list'),
    (lambda texts: None, 'mine gives NoneType as predictions: a list'),
    (lambda texts: [7] * 9, 'mine answers in.txt:1 with int: predictions are texts'),
    (lambda texts: ['x'] * 9, 'mine gives no scores, and a model before the last needs them'),
    (lambda texts: (['x'] * 9, [1.0]), 'mine gives 1 scores for 9 inputs'),
  ],
)
def test_what_a_function_gives_is_looked_at(says, message, examples):
  with pytest.raises(ValueError, match=message):
    box(says).ask([example for example in examples if example.texts])


def test_a_function_that_fails_is_named_with_the_inputs(examples):
  with pytest.raises(ValueError, match=r'mine failed on in.txt:1 to in.txt:4, with KeyError: 7'):
    box(lambda texts: {}[7], batch_size=4).answer(examples)


def test_a_pair_of_predictions_is_no_pair_of_predictions_and_scores(examples):
  rows = box(lambda texts: tuple(texts)).answer(examples[:2])
  assert [row['prediction'] for row in rows] == ['seven', 'a']


def test_scores_come_in_any_array_and_no_number_is_the_least_of_all(examples):
  asked = box(lambda texts: (texts, np.array([1, math.nan, math.inf], np.float32))).ask(
    examples[:3]
  )
  np.testing.assert_array_equal(asked.scores, [1, -math.inf, -math.inf])
  assert [row['prediction'] for row in asked.answer([2, 0])] == ['of', 'seven']


def test_a_black_box_has_a_name_and_a_version():
  with pytest.raises(ValueError, match='mine needs a version'):
    BlackBox(name='mine', function=len)
  with pytest.raises(ValueError, match='letters, digits'):
    BlackBox(name='my model', version='1', function=len)
  assert box(len, batch_size=3).identity == {'function': 'builtins.len', 'version': '1'}


def test_a_predictor_answers_at_its_own_threshold_and_is_routed_by_what_its_rows_say(examples):
  predictor = FunctionPredictor(
    answered, threshold=0.5, batch_size=4, results=('prediction', 'units', 'costs', 'confidence')
  )
  model = PredictorModel(name='exits', predictor=predictor)
  asked = model.ask(examples)
  np.testing.assert_array_equal(asked.scores, np.arange(10.0))
  assert {row['prediction'] for row in asked.answer(range(10))} == {'0.5'}
  assert model.identity['threshold'] == 0.5
  lengths = dataclasses.replace(model, score=lambda row: -row['confidence'])
  np.testing.assert_array_equal(lengths.ask(examples).scores, -np.arange(10.0))
  assert lengths.identity != model.identity
  with pytest.raises(ValueError, match="rows have no 'log_prob' to route by"):
    dataclasses.replace(model, score='log_prob').ask(examples)


def test_a_decoder_is_routed_by_its_tokens_in_batches_that_fit(examples):
  seqio = pytest.importorskip('seqio')
  generator = Echo()
  decoder = TextPredictor(generator, {}, seqio.ByteVocabulary(), 24, batch_size=8)
  swift = PredictorModel(name='swift', predictor=decoder, score=black_box.mean_log_prob)
  large = dataclasses.replace(swift, name='super')
  known = [example for example in examples if example.texts]
  scores = swift.ask(known).scores
  np.testing.assert_allclose(scores, [-1 / (len(e.texts['inputs'].encode()) + 1) for e in known])
  generator.shapes.clear()
  rows = Router((swift, large), float(np.sort(scores)[3]))(examples)
  assert [row.get('model') for row in rows].count('super') == 3
  # Nine inputs, 8 at once, and three that are passed on.
  assert [shape[0] for shape in generator.shapes] == [8, 1, 3]


def test_tokens_are_scored_by_their_mean_or_a_quantile():
  row = {'negative_energies': [3.0, 1.0, 2.0, 6.0], 'token_log_probs': [-1.0, None]}
  assert TokenScore()(row) == 3
  assert TokenScore(quantile=0.0)(row) == 1
  assert TokenScore(quantile=0.5)(row) == 2.5
  assert TokenScore('token_log_probs')(row) == -math.inf
  assert TokenScore()({'negative_energies': []}) == -math.inf
  with pytest.raises(ValueError, match='token_scores = True'):
    TokenScore()({})
  with pytest.raises(ValueError, match='quantile'):
    TokenScore(quantile=2)


def test_sequences_without_tokens_are_the_least_sure():
  assert black_box.mean_log_prob({'log_prob': -6.0, 'units': 3}) == -2
  assert black_box.negative_perplexity({'log_prob': -6.0, 'units': 3}) == -math.exp(2)
  for nothing in ({'log_prob': 0.0, 'units': 0}, {'log_prob': None, 'units': 3}):
    assert black_box.mean_log_prob(nothing) == -math.inf
  assert math.isfinite(black_box.negative_perplexity({'log_prob': None, 'units': 3}))


def test_a_score_of_its_own_counts_in_the_identity(models):
  one = ScoredFirst(name='small', model=models[0], score=len)
  other = ScoredFirst(name='small', model=models[0], score=sum)
  assert one.identity != other.identity
  assert one.identity['version'] == '1'
