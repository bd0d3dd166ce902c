"""Running classifiers stage by stage: rows that are sure leave, the others go on in full batches.

A single row goes as far as it needs in one program. Of more, all go through the first block, those
that stay are batched anew for the next, and so on, so that a file costs its mean depth and one
batch per stage that is not full. Rows of about one length stand together. A program is compiled for
each stage, size of batch and length, and none for another threshold.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm.exits import buckets, stopping
from calm.tasks.length_sorted import padded_length
from calm.tasks.tokenization import pad_rows
from sweet.objectives import Classifiers


@dataclasses.dataclass(frozen=True)
class Answers:
  """What was said of n rows."""

  exits: np.ndarray  # int32[n], the classifier that answered, from 1
  outputs: np.ndarray  # float32[n, C], its logits by its temperature, or the number of a regression
  confidences: np.ndarray  # float32[n]


@dataclasses.dataclass
class _Batch:
  """Rows on their way, with rows of padding behind them."""

  rows: list[int]  # which of those asked for
  inputs: dict[str, Any]  # `tokens`, `token_types` int32[B, T] and `lengths` int32[B]
  state: Any  # float[B, T, D]; None before the first block, and of models that share none
  seen: Any  # the measure's, rows first


@dataclasses.dataclass(frozen=True)
class StagedRun:
  """Classifiers, the measure that lets rows leave, and how rows are batched.

  Raises:
    ValueError: a size is below 1.
  """

  model: Classifiers
  measure: stopping.ExampleMeasure
  max_batch_size: int = 32
  max_length: int = 512
  _parts: dict[str, Any] = dataclasses.field(
    default_factory=dict, init=False, repr=False, compare=False
  )

  def __post_init__(self) -> None:
    for name in ('max_batch_size', 'max_length'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}.')

  def __call__(
    self,
    params: Any,
    texts: Sequence[tuple[np.ndarray, np.ndarray]],
    threshold: float | None,
    temperatures: Sequence[float] | None = None,
  ) -> Answers:
    """Answers of rows; what is said of one does not depend on the others.

    Args:
      params: of the model.
      texts: (tokens, token types) int32[n] of each row, n from 1 to max_length.
      threshold: of the measure; None lets no row leave early.
      temperatures: by which each classifier's logits are divided; None is 1 for all.

    Raises:
      ValueError: the threshold is NaN.
    """
    value = _scalar(float(stopping.as_threshold(threshold)))
    last = len(self.model.exits)
    by = [_scalar(1.0 if temperatures is None else float(temperatures[k])) for k in range(last)]
    outputs = np.zeros((len(texts), self.model.config.num_outputs), np.float32)
    answers = Answers(np.zeros(len(texts), np.int32), outputs, np.zeros(len(texts), np.float32))
    batches = list(self._batches([_Row(i, *text) for i, text in enumerate(texts)]))
    if len(texts) == 1 or self.max_batch_size == 1:
      for batch in batches:
        self._alone(params, batch, value, by, answers)
      return answers
    parts = self._parts_of(params)
    for k in range(1, last + 1):
      staying = [self._stage(parts, k, batch, value, by[k - 1], answers) for batch in batches]
      if k < last:
        batches = list(self._regrouped(batches, staying))
      if not batches:
        break
    return answers

  def _parts_of(self, params: Any) -> list[Any]:
    """What each stage reads of `params`: an argument of a program costs time even if unread."""
    if self._parts.get('params') is not params:
      exits = range(1, len(self.model.exits) + 1)
      stages = [_only(params, functools.partial(self.model.reads, k)) for k in exits]
      self._parts.update(params=params, stages=stages)
    return self._parts['stages']

  def everything(
    self, params: Any, texts: Sequence[tuple[np.ndarray, np.ndarray]]
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """What every classifier says of every row; arguments are those of a call.

    Returns:
      (outputs float32[n, M, C], exit scores float32[n, M] or None), temperatures left out.
    """
    exits, outputs = len(self.model.exits), self.model.config.num_outputs
    found = np.zeros((len(texts), exits, outputs), np.float32)
    scores = np.zeros((len(texts), exits), np.float32)
    scored = False
    for batch in self._batches([_Row(i, *text) for i, text in enumerate(texts)]):
      state, count = None, len(batch.rows)
      for k in range(1, exits + 1):
        state, output, score = classify(params, batch.inputs, state, model=self.model, k=k)
        found[batch.rows, k - 1] = np.asarray(output)[:count]
        if score is not None:
          scored = True
          scores[batch.rows, k - 1] = np.asarray(score)[:count]
    return found, scores if scored else None

  def _stage(
    self,
    parts: Sequence[Any],
    k: int,
    batch: _Batch,
    threshold: jax.Array,
    temperature: jax.Array,
    answers: Answers,
  ) -> np.ndarray:
    """Runs a stage in place, writes down who leaves; bool[n], who of the batch's rows stays."""
    batch.state, batch.seen, said = stage(
      parts[k - 1],
      batch.inputs,
      batch.state,
      batch.seen,
      threshold,
      temperature,
      model=self.model,
      measure=self.measure,
      k=k,
    )
    said = np.asarray(said)[: len(batch.rows)]
    leaves = said[:, -1] > 0 if k < len(self.model.exits) else np.ones(len(said), bool)
    if leaves.any():
      gone = np.array(batch.rows, int)[leaves]
      answers.exits[gone] = k
      answers.outputs[gone] = said[leaves, :-2]
      answers.confidences[gone] = said[leaves, -2]
    return ~leaves

  def _alone(
    self, params: Any, batch: _Batch, threshold: Any, temperatures: list[Any], answers: Answers
  ) -> None:
    """Answers a row that has no others with it, and writes it down."""
    (row,) = batch.rows
    exit, said = all_stages(
      params,
      batch.inputs,
      batch.seen,
      threshold,
      temperatures,
      model=self.model,
      measure=self.measure,
    )
    (said,) = np.asarray(said)
    answers.exits[row], answers.outputs[row] = int(exit), said[:-2]
    answers.confidences[row] = said[-2]

  def _regrouped(
    self, batches: Iterable[_Batch], staying: Iterable[np.ndarray]
  ) -> Iterator[_Batch]:
    """The rows that stay, in batches: those that nobody left as they are, the others anew."""
    pool: list[_Row] = []
    for batch, stays in zip(batches, staying, strict=True):
      if stays.all():
        yield batch
      elif stays.any():
        pool += _rows_of(batch, np.flatnonzero(stays))
    yield from self._batches(pool)

  def _batches(self, rows: Sequence['_Row']) -> Iterator[_Batch]:
    """Batches of rows of about one length, all full but for the last."""
    rows = sorted(rows, key=lambda row: len(row.tokens))
    for start in range(0, len(rows), self.max_batch_size):
      some = rows[start : start + self.max_batch_size]
      size = min(buckets.next_size(len(some)), self.max_batch_size)
      yield self._batch(some, size, padded_length(len(some[-1].tokens), self.max_length))

  def _batch(self, rows: Sequence['_Row'], size: int, length: int) -> _Batch:
    inputs = {
      'tokens': pad_rows([row.tokens for row in rows], length, size),
      'token_types': pad_rows([row.token_types for row in rows], length, size),
      'lengths': np.array([len(row.tokens) for row in rows] + [0] * (size - len(rows)), np.int32),
    }
    state, seen = None, _fresh(self.measure, size)  # type: ignore[arg-type]
    states = [row.state for row in rows if row.state is not None]  # All have one, or none.
    if states:
      state = np.zeros((size, length, states[0].shape[-1]), states[0].dtype)
      for i, (row, before) in enumerate(zip(rows, states, strict=True)):
        state[i, : len(row.tokens)] = before[: len(row.tokens)]
    if rows[0].seen is not None:
      stacked = jax.tree.map(lambda *values: np.stack(values), *[row.seen for row in rows])
      seen = jax.tree.map(
        lambda own, fresh: np.concatenate([own, np.asarray(fresh)[len(own) :]]), stacked, seen
      )
    return _Batch([row.index for row in rows], inputs, state, seen)


@functools.lru_cache(maxsize=256)
def _scalar(value: float) -> jax.Array:
  """A float32 that is on the device already: to hand one over costs as much as a small layer."""
  return jnp.float32(value)


@functools.lru_cache(maxsize=64)
def _fresh(measure: stopping.ExampleMeasure, size: int) -> Any:
  """What a measure knows of rows at first, on the device."""
  return jax.device_put(measure.init(size))


@functools.partial(jax.jit, static_argnames=('model', 'k'))
def classify(
  params: Any, inputs: Mapping[str, Any], state: Any, *, model: Classifiers, k: int
) -> tuple[Any, jax.Array, jax.Array | None]:
  """A stage without a measure, compiled: see `EarlyExitClassifier.stage`."""
  return model.stage(params, k, inputs, state)


@functools.partial(jax.jit, static_argnames=('model', 'measure', 'k'))
def stage(
  params: Any,
  inputs: Mapping[str, Any],
  state: Any,
  seen: Any,
  threshold: jax.Array,
  temperature: jax.Array,
  *,
  model: Classifiers,
  measure: stopping.ExampleMeasure,
  k: int,
) -> tuple[Any, Any, jax.Array]:
  """One stage of all rows of a batch, compiled.

  Returns:
    (state at exit k, what the measure has seen, float32[B, C + 2] of outputs over the temperature,
    confidence, and 1 where that reaches the threshold, else 0).
  """
  state, outputs, scores = model.stage(params, k, inputs, state)
  outputs = outputs / temperature
  seen, confidences = measure(seen, outputs, scores)
  ends = measure.ends(model.config.num_outputs)
  leaves = stopping.may_exit(confidences, threshold, ends)
  # One array, since each that is brought back to the host costs time.
  said = jnp.concatenate([outputs, jnp.stack([confidences, leaves], 1)], 1)
  return state, seen, said


@functools.partial(jax.jit, static_argnames=('model', 'measure'))
def all_stages(
  params: Any,
  inputs: Mapping[str, Any],
  seen: Any,
  threshold: jax.Array,
  temperatures: Sequence[jax.Array],
  *,
  model: Classifiers,
  measure: stopping.ExampleMeasure,
) -> tuple[jax.Array, jax.Array]:
  """All stages of a single row, as far as it goes, in one program that asks nobody in between.

  To bring a decision back to the host and to start the next stage takes longer than a small layer.

  Returns:
    (int32[] the classifier that the row leaves at, what that says, as `stage` gives it).
  """

  def go(k: int, state: Any, seen: Any) -> Any:
    state, seen, said = stage(
      params, inputs, state, seen, threshold, temperatures[k - 1], model=model, measure=measure, k=k
    )
    if k == len(model.exits):
      return jnp.int32(k), said
    return jax.lax.cond(
      said[0, -1] > 0, lambda: (jnp.int32(k), said), lambda: go(k + 1, state, seen)
    )

  return go(1, None, seen)


@dataclasses.dataclass(frozen=True)
class _Row:
  """One row between two stages."""

  index: int
  tokens: np.ndarray  # int32[n]
  token_types: np.ndarray  # int32[n]
  state: np.ndarray | None = None  # float[T, D], T at least n
  seen: Any = None  # of the measure, without the axis of rows; None before the first stage


def _only(tree: Mapping[str, Any], wanted: Callable[[str], bool], path: str = '') -> dict[str, Any]:
  """The part of nested dicts whose leaves are wanted, by their '/'-joined path."""
  found = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      value = _only(value, wanted, f'{path}{name}/')
    elif not wanted(f'{path}{name}'):
      continue
    if not isinstance(value, Mapping) or value:
      found[name] = value
  return found


def _rows_of(batch: _Batch, places: Iterable[int]) -> Iterator[_Row]:
  """Rows of a batch by their places in it."""
  state = None if batch.state is None else np.asarray(batch.state)
  seen = jax.tree.map(np.asarray, batch.seen)
  for place in places:
    length = int(batch.inputs['lengths'][place])
    yield _Row(
      batch.rows[place],
      batch.inputs['tokens'][place, :length],
      batch.inputs['token_types'][place, :length],
      None if state is None else state[place],
      jax.tree.map(lambda values, i=place: values[i], seen),
    )
