"""Dissimilarities of written-out texts, and the losses of Definitions 1 and 2."""

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from calm.calibration import consistency

TEXTS = {
  name: dissimilarity
  for name, dissimilarity in consistency.DISSIMILARITIES.items()
  if name != 'token_disagreement'
}
EACH = pytest.mark.parametrize('dissimilarity', TEXTS.values(), ids=TEXTS)

CAT = 'the cat sat on the mat'
DOG = 'A dog lay on the rug.'


@EACH
@pytest.mark.parametrize(
  'text', ['', 'a', 'the', '?', CAT, 'Été à Noël', '猫が座った', '  two  spaces ']
)
def test_equal_texts_are_at_0(dissimilarity, text):
  assert dissimilarity(text, text) == 0
  assert dissimilarity(f' {text}\n', text) == 0


@EACH
def test_an_empty_text_is_at_1_from_any_other(dissimilarity):
  for text in (CAT, '?', '猫'):
    assert dissimilarity(text, '') == dissimilarity('', text) == dissimilarity(' \n', text) == 1
  assert dissimilarity('', '') == dissimilarity(' ', '\n') == 0


@EACH
def test_texts_without_a_common_character_are_at_1(dissimilarity):
  assert dissimilarity('bbb ccc', 'xxx yyy zzz') == 1


@EACH
def test_dissimilarities_stay_in_the_unit_interval_and_do_not_remember(dissimilarity):
  texts = [CAT, DOG, 'mat the on sat cat the', 'été', '?', '']
  table = [[dissimilarity(text, other) for other in texts] for text in texts]
  assert np.all((np.array(table) >= 0) & (np.array(table) <= 1))
  assert table == [[dissimilarity(text, other) for other in texts] for text in texts]


@EACH
def test_token_ids_are_refused_where_texts_are_compared(dissimilarity):
  with pytest.raises(ValueError, match='compares strings, not list'):
    dissimilarity([5, 6], [5, 6])


def test_a_text_is_exactly_another_or_not_at_all():
  assert consistency.exact_match('vingt et un', 'vingt  et un ') == 0
  assert consistency.exact_match('vingt et un', 'Vingt et un') == 1


def test_rouge_l_by_hand():
  # 'the cat the mat' is the longest common subsequence: precision 4/4, recall 4/6.
  assert consistency.rouge_l('The cat, the mat!', CAT) == pytest.approx(1 - 0.8)


def test_rouge_l_is_the_packages_on_ascii_and_reads_other_letters():
  scorer = rouge_scorer.RougeScorer(['rougeL'])
  for text, other in [(CAT, DOG), ("it's 3-4 o'clock", 'its 3 o clock'), ('a_b c', 'a b_c')]:
    expected = 1 - scorer.score(other, text)['rougeL'].fmeasure
    assert consistency.rouge_l(text, other) == pytest.approx(expected)
  assert scorer.score('été', 'âtâ')['rougeL'].fmeasure == 1  # All that is left of both is 't'.
  assert consistency.rouge_l('été', 'âtâ') == 1


def test_token_f1_by_hand():
  # Without the articles: cat sat on mat / cat on black mat: 3 in common of 4 and 4.
  assert consistency.token_f1(CAT, 'A cat; on a black mat!') == pytest.approx(1 - 0.75)
  # Words count as often as they stand: 2 in common of 3 and 2.
  assert consistency.token_f1('no no no', 'no no') == pytest.approx(1 - 0.8)
  # Nothing is left of either, or of one.
  assert consistency.token_f1('the', 'a') == 0
  assert consistency.token_f1('the', 'cat') == 1
  # Order does not matter: the paper's example of section 3.4.
  concert = 'the concert was wonderful and long'
  assert consistency.token_f1(concert, 'the concert was long and wonderful') == 0


def test_bleu_and_chrf_are_sacrebleus():
  expected = 1 - sacrebleu.sentence_bleu(CAT, [DOG], use_effective_order=True).score / 100
  assert consistency.bleu(CAT, DOG) == pytest.approx(expected)
  expected = 1 - sacrebleu.sentence_chrf(CAT, [DOG]).score / 100
  assert consistency.chrf(CAT, DOG) == pytest.approx(expected)


def test_bleu_by_hand():
  # One word of two right, no pair: sqrt(1/2 * 1/2) with the pair's zero smoothed to 1/2.
  assert consistency.bleu('cat mat', 'cat sat') == pytest.approx(0.5)


@pytest.mark.parametrize(
  ('tokens', 'others', 'share'),
  [
    ([5, 6, 7, 1], [5, 6, 7, 1], 0),
    ([5, 6, 1], [5, 7, 1], 1 / 3),
    ([5, 6, 1], [5, 7, 6, 1], 3 / 4),
    ([5, 6, 1, 0, 0], [5, 6, 1], 0),
    ([5, 6, 1, 0, 0], [5, 6, 7, 1], 2 / 4),
    ([0, 0], [5, 1], 1),
    ([], [5, 1], 1),
    ([0, 0], [0], 0),
    ([], [], 0),
  ],
)
def test_token_disagreement_counts_positions_up_to_the_longer_end(tokens, others, share):
  assert consistency.token_disagreement(tokens, others) == pytest.approx(share)
  assert consistency.token_disagreement(others, tokens) == pytest.approx(share)


def test_token_disagreement_of_a_batch_is_that_of_its_rows():
  early = np.array([[5, 6, 1, 0], [5, 6, 7, 8], [1, 0, 0, 0]])
  full = np.array([[5, 6, 7, 1, 0], [5, 6, 7, 8, 1], [1, 0, 0, 0, 0]])
  by_rows = consistency.textual_consistency(early, full, consistency.token_disagreement)
  np.testing.assert_allclose(by_rows, [2 / 4, 1 / 5, 0])
  np.testing.assert_allclose(consistency.token_disagreement(early, full), by_rows)


def _shorter(text, other):
  """A dissimilarity of one's own: how much shorter, of ten characters."""
  return max(0, len(other) - len(text)) / 10


def test_textual_consistency_compares_the_early_with_the_full_output():
  losses = consistency.textual_consistency(['abc', 'abcdef'], ['abcde', 'abc'], _shorter)
  np.testing.assert_allclose(losses, [0.2, 0.0])
  assert losses.dtype == np.float64


def test_risk_consistency_is_the_positive_part_of_the_increase():
  references = ['abcdefgh'] * 3
  early, full = ['ab', 'abcd', 'abcdef'], ['abcd', 'abcd', 'abc']
  # Risks 0.6, 0.4, 0.2 against 0.4, 0.4, 0.5: the last is better than the full model's.
  losses = consistency.risk_consistency(early, full, references, _shorter)
  np.testing.assert_allclose(losses, [0.2, 0, 0])


def test_the_nearest_of_several_references_counts():
  references = [['abcdefgh', 'abcd'], 'abcdefgh', ('abc',)]
  risks = consistency.risks(['ab', 'ab', 'ab'], references, _shorter)
  np.testing.assert_allclose(risks, [0.2, 0.6, 0.1])


def test_references_may_be_rows_of_token_ids():
  rows = [np.array([5, 6, 1]), np.array([5, 7, 1])]
  early, full = np.array([[5, 6, 8, 1]]), np.array([[5, 6, 1, 0]])
  losses = consistency.risk_consistency(early, full, [rows], consistency.token_disagreement)
  np.testing.assert_allclose(losses, [2 / 4])


def test_full_risks_computed_once_give_the_same_losses():
  early, full, references = [CAT, DOG], [DOG, DOG], [[CAT, DOG], [CAT]]
  full_risks = consistency.risks(full, references, consistency.chrf)
  early_risks = consistency.risks(early, references, consistency.chrf)
  np.testing.assert_array_equal(
    consistency.risk_increase(early_risks, full_risks),
    consistency.risk_consistency(early, full, references, consistency.chrf),
  )


def test_bad_input_is_told():
  with pytest.raises(ValueError, match='2 early, 1 full'):
    consistency.textual_consistency(['a', 'b'], ['a'], _shorter)
  with pytest.raises(ValueError, match='1 early, 1 full, 2 references'):
    consistency.risk_consistency(['a'], ['a'], ['a', 'b'], _shorter)
  with pytest.raises(ValueError, match='Example 1 has no reference'):
    consistency.risks(['a', 'b'], ['a', []], _shorter)


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan')])
def test_a_dissimilarity_out_of_range_is_told(value):
  def mine(text, other):
    return value

  with pytest.raises(ValueError, match=r'mine gave .* for example 0'):
    consistency.textual_consistency(['a'], ['b'], mine)


def test_rounding_beyond_the_unit_interval_is_forgiven():
  losses = consistency.textual_consistency(
    [0.0, 0.0], [-2e-16, 1 + 2e-16], lambda early, full: full - early
  )
  np.testing.assert_array_equal(losses, [0, 1])


def test_no_examples_no_losses():
  assert consistency.textual_consistency([], [], consistency.rouge_l).shape == (0,)
