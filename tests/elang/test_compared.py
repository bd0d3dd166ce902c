"""Every score of what a model said: by hand, and which of them order inputs alike."""

import numpy as np
import pytest

from calm.tasks.examples import Example
from elang import compared
from elang.head_score import EncoderScored

EXAMPLES = [Example(i, '', {'a': 'w ' * i, 'b': 'w'}, '', {}) for i in range(3)]


def of_logits(logits, scores=None):
  scores = [0.5] * len(logits) if scores is None else scores
  said = [
    {'score': score, 'evidence': {'logits': row}} for row, score in zip(logits, scores, strict=True)
  ]
  texts = [Example(i, '', {'inputs': 'w'}, '', {}) for i in range(len(logits))]
  return compared.scores_of(said, texts)


def test_a_black_box_has_its_own_score_and_the_length():
  found = compared.scores_of([{'score': s} for s in (0.5, None, 2.0)], EXAMPLES)
  assert list(found) == ['score', 'length']
  np.testing.assert_array_equal(found['score'], [0.5, -np.inf, 2.0])
  np.testing.assert_array_equal(found['length'], [-1, -2, -3])


def test_a_decoder_has_means_and_quartiles_of_its_tokens():
  tokens = [[-1.0, -3.0, -5.0, -7.0, -9.0], [], [-1.0, None]]
  said = [
    {'score': 1.0, 'evidence': {'token_log_probs': row, 'negative_energies': row}} for row in tokens
  ]
  found = compared.scores_of(said, EXAMPLES)
  for name in ('log-probability', 'decoder energy'):
    np.testing.assert_array_equal(found[name], [-5, -np.inf, -np.inf])
    np.testing.assert_array_equal(found[f'{name}, quartile'], [-7, -np.inf, -np.inf])


def test_of_two_classes_all_but_the_energy_and_the_length_are_one_family():
  logits = np.random.default_rng(0).normal(size=(300, 2)) * 3
  own = np.arange(300.0).tolist()
  names = [family.name for family in compared.families(of_logits(logits.tolist(), own))]
  assert names == ['score', 'energy', 'softmax = entropy = margin = published', 'length']


def test_of_three_classes_they_differ():
  logits = np.random.default_rng(0).normal(size=(300, 3)) * 3
  names = [family.name for family in compared.families(of_logits(logits.tolist()))]
  assert {'energy', 'softmax', 'entropy', 'margin', 'published'} <= set(names)


def test_a_router_that_goes_by_a_score_of_the_table_is_named_by_it():
  logits = np.random.default_rng(0).normal(size=(50, 3))
  scores = np.logaddexp.reduce(logits, axis=-1)
  families = compared.families(of_logits(logits.tolist(), scores.tolist()))
  (own,) = [family for family in families if family.is_own]
  assert own.name == 'energy'
  named = compared.scores_of([{'score': s} for s in (1.0, 2.0, 3.0)], EXAMPLES, 'mine')
  (first, length) = compared.families(named, 'mine')
  assert (first.name, first.is_own, length.is_own) == ('mine', True, False)


@pytest.mark.parametrize('change', [lambda x: 3 * x + 1, np.exp, np.arctan])
def test_what_grows_with_a_score_is_like_it(change):
  scores = np.random.default_rng(1).normal(size=100)
  assert compared.alike(scores, change(scores))
  assert not compared.alike(scores, -scores)
  # A score that is rounded orders fewer inputs, and none the other way.
  assert compared.alike(scores, np.round(scores))


def test_a_score_that_tells_nothing_is_like_no_other_and_neither_is_one_with_other_gaps():
  scores = np.arange(5.0)
  assert not compared.alike(scores, np.zeros(5))
  assert compared.alike(np.ones(5), np.zeros(5))
  assert not compared.alike(scores, np.array([-np.inf, 1, 2, 3, 4]))


def test_every_score_has_a_meaning():
  known = of_logits([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
  tokens = {'token_log_probs': [0.0], 'negative_energies': [0.0]}
  known |= compared.scores_of([{'score': 1.0, 'evidence': tokens}], EXAMPLES[:1])
  known |= compared.scores_of([{'score': 1.0}], EXAMPLES[:1], EncoderScored.score_name)
  assert known.keys() == compared.MEANINGS.keys()
