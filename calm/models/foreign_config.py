"""Settings in a config.json that another library wrote: each is read, refused, or of no account.

A reader asks for every setting that it carries, by name, type and range; says which values of
others it can do with; and ends with `finish`, which refuses by name what nobody asked for. So a
setting is never dropped in silence:

  settings = Settings.read(directory / 'config.json')
  emb_dim = settings.size('hidden_size')
  epsilon = settings.number('layer_norm_eps', 1e-12, low=0, high=1)
  settings.only('is_decoder', (False,))
  settings.finish(NO_ACCOUNT)

Fields are transformers', of its classes PretrainedConfig and GenerationConfig
(https://huggingface.co/docs/transformers/main_classes/configuration).
"""

import collections
import difflib
import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from calm import storage

LARGEST_SIZE = 2**24
BELOW_ONE = 1 - 2**-20  # The highest rate of a dropout.

# Settings of any model that change nothing of what its weights compute.
NO_ACCOUNT = frozenset({
  'architectures',
  'bos_token_id',
  'chunk_size_feed_forward',
  'classifier_dropout',
  'dtype',
  'finetuning_task',
  'gradient_checkpointing',
  'id2label',
  'initializer_factor',
  'initializer_range',
  'label2id',
  'model_type',
  'name_or_path',
  'num_labels',
  'output_attentions',
  'output_hidden_states',
  'output_past',
  'problem_type',
  'return_dict',
  'sep_token_id',
  'tf_legacy_loss',
  'tokenizer_class',
  'torch_dtype',
  'torchscript',
  'transformers_version',
  'use_bfloat16',
  'use_cache',
})  # fmt: skip

# Settings of how text is generated, and the value with which each does nothing.
GENERATION: dict[str, Any] = {
  'bad_words_ids': None,
  'begin_suppress_tokens': None,
  'constraints': None,
  'diversity_penalty': 0.0,
  'do_sample': False,
  'early_stopping': False,
  'encoder_no_repeat_ngram_size': 0,
  'encoder_repetition_penalty': 1.0,
  'epsilon_cutoff': 0.0,
  'eta_cutoff': 0.0,
  'exponential_decay_length_penalty': None,
  'force_words_ids': None,
  'forced_bos_token_id': None,
  'forced_decoder_ids': None,
  'forced_eos_token_id': None,
  'guidance_scale': 1.0,
  'length_penalty': 1.0,
  'max_length': None,
  'max_new_tokens': None,
  'max_time': None,
  'min_length': 0,
  'min_new_tokens': None,
  'min_p': None,
  'no_repeat_ngram_size': 0,
  'num_beam_groups': 1,
  'num_beams': 1,
  'num_return_sequences': 1,
  'penalty_alpha': None,
  'prefix': None,
  'remove_invalid_values': False,
  'renormalize_logits': False,
  'repetition_penalty': 1.0,
  'sequence_bias': None,
  'stop_strings': None,
  'suppress_tokens': None,
  'task_specific_params': None,
  'temperature': 1.0,
  'top_k': 50,  # Of samples only.
  'top_p': 1.0,
  'typical_p': 1.0,
}

_REQUIRED: Any = object()


class Settings:
  """The settings of one JSON file. A null counts as absent, as in transformers.

  Every error is a ValueError that names the file, the setting and its value.
  """

  def __init__(self, values: Mapping[str, Any], path: Path):
    self.path = path
    self._values = {name: value for name, value in values.items() if value is not None}
    self._asked: set[str] = set()

  @classmethod
  def read(cls, path: Path) -> 'Settings':
    """The settings in a file.

    Raises:
      FileNotFoundError: there is none.
      storage.DamagedError: it holds no JSON object.
    """
    return cls(storage.read_json(path), path)

  def __contains__(self, name: str) -> bool:
    return name in self._values

  def size(
    self, name: str, default: int = _REQUIRED, low: int = 1, high: int = LARGEST_SIZE
  ) -> int:
    """A whole number in [low, high]; `default` if it is absent."""
    value = self._get(name, default)
    if name in self and not (type(value) is int and low <= value <= high):
      self.refuse(name, f'it must be a whole number from {low} to {high}')
    return value

  def number(
    self, name: str, default: float = _REQUIRED, low: float = -math.inf, high: float = math.inf
  ) -> float:
    """A finite number in [low, high]; `default` if it is absent."""
    value = self._get(name, default)
    finite = type(value) in (int, float) and abs(value) <= sys.float_info.max
    if name in self and not (finite and low <= value <= high):
      self.refuse(name, f'it must be a finite number from {low:g} to {high:g}')
    return value

  def flag(self, name: str, default: bool = _REQUIRED) -> bool:
    """true or false; `default` if it is absent."""
    value = self._get(name, default)
    if type(value) is not bool:
      self.refuse(name, 'it must be true or false')
    return value

  def choice(self, name: str, choices: Collection[str], default: str = _REQUIRED) -> str:
    """One of some words; `default` if it is absent."""
    value = self._get(name, default)
    if not (isinstance(value, str) and value in choices):
      self.refuse(name, f'known are {", ".join(choices)}')
    return value

  def text(self, name: str, default: str = _REQUIRED) -> str:
    """A text; `default` if it is absent."""
    value = self._get(name, default)
    if not isinstance(value, str):
      self.refuse(name, 'it must be a text')
    return value

  def texts(self, name: str) -> tuple[str, ...]:
    """Several texts; none if it is absent."""
    value = self._get(name, [])
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
      self.refuse(name, 'it must be a list of texts')
    return tuple(value)

  def only(self, name: str, values: Sequence[Any], why: str = '') -> None:
    """Refuses a setting unless it is absent, or one of the values that can be done with."""
    self._asked.add(name)
    found = self._values.get(name)
    # JSON's 1 is not its true.
    if name in self and not any(type(found) is type(v) and found == v for v in values):
      self.refuse(name, why or f'only {" or ".join(map(_brief, values))} is supported')

  def words(self, name: str, choices: Collection[str]) -> tuple[str, ...]:
    """Some of `choices`, each at most once: a list, or a text with '|' between; none if absent."""
    value = self._get(name, [])
    found = [word.strip() for word in value.lower().split('|')] if isinstance(value, str) else value
    if not isinstance(found, list) or any(found.count(word) > (word in choices) for word in found):
      self.refuse(name, f'known are {", ".join(choices)}, each at most once')
    return tuple(found)

  def refuse(self, name: str, why: str) -> NoReturn:
    """Raises the ValueError about a setting; `why` is the end of a sentence."""
    raise ValueError(f'{self.path}: {name} is {_brief(self._values.get(name))}; {why}.')

  def generation(self, others: bool = False) -> dict[str, Any]:
    """The settings of how text is generated that do something, by name; they count as asked for.

    With `others`, so do all that nobody asked for and that are of some account.
    """
    names = [name for name in self._values if name in GENERATION]
    if others:
      names = [*names, *(name for name in self._unknown(NO_ACCOUNT) if name not in GENERATION)]
    self._asked.update(names)
    return {
      name: self._values[name]
      for name in sorted(names)
      if self._values[name] != GENERATION.get(name)
    }

  def finish(self, no_account: Iterable[str] = NO_ACCOUNT) -> None:
    """Refuses every setting that nobody asked for, unless it is of no account.

    Those whose names begin with '_' are transformers' own notes, of no account.
    """
    unknown = self._unknown(no_account)
    if unknown:
      near = difflib.get_close_matches(unknown[0], self._asked | set(no_account), 1)
      self.refuse(
        unknown[0],
        'no such setting is known here, and it may change the result'
        + (f' (is {near[0]} meant?)' if near else '')
        + ': remove it if it does not',
      )

  def _unknown(self, no_account: Iterable[str]) -> list[str]:
    known = self._asked | set(no_account)
    return [name for name in self._values if name not in known and not name.startswith('_')]

  def _get(self, name: str, default: Any) -> Any:
    self._asked.add(name)
    if name not in self and default is _REQUIRED:
      raise ValueError(f'{self.path} lacks {name}.')
    return self._values.get(name, default)


def require_sizes(settings: Settings, tensors: Any, sizes: Iterable, stacks: Iterable) -> None:
  """Checks sizes of a config.json against the tensors that are there, before any is read.

  So a size that is absurd is told by its own name, and a network of it is never made.

  Args:
    settings: of config.json.
    tensors: a `safetensors_directory.Tensors`.
    sizes: (setting, what it makes of an axis, tensor, axis, and words about how or ''), each of
      which is looked at where that tensor is there.
    stacks: (setting, number of layers, what comes before their numbers in the names of tensors).

  Raises:
    ValueError: a size is another; names both files, the setting and the tensor.
  """
  for setting, expected, tensor, axis, how in sizes:
    shape = tensors.shapes.get(tensor)
    if shape is not None and (len(shape) != 2 or shape[axis] != expected):
      settings.refuse(
        setting,
        f'{tensors.file(tensor)}: {tensor} has the shape {list(shape)}, which is another{how}',
      )
  for setting, expected, before in stacks:
    tails = [name.removeprefix(before) for name in tensors.shapes if name.startswith(before)]
    counts = collections.Counter(tail.partition('.')[0] for tail in tails)
    # A layer with few tensors is none: they are too many, or misnamed.
    layers = [layer for layer in counts if 2 * counts[layer] > max(counts.values())]
    if len(layers) != expected:
      settings.refuse(setting, f'the weights beside it have {len(layers)} layers called {before}*')


def warn_of_generation(file: Settings, why: str, *, others: bool = False) -> None:
  """Names on stderr what a file says of generating text: that is the commands', not the weights'.

  Args:
    file: of config.json or generation_config.json.
    why: what is done instead, to end the line with.
    others: whether all is meant that nobody asked for and that is of some account.
  """
  stated = file.generation(others)
  if stated:
    listed = ', '.join(f'{name} {_brief(value)}' for name, value in stated.items())
    storage.warn(f'{file.path}: not carried: {listed}. {why}')


def _brief(value: Any) -> str:
  """A value as JSON has it, cut if it is long."""
  text = json.dumps(value, ensure_ascii=False)
  return text if len(text) <= 60 else f'{text[:57]}...'
