"""The loop on tables of tokens: no network, so every number can be checked by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from calm.decoding import loop, sampling, step

VOCAB = 7
START = 0
EOS = 1


def table_step(tokens, exit_layers=None, seen=None):
  """A StepFn that makes row b say tokens[b][t] at step t, with logit 2 and 0 elsewhere."""
  tokens = jnp.asarray(tokens)
  exit_layers = jnp.ones_like(tokens) if exit_layers is None else jnp.asarray(exit_layers)

  def step_fn(token, column, active, cache):
    if seen is not None:
      jax.debug.callback(lambda *values: seen.append(values), token, column, active, ordered=True)
    at = jnp.minimum(cache, tokens.shape[1] - 1)  # The cache counts the steps.
    result = step.StepResult(
      logits=2 * jax.nn.one_hot(tokens[:, at], VOCAB),
      exit_layer=exit_layers[:, at],
      confidence=exit_layers[:, at] / 10,
      num_logits=VOCAB * exit_layers[:, at],
    )
    return result, cache + 1

  return step_fn


def generate(step_fn, batch_size, max_decode_steps, choose=None, **options):
  """Runs the loop from the start token."""
  choose = choose or sampling.Greedy()
  return loop.generate(
    step_fn,
    choose,
    jnp.int32(0),
    first_token=jnp.full(batch_size, START),
    max_decode_steps=max_decode_steps,
    **options,
  )


def test_rows_stop_at_their_own_eos_and_record_exits():
  out = generate(table_step([[3, 1, 4], [5, 6, 1]], [[2, 3, 2], [4, 5, 6]]), 2, 5)
  np.testing.assert_array_equal(out.tokens, [[3, 1, 0, 0, 0], [5, 6, 1, 0, 0]])
  np.testing.assert_array_equal(out.exit_layer, [[2, 3, 0, 0, 0], [4, 5, 6, 0, 0]])
  np.testing.assert_allclose(out.confidence, [[0.2, 0.3, 0, 0, 0], [0.4, 0.5, 0.6, 0, 0]])
  np.testing.assert_array_equal(out.num_logits, [[14, 21, 0, 0, 0], [28, 35, 42, 0, 0]])


def test_max_decode_steps_ends_rows_that_never_say_eos():
  out = generate(table_step([[3, 4], [5, 1]]), 2, 3)
  np.testing.assert_array_equal(out.tokens, [[3, 4, 4], [5, 1, 0]])


def test_the_loop_ends_with_the_last_row():
  seen = []
  generate(table_step([[3, 1], [1, 2]], seen=seen), 2, 50)
  jax.effects_barrier()
  assert len(seen) == 2


def test_each_step_reads_the_token_before_and_knows_who_is_active():
  seen = []
  generate(table_step([[3, 1, 4], [5, 6, 1]], seen=seen), 2, 5, column=4)
  jax.effects_barrier()
  tokens, columns, active = (np.stack(values) for values in zip(*seen, strict=True))
  np.testing.assert_array_equal(tokens, [[START, START], [3, 5], [1, 6]])
  np.testing.assert_array_equal(columns, [4, 5, 6])
  np.testing.assert_array_equal(active, [[True, True], [True, True], [False, True]])


def test_log_prob_sums_the_chosen_tokens_and_eos_but_nothing_after():
  out = generate(table_step([[3, 1, 4], [5, 6, 1], [1, 2, 3]]), 3, 5)
  # Each token has logit 2 among 0s: its probability is e^2 / (e^2 + 6).
  each = 2 - np.log(np.exp(2) + VOCAB - 1)
  np.testing.assert_allclose(out.log_prob, [2 * each, 3 * each, each], rtol=1e-6)
  written = np.arange(out.tokens.shape[1]) < np.array([[2], [3], [1]])
  np.testing.assert_allclose(out.token_log_prob, written * each, rtol=1e-6)
  np.testing.assert_allclose(out.negative_energy, written * (2 - each), rtol=1e-6)
  np.testing.assert_array_equal(out.sampling_log_prob, [0, 0, 0])


def test_a_row_done_before_the_start_stays_empty():
  done = jnp.array([True, False])
  out = generate(table_step([[3, 1], [5, 1]], [[2, 2], [3, 3]]), 2, 3, done=done)
  np.testing.assert_array_equal(out.tokens, [[0, 0, 0], [5, 1, 0]])
  np.testing.assert_array_equal(out.exit_layer, [[0, 0, 0], [3, 3, 0]])
  assert out.log_prob[0] == 0
  assert out.confidence[0].sum() == 0


def test_nothing_runs_when_all_rows_are_done():
  seen = []
  out = generate(table_step([[3, 1]], seen=seen), 1, 3, done=jnp.array([True]))
  jax.effects_barrier()
  assert not seen
  np.testing.assert_array_equal(out.tokens, [[0, 0, 0]])


def test_another_token_may_end_rows():
  out = generate(table_step([[3, 1, 4, 2]]), 1, 4, eos_id=4)
  np.testing.assert_array_equal(out.tokens, [[3, 1, 4, 0]])


def test_a_generated_0_is_a_token_not_an_end():
  out = generate(table_step([[3, 0, 4, 1]]), 1, 5)
  np.testing.assert_array_equal(out.tokens, [[3, 0, 4, 1, 0]])
  np.testing.assert_array_equal(out.exit_layer, [[1, 1, 1, 1, 0]])


def test_nan_of_a_finished_row_reaches_nothing():
  def step_fn(token, column, active, cache):
    result, cache = table_step([[1, 2, 3], [3, 2, 1]])(token, column, active, cache)
    spoiled = jnp.where(active[:, None], result.logits, jnp.nan)
    return result.replace(logits=spoiled, confidence=spoiled[:, 0]), cache

  out = generate(step_fn, 2, 5)
  np.testing.assert_array_equal(out.tokens, [[1, 0, 0, 0, 0], [3, 2, 1, 0, 0]])
  assert np.isfinite(out.log_prob).all()
  assert np.isfinite(out.confidence).all()


def test_the_position_given_to_the_choice_counts_from_each_rows_beginning():
  positions = []

  class Watch:
    num_samples = 1

    def __call__(self, logits, keys, position):
      jax.debug.callback(positions.append, position, ordered=True)
      return sampling.Greedy()(logits)

  first_column = jnp.array([4, 2])
  generate(table_step([[3, 1], [5, 1]]), 2, 3, choose=Watch(), column=4, first_column=first_column)
  jax.effects_barrier()
  np.testing.assert_array_equal(np.stack(positions), [[0, 2], [1, 3]])
