"""From input tokens to generated ones: encode, prefill the prompts, loop.

Prompts of different lengths end in the same column: each row is shifted right by what it lacks.
T5's positions are relative, so the shift changes nothing, all rows generate from the first step
on, and no step is spent on tokens that are already known.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from calm import settings
from calm.decoding import all_layers, compiled, early_exit, loop
from calm.decoding import cache as caches
from calm.decoding import sampling as samplings
from calm.decoding import step as steps
from calm.exits import rules


def decode(
  model: Any,
  params: Any,
  encoder_input_tokens: jax.Array,
  *,
  max_decode_steps: int,
  prompts: jax.Array | None = None,
  sampling: samplings.ChoiceRule | None = None,
  keys: jax.Array | None = None,
  eos_id: int = 1,
  rule: rules.ExitRule | None = None,
  fill: str = 'exit_state',
  classes: Any = None,
  encoded: jax.Array | None = None,
) -> loop.Decoded:
  """Generates for int32 encoder_input_tokens[B, S]; pure, to be jitted.

  A bfloat16 model needs `compiler_options=ROUNDING` there for the equalities that `Generator` has.

  Args:
    model: a `calm.models.t5.T5`.
    params: its parameters.
    encoder_input_tokens: 0 is padding. A row of nothing else is finished before it starts.
    max_decode_steps: tokens to generate at most, static.
    prompts: int32[B, P], what each row's output begins with, 0 after its end; without EOS.
    sampling: a `calm.decoding.sampling.ChoiceRule`; greedy by default.
    keys: random keys[B], needed for drawing: all that a row's draws depend on.
    eos_id: the token that ends a row.
    rule: a `calm.exits.rules.ExitRule`; the full model by default. Its numbers may be traced.
    fill: what fills the cache of skipped layers, one of `calm.decoding.all_layers.FILLS`.
    classes: `calm.decoding.compiled.classes_of` rule and sampling, static, where this is jitted for
      more than one kind of them.
    encoded: the encoder's states[B, S, D] of these tokens, where they are known already.

  Returns:
    `calm.decoding.loop.Decoded` with T = P + max_decode_steps, and B * num_samples rows, the
    samples of an input side by side.
  """
  del classes  # They make programs differ, and nothing else.
  choose = samplings.Greedy() if sampling is None else sampling
  batch_size = encoder_input_tokens.shape[0]
  if prompts is None:
    prompts = jnp.zeros((batch_size, 0), jnp.int32)
  prompt_length = prompts.shape[1]
  first_column = prompt_length - (prompts > 0).sum(-1, dtype=jnp.int32)
  given = _shift_right(prompts, first_column)
  # The last token given is the first that the loop reads; a row without any reads 0.
  inputs = jnp.pad(given, ((0, 0), (1, 0)))
  done = ~(encoder_input_tokens > 0).any(-1) | (prompts == eos_id).any(-1)

  source = steps.prepare_source(model, params, encoder_input_tokens, encoded)
  length = prompt_length + max_decode_steps
  cache = caches.empty_cache(model.config, batch_size, length)
  if prompt_length:
    stack = steps.prepare_layers(model, params, source, first_column, length)
    cache = steps.prefill(stack, inputs[:, :-1], cache)

  times = choose.num_samples
  rows = (source, cache, first_column, inputs[:, -1], done, given)
  source, cache, first_column, first_token, done, given = caches.repeat_rows(rows, times)
  if keys is not None:
    keys = _sample_keys(keys, times)
  stack = steps.prepare_layers(model, params, source, first_column, length)
  step, cache = _start(rule, fill)(stack, cache, prompt_length)
  generated = loop.generate(
    step,
    choose,
    cache,
    first_token=first_token,
    max_decode_steps=max_decode_steps,
    done=done,
    first_column=first_column,
    column=prompt_length,
    keys=keys,
    eos_id=eos_id,
  )
  return _with_prompts(generated, given, first_column) if prompt_length else generated


def _start(rule: rules.ExitRule | None, fill: str) -> steps.Start:
  """The cheapest step that does what is asked."""
  if rule is None or isinstance(rule, rules.NeverExit):
    return steps.full_depth
  if 'full_token' in rule.needs or fill not in early_exit.FILLS:
    return all_layers.all_layers(rule, fill)
  return early_exit.early_exit(rule, fill)


# Within one computation XLA would keep float32 from one bfloat16 operation to the next, and round
# only at its end: a layer would compute other numbers where a branch may skip it.
ROUNDING = {'xla_allow_excess_precision': False}
_jit = functools.partial(
  jax.jit, decode, static_argnames=('model', 'max_decode_steps', 'eos_id', 'fill', 'classes')
)
_decode = _jit()
_decode_bfloat16 = _jit(compiler_options=ROUNDING)


@dataclasses.dataclass(frozen=True)
class Generator:
  """Decodes batches with one model and one way of choosing; compiled once per shape.

  Generators of equal settings share what they compiled; temperature, top_k and top_p are not part
  of it, nor are thresholds and the other numbers of a rule.
  """

  model: Any  # a calm.models.t5.T5
  max_decode_steps: settings.Count = 128
  sampling: samplings.ChoiceRule = dataclasses.field(default_factory=samplings.Greedy)
  eos_id: settings.Natural = 1
  rule: rules.ExitRule = dataclasses.field(default_factory=rules.NeverExit)
  fill: str = 'exit_state'  # One of calm.decoding.all_layers.FILLS.

  def __post_init__(self) -> None:
    settings.check_fields(self)
    samplings.check(self.sampling)
    config = self.model.config
    rules.check(self.rule, config.num_decoder_layers, config.exit_classifier)
    if self.fill not in all_layers.FILLS:
      raise settings.SettingError('fill', self.fill, f'one of {", ".join(all_layers.FILLS)}')

  @property
  def draws(self) -> bool:
    """Whether random keys are needed."""
    return isinstance(self._choose, samplings.Sampling)

  @property
  def _choose(self) -> samplings.ChoiceRule:
    rule = self.sampling
    if isinstance(rule, samplings.Sampling) and rule.temperature == 0:
      return samplings.Greedy(num_samples=rule.num_samples)
    return rule

  def __call__(
    self,
    params: Any,
    encoder_input_tokens: jax.typing.ArrayLike,
    *,
    prompts: jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
    encoded: jax.typing.ArrayLike | None = None,
  ) -> loop.Decoded:
    """Decodes int32 encoder_input_tokens[B, S] as `decode` does, encoded[B, S, D] or not.

    `key` is one random key, or keys[B] of the rows' own if a row's draws are not to depend on
    where in a batch it stands.

    Raises:
      ValueError: the sampling draws and there is no key.
    """
    encoder_input_tokens = jnp.asarray(encoder_input_tokens, jnp.int32)
    if not self.draws:
      key = None
    elif key is None:
      raise ValueError('Sampling needs a key: pass key=jax.random.key(seed).')
    elif key.ndim == 0:
      key = row_keys(key, jnp.arange(encoder_input_tokens.shape[0]))
    # Sampling's numbers, too: a temperature of 1 is one of 1.0.
    rule, choose = rules.as_arrays(self.rule), samplings.as_arrays(self._choose)
    run = _decode_bfloat16 if self.model.config.dtype == jnp.bfloat16 else _decode
    return run(
      self.model,
      params,
      encoder_input_tokens,
      max_decode_steps=self.max_decode_steps,
      prompts=None if prompts is None else jnp.asarray(prompts, jnp.int32),
      sampling=choose,
      keys=key,
      eos_id=self.eos_id,
      rule=rule,
      fill=self.fill,
      classes=compiled.classes_of((rule, choose)),
      encoded=encoded,
    )


def row_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """Random keys[B] from one key and each row's int32 number[B], wherever the row is decoded."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def _sample_keys(keys: jax.Array, times: int) -> jax.Array:
  """Random keys[B] to keys[B * times]: one for each sample of each row."""
  return jax.vmap(lambda key: row_keys(key, jnp.arange(times)))(keys).reshape(-1)


def _shift_right(tokens: jax.Array, amount: jax.Array) -> jax.Array:
  """Moves each row of tokens[B, P] right by its own amount[B]; 0 comes in."""
  index = jnp.arange(tokens.shape[1]) - amount[:, None]
  moved = jnp.take_along_axis(tokens, jnp.maximum(index, 0), axis=1)
  return jnp.where(index >= 0, moved, 0)


def _with_prompts(
  generated: loop.Decoded, given: jax.Array, first_column: jax.Array
) -> loop.Decoded:
  """Puts given[B, P], which ends where generation begins, before it; each row starts at 0."""
  nothing = jnp.zeros_like(given)

  def joined(before: jax.Array, after: jax.Array) -> jax.Array:
    array = jnp.concatenate([before.astype(after.dtype), after], axis=1)
    index = jnp.arange(array.shape[1]) + first_column[:, None]
    moved = jnp.take_along_axis(array, jnp.minimum(index, array.shape[1] - 1), axis=1)
    return jnp.where(index < array.shape[1], moved, 0)

  return dataclasses.replace(
    generated,
    tokens=joined(given, generated.tokens),
    exit_layer=joined(nothing, generated.exit_layer),
    confidence=joined(nothing, generated.confidence),
    num_logits=joined(nothing, generated.num_logits),
    token_log_prob=joined(nothing, generated.token_log_prob),
    negative_energy=joined(nothing, generated.negative_energy),
  )
