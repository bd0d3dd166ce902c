"""The loop that generates token after token, for any step and any way of choosing.

It knows nothing of the network: a `StepFn` reads the last tokens and gives logits, exit layers
and confidences, a `ChoiceRule` picks the next tokens. Full depth, early exits and an oracle are
different steps under this one loop.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from calm.decoding.sampling import Choice, ChoiceRule
from calm.decoding.step import StepFn, StepResult


@flax.struct.dataclass
class Decoded:
  """What was generated. A row's own prompt comes first in `tokens`, EOS stays, 0 follows.

  Given tokens have 0 in all that is said of each token, and count for nothing in the
  log-probabilities; so has what follows EOS. A row without any input token is padding and stays
  empty.
  """

  tokens: jax.Array  # int32[B, T]
  exit_layer: jax.Array  # int32[B, T], layers run for each token, from 1
  confidence: jax.Array  # float32[B, T] where it stopped; 1 if nothing measures, 0 if not asked
  num_logits: jax.Array  # int32[B, T], computed for each token, at all layers together
  token_log_prob: jax.Array  # float32[B, T], nats, of which `log_prob` is the sum
  negative_energy: jax.Array  # float32[B, T], log sum exp of the logits it was chosen by
  log_prob: jax.Array  # float32[B], nats, the model's own (softmax at temperature 1)
  sampling_log_prob: jax.Array  # float32[B], nats, under the distribution drawn from


@flax.struct.dataclass
class DecodeState:
  """Carry of the decoding loop; T counts generated tokens only."""

  step: jax.Array  # int32[], tokens generated so far
  last: jax.Array  # int32[B], the token to read next
  done: jax.Array  # bool[B]
  decoded: Decoded
  cache: Any  # the step's own, opaque to the loop


def generate(
  step_fn: StepFn,
  choose: ChoiceRule,
  cache: Any,
  *,
  first_token: jax.Array,
  max_decode_steps: int,
  done: jax.Array | None = None,
  first_column: jax.Array | None = None,
  column: int = 0,
  keys: jax.Array | None = None,
  eos_id: int = 1,
) -> Decoded:
  """Runs step_fn and choose until every row has said EOS, or for `max_decode_steps` steps.

  Args:
    step_fn: a `calm.decoding.step.StepFn`.
    choose: a `calm.decoding.sampling.ChoiceRule`.
    cache: what step_fn carries from step to step.
    first_token: int32[B], what each row reads first: 0, or the last token of its prompt.
    max_decode_steps: length of the result, static.
    done: bool[B], rows that are finished before they start; none by default.
    first_column: int32[B], where each row began; a row's position is counted from there.
    column: the column of first_token, the number of prefilled ones.
    keys: random keys[B], if `choose` draws.
    eos_id: the token that ends a row.

  Returns:
    Decoded with T = max_decode_steps.
  """
  batch_size = first_token.shape[0]
  begin = jnp.zeros(batch_size, jnp.int32) if first_column is None else first_column

  def body(state: DecodeState) -> DecodeState:
    at = column + state.step
    result, new_cache = step_fn(state.last, at, ~state.done, state.cache)
    choice = choose(result.logits, keys, at - begin)
    token = jnp.where(state.done, 0, choice.token)
    return DecodeState(
      step=state.step + 1,
      last=token,
      done=state.done | (token == eos_id),
      decoded=_record(state.decoded, state.step, state.done, token, result, choice),
      cache=new_cache,
    )

  def unfinished(state: DecodeState) -> jax.Array:
    return (state.step < max_decode_steps) & ~state.done.all()

  start = DecodeState(
    step=jnp.int32(0),
    last=first_token,
    done=jnp.zeros(batch_size, bool) if done is None else done,
    decoded=_nothing(batch_size, max_decode_steps),
    cache=cache,
  )
  return jax.lax.while_loop(unfinished, body, start).decoded


def _nothing(batch_size: int, length: int) -> Decoded:
  return Decoded(
    tokens=jnp.zeros((batch_size, length), jnp.int32),
    exit_layer=jnp.zeros((batch_size, length), jnp.int32),
    confidence=jnp.zeros((batch_size, length), jnp.float32),
    num_logits=jnp.zeros((batch_size, length), jnp.int32),
    token_log_prob=jnp.zeros((batch_size, length), jnp.float32),
    negative_energy=jnp.zeros((batch_size, length), jnp.float32),
    log_prob=jnp.zeros(batch_size, jnp.float32),
    sampling_log_prob=jnp.zeros(batch_size, jnp.float32),
  )


def _record(
  decoded: Decoded,
  step: jax.Array,
  done: jax.Array,
  token: jax.Array,
  result: StepResult,
  choice: Choice,
) -> Decoded:
  """Enters one step into `decoded`; rows that are done keep their zeros."""

  def column(array: jax.Array, value: jax.Array) -> jax.Array:
    return array.at[:, step].set(jnp.where(done, 0, value))

  return Decoded(
    tokens=column(decoded.tokens, token),
    exit_layer=column(decoded.exit_layer, result.exit_layer),
    confidence=column(decoded.confidence, result.confidence),
    num_logits=column(decoded.num_logits, result.num_logits),
    token_log_prob=column(decoded.token_log_prob, choice.log_prob),
    negative_energy=column(decoded.negative_energy, jax.nn.logsumexp(result.logits, axis=-1)),
    log_prob=decoded.log_prob + jnp.where(done, 0, choice.log_prob),
    sampling_log_prob=decoded.sampling_log_prob + jnp.where(done, 0, choice.sampling_log_prob),
  )
