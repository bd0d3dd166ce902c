"""Measured seconds per token: the same inputs under several rules, on this machine.

A time is worth comparing only with times taken beside it. So the rules take turns at each batch,
every time in another order: what slows the machine down for a while slows all of them.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from calm.decoding.generator import Generator
from calm.decoding.loop import Decoded
from calm.decoding.text_predictor import padded_length
from calm.exits.rules import ExitRule


@dataclasses.dataclass(frozen=True)
class Timing:
  """What decoding took, encoding included."""

  seconds: tuple[float, ...]  # of all inputs, in each repeat
  num_tokens: int  # generated for all inputs, EOS among them

  @property
  def seconds_per_token(self) -> float:
    """The median repeat's seconds by the number of tokens: lengths do not count."""
    return statistics.median(self.seconds) / max(1, self.num_tokens)


def time_rules(
  generator: Generator,
  params: Any,
  inputs: Sequence[np.ndarray],
  rules: Mapping[str, ExitRule],
  *,
  batch_size: int,
  repeats: int = 5,
  inputs_length: int | None = None,
) -> dict[str, Timing]:
  """The Timing of each rule, by its name; compilation is not in it.

  Args:
    generator: a `calm.decoding.generator.Generator`; its rule is not used.
    params: the parameters of its model, on the device.
    inputs: tokens int32[n] of each input, decoded in this order.
    rules: what is compared.
    batch_size: inputs decoded at once.
    repeats: how often all is decoded under each rule, after a first time to warm up.
    inputs_length: tokens that a batch is padded to at most; those of the longest input if None.

  Raises:
    ValueError: nothing to decode, or no repeat.
  """
  if not inputs or repeats < 1:
    raise ValueError(f'{len(inputs)} inputs, {repeats} repeats: there is nothing to measure.')
  batches = _batches(inputs, batch_size, inputs_length)
  generators = {name: dataclasses.replace(generator, rule=rule) for name, rule in rules.items()}
  tokens = {}
  for name, one in generators.items():
    tokens[name] = sum(_count(_run(one, params, batch)) for batch in batches)
  seconds = {name: [0.0] * repeats for name in rules}
  names = list(rules)
  for repeat in range(repeats):
    for number, batch in enumerate(batches):
      shift = (repeat + number) % max(1, len(names))
      for name in names[shift:] + names[:shift]:
        start = time.perf_counter()
        _run(generators[name], params, batch)
        seconds[name][repeat] += time.perf_counter() - start
  return {name: Timing(tuple(seconds[name]), tokens[name]) for name in rules}


def _batches(inputs: Sequence[np.ndarray], batch_size: int, inputs_length: int | None) -> list[Any]:
  """Arrays int32[batch_size, S], padded as `TextPredictor` does."""
  from calm.tasks import tokenization

  longest = inputs_length or max(map(len, inputs))
  found = []
  for at in range(0, len(inputs), batch_size):
    rows = inputs[at : at + batch_size]
    length = padded_length(max(map(len, rows)), longest)
    found.append(tokenization.pad_rows(rows, length, batch_size))
  return found


def _run(generator: Generator, params: Any, batch: np.ndarray) -> Decoded:
  # A key is ignored by generators that do not draw.
  return jax.block_until_ready(generator(params, batch, key=jax.random.key(0)))


def _count(decoded: Decoded) -> int:
  return int((np.asarray(decoded.exit_layer) > 0).sum())
