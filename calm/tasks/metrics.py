"""Metrics of generated text: functions of (targets, predictions) that return named numbers.

A target is a text or, where several answers are right, a list of texts. Scores run from 0 to 100,
correlations from -100 to 100. All raise ValueError if there is nothing to score, the numbers of
targets and predictions differ, or a target has no text. What depends on the language, such as how
words are told apart, is an argument, which gin may set.
"""

import collections
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sacrebleu
import scipy.stats

from calm import storage
from calm.tasks import words

Targets = Sequence[str | Sequence[str]]


def _references(target: str | Sequence[str]) -> list[str]:
  return [target] if isinstance(target, str) else list(target)


def _check(targets: Targets, predictions: Sequence[str]) -> None:
  if len(targets) != len(predictions):
    raise ValueError(f'{len(targets)} targets for {len(predictions)} predictions.')
  if not len(targets):
    raise ValueError('There are no predictions to score.')
  for i, target in enumerate(targets):
    if not _references(target):
      raise ValueError(f'Target {i} is an empty list: it needs a text to compare with.')


def _streams(targets: Targets) -> list[list[Any]]:
  """References as sacrebleu takes them: the first of every example, the second of every, ...

  None where an example has no more.
  """
  several = [_references(target) for target in targets]
  most = max(map(len, several))
  return [[refs[i] if i < len(refs) else None for refs in several] for i in range(most)]


def bleu(
  targets: Targets, predictions: Sequence[str], *, tokenize: str = '13a', lower: bool = False
) -> dict[str, float]:
  """Corpus BLEU of sacrebleu with its smoothing.

  Papineni et al., https://aclanthology.org/P02-1040; Post, https://arxiv.org/abs/1804.08771.

  Args:
    tokenize: one of sacrebleu's: '13a' for languages with spaces, 'zh' or 'char' for others, ...
    lower: whether case makes no difference.

  Raises:
    ValueError: sacrebleu has no such tokenisation.
  """
  _check(targets, predictions)
  words.check_tokenization(tokenize)
  if tokenize in words.WITH_SPACES and words.mostly_without_spaces(
    [one for target in targets[:100] for one in _references(target)]
  ):
    storage.warn(
      f'BLEU takes words from space to space (tokenize = {tokenize!r}), and these references have'
      " hardly any: set metrics.bleu.tokenize = 'zh' or 'char'."
    )
  scorer = sacrebleu.BLEU(tokenize=tokenize, lowercase=lower)
  return {'bleu': scorer.corpus_score(list(predictions), _streams(targets)).score}


def chrf(
  targets: Targets, predictions: Sequence[str], *, word_order: int = 0, lower: bool = False
) -> dict[str, float]:
  """Corpus chrF2 of sacrebleu; of `word_order` 2, chrF++. Popovic, https://aclanthology.org/W15-3049.

  Args:
    word_order: n-grams of words to count beside those of characters.
    lower: whether case makes no difference.
  """
  _check(targets, predictions)
  scorer = sacrebleu.CHRF(word_order=word_order, lowercase=lower)
  return {'chrf': scorer.corpus_score(list(predictions), _streams(targets)).score}


_ROUGE = ('rouge1', 'rouge2', 'rougeLsum')


def rouge(
  targets: Targets, predictions: Sequence[str], *, split: words.Split = words.WORDS
) -> dict[str, float]:
  """ROUGE-1, ROUGE-2 and ROUGE-Lsum F-measures with stemming off, the best reference's each.

  Lin, https://aclanthology.org/W04-1013; sentences are split at newlines, as in T5's evaluation,
  after ' . ' has been made one. On ASCII the scores are those of the rouge_score package. Two equal
  texts without a word, such as '?!', are right.

  Args:
    split: a text's words.
  """
  _check(targets, predictions)
  scorer = words.rouge(_ROUGE, split)
  scores = collections.defaultdict(list)
  for target, prediction in zip(targets, predictions, strict=True):
    references = _references(target)
    wordless = not split(prediction) and any(
      one.split() == prediction.split() and not split(one) for one in references
    )
    of_references = [
      scorer.score(_sentence_lines(reference), _sentence_lines(prediction))
      for reference in references
    ]
    for name in _ROUGE:
      best = max(score[name].fmeasure for score in of_references)
      scores[name].append(1.0 if wordless else best)
  return {name: 100 * float(np.mean(values)) for name, values in scores.items()}


def _sentence_lines(text: str) -> str:
  return text.replace(' . ', ' .\n')


def exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
  """Share of predictions that are, character for character, one of the target's texts."""
  _check(targets, predictions)
  pairs = zip(targets, predictions, strict=True)
  return {'exact_match': 100 * float(np.mean([p in _references(t) for t, p in pairs]))}


def accuracy(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
  """Share of predictions that are the target's label."""
  return {'accuracy': exact_match(targets, predictions)['exact_match']}


def normalize_answer(text: str, form: words.AnswerForm = words.ANSWER) -> str:
  """SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
  return form(text)


def token_f1(reference: str, prediction: str, form: words.AnswerForm = words.ANSWER) -> float:
  """F1 in [0, 1] of the words that two texts share, in the normal form."""
  return words.shared_f1(form.words(reference), form.words(prediction))


def squad(
  targets: Targets, predictions: Sequence[str], *, form: words.AnswerForm = words.ANSWER
) -> dict[str, float]:
  """SQuAD's exact match and token F1 after normalisation, the best answer's each.

  Args:
    form: articles, punctuation and case that make no difference; SQuAD's are those of English.
  """
  _check(targets, predictions)
  matches, f1s = [], []
  for target, prediction in zip(targets, predictions, strict=True):
    answers = _references(target)
    matches.append(any(form(answer) == form(prediction) for answer in answers))
    f1s.append(max(token_f1(answer, prediction, form) for answer in answers))
  return {'em': 100 * float(np.mean(matches)), 'f1': 100 * float(np.mean(f1s))}


def binary_f1(positive: str) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
  """F1 of one label: a metric function for tasks where `positive` is to be found."""

  def f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    _check(targets, predictions)
    return {'f1': 100 * _f1_of(positive, targets, predictions)}

  return f1


def macro_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Mean over the targets' labels of each label's F1; other predictions count as wrong."""
  _check(targets, predictions)
  labels = sorted(set(targets))
  f1s = [_f1_of(label, targets, predictions) for label in labels]
  return {'macro_f1': 100 * float(np.mean(f1s))}


def multirc(targets: Sequence[tuple[str, str]], predictions: Sequence[str]) -> dict[str, float]:
  """F1 of 'True' over all answers (F1a), and the share of questions with every answer right.

  A target is (question, label); the answers to a question have the same. Khashabi et al.,
  https://aclanthology.org/N18-1023.
  """
  _check(targets, predictions)
  questions: dict[str, bool] = {}
  for (question, label), prediction in zip(targets, predictions, strict=True):
    questions[question] = questions.get(question, True) and label == prediction
  f1 = _f1_of('True', [label for _, label in targets], predictions)
  return {'f1a': 100 * f1, 'em': 100 * float(np.mean(list(questions.values())))}


def _f1_of(label: str, targets: Sequence[str], predictions: Sequence[str]) -> float:
  pairs = [(t == label, p == label) for t, p in zip(targets, predictions, strict=True)]
  hits = sum(t and p for t, p in pairs)
  total = sum(t for t, _ in pairs) + sum(p for _, p in pairs)
  return 2 * hits / total if total else 0.0


def matthews(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Matthews correlation of labels, for two or more of them; 0 where it is not defined.

  Gorodkin, https://doi.org/10.1016/j.compbiolchem.2004.09.006.
  """
  _check(targets, predictions)
  labels = {label: i for i, label in enumerate(sorted({*targets, *predictions}))}
  confusion = np.zeros((len(labels), len(labels)))
  for target, prediction in zip(targets, predictions, strict=True):
    confusion[labels[target], labels[prediction]] += 1
  true, predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
  covariance = np.trace(confusion) * total - true @ predicted
  spread = np.sqrt(total**2 - true @ true) * np.sqrt(total**2 - predicted @ predicted)
  return {'matthews': 100 * float(covariance / spread) if spread else 0.0}


def pearson_spearman(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Pearson's and Spearman's correlation of texts that are numbers, with a decimal point.

  A prediction that is none counts as 0.

  Raises:
    ValueError: also if a target is no number.
  """
  _check(targets, predictions)
  x = [_number(text) for text in targets]
  if None in x:
    i = x.index(None)
    raise ValueError(f'Target {i} is {storage.shown(targets[i])}, and a number is needed.')
  y = [_number(text) or 0.0 for text in predictions]
  if len(set(x)) < 2 or len(set(y)) < 2:  # Constant: not defined.
    return {'pearson': 0.0, 'spearman': 0.0}
  return {
    'pearson': 100 * float(scipy.stats.pearsonr(x, y)[0]),
    'spearman': 100 * float(scipy.stats.spearmanr(x, y)[0]),
  }


_DECIMAL = re.compile(r'\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*', re.IGNORECASE)


def _number(text: str) -> float | None:
  """A finite float, or None."""
  value = float(text) if _DECIMAL.fullmatch(text) else float('inf')
  return value if np.isfinite(value) else None
