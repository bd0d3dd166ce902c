"""T5X's names of macros: accepted where they mean the same here, answered with ours elsewhere."""

import ast
import io
import itertools
import tokenize
from collections.abc import Callable, Collection

# Names that mean the same here. One that holds several of our macros is a dict of them.
RENAMED: dict[str, str | dict[str, str]] = {
  'MODEL_DIR': 'WORKDIR',
  'TRAIN_STEPS': 'NUM_STEPS',
  'TASK_FEATURE_LENGTHS': {'inputs': 'INPUTS_LENGTH', 'targets': 'TARGETS_LENGTH'},
  'INITIAL_CHECKPOINT_PATH': 'CHECKPOINT',
  'ACTIVATION_DTYPE': 'DTYPE',
}

# Names of which there is something else here, unless a config reads them.
ANSWERED = {
  'MIXTURE_OR_TASK_NAME': 'include gin/tasks/registered.gin or public.gin, and set TASK_NAME',
  'MIXTURE_OR_TASK_MODULE': 'include gin/tasks/registered.gin, and set TASK_MODULES',
  'MIXTURE_OR_TASK_SPLIT': 'set EVALUATION_SPLIT, or DECODE_SPLIT for what is decoded',
  'USE_CACHED_TASKS': 'leave it out, tasks are read as they are',
  'DROPOUT_RATE': 'include gin/models/t5.gin, or set t5.T5Config.dropout_rate',
  'LABEL_SMOOTHING': 'set losses.EncoderDecoderObjective.label_smoothing',
  'Z_LOSS': 'set losses.EncoderDecoderObjective.z_loss',
  'EVAL_STEPS': 'set loop.train.num_validation_batches',
  'EVAL_PERIOD': 'set loop.train.steps_per_validation',
  'RANDOM_SEED': 'set SEED',
  'CHECKPOINT_PATH': "give the trained run's --workdir",
  'EVAL_OUTPUT_DIR': 'give --workdir, results lie in it',
  'INFER_OUTPUT_DIR': 'give --output, or set DECODE_OUTPUT',
  'MODEL_OUTPUT_DIR': 'give --output, or set EXPORT_DIRECTORY',
}

Place = tuple[int, int]  # line, from 1, and column
_ENDS = (tokenize.NEWLINE, tokenize.ENDMARKER)


def translate(source: str) -> tuple[str, set[str]]:
  """Gin source with our names for those of T5X's that mean the same: (source, names set in it).

  Source that is no gin stays as it is, for gin to complain about.

  Raises:
    ValueError: a macro that is several of ours is not set to a dict of them.
  """
  if not any(name in source for name in RENAMED):
    return source, set()
  try:
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
  except (tokenize.TokenError, SyntaxError):
    return source, set()
  edits, found = [], set()
  for place, token in enumerate(tokens):
    ours = RENAMED.get(token.string) if token.type == tokenize.NAME else None
    if ours is None:
      continue
    if tokens[place - 1].string == '%':
      edits.append((tokens[place - 1].start, token.end, _reference(ours)))
    elif token.start[1] == 0 and tokens[place + 1].string == '=':
      value, end = _value(tokens[place + 2 :])
      edits.append((token.start, end, _setting(token.string, ours, source, value, end)))
      found.add(token.string)
  for start, end, text in reversed(edits):
    source = source[: _offset(source, start)] + text + source[_offset(source, end) :]
  return source, found


def check(found: Collection[str], read: Collection[str], macro: Callable) -> None:
  """Refuses T5X's names that have no effect here, or another than there.

  Args:
    found: names of T5X that the configs or the command line set.
    read: names of macros that a config reads.
    macro: gives a macro's value, or None.

  Raises:
    ValueError: names the macro and what to write instead.
  """
  for name in sorted(found):
    if name in ANSWERED and name not in read:
      raise ValueError(f"{name} is T5X's name: here {ANSWERED[name]}.")
    ours = RENAMED.get(name, {})
    unread = [
      one for one in ([ours] if isinstance(ours, str) else ours.values()) if one not in read
    ]
    if unread:
      raise ValueError(f"{name} is T5X's name of {unread[0]} here, which no config reads.")
  if 'TRAIN_STEPS' in found and macro('INITIAL_PARAMS') is not None:
    raise ValueError(
      "TRAIN_STEPS counts a checkpoint's steps, too, in T5X: set NUM_STEPS, the steps of this run."
    )


def _value(tokens: list[tokenize.TokenInfo]) -> tuple[Place, Place]:
  """Where the value that tokens begin with starts and ends, as (line, column)."""
  last = itertools.takewhile(lambda token: token.type not in _ENDS, tokens)
  ends = [token.end for token in last if token.type != tokenize.COMMENT]
  return tokens[0].start, ends[-1] if ends else tokens[0].start


def _reference(ours: str | dict[str, str]) -> str:
  if isinstance(ours, str):
    return f'%{ours}'
  return '{' + ', '.join(f'{key!r}: %{name}' for key, name in ours.items()) + '}'


def _setting(name: str, ours: str | dict[str, str], source: str, start: Place, end: Place) -> str:
  """What sets `ours` to the value between two places, or each of them to its part of it."""
  text = source[_offset(source, start) : _offset(source, end)]
  if isinstance(ours, str):
    return f'{ours} = {text}'
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = None
  if not isinstance(value, dict) or value.keys() != ours.keys():
    form = ', '.join(f'{key!r}: NUMBER' for key in ours)
    raise ValueError(
      f'{name} is {text}, not {{{form}}}: write that, or set {" and ".join(ours.values())}.'
    )
  return '\n'.join(f'{ours[key]} = {value[key]!r}' for key in ours)


def _offset(source: str, place: Place) -> int:
  row, column = place
  return sum(len(line) + 1 for line in source.split('\n')[: row - 1]) + column
