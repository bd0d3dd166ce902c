"""One token through all layers, and only then the rule: nothing is saved, everything can be asked.

For what no decoder can do: an oracle that knows the full model's prediction, and true states where
layers were skipped. It computes what `calm.decoding.early_exit` does, in the plainest way.
"""

import functools

import jax
import jax.numpy as jnp

from calm.decoding import cache as caches
from calm.decoding.sampling import argmax
from calm.decoding.step import LayerStack, Start, StepFn, StepResult
from calm.exits.rules import Evidence, ExitRule
from calm.models.layers import KeysValues

# What fills the keys and values of the layers that a token skipped (CALM, sections 3.2, 3.3.1):
FILLS = (
  'exit_state',  # each layer's own projection of the exit state: state propagation
  'first_state',  # the same of the first layer's state
  'exit_keys_values',  # a copy of the exit layer's keys and values, which the paper advises against
  'true_states',  # each layer's own state, as if nothing had been skipped
)


def all_layers(rule: ExitRule, fill: str = 'exit_state') -> Start:
  """As `calm.decoding.early_exit.early_exit`, for any rule and any of FILLS."""
  if fill not in FILLS:
    raise ValueError(f'fill: {fill!r} is not one of {", ".join(FILLS)}.')
  if 'shortlist_logits' in rule.needs:
    raise ValueError('shortlist_logits: a measure over them needs the early-exit step.')

  def start(
    stack: LayerStack, self_kv: caches.LayersKeysValues, column: int
  ) -> tuple[StepFn, caches.LayersKeysValues]:
    del column
    return functools.partial(_step, stack, rule, fill), self_kv

  return start


def _step(
  stack: LayerStack,
  rule: ExitRule,
  fill: str,
  token: jax.Array,
  column: jax.Array,
  active: jax.Array,
  cache: caches.LayersKeysValues,
) -> tuple[StepResult, caches.LayersKeysValues]:
  """Maps int32 token[B], int32 column[], bool active[B] and keys and values to (result, own)."""
  del active  # What is found for a finished row is never read.
  states = [stack.embed(token[:, None])]
  self_kv = list(cache)
  for layer in range(stack.num_layers):
    self_kv[layer] = stack.write(layer, states[-1], column, self_kv[layer])
    states.append(stack.attend(layer, states[-1], column, self_kv[layer]))
  result = _decide(stack, rule, column, states)
  exit_layer = result.exit_layer
  exit_state = _pick(jnp.stack(states[1:]), exit_layer)
  for layer in range(1, stack.num_layers):
    if fill == 'true_states':
      break
    skipped = (exit_layer <= layer)[:, None, None, None]
    if fill == 'exit_keys_values':
      new = _columns_of_exit_layer(self_kv, exit_layer, column)
    else:
      new = stack.keys_values(layer, states[1] if fill == 'first_state' else exit_state)
    old = caches.read(self_kv[layer], column, 1)
    kept = jax.tree.map(lambda a, b, skipped=skipped: jnp.where(skipped, a, b), new, old)
    self_kv[layer] = caches.write(self_kv[layer], kept, column)
  return result, tuple(self_kv)


def _decide(
  stack: LayerStack, rule: ExitRule, column: jax.Array, states: list[jax.Array]
) -> StepResult:
  """Where each row stops, from all its states."""
  num_layers, vocab_size = stack.num_layers, stack.vocab_size
  heads = [stack.head(state[:, 0]) for state in states[1:]] if 'logits' in rule.needs else None
  last = stack.head(states[-1][:, 0]) if heads is None else heads[-1]
  exits, confidences, asked = [], [], []
  for layer in range(1, num_layers + 1):
    hidden = states[layer][:, 0]
    evidence = Evidence(
      layer=layer,
      num_layers=num_layers,
      position=column - stack.first_column,
      hidden=hidden,
      previous=states[layer - 1][:, 0],
      logits=None if heads is None else heads[layer - 1],
      exit_score=stack.exit_score(hidden) if 'exit_score' in rule.needs else None,
      full_token=argmax(last) if 'full_token' in rule.needs else None,
    )
    stops, confidence = rule(evidence)
    asked.append(rule.may_exit(evidence))
    exits.append((stops & asked[-1]) | (layer == num_layers))
    confidences.append(confidence)
  exit_layer = jnp.stack(exits).argmax(0).astype(jnp.int32) + 1  # The first that is True.
  confidence = _pick(jnp.stack(confidences), exit_layer)
  if heads is None or 'full_token' in rule.needs:
    # What an oracle foresees is no decoder's cost: the head counts once, as for all.
    num_logits = jnp.full_like(exit_layer, vocab_size)
  else:
    # Once for each layer that was asked, and for the one that predicts, if it was not.
    reached = jnp.arange(1, num_layers + 1)[:, None] <= exit_layer
    unasked = ~_pick(jnp.stack(asked), exit_layer)
    num_logits = vocab_size * ((jnp.stack(asked) & reached).sum(0) + unasked)
  if heads is None:
    logits = stack.head(_pick(jnp.stack(states[1:]), exit_layer)[:, 0])
  else:
    logits = _pick(jnp.stack(heads), exit_layer)
  return StepResult(logits, exit_layer, confidence, num_logits.astype(jnp.int32))


def _pick(values: jax.Array, exit_layer: jax.Array) -> jax.Array:
  """values[L, B, ...] of each row's exit layer (from 1): [B, ...]."""
  return jax.vmap(lambda row, layer: row[layer - 1], (1, 0))(values, exit_layer)


def _columns_of_exit_layer(
  self_kv: list[KeysValues], exit_layer: jax.Array, column: jax.Array
) -> KeysValues:
  """KeysValues[B, N, H, 1] that each row's exit layer wrote into `column`."""
  columns = [caches.read(one, column, 1) for one in self_kv]
  return jax.tree.map(lambda *each: _pick(jnp.stack(each), exit_layer), *columns)
