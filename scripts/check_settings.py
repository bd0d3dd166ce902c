"""Gives `calm` settings at random and reads what it says: is each wrong one named, in sentences?

  python scripts/check_settings.py --count 300 --seed 0

A setting is right or wrong by the tables below, which know nothing of how settings are checked. A
wrong one, on the command line or in a file, must be refused before anything is called, by a message
that names it and has no words of Python; a right one must be taken. Nothing is trained or decoded.
The exit code is 1 if anything was otherwise.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import math
import os
import random
import re
import string
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from calm import commands, configuration, main

QUICKSTART = 'configs/quickstart.gin'
PYTHONS = re.compile(
  r"\w+Error\b|\w*Exception\b|Traceback|has no attribute '|positional argument|not supported"
  r'|NoneType|<class|<function|<module|object at 0x|In call to|codec can|\[Errno|keyword argument'
  r'|invalid literal|not subscriptable|not iterable|not callable|unhashable|operand'
)
# What numbers a setting takes: the least, the largest, whether only whole ones, and None besides.
NUMBERS = {
  'NUM_STEPS': (1, math.inf, True, False),
  'BATCH_SIZE': (1, math.inf, True, False),
  'VOCAB_SIZE': (1, math.inf, True, False),
  'INPUTS_LENGTH': (1, math.inf, True, False),
  'TARGETS_LENGTH': (1, math.inf, True, False),
  'SEED': (0, 2**32 - 1, True, False),
  'WARMUP_STEPS': (0, 2499, True, False),
  'LEARNING_RATE': (0, math.inf, False, False),
  'MAX_DECODE_STEPS': (1, math.inf, True, False),
  'DECODE_BATCH_SIZE': (1, math.inf, True, False),
  'MIN_EXIT': (1, math.inf, True, False),
  'GATE_THRESHOLD': (0, 1, False, False),
  'NUM_TRIALS': (1, math.inf, True, False),
  'NUM_TIMED': (1, math.inf, True, False),
  'loop.train.num_microbatches': (1, math.inf, True, False),
  'loop.train.steps_per_report': (1, math.inf, True, False),
  'loop.train.steps_per_checkpoint': (1, math.inf, True, False),
  'loop.train.keep_checkpoints': (1, math.inf, True, False),
  'loop.train.model_parallelism': (1, math.inf, True, False),
  'loop.train.num_validation_batches': (1, math.inf, True, False),
  'losses.EncoderDecoderObjective.z_loss': (0, math.inf, False, False),
  'losses.EncoderDecoderObjective.num_sampled_exits': (2, math.inf, True, True),
  't5.T5Config.emb_dim': (1, math.inf, True, False),
  't5.T5Config.num_heads': (1, math.inf, True, False),
  't5.T5Config.num_encoder_layers': (1, math.inf, True, False),
  't5.T5Config.relpos_num_buckets': (4, 255, True, False),
  't5.T5Config.norm_epsilon': (0, math.inf, False, False),
  'optimizers.adamw.weight_decay': (0, math.inf, False, False),
  'spelled_numbers.task.num_train': (1, math.inf, True, False),
  'spelled_numbers.task.seed': (0, 2**32 - 1, True, False),
  'testing.descending_grid.lowest': (-math.inf, 0.95, False, False),
  'efficiency.TrialSettings.repeats': (1, math.inf, True, False),
  'evaluate.evaluate.limit': (1, math.inf, True, True),
}
# Settings of other kinds: some values that are right, some that are wrong.
OTHERS = {
  'TRUNCATE': (['true', 'False', 'TRUE'], ['1', '0', 'yes', 'none', '()', '0.5', '@t5.T5Config()']),
  'PACK': (['false', 'True'], ['on', '2', "'true'", '[]']),
  'OBJECTIVE': (['risk', "'textual'"], ['speed', '1', 'none', '(textual,)', 'Textual']),
  'DELTAS': (['(0.1,)', '[0.2, 0.3]'], ['0.1', '(0.1, 2)', '(0,)', 'half', "('0.1',)", 'none']),
  'GRID': (['(0.9, 0.5)'], ['0.5', 'none', '()', "('a',)", 'all', '{}']),
  'TIMED_BATCH_SIZES': (['()', '(1, 8)'], ['8', '(0,)', '(1.5,)', 'none', "'1, 8'"]),
  'TRIAL_DELTAS': (["{'textual': (0.1,)}"], ['(0.1,)', "{'textual': 0.1}", "{'textual': (2,)}"]),
  'RULE': (['@rules.NeverExit()', '@rules.Oracle()'], ['@rules.confident', 'confident', '0.9']),
  'MEASURE': (['@confidence.Gated()'], ['softmax_margin', '0.9', '@confidence.softmax_margin()']),
  'MEASURES': (['(@confidence.Gated(),)'], ['@confidence.classifier', "('a',)", 'none', '()']),
  'P_VALUE': (['@bounds.hoeffding'], ['hoeffding', '0.05', 'none', '@bounds.hoeffding()']),
  'EVALUATION_SPLIT': (['test'], ['1', 'none', "('test',)"]),
  'WORKDIR': (['/tmp/w'], ['1', "('w',)", 'true']),
  'generator.Generator.fill': (['first_state'], ['1', 'none', 'zeros']),
}
UNUSED = ['LAMBDA=0.5', 'TAU=2.0', 't5.published.name=tiny', 'optimizers.constant.warmup_steps=3']
UNUSED += ['sampling.Sampling.top_k=3', 'rules.FixedLayer.layer=2', 'thresholds.Decaying.tau=1.0']
BROKEN = [
  'NUM_STEPS 5',
  '= 3',
  'NUM_STEPS =',
  'BATCH_SIZE = (1,',
  "WORKDIR = 'w",
  'a.b.c',
  '$',
  '-',
]
BROKEN += [
  'NUM_STEPS = 3 4',
  'loop.train:',
  'include nowhere',
  'import',
  'from x',
  'A = {1: }',
  '@a',
]
BROKEN += [
  'NUM_STEPS = 1e',
  'NUM_STEPS == 3',
  'NUM_STEPS = 3;',
  'NUM_STEPS = lambda: 3',
  '\x00\x01',
]
BROKEN += ["include 'nowhere.gin'", 'import no_such_module', 'from calm import no_such_room']
CIRCLES = ['SEED=%SEED', 'CONFIG=%CONFIG', 'TASK=@spelled_numbers.task()\nTASK=%TASK']
FLAGS = [
  ['--gin.A'],
  ['--gin.=1'],
  ['--workdir', '--gin.SEED=1', 'w'],
  ['--gin.SEED', '--gin.PACK=1'],
]
FLAGS += [['--split'], ['--nothing'], ['--gin_file'], ['--workdir=w', 'x'], ['--gin.SEED', '-h']]
WRONG = ['abc', '2.5', '-1', '0', 'nan', 'inf', '1e999', 'true', 'none', '()', '(3,)', '{}', "'7'"]
WRONG += [
  '-0.5',
  '1.5',
  '99999999999',
  '@spelled_numbers.task()',
  '@confidence.classifier',
  "{'a': 1}",
]


@dataclasses.dataclass(frozen=True)
class Trial:
  """Settings, whether they are right, and what a message must name of them if not."""

  kind: str
  settings: tuple[str, ...]
  right: bool = False
  names: str = ''
  in_file: bool = False
  flags: tuple[str, ...] = ()


def is_right(text: str, allowed) -> bool:
  """Whether a text is one of the numbers that a row of NUMBERS has."""
  least, largest, whole, or_none = allowed
  if text == 'none':
    return or_none
  try:
    value = float(text)
  except ValueError:
    return False
  if not math.isfinite(value) or (whole and not re.fullmatch(r'-?\d+', text)):
    return False
  return least <= value <= largest


def misspelt(draw: random.Random, name: str) -> str:
  """A name with one letter more, less, twice or exchanged."""
  place = draw.randrange(len(name))
  letter = draw.choice(string.ascii_uppercase if name.isupper() else string.ascii_lowercase)
  ends = draw.choice([(letter, 0), (letter, 1), ('', 1), (name[place], 0)])
  other = name[:place] + ends[0] + name[place + ends[1] :]
  return other if other.isidentifier() and other != name else f'{name}X'


def trial(draw: random.Random) -> Trial:
  """One at random."""
  in_file = draw.random() < 0.5
  kind = draw.choice(
    ['number'] * 8
    + ['other'] * 5
    + ['name', 'name', 'parameter', 'unused', 'broken', 'flags', 'circle']
    + ['reference']
  )
  if kind == 'number':
    name, allowed = draw.choice(list(NUMBERS.items()))
    value = draw.choice([*WRONG, '1', '3', '8', '200', '0.25'])
    # The quickstart's own would not be below all of NUM_STEPS.
    others = ('WARMUP_STEPS=0',) if name == 'NUM_STEPS' else ()
    return Trial(kind, (f'{name}={value}', *others), is_right(value, allowed), name, in_file)
  if kind == 'other':
    name, values = draw.choice(list(OTHERS.items()))
    right = draw.random() < 0.3
    return Trial(kind, (f'{name}={draw.choice(values[not right])}',), right, name, in_file)
  if kind == 'name':
    name = misspelt(draw, draw.choice([one for one in NUMBERS if one.isupper()]))
    return Trial(kind, (f'{name}=3',), names=name, in_file=in_file)
  if kind == 'parameter':
    path = draw.choice([one for one in NUMBERS if '.' in one]).split('.')
    place = draw.randrange(len(path))
    path[place] = misspelt(draw, path[place])
    return Trial(kind, (f'{".".join(path)}=3',), names=path[place], in_file=in_file)
  if kind == 'unused':
    setting = draw.choice(UNUSED)
    return Trial(kind, (setting,), names=setting.partition('=')[0])
  if kind == 'broken':
    return Trial(kind, (draw.choice(BROKEN),), names='mine.gin', in_file=True)
  if kind == 'circle':
    settings = draw.choice(CIRCLES).split('\n')
    return Trial(kind, tuple(settings), names=settings[-1].partition('=')[0], in_file=in_file)
  if kind == 'reference':
    reference = draw.choice(['@no.such()', '%NOT_SET', '@rules.nothing()', '@rules', '@', '%'])
    return Trial(kind, (f'RULE={reference}',), names=reference.strip('@%()'), in_file=in_file)
  return Trial('flags', (), flags=tuple(draw.choice(FLAGS)))


def answer(one: Trial, folder: Path) -> tuple[int, str]:
  """What `calm evaluate` says of a trial: its exit code, and the text."""
  argv = ['evaluate', f'--gin_file={QUICKSTART}']
  if one.in_file:
    lines = [IMPORTS, *(_line(setting, one.kind) for setting in one.settings)]
    (folder / 'mine.gin').write_text('\n'.join(lines) + '\n')
    argv.append(f'--gin_file={folder}/mine.gin')
  else:
    argv += [f'--gin.{setting}' for setting in one.settings]
  if not any(setting.startswith('WORKDIR=') for setting in one.settings) and not one.flags:
    argv.append(f'--workdir={folder}')
  said = io.StringIO()
  with contextlib.redirect_stderr(said), mock.patch.object(commands, 'call', build):
    try:
      code = commands.main(main.PROGRAM, [*argv, *one.flags])
    except SystemExit as stopped:
      code = int(stopped.code or 0)
  return code, said.getvalue()


IMPORTS = """from __gin__ import dynamic_registration
from calm.calibration import bounds
from calm.calibration import testing
from calm.decoding import generator
from calm.evaluation import evaluate
from calm.exits import confidence
from calm.exits import rules
from calm.models import t5
from calm.reporting import efficiency
from calm.tasks import spelled_numbers
from calm.training import loop
from calm.training import losses
from calm.training import optimizers"""


def _line(setting, kind):
  """A setting of the command line as a line of a config."""
  from calm import arguments

  name, _, value = setting.partition('=')
  return setting if kind == 'broken' else f'{name} = {arguments.as_gin_value(value)}'


def build(command: commands.Command) -> None:
  """Makes what can be made of settings alone, in place of calling the command's function."""
  del command
  import gin
  from calm.calibration import testing
  from calm.decoding import generator
  from calm.reporting import efficiency
  from calm.training import losses, optimizers

  made: Sequence[Callable] = (
    generator.Generator,
    losses.EncoderDecoderObjective,
    optimizers.adamw,
    efficiency.TrialSettings,
    testing.descending_grid,
  )
  for function in made:
    gin.get_configurable(function)()


def fault(one: Trial, code: int, said: str) -> str | None:
  """What is wrong with an answer; None if nothing is."""
  if PYTHONS.search(said):
    return 'words of Python'
  if one.right:
    return None if code == 0 else 'a right setting was refused'
  if code == 0:
    return 'a wrong setting was taken'
  if one.names and one.names not in said:
    return f'{one.names} is not named'
  return 'a megabyte' if len(said) > 5000 and code != 2 else None


def check(count: int, seed: int) -> list[tuple[Trial, str, str]]:
  """The trials that went wrong, each with what was wrong and what was said; counts go to stdout."""
  draw = random.Random(seed)
  faults, kinds = [], collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    for _ in range(count):
      one = trial(draw)
      code, said = answer(one, Path(folder))
      kinds[f'{one.kind}{", right" if one.right else ""}'] += 1
      wrong = fault(one, code, said)
      if wrong:
        faults.append((one, wrong, said))
  listed = ', '.join(f'{number} {kind}' for kind, number in sorted(kinds.items()))
  print(f'{count} settings ({listed}): {len(faults)} faults.')
  return faults


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.chdir(configuration.shipped_root())
  found = check(options.count, options.seed)
  for one, wrong, said in found:
    print(f'\n{wrong}: {one}\n  {said.strip()}')
  sys.exit(bool(found))
