"""Classifiers that stop early, of `sweet`, as models of a router."""

import dataclasses
import json

import numpy as np
import pytest

from calm.models import bert, parameters
from calm.tasks import wordpiece
from calm.tasks.classification import Classification
from calm.tasks.examples import Example
from elang.black_box import PredictorModel
from elang.messages import Limits, Reading, read
from elang.routing import Router
from elang.service import Service
from sweet.model import ExitsConfig
from sweet.objectives import classifiers
from sweet.predictor import ExitsPredictor

WORDS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefgh')
LABELS = Classification(('text',), ('no', 'yes'))
EXAMPLES = [
  Example(i, f'in.txt:{i + 1}', {'text': ' '.join('abcdefgh'[: i % 8 + 1])} if i else {}, '', {})
  for i in range(12)
]


def layers(example, row):
  """A price: the layers that were run."""
  return row['costs']['layers']


@pytest.fixture(scope='module')
def predictors(tmp_path_factory):
  """A classifier of one layer, and one of two that may leave after the first."""
  folder = tmp_path_factory.mktemp('tokenizer')
  (folder / 'vocab.txt').write_text(''.join(f'{word}\n' for word in WORDS))
  tokenizer = wordpiece.load(folder)

  def make(exits, seed):
    encoder = bert.BertConfig(
      vocab_size=13, emb_dim=4, num_heads=2, mlp_dim=5, num_layers=2, max_length=16
    )
    model = classifiers(ExitsConfig(encoder, exits=exits, num_outputs=2))
    rng = np.random.default_rng(seed)
    shapes = parameters.shapes(model).items()
    params = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes}
    return ExitsPredictor(model, parameters.unflatten(params), tokenizer, LABELS, length=16)

  return make((1,), 1), make((1, 2), 2).at(0.9)


def router(predictors):
  names = ('small', 'large')
  prices = {'layers': layers}
  return Router(
    [
      PredictorModel(name=name, predictor=one, prices=prices)
      for name, one in zip(names, predictors, strict=True)
    ]
  )


def test_a_router_says_what_the_classifier_says_that_it_chose(predictors):
  small, large = (one(EXAMPLES) for one in predictors)
  scores = sorted(row['confidence'] for row in small[1:])
  routed = router(predictors).at(scores[5])(EXAMPLES)
  assert {row['model'] for row in routed[1:]} == {'small', 'large'}
  for row, kept, passed in zip(routed[1:], small[1:], large[1:], strict=True):
    sure = kept['confidence'] >= scores[5]
    assert row['model'] == ('small' if sure else 'large')
    assert row['prediction'] == (kept if sure else passed)['prediction']
    assert row['scores'] == [kept['confidence']]
    assert row['costs']['layers'] == (1 if sure else 1 + passed['costs']['layers'])
  assert routed[0]['prediction'] == ''


def test_classifiers_are_served_by_their_fields(predictors):
  served, joint = Service(router(predictors)), router(predictors).at(0.7)
  reading, limits = Reading(form=LABELS), Limits()
  texts = [example.texts['text'] for example in EXAMPLES[1:]]
  body = json.dumps({'inputs': [*texts[:-1], {'text': texts[-1]}], 'threshold': 0.7}).encode()
  said = served.submit(read(body, reading, limits)).result(60)
  expected = [(row['model'], row['prediction']) for row in joint(EXAMPLES[1:])]
  assert [(one['model'], one['prediction']) for one in said['answers']] == expected


def test_one_run_of_classifiers_tells_of_every_threshold(predictors):
  joint = router(predictors)
  rows = joint.recording(EXAMPLES)
  for threshold in (None, -np.inf, 0.7, *(row['scores'][0] for row in joint.at(0)(EXAMPLES)[1:4])):
    assert joint.replay(rows, threshold) == joint.at(threshold)(EXAMPLES)


def test_a_recording_keeps_the_logits_of_the_first_model_and_answers_do_not(predictors):
  joint = router(predictors)
  rows = joint.recording(EXAMPLES)[1:]
  for row in rows:
    swift, large = row['models']
    logits = np.array(swift['evidence']['logits'])
    assert np.exp(logits - np.logaddexp.reduce(logits)).max() == pytest.approx(
      swift['score'], abs=1e-6
    )
    assert 'evidence' not in large
  assert 'logits' not in predictors[0](EXAMPLES)[1]
  assert joint.recording.family == joint.family


def test_exits_within_a_model_are_part_of_what_a_certificate_holds_for(predictors):
  small, large = predictors
  other = router((small, large.at(0.8)))
  assert other.family != router(predictors).family
  assert router((small, dataclasses.replace(large))).family == router(predictors).family
