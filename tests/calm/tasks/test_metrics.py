"""Metrics agree with the libraries they call, and with values that are worked out by hand."""

import math

import numpy as np
import pytest
import sacrebleu
import scipy.stats
from rouge_score import rouge_scorer

from calm.tasks import metrics

PREDICTIONS = [
  'The cat sat on the mat.',
  'There is a dog in the garden , it barks !',
  "L'été prochain, nous irons à la mer.",
]
SINGLE = [
  'The cat is on the mat.',
  'A dog is barking in the garden.',
  "L'été prochain nous irons tous à la mer.",
]
SEVERAL = [
  ['The cat is on the mat.', 'The cat sat upon the mat.'],
  ['A dog is barking in the garden.', 'There is a dog in the garden.'],
  ["L'été prochain nous irons tous à la mer.", 'Nous irons à la mer.'],
]
UNEVEN = [SEVERAL[0], SINGLE[1], [*SEVERAL[2], "L'an prochain, nous irons à la mer."]]

# Every metric with targets and predictions that suit it.
ALL = {
  'bleu': (metrics.bleu, ['a b c d e']),
  'chrf': (metrics.chrf, ['abcdefg']),
  'rouge': (metrics.rouge, ['a b c']),
  'exact_match': (metrics.exact_match, ['a']),
  'accuracy': (metrics.accuracy, ['a']),
  'squad': (metrics.squad, ['b c']),
  'binary_f1': (metrics.binary_f1('yes'), ['yes']),
  'macro_f1': (metrics.macro_f1, ['a', 'b']),
  'matthews': (metrics.matthews, ['a', 'b']),
  'pearson_spearman': (metrics.pearson_spearman, ['1', '2', '4']),
}


@pytest.mark.parametrize('name', ALL)
def test_what_is_right_scores_100(name):
  metric, texts = ALL[name]
  scores = metric(texts, texts)
  assert scores == pytest.approx(dict.fromkeys(scores, 100))


@pytest.mark.parametrize('name', [*ALL, 'multirc'])
def test_nothing_to_score_and_unequal_numbers_are_errors(name):
  metric = metrics.multirc if name == 'multirc' else ALL[name][0]
  with pytest.raises(ValueError, match='no predictions to score'):
    metric([], [])
  with pytest.raises(ValueError, match='1 targets for 2 predictions'):
    metric(['a'], ['a', 'b'])
  with pytest.raises(ValueError, match='2 targets for 0 predictions'):
    metric(['a', 'b'], [])


@pytest.mark.parametrize('name', ['bleu', 'chrf', 'rouge', 'exact_match', 'accuracy', 'squad'])
def test_a_target_without_a_text_is_named(name):
  with pytest.raises(ValueError, match='Target 1 is an empty list'):
    ALL[name][0](['a', []], ['a', 'b'])


def columns(targets):
  """The targets as sacrebleu takes them, None where an example has no more."""
  rows = [[target] if isinstance(target, str) else target for target in targets]
  most = max(map(len, rows))
  return list(zip(*([*row, *[None] * (most - len(row))] for row in rows), strict=True))


@pytest.mark.parametrize('targets', [SINGLE, SEVERAL, UNEVEN])
def test_bleu_and_chrf_are_sacrebleus(targets):
  bleu = sacrebleu.BLEU().corpus_score(PREDICTIONS, columns(targets)).score
  chrf = sacrebleu.CHRF().corpus_score(PREDICTIONS, columns(targets)).score
  assert 0 < bleu < 100
  assert 0 < chrf < 100
  assert metrics.bleu(targets, PREDICTIONS)['bleu'] == pytest.approx(bleu)
  assert metrics.chrf(targets, PREDICTIONS)['chrf'] == pytest.approx(chrf)


def test_bleu_by_hand():
  # Of 'a b c d e' against 'a b c d f g', 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2
  # quadruples are right, and it is shorter by 1 in 5.
  expected = 100 * math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
  assert metrics.bleu(['a b c d f g'], ['a b c d e'])['bleu'] == pytest.approx(expected)


def test_a_second_reference_never_lowers_bleu_or_chrf():
  for metric in (metrics.bleu, metrics.chrf):
    ((_, one),) = metric(SINGLE, PREDICTIONS).items()
    ((_, both),) = metric(SEVERAL, PREDICTIONS).items()
    assert both > one


def test_bleu_is_of_the_corpus_not_the_mean_of_its_sentences():
  both = metrics.bleu(SINGLE, PREDICTIONS)['bleu']
  alone = [
    metrics.bleu([one], [other])['bleu'] for one, other in zip(SINGLE, PREDICTIONS, strict=True)
  ]
  assert both != pytest.approx(np.mean(alone), abs=0.1)


@pytest.mark.parametrize('metric', [metrics.bleu, metrics.chrf, metrics.rouge])
def test_empty_predictions_score_0(metric):
  scores = metric(['some words', 'and more of them'], ['', ''])
  assert scores == dict.fromkeys(scores, 0)


def test_rouge_of_ascii_is_that_of_rouge_score_and_the_best_of_several_references():
  names = ['rouge1', 'rouge2', 'rougeLsum']
  scorer = rouge_scorer.RougeScorer(names)
  for targets in (SINGLE[:2], SEVERAL[:2]):
    rows = [[target] if isinstance(target, str) else target for target in targets]
    scores = metrics.rouge(targets, PREDICTIONS[:2])
    assert list(scores) == names
    for name in names:
      best = [
        max(scorer.score(one, prediction)[name].fmeasure for one in row)
        for row, prediction in zip(rows, PREDICTIONS[:2], strict=True)
      ]
      assert 0 < scores[name] < 100
      assert scores[name] == pytest.approx(100 * np.mean(best))


def test_rouge_by_hand():
  # 2 of 3 words and 1 of 2 pairs are shared, and 'the cat' is the longest common sequence.
  assert metrics.rouge(['the cat sat'], ['the cat ran']) == pytest.approx(
    {'rouge1': 200 / 3, 'rouge2': 50, 'rougeLsum': 200 / 3}
  )


def test_rouge_lsum_goes_sentence_by_sentence_at_newlines_and_lone_periods():
  # In one line, only one of the two can be in a common sequence.
  assert metrics.rouge(['a b c d'], ['c d a b'])['rougeLsum'] == pytest.approx(50)
  for target, prediction in (('a b\nc d', 'c d\na b'), ('a b . c d', 'c d . a b')):
    assert metrics.rouge([target], [prediction])['rougeLsum'] == pytest.approx(100)


def test_exact_match_and_accuracy_are_shares_of_equal_texts():
  targets, predictions = ['a', ['b', 'B'], 'c', 'd'], ['a', 'B', 'C', ' d']
  assert metrics.exact_match(targets, predictions) == {'exact_match': 50.0}
  assert metrics.accuracy(targets, predictions) == {'accuracy': 50.0}


@pytest.mark.parametrize(
  ('text', 'normal'),
  [
    ('The  Cat, sat!', 'cat sat'),
    ('An apple a day.', 'apple day'),
    ('theory', 'theory'),
    ('U.S.A. (the "states")', 'usa states'),
    ('', ''),
    ('Été\n', 'été'),
  ],
)
def test_squads_normal_form(text, normal):
  assert metrics.normalize_answer(text) == normal


@pytest.mark.parametrize(
  ('reference', 'prediction', 'f1'),
  [
    ('the cat sat', 'A cat sat.', 1),
    ('one two three', 'two three four five', 2 * 2 / (3 + 4)),
    ('to be or not to be', 'to to to', 2 * 2 / (6 + 3)),
    ('cat', 'dog', 0),
    ('cat', '', 0),
    ('the', 'a', 1),  # Nothing is left of either.
  ],
)
def test_token_f1_counts_shared_words(reference, prediction, f1):
  assert metrics.token_f1(reference, prediction) == pytest.approx(f1)


def test_squad_takes_the_best_answer_of_each_question():
  targets = [['the cat', 'a grey cat'], 'Paris', ['one two three', 'four']]
  predictions = ['Grey cat!', 'London', 'two three four five']
  # The second is wrong; of the third, (2 * 2) / (3 + 4) with the first answer is the better.
  f1 = (1 + 0 + 4 / 7) / 3
  assert metrics.squad(targets, predictions) == pytest.approx({'em': 100 / 3, 'f1': 100 * f1})


def test_f1_of_one_label_by_hand():
  targets = ['yes', 'yes', 'yes', 'no', 'no']
  predictions = ['yes', 'no', 'maybe', 'yes', 'no']
  # 1 hit among 3 that are and 2 that are said to be.
  assert metrics.binary_f1('yes')(targets, predictions) == {'f1': pytest.approx(100 * 2 / 5)}
  assert metrics.binary_f1('yes')(['no'], ['no']) == {'f1': 0.0}


def test_macro_f1_is_the_mean_over_the_labels_of_the_targets():
  targets = ['a', 'a', 'b', 'c']
  predictions = ['a', 'b', 'b', 'x']
  # a: 1 hit of 2 and 1; b: 1 hit of 1 and 2; c: none. 'x' is no label, only a wrong answer.
  expected = 100 * (2 / 3 + 2 / 3 + 0) / 3
  assert metrics.macro_f1(targets, predictions) == {'macro_f1': pytest.approx(expected)}


def test_matthews_of_two_labels_by_hand():
  hits, misses, alarms, rejections = 5, 1, 2, 4
  targets = ['1'] * (hits + misses) + ['0'] * (alarms + rejections)
  predictions = ['1'] * hits + ['0'] * misses + ['1'] * alarms + ['0'] * rejections
  expected = (5 * 4 - 2 * 1) / math.sqrt((5 + 2) * (5 + 1) * (4 + 2) * (4 + 1))
  assert metrics.matthews(targets, predictions)['matthews'] == pytest.approx(100 * expected)
  against = ['0' if one == '1' else '1' for one in targets]
  assert metrics.matthews(targets, against)['matthews'] == pytest.approx(-100)


def test_matthews_of_two_labels_is_their_pearson_correlation():
  targets, predictions = '110100111010', '100101110011'
  expected = scipy.stats.pearsonr(list(map(int, targets)), list(map(int, predictions)))[0]
  assert metrics.matthews(list(targets), list(predictions))['matthews'] == pytest.approx(
    100 * expected
  )


def test_matthews_of_three_labels_by_hand():
  # 3 of 4 right; targets 2, 1, 1 and predictions 1, 2, 1 of a, b, c: (3 * 4 - 5) / (16 - 6).
  assert metrics.matthews(list('aabc'), list('abbc'))['matthews'] == pytest.approx(70)


@pytest.mark.parametrize(('targets', 'predictions'), [('ab', 'aa'), ('aa', 'ab'), ('aa', 'bb')])
def test_matthews_is_0_where_one_side_has_a_single_label(targets, predictions):
  assert metrics.matthews(list(targets), list(predictions)) == {'matthews': 0.0}


def test_correlations_are_scipys():
  targets, predictions = ['1.2', '3', '2.5', '5.0', '0.4'], ['1.0', '2.2', '3.4', '4.8', '0.2']
  x, y = ([float(one) for one in texts] for texts in (targets, predictions))
  assert metrics.pearson_spearman(targets, predictions) == pytest.approx(
    {
      'pearson': 100 * scipy.stats.pearsonr(x, y)[0],
      'spearman': 100 * scipy.stats.spearmanr(x, y)[0],
    }
  )


def test_spearman_sees_the_order_only():
  scores = metrics.pearson_spearman(['1', '2', '3', '4'], ['1', '2', '3', '40'])
  assert scores['spearman'] == pytest.approx(100)
  assert scores['pearson'] < 90


@pytest.mark.parametrize('word', ['', 'about two', 'nan', 'inf', '1e999', '2_0'])
def test_a_prediction_that_is_no_number_counts_as_0(word):
  targets = ['1', '2', '3']
  assert metrics.pearson_spearman(targets, ['1', word, '3']) == (
    metrics.pearson_spearman(targets, ['1', '0', '3'])
  )


@pytest.mark.parametrize('word', ['', '3,5', 'nan', '1_000'])
def test_a_target_that_is_no_number_is_an_error(word):
  with pytest.raises(ValueError, match=r'Target 1 is .*, and a number is needed'):
    metrics.pearson_spearman(['1', word], ['1', '2'])


def test_correlations_with_a_constant_are_0():
  assert metrics.pearson_spearman(['1', '2'], ['3', '3']) == {'pearson': 0.0, 'spearman': 0.0}


def test_multirc_counts_answers_and_questions():
  targets = [('q1', 'True'), ('q1', 'False'), ('q2', 'True'), ('q2', 'True'), ('q3', 'False')]
  predictions = ['True', 'False', 'True', 'False', 'nonsense']
  # Of answers that are 'True', 2 hits of 3 and 2; of questions, only the first is all right.
  assert metrics.multirc(targets, predictions) == pytest.approx({'f1a': 100 * 4 / 5, 'em': 100 / 3})
