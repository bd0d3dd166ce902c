"""Losses in [0, 1] that say how far an early output falls from the full model's.

CALM, section 4, Definitions 1 and 2, https://arxiv.org/abs/2207.07061.

A dissimilarity is any function (output, other) -> [0, 1], 0 for equals; the second argument is the
full model's output or a reference. Those of this module compare strings, except
`token_disagreement`, which compares token ids. None depends on anything but its two arguments.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sacrebleu

from calm.tasks import words

Dissimilarity = Callable[[Any, Any], float]

# Beyond [0, 1] by no more than this, a dissimilarity is taken for rounded: 1 - 1.0000000000000002.
ROUNDING = 1e-9


def textual_consistency(
  early: Sequence, full: Sequence, dissimilarity: Dissimilarity
) -> np.ndarray:
  """Losses float64[n] of Definition 1 (Eq. 10): dissimilarity(early_i, full_i).

  Args:
    early: n outputs of the early-exiting model: strings, or rows of token ids.
    full: the full model's n outputs for the same inputs.
    dissimilarity: maps two outputs to [0, 1].

  Raises:
    ValueError: unequal numbers of outputs, or a dissimilarity outside [0, 1].
  """
  _check_lengths(early=early, full=full)
  pairs = zip(early, full, strict=True)
  return np.array([_apply(dissimilarity, i, *pair) for i, pair in enumerate(pairs)], np.float64)


def risk_consistency(
  early: Sequence, full: Sequence, references: Sequence, dissimilarity: Dissimilarity
) -> np.ndarray:
  """Losses float64[n] of Definition 2 by Eq. 11: max(0, risk(early_i) - risk(full_i)).

  The positive part keeps the loss in [0, 1]; an early output that is better than the full model's
  counts as equally good, so that the expected increase in risk is at most the expected loss.

  Args:
    early: n outputs of the early-exiting model.
    full: the full model's n outputs for the same inputs.
    references: for each input one reference, or a list or tuple of several.
    dissimilarity: maps an output and a reference to [0, 1].

  Raises:
    ValueError: unequal numbers, an example without references, or a dissimilarity outside [0, 1].
  """
  _check_lengths(early=early, full=full, references=references)
  return risk_increase(
    risks(early, references, dissimilarity), risks(full, references, dissimilarity)
  )


def risks(outputs: Sequence, references: Sequence, dissimilarity: Dissimilarity) -> np.ndarray:
  """Risks float64[n] in [0, 1]: each output's least dissimilarity to any of its references.

  `references` and errors are those of `risk_consistency`. The full model's risks are the same at
  every threshold: computed once, they serve `risk_increase` throughout a calibration.
  """
  _check_lengths(outputs=outputs, references=references)
  lowest = []
  for i, (output, several) in enumerate(zip(outputs, references, strict=True)):
    several = several if isinstance(several, list | tuple) else [several]
    if not several:
      raise ValueError(f'Example {i} has no reference: give it one, or leave it out.')
    lowest.append(min(_apply(dissimilarity, i, output, reference) for reference in several))
  return np.array(lowest, np.float64)


def risk_increase(early_risks: np.ndarray, full_risks: np.ndarray) -> np.ndarray:
  """The positive part of early_risks[...] - full_risks[...], CALM's Eq. 11."""
  return np.maximum(0, np.asarray(early_risks, np.float64) - np.asarray(full_risks, np.float64))


def _of_texts(score: Callable[..., float]) -> Callable[..., float]:
  """1 - score(text, other) as a dissimilarity: 0 for equal texts, 1 if only one is empty.

  Texts are equal if they differ in white space only; white space alone is empty.
  """

  @functools.wraps(score)
  def dissimilarity(text: str, other: str, **settings: Any) -> float:
    for given in (text, other):
      if not isinstance(given, str):
        raise ValueError(
          f'{score.__name__} compares strings, not {type(given).__name__}: '
          'decode the tokens, or use token_disagreement.'
        )
    if text.split() == other.split():
      return 0.0
    if not text.strip() or not other.strip():
      return 1.0
    return min(1.0, max(0.0, 1.0 - score(text, other, **settings)))

  return dissimilarity


@_of_texts
def rouge_l(text: str, other: str, *, split: words.Split = words.WORDS) -> float:
  """1 - ROUGE-L, the F-measure over the longest common subsequence of words.

  On ASCII the words, and so the scores, are those of the rouge_score package without stemming.
  Letters beyond ASCII are letters here, where rouge_score drops them: 'été' is not 'âtâ'. `split`
  gives a text's words.
  """
  return words.rouge(('rougeL',), split).score(other, text)['rougeL'].fmeasure


@_of_texts
def exact_match(text: str, other: str) -> float:
  """0 for equal texts, 1 for all others, as where an answer is right or wrong."""
  del text, other  # That they are equal is seen before.
  return 0.0


@_of_texts
def token_f1(text: str, other: str, *, form: words.AnswerForm = words.ANSWER) -> float:
  """1 - token F1 of SQuAD (Rajpurkar et al., https://arxiv.org/abs/1606.05250).

  The harmonic mean of precision and recall over bags of words, in lower case, without ASCII
  punctuation and the articles a, an, the, or as `form` has it. Two texts of which nothing is left
  count as equal.
  """
  return words.shared_f1(form.words(text), form.words(other))


@_of_texts
def bleu(text: str, other: str, *, tokenize: str = '13a') -> float:
  """1 - sentence BLEU by sacrebleu: exponential smoothing, effective order, 13a words.

  Not symmetric: precision is that of the first text. `tokenize` is one of sacrebleu's.
  """
  return _bleu_scorer(tokenize).sentence_score(text, [other]).score / 100


@_of_texts
def chrf(text: str, other: str, *, word_order: int = 0) -> float:
  """1 - chrF by sacrebleu: F2 over character 1- to 6-grams, and `word_order` n-grams of words."""
  return _chrf_scorer(word_order).sentence_score(text, [other]).score / 100


def token_disagreement(tokens: np.ndarray, others: np.ndarray) -> Any:
  """The share of positions at which tokens[..., T] and others[..., U] differ, in [0, 1].

  Token ids are positive; 0 is padding, as after EOS, and T and U need not be equal. A position
  counts from the first up to the last token of the longer sequence, and one that only the longer
  has is one that differs: [5, 6, 1] and [5, 7, 6, 1] disagree at 3 of 4. Two empty sequences agree.
  """
  tokens, others = np.asarray(tokens), np.asarray(others)
  length = max(tokens.shape[-1], others.shape[-1])
  tokens, others = _padded(tokens, length), _padded(others, length)
  positions = np.arange(1, length + 1)
  longest = np.where((tokens != 0) | (others != 0), positions, 0).max(axis=-1, initial=0)
  return np.sum(tokens != others, axis=-1) / np.maximum(1, longest)


# The dissimilarities of this module by name.
DISSIMILARITIES: dict[str, Dissimilarity] = {
  'rouge_l': rouge_l,
  'exact_match': exact_match,
  'token_f1': token_f1,
  'bleu': bleu,
  'chrf': chrf,
  'token_disagreement': token_disagreement,
}


@functools.cache
def _bleu_scorer(tokenize: str) -> sacrebleu.BLEU:
  words.check_tokenization(tokenize)
  return sacrebleu.BLEU(effective_order=True, tokenize=tokenize)


@functools.cache
def _chrf_scorer(word_order: int) -> sacrebleu.CHRF:
  return sacrebleu.CHRF(word_order=word_order)


def _padded(tokens: np.ndarray, length: int) -> np.ndarray:
  short = length - tokens.shape[-1]
  return np.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, short)])


def _apply(dissimilarity: Dissimilarity, index: int, output: Any, other: Any) -> float:
  """dissimilarity(output, other), checked and without rounding beyond [0, 1]."""
  value = float(dissimilarity(output, other))
  if not -ROUNDING <= value <= 1 + ROUNDING:  # NaN is refused, too.
    name = getattr(dissimilarity, '__name__', repr(dissimilarity))
    raise ValueError(f'{name} gave {value} for example {index}; it must lie in [0, 1].')
  return min(1.0, max(0.0, value))


def _check_lengths(**sequences: Sequence) -> None:
  lengths = {name: len(sequence) for name, sequence in sequences.items()}
  if len(set(lengths.values())) > 1:
    found = ', '.join(f'{length} {name}' for name, length in lengths.items())
    raise ValueError(f'Every example needs one of each, but there are {found}.')
