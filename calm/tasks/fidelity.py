"""What is lost between a text and its tokens: counted, and said with the first example of it.

A vocabulary may change a text (newlines to spaces, m² to m2) or not know its characters, and what
is longer than a row may be cut. A target that does not come back can never be matched exactly,
however good the model.
"""

import collections
from collections.abc import Iterable, Sequence

import seqio

from calm import storage

_SHOWN = 24  # Characters shown of a text, on both sides of where it differs.
_KINDS = {
  'unknown': (
    'hold characters that the vocabulary does not know',
    ' One that `calm vocab` makes with BYTE_FALLBACK = True spells them in bytes.',
  ),
  'changed': (
    'do not come back from their tokens, and can never be matched exactly',
    " A vocabulary that `calm vocab` makes with NORMALIZATION = 'identity' and KEEP_WHITESPACE ="
    ' True changes less.',
  ),
  'cut': ('are cut to their length (TRUNCATE = True)', ''),
}


def decode(vocabulary: seqio.Vocabulary, rows: Sequence[Sequence[int]]) -> list[str]:
  """The text of each row of tokens, none of them EOS: what the model would say at best."""
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary.tokenizer.DecodeIds([list(row) for row in rows])
  return [vocabulary.decode(list(row)) for row in rows]


class Losses:
  """Counts what some texts lose, by kind."""

  def __init__(self, what: str = ''):
    self._what = f'{what}: ' if what else ''  # Names the texts, as 'train'.
    self._totals: collections.Counter[str] = collections.Counter()
    self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
    self._first: dict[tuple[str, str], str] = {}

  def look(
    self,
    vocabulary: seqio.Vocabulary,
    feature: str,
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    places: Sequence[str],
  ) -> None:
    """Compares texts with their tokens, which have no EOS; `places` name them.

    Inputs lose what the vocabulary does not know, targets also what comes back as another text.
    """
    self._totals[feature] += len(texts)
    unknown = vocabulary.unk_id
    for text, row, place in zip(texts, rows, places, strict=True):
      if unknown is not None and unknown in row:
        self._add(feature, 'unknown', f'{place} has {_unknown(vocabulary, text)}')
    if feature == 'targets' and not isinstance(vocabulary, seqio.ByteVocabulary):
      for text, back, place in zip(texts, decode(vocabulary, rows), places, strict=True):
        if back != text:
          self._add(feature, 'changed', f'{place} has {_difference(text, back)}')

  def cut(self, feature: str, place: str) -> None:
    """Counts a text that is cut to its row's length."""
    self._add(feature, 'cut', f'{place} is the first')

  def lines(self) -> Iterable[str]:
    """What to say, a line for each kind of loss; none where nothing is lost."""
    for (feature, kind), count in self._counts.items():
      what, mend = _KINDS[kind]
      told = f'{count} of {self._totals[feature]} {feature} {what}'
      yield f'{self._what}{told}: {self._first[feature, kind]}.{mend}'

  def say(self) -> None:
    """Says it on standard error; what this process has said before it does not say again."""
    for line in self.lines():
      storage.warn(line, once=True)

  def _add(self, feature: str, kind: str, first: str) -> None:
    self._counts[feature, kind] += 1
    self._first.setdefault((feature, kind), first)


def _unknown(vocabulary: seqio.Vocabulary, text: str) -> str:
  """The characters of a text that a vocabulary does not know, as far as they can be told alone."""
  found = [one for one in dict.fromkeys(text) if vocabulary.unk_id in vocabulary.encode(one)]
  return storage.shortened(', '.join(map(repr, found)), 80) or storage.shown(text, 80)


def _difference(text: str, back: str) -> str:
  """Both texts where they begin to differ."""
  pairs = enumerate(zip(text, back, strict=False))
  same = next((i for i, (a, b) in pairs if a != b), min(len(text), len(back)))
  begin = max(0, same - _SHOWN // 2)
  shown = [repr(one[begin : same + _SHOWN]) for one in (text, back)]
  return f'{shown[0]} and would get {shown[1]}'
