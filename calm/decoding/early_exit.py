"""One token through as many layers as some row needs: CALM's early-exit step, filled late.

After each layer the rule says which rows stop. A row that has stopped keeps its state, the exit
state; the next layers run only while some row is undecided, and what they compute for a row that
has stopped is dropped. So a row never depends on its batch, only the time does.

Later tokens need keys and values of skipped layers. By state propagation (CALM, section 3.2) they
are the layer's own projection of the exit state. They are made late: the states of all tokens are
kept, each layer knows how many columns it has filled, and when it next runs, it first projects the
missing ones, several at a time, so that its weights are read once for them all. A layer that is
never reached again costs nothing.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from calm.decoding import shortlist
from calm.decoding.cache import LayersKeysValues
from calm.decoding.step import LayerStack, Start, StepFn, StepResult
from calm.exits.rules import Evidence, ExitRule
from calm.models.layers import KeysValues

CHUNK = 8  # Columns that are filled at a time.
# Which state of a token fills the layers that it skipped: the one it exited with, or the first
# layer's (CALM's other oracle of section 3.3.1).
FILLS = ('exit_state', 'first_state')


@flax.struct.dataclass
class ExitCache:
  """Keys and values as far as layers have run, and the states that fill the rest."""

  self_kv: LayersKeysValues
  states: jax.Array  # [B, T, D], what a column's skipped layers are filled with
  filled: tuple[jax.Array, ...]  # int32[] per layer, columns that hold keys and values


@flax.struct.dataclass
class Undecided:
  """What the layers of one step hand on."""

  hidden: jax.Array  # [B, 1, D], a row's state; once it has stopped, its exit state
  undecided: jax.Array  # bool[B]
  exit_layer: jax.Array  # int32[B]
  confidence: jax.Array  # float32[B]
  # Logits found on the way, for rules that need some.
  prediction: shortlist.Prediction | None


def early_exit(rule: ExitRule, fill: str = 'exit_state') -> Start:
  """Maps a LayerStack, its keys and values, and the number of columns filled to a StepFn.

  Args:
    rule: decides where each row stops.
    fill: one of FILLS, the state that skipped layers' keys and values are made of.

  Returns:
    start(stack, self_kv, column) -> (step, cache), as `calm.decoding.generator.decode` takes it.
  """
  if fill not in FILLS:
    raise ValueError(f'fill: {fill!r} is not one of {", ".join(FILLS)}.')

  def start(stack: LayerStack, self_kv: LayersKeysValues, column: int) -> tuple[StepFn, ExitCache]:
    batch_size = self_kv[0].keys.shape[0]
    states = jnp.zeros((batch_size, stack.length, stack.emb_dim), stack.dtype)
    cache = ExitCache(self_kv, states, (jnp.int32(column),) * stack.num_layers)
    return functools.partial(_step, stack, rule, fill), cache

  return start


def _step(
  stack: LayerStack,
  rule: ExitRule,
  fill: str,
  token: jax.Array,
  column: jax.Array,
  active: jax.Array,
  cache: ExitCache,
) -> tuple[StepResult, ExitCache]:
  """Maps int32 token[B], int32 column[], bool active[B] and an ExitCache to (result, cache)."""
  batch_size = token.shape[0]
  position = column - stack.first_column
  carry = Undecided(
    hidden=stack.embed(token[:, None]),
    undecided=active,
    exit_layer=jnp.zeros(batch_size, jnp.int32),
    confidence=jnp.zeros(batch_size, jnp.float32),
    prediction=shortlist.init(stack, rule.needs, batch_size),
  )
  self_kv, filled = list(cache.self_kv), list(cache.filled)
  first: Any = None
  for layer in range(stack.num_layers):
    run = functools.partial(_run_layer, stack, rule, layer, column, position, cache.states, first)
    operands = (carry, self_kv[layer], filled[layer])
    if layer == 0:  # Every token runs the first.
      carry, self_kv[layer], filled[layer] = run(operands)
      if fill == 'first_state':
        first = carry.hidden
    else:
      # The branch that does nothing comes first: the other order would copy the caches.
      carry, self_kv[layer], filled[layer] = jax.lax.switch(
        carry.undecided.any().astype(jnp.int32), [lambda operands: operands, run], operands
      )
  # After the last layer every row stops. (Said here, not in the last branch: if nobody read its
  # `undecided`, XLA would take it out of what that branch hands on, and copy the caches instead.)
  exit_layer = jnp.where(carry.undecided, stack.num_layers, carry.exit_layer)
  state = carry.hidden if first is None else first
  states = jax.lax.dynamic_update_slice(cache.states, state, (0, column, 0))
  logits, num_logits = shortlist.predict(
    stack, carry.hidden[:, 0], carry.undecided, carry.prediction
  )
  result = StepResult(logits, exit_layer, carry.confidence, num_logits)
  return result, ExitCache(tuple(self_kv), states, tuple(filled))


def _run_layer(
  stack: LayerStack,
  rule: ExitRule,
  layer: int,
  column: jax.Array,
  position: jax.Array,
  states: jax.Array,
  first: jax.Array | None,
  operands: tuple[Undecided, KeysValues, jax.Array],
) -> tuple[Undecided, KeysValues, jax.Array]:
  """One layer for all rows: fills what it lacks, writes, attends, asks the rule.

  Rows that have stopped are filled here and now, with their exit state or `first`, if given.
  """
  carry, self_kv, filled = operands
  if layer:  # The first has run for every token before.
    self_kv = fill_missing(stack, layer, states, self_kv, filled, column)
  undecided = carry.undecided[:, None, None]
  written = carry.hidden if first is None else jnp.where(undecided, carry.hidden, first)
  self_kv = stack.write(layer, written, column, self_kv)
  after = stack.attend(layer, carry.hidden, column, self_kv)
  hidden = jnp.where(undecided, after, carry.hidden)
  evidence = Evidence(
    layer=layer + 1,
    num_layers=stack.num_layers,
    position=position,
    hidden=after[:, 0],
    previous=carry.hidden[:, 0],
  )
  carry = dataclasses.replace(carry, hidden=hidden)
  return _apply_rule(stack, rule, evidence, carry), self_kv, column + 1


def _apply_rule(
  stack: LayerStack, rule: ExitRule, evidence: Evidence, carry: Undecided
) -> Undecided:
  """Shows the rule what it needs to see, and enters which rows stop."""
  last = evidence.layer == stack.num_layers
  if 'exit_score' in rule.needs:
    evidence = dataclasses.replace(evidence, exit_score=stack.exit_score(evidence.hidden))
  rows = carry.undecided & rule.may_exit(evidence)

  def applied(carry: Undecided) -> Undecided:
    with_logits, prediction = shortlist.logits_for_rule(
      stack, rule.needs, evidence, rows, carry.prediction
    )
    stops, confidence = rule(with_logits)
    # Whose logits are all known after the last layer needs no other prediction.
    newly = rows & (stops | (last and isinstance(prediction, shortlist.Logits)))
    measured = newly | (last & (carry.undecided if prediction is None else rows))
    return Undecided(
      hidden=carry.hidden,
      undecided=carry.undecided & ~newly,
      exit_layer=jnp.where(newly, evidence.layer, carry.exit_layer),
      confidence=jnp.where(measured, confidence, carry.confidence),
      prediction=shortlist.merge(carry.prediction, prediction, newly),
    )

  if carry.prediction is None:
    return applied(carry)
  # Logits are expensive: none are made where no row may stop.
  return jax.lax.switch(rows.any().astype(jnp.int32), [lambda carry: carry, applied], carry)


def fill_missing(
  stack: LayerStack,
  layer: int,
  states: jax.Array,
  self_kv: KeysValues,
  filled: jax.Array,
  column: jax.Array,
) -> KeysValues:
  """Projects states[B, T, D] of columns [filled, column) into the layer's `self_kv`."""
  size = min(CHUNK, stack.length)

  def fill(progress: tuple[jax.Array, KeysValues]) -> tuple[jax.Array, KeysValues]:
    filled, self_kv = progress
    # A chunk may not reach beyond the end: it begins earlier then, and leaves what is there.
    begin = jnp.minimum(filled, stack.length - size)
    chunk = jax.lax.dynamic_slice_in_dim(states, begin, size, axis=1)
    columns = begin + jnp.arange(size)
    missing = (columns >= filled) & (columns < column)
    self_kv = stack.write_where(layer, chunk, begin, missing, self_kv)
    return jnp.minimum(begin + size, column), self_kv

  return jax.lax.while_loop(lambda p: p[0] < column, fill, (filled, self_kv))[1]
