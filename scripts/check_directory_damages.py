"""Damages Hugging Face directories at random, loads them, and looks for what nobody was told of.

  python scripts/check_directory_damages.py --damages 1500 --seed 0

Each damage is to a fresh copy of a small T5, BERT or DeBERTa, in one file or in shards. Within 5
seconds it must be refused, with the file and, where one setting or tensor was damaged, its name,
and without Python's words; or, if nothing is wrong with what is there, what is loaded must be what
the files now say.
Prints a line for each kind of damage and for each fault, and exits with 1 if there is one.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors.numpy

from calm.models import bert, deberta, foreign_config, parameters, pretrained, t5

SECONDS = 5
LONGEST = 6000  # Characters of a message.
CONFIGS = {
  't5': t5.T5Config(37, 12, 3, 5, 17, 2, 3),
  'bert': bert.BertConfig(37, 12, 3, 17, 2, 23, num_labels=3),
  'deberta': deberta.DebertaConfig(37, 12, 3, 17, 2, 23, 11, num_labels=3),
}
JSON_FILES = ('config.json', 'generation_config.json', 'model.safetensors.index.json')
ABSURD = (-1, 0, 1, 2, 1e12, 10**30, float('nan'), float('inf'), True, False, '', 'x', [], {}, 0.5)
PYTHON = re.compile(
  r'Traceback|NoneType|object (is not|has no|at 0x)|not supported between|operand|invalid literal'
  r"|codec can't|positional argument|keyword argument|index out of|out of bounds|Error:|unhashable"
)


@dataclasses.dataclass(frozen=True)
class Damage:
  """What was done: to a file, and to which setting or tensor in it, by any of some names.

  `absent` is whether the file lacks it now.
  """

  file: str
  names: tuple[str, ...] = ()
  absent: bool = False


@dataclasses.dataclass
class Tally:
  """Of one kind of damage: how many were refused and let pass, and the slowest answer."""

  refused: int = 0
  passed: int = 0
  seconds: float = 0.0


def setting_changed(rng, directory):
  """Gives a setting of config.json a value of another type or size."""
  return _settings(rng, directory, lambda settings, name: _changed(rng, settings, name))


def setting_removed(rng, directory):
  """Takes a setting out of config.json."""
  return _settings(rng, directory, lambda settings, name: settings.pop(name) and ())


def setting_renamed(rng, directory):
  """Misspells a setting of config.json."""

  def rename(settings, name):
    at = rng.randrange(len(name))
    misspelt = name[:at] + rng.choice('abcxyz_') + name[at + rng.randrange(2) :]
    settings[misspelt] = settings.pop(name)
    return (misspelt,)

  return _settings(rng, directory, rename)


def _settings(rng, directory, change):
  path = directory / 'config.json'
  settings = json.loads(path.read_text())
  name = rng.choice(sorted(settings))
  others = change(settings, name)
  path.write_text(json.dumps(settings))
  return Damage(path.name, (name, *(others or ())), absent=name not in settings)


def _changed(rng, settings, name):
  value = settings[name]
  near = [str(value), [value], {'value': value}]
  if type(value) is int:
    near += [value + 1, value - 1, value * 2, value + 0.5, -value]
  settings[name] = rng.choice([*near, *ABSURD])


def text_damaged(rng, directory):
  """Changes, cuts, repeats or inserts bytes of a JSON file."""
  path = directory / rng.choice([name for name in JSON_FILES if (directory / name).exists()])
  _write_damaged(rng, path, path.read_bytes())
  return Damage(path.name)


def header_damaged(rng, directory):
  """Changes bytes of the header of a safetensors file, or of its length."""
  path = _weights(rng, directory)
  content = bytearray(path.read_bytes())
  end = 8 + int.from_bytes(content[:8], 'little')
  for _ in range(rng.choice((1, 1, 3))):
    content[rng.randrange(rng.choice((8, end)))] = rng.randrange(256)
  path.write_bytes(content)
  return Damage(path.name)


def weights_cut(rng, directory):
  """Cuts a safetensors file, or adds to it."""
  path = _weights(rng, directory)
  content = path.read_bytes()
  cut = content[: rng.randrange(len(content))]
  path.write_bytes(rng.choice((cut, content + rng.randbytes(rng.randrange(1, 99)))))
  return Damage(path.name)


def value_not_finite(rng, directory):
  """Makes a weight NaN or infinite."""

  def change(tensors, name):
    flat = tensors[name].reshape(-1)
    flat[rng.randrange(flat.size)] = rng.choice((np.nan, np.inf, -np.inf))

  return _tensors(rng, directory, change)


def tensor_changed(rng, directory):
  """Removes, renames, adds, reshapes or quantizes a tensor."""

  def change(tensors, name):
    kind = rng.randrange(6)
    value = tensors.pop(name)
    if kind == 1:
      tensors[f'{name}_'] = value
    elif kind == 2:
      tensors |= {name: value, 'extra.weight': value}
    elif kind == 3:
      tensors[name] = np.concatenate([value, value])
    elif kind == 4:
      tensors[name] = value.astype(np.int8)
    elif kind == 5:
      tensors[name] = value.reshape(-1, 1)

  return _tensors(rng, directory, change, 'extra.weight')


def _tensors(rng, directory, change, *others):
  path = _weights(rng, directory)
  tensors = {name: value.copy() for name, value in safetensors.numpy.load_file(path).items()}
  name = rng.choice(sorted(tensors))
  change(tensors, name)
  safetensors.numpy.save_file(tensors, path)
  # A table, or a whole layer, that is of another size is told by the setting that says which.
  return Damage(path.name, (name, *others))


def file_gone(rng, directory):
  """Removes a file, empties it, or puts a folder or anything else in its place."""
  path = rng.choice(sorted(directory.iterdir()))
  kind = rng.randrange(4)
  path.unlink()
  if kind == 1:
    path.mkdir()
  elif kind > 1:
    path.write_bytes(rng.randbytes(rng.randrange(99) if kind == 2 else 0))
  return Damage(path.name)


def _weights(rng, directory):
  return rng.choice(sorted(directory.glob('*.safetensors')))


def _write_damaged(rng, path, content):
  at, to = sorted(rng.randrange(len(content)) for _ in range(2))
  path.write_bytes(
    rng.choice(
      (
        content[:at],
        content[:at] + content[to:],
        content[:to] + content[at:],
        content[:at] + rng.randbytes(rng.randrange(1, 5)) + content[at:],
        content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        content[:at] + bytes([content[at] ^ 1 << rng.randrange(7)]) + content[at + 1 :],
      )
    )
  )


KINDS = (
  setting_changed,
  setting_removed,
  setting_renamed,
  text_damaged,
  header_damaged,
  weights_cut,
  value_not_finite,
  tensor_changed,
  file_gone,
)


def fault(directory, damage):
  """Loads a damaged directory; returns (whether it was refused, what is wrong with that or '')."""
  told = io.StringIO()
  try:
    with contextlib.redirect_stderr(told):
      config, params = pretrained.load(directory)
  except (ValueError, OSError) as error:
    return True, _wrong_message(str(error), directory, damage)
  except Exception as error:
    return True, f'{type(error).__name__}: {str(error)[:200]}'
  return False, _wrong_result(directory, config, params, told.getvalue())


def _wrong_message(message, directory, damage):
  text = message.replace(str(directory), 'DIRECTORY')
  if PYTHON.search(text):
    return f"Python's words: {text[:300]}"
  if len(text) > LONGEST:
    return f'{len(text)} characters: {text[:300]}'
  if 'DIRECTORY' not in text:
    return f'no directory is named: {text[:300]}'
  named = any(name in text for name in damage.names)
  # Without a setting the default holds, which may be of other tensors: then these are listed.
  if damage.names and not (named or (damage.absent and 'does not fit' in text)):
    return f'none of {", ".join(damage.names)} is named: {text[:300]}'
  # A tensor that is missing, or too many, is in no file.
  if not damage.names and damage.file not in text and 'does not fit' not in text:
    return f'{damage.file} is not named: {text[:300]}'
  return ''


def _wrong_result(directory, config, params, told):
  """What of a loaded network is not what the files say."""
  settings = json.loads((directory / 'config.json').read_bytes())
  sizes = CARRIED[settings['model_type']]
  for name, ours in sizes.items():
    if settings.get(name) is not None and getattr(config, ours) != settings[name]:
      return f'{name} is {settings[name]!r}, and {getattr(config, ours)!r} was taken'
  for name, value in settings.items():
    known = name in sizes or name in LOOKED_AT or name in foreign_config.NO_ACCOUNT
    if not (known or name.startswith('_') or value is None or name in told):
      return f'{name} was dropped in silence'
  stored = collections.Counter()
  for path in directory.glob('*.safetensors'):
    stored.update(_content(value) for value in safetensors.numpy.load_file(path).values())
  for flat, value in parameters.flatten(params).items():
    if not np.isfinite(value).all() or not (stored[_content(value)] or stored[_content(value.T)]):
      return f'{flat} is not what the files hold'
  return ''


def _content(value):
  return value.shape, value.astype(np.float32).tobytes()


# Settings, and the fields of our configs that carry them.
_ENCODERS = {
  'attention_probs_dropout_prob': 'attention_dropout_rate',
  'hidden_dropout_prob': 'dropout_rate',
  'hidden_size': 'emb_dim',
  'initializer_range': 'init_stddev',
  'intermediate_size': 'mlp_dim',
  'layer_norm_eps': 'norm_epsilon',
  'max_position_embeddings': 'max_length',
  'num_attention_heads': 'num_heads',
  'num_hidden_layers': 'num_layers',
  'type_vocab_size': 'num_token_types',
  'vocab_size': 'vocab_size',
}
CARRIED = {
  't5': {
    'd_ff': 'mlp_dim',
    'd_kv': 'head_dim',
    'd_model': 'emb_dim',
    'dropout_rate': 'dropout_rate',
    'layer_norm_epsilon': 'norm_epsilon',
    'num_decoder_layers': 'num_decoder_layers',
    'num_heads': 'num_heads',
    'num_layers': 'num_encoder_layers',
    'relative_attention_max_distance': 'relpos_max_distance',
    'relative_attention_num_buckets': 'relpos_num_buckets',
    'vocab_size': 'vocab_size',
  },
  'bert': {**_ENCODERS, 'classifier_dropout': 'classifier_dropout_rate'},
  'deberta': {
    **_ENCODERS,
    'cls_dropout': 'classifier_dropout_rate',
    'max_relative_positions': 'max_relative_positions',
    'pooler_dropout': 'pooler_dropout_rate',
    'position_biased_input': 'absolute_positions',
  },
}
LOOKED_AT = (
  'decoder_start_token_id',
  'dense_act_fn',
  'eos_token_id',
  'feed_forward_proj',
  'hidden_act',
  'is_encoder_decoder',
  'is_gated_act',
  'pad_token_id',
  'pooler_hidden_act',
  'pos_att_type',
  'position_embedding_type',
  'relative_attention',
  'tie_word_embeddings',
)


def originals(folder):
  """Directories to be damaged: each of CONFIGS with random weights, in one file and in shards."""
  rng, directories = np.random.default_rng(0), []
  for name, config in CONFIGS.items():
    network = {'t5': t5.T5, 'bert': bert.Bert, 'deberta': deberta.Deberta}[name](config)
    params = parameters.unflatten(
      {
        flat: rng.standard_normal(shape, np.float32)
        for flat, shape in parameters.shapes(network).items()
      }
    )
    with contextlib.redirect_stderr(io.StringIO()):
      whole = pretrained.save_huggingface(folder / name, config, params)
    shards = shutil.copytree(whole, folder / f'{name}_shards')
    tensors = safetensors.numpy.load_file(shards / 'model.safetensors')
    (shards / 'model.safetensors').unlink()
    files = {key: f'model-0000{1 + i % 2}-of-00002.safetensors' for i, key in enumerate(tensors)}
    for file in sorted(set(files.values())):
      part = {key: tensors[key] for key in tensors if files[key] == file}
      safetensors.numpy.save_file(part, shards / file)
    (shards / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': files}))
    directories += [whole, shards]
  return directories


def check(damages, seed, folder):
  """Damages and loads so many times; returns (a Tally for each kind, lines about faults)."""
  sources = originals(Path(folder))
  tallies, faults = collections.defaultdict(Tally), []
  for i in range(damages):
    rng = random.Random(f'{seed}/{i}')
    kind, source = KINDS[i % len(KINDS)], rng.choice(sources)
    directory = Path(folder, 'damaged')
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(source, directory)
    damage = kind(rng, directory)
    begun = time.perf_counter()
    with _alarm(SECONDS):
      refused, wrong = fault(directory, damage)
    tally = tallies[kind.__name__]
    tally.refused += refused
    tally.passed += not refused
    tally.seconds = max(tally.seconds, time.perf_counter() - begun)
    if wrong:
      faults.append(f'{kind.__name__} {i} of {source.name}, {damage.file}: {wrong}')
  return dict(tallies), faults


@contextlib.contextmanager
def _alarm(seconds):
  """Ends what takes longer, with an error that `fault` reports."""

  def ring(*_):
    raise RuntimeError(f'no answer within {seconds} seconds')

  before = signal.signal(signal.SIGALRM, ring)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--damages', type=int, default=1500)
  parser.add_argument('--seed', default='0')
  args = parser.parse_args()
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  with tempfile.TemporaryDirectory() as folder:
    tallies, faults = check(args.damages, args.seed, folder)
  for name, tally in tallies.items():
    print(
      f'{name:20} refused {tally.refused:4}, rightly loaded {tally.passed:4}, '
      f'slowest {tally.seconds:.2f} s'
    )
  for line in faults:
    print(f'FAULT {line}')
  print(f'{args.damages} damages, seed {args.seed}: {len(faults)} faults')
  return bool(faults)


if __name__ == '__main__':
  sys.exit(main())
