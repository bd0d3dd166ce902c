"""What counts as a word, in any script: one form for metrics and for dissimilarities.

ROUGE's and SQuAD's own code knows ASCII only, and drops or joins whatever else a text holds. What
is here gives the same words on English text.
"""

import collections
import dataclasses
import functools
import string
import unicodedata
from collections.abc import Callable, Sequence

import regex
import sacrebleu
from rouge_score import rouge_scorer, tokenizers

Split = Callable[[str], list[str]]

# Scripts that put no spaces between words: each character, with its marks, counts as one.
_SPACELESS = r'\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}'
_CHARACTER = rf'[{_SPACELESS}&&\p{{L}}]\p{{M}}*'
_WORDS = regex.compile(rf'(?V1){_CHARACTER}|(?:[[\p{{L}}\p{{N}}]--[{_SPACELESS}]]\p{{M}}*)+')
_RUNS = regex.compile(r'[\p{L}\p{N}][\p{L}\p{N}\p{M}]*')
_SPACELESS_CHARACTERS = regex.compile(rf'(?V1){_CHARACTER}')
_PIECES = regex.compile(rf'(?V1){_CHARACTER}|(?:(?!{_CHARACTER})\S)+')
_PUNCTUATION = regex.compile(r'\p{P}+')
_ASCII_PUNCTUATION = str.maketrans('', '', string.punctuation)


@dataclasses.dataclass(frozen=True)
class Words:
  """Splits a text into its runs of letters and digits, with the marks on them.

  On ASCII these are the words of the rouge_score package. Letters of any script are letters, in one
  piece or with marks of their own (NFC); of scripts without spaces, such as Chinese, Japanese and
  Thai, each character is a word.
  """

  lower: bool = True  # Whether 'The' and 'the' are one word.
  split_characters: bool = True  # Whether scripts without spaces are parted by character.

  def __call__(self, text: str) -> list[str]:
    """The words of a text, in their order."""
    text = unicodedata.normalize('NFC', text)
    return (_WORDS if self.split_characters else _RUNS).findall(
      text.lower() if self.lower else text
    )


WORDS = Words()


@dataclasses.dataclass(frozen=True)
class AnswerForm:
  """SQuAD's form of an answer: lower case, no punctuation, no articles, single spaces.

  Rajpurkar et al., https://arxiv.org/abs/1606.05250. Other languages have other articles, and
  punctuation beyond ASCII, as in MLQA (Lewis et al., https://arxiv.org/abs/1910.07475).

  Raises:
    ValueError: the punctuation is neither 'ascii' nor 'unicode'.
  """

  articles: Sequence[str] = ('a', 'an', 'the')
  punctuation: str = 'ascii'  # What is dropped: SQuAD's, or 'unicode', all that is punctuation.
  lower: bool = True

  def __post_init__(self) -> None:
    if self.punctuation not in ('ascii', 'unicode'):
      raise ValueError(f"punctuation is 'ascii' or 'unicode', not {self.punctuation!r}.")
    object.__setattr__(self, 'articles', tuple(self.articles))

  def __call__(self, text: str) -> str:
    """The text in this form."""
    text = unicodedata.normalize('NFC', text)
    text = (text.lower() if self.lower else text).translate(_ASCII_PUNCTUATION)
    if self.punctuation == 'unicode':
      text = _PUNCTUATION.sub('', text)
    return ' '.join(self._article.sub(' ', text).split())

  def words(self, text: str) -> list[str]:
    """The words of the text in this form; of scripts without spaces, the characters."""
    return _PIECES.findall(self(text))

  @property
  def _article(self) -> regex.Pattern[str]:
    return _any_of(self.articles)


ANSWER = AnswerForm()


@functools.cache
def _any_of(articles: Sequence[str]) -> regex.Pattern[str]:
  listed = '|'.join(map(regex.escape, articles))
  return regex.compile(rf'\b({listed})\b' if articles else r'(?!)')


def shared_f1(words: Sequence[str], others: Sequence[str]) -> float:
  """F1 in [0, 1] of two bags of words; two empty ones are equal."""
  if not words or not others:
    return float(words == others)
  shared = (collections.Counter(words) & collections.Counter(others)).total()
  return 2 * shared / (len(words) + len(others))


def mostly_without_spaces(texts: Sequence[str]) -> bool:
  """Whether more characters of the texts are of scripts without spaces than of others."""
  spaceless = sum(len(_SPACELESS_CHARACTERS.findall(text)) for text in texts)
  return 2 * spaceless > sum(len(''.join(text.split())) for text in texts)


# sacrebleu's tokenisations that take words from space to space.
WITH_SPACES = ('13a', 'intl', 'none')


def check_tokenization(tokenize: str) -> None:
  """Raises a ValueError unless sacrebleu has this tokenisation."""
  if tokenize not in sacrebleu.BLEU.TOKENIZERS:
    known = ', '.join(map(repr, sorted(sacrebleu.BLEU.TOKENIZERS)))
    raise ValueError(f'BLEU knows no tokenisation {tokenize!r}: it has {known}.')


@functools.cache
def rouge(names: tuple[str, ...], split: Split = WORDS) -> rouge_scorer.RougeScorer:
  """A scorer of the rouge_score package that counts the words of `split`."""
  return rouge_scorer.RougeScorer(list(names), tokenizer=_Tokenizer(split))


class _Tokenizer(tokenizers.Tokenizer):
  """A way to split texts, as rouge_score takes it."""

  def __init__(self, split: Split):
    self._split = split

  def tokenize(self, text: str) -> list[str]:
    return self._split(text)
