"""`--gin.NAME=value` on a command line, and values as people write them, in gin's words."""

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Sequence

# Python's words in any other case; gin would take them for texts, and a text is true.
_WORDS = {'true': 'True', 'false': 'False', 'none': 'None'}
# As JSON and Python print numbers that gin has no words for, and what it reads as these.
_NUMBERS = {'inf': '1e999', '-inf': '-1e999', 'null': 'None'}
_FLAG = re.compile(r'--?[A-Za-z]')


def split_gin_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes `--gin.NAME=value` out of argv: returns (other arguments, gin bindings).

  Where one stood among the options of a command, `--gin.NAME=` stays, for the parser: so no flag
  takes what stands beyond it for its own value.

  Raises:
    ValueError: one of them has no name or no value.
  """
  others: list[str] = []
  bindings = []
  arguments = list(argv)
  while arguments:
    argument = arguments.pop(0)
    if not argument.startswith('--gin.'):
      others.append(argument)
      continue
    name, equals, value = argument.removeprefix('--gin.').partition('=')
    if not equals:  # `--gin.NAME value`
      if not arguments or _FLAG.match(arguments[0]):
        raise ValueError(f'{argument}: write it as --gin.NAME=value.')
      value = arguments.pop(0)
    if not name.strip():
      raise ValueError(f'{argument}: write it as --gin.NAME=value.')
    bindings.append(f'{name.strip()} = {as_gin_value(value)}')
    if others:
      others.append('--gin.NAME=')
  return others, bindings


def as_gin_value(text: str) -> str:
  """Gin source for a value from the command line: Gin as it is, anything else quoted.

  `--gin.STEPS=100`, `--gin.TASK=@files.task()` and `--gin.NAME='"a b"'` mean what T5X makes of
  them; `--gin.TRAIN_FILE=data/train.jsonl` need not be quoted twice, and `--gin.PACK=false` is
  False.
  """
  value = text.strip()
  if value.startswith(('@', '%')):
    return value
  if value.lower() in _WORDS:
    return _WORDS[value.lower()]
  plain = value
  if value.startswith(('[', '(', '{')):
    value = with_words_of_python(value)
    # A container may hold references, as in (@a(), %B).
    plain = re.sub(r'[@%][\w./]+(\(\))?', '0', value)
  try:
    ast.literal_eval(plain)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return repr(text)
  return value


def as_gin_number(text: str) -> str:
  """`as_gin_value` of a number, for which our commands may have printed inf, -inf or null."""
  return _NUMBERS.get(text.strip().lower()) or as_gin_value(text)


def with_words_of_python(source: str) -> str:
  """Gin source with True, False and None where values are written in another case."""
  if not any(word in source.lower() for word in _WORDS):
    return source
  try:
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
  except (tokenize.TokenError, SyntaxError):
    return source
  lines = source.splitlines(keepends=True)
  for before, token in itertools.pairwise(tokens):
    word = _WORDS.get(token.string.lower()) if token.type == tokenize.NAME else None
    if word and before.string in ('=', '(', '[', '{', ',', ':'):
      row, column = token.start
      line = lines[row - 1]
      lines[row - 1] = line[:column] + word + line[column + len(word) :]
  return ''.join(lines)
