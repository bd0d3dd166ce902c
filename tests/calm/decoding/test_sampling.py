"""Choosing tokens: sets that are kept, log-probabilities, and where draws come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.decoding import sampling

LOGITS = jnp.array([[1.0, 3.0, -2.0, 0.5, 2.5], [0.0, 0.0, 4.0, 4.0, -1.0]])


def waves(rows, vocab, scale=3.0):
  """Float32 logits[rows, vocab], all different."""
  return scale * jnp.sin(jnp.arange(rows * vocab, dtype=jnp.float32) ** 1.3).reshape(rows, vocab)


@jax.jit
def draw(rule, logits, keys, position):
  """Calls a rule; compiled, which is much quicker than op by op."""
  return rule(logits, keys, position)


def row_keys(seed, count):
  """Independent random keys[count]."""
  return jax.random.split(jax.random.key(seed), count)


def positions(count, value=0):
  """The same position for every row."""
  return jnp.full(count, value, jnp.int32)


def sorted_probabilities(logits):
  """Token order and probabilities from the likeliest down, in float64."""
  logits = np.asarray(logits, np.float64)
  weights = np.exp(logits - logits.max())
  order = np.argsort(-logits, kind='stable')
  return order, (weights / weights.sum())[order]


def test_greedy_takes_the_largest_and_the_first_of_equals():
  choice = sampling.Greedy()(LOGITS)
  np.testing.assert_array_equal(choice.token, [1, 2])
  expected = jax.nn.log_softmax(LOGITS)[jnp.arange(2), choice.token]
  np.testing.assert_allclose(choice.log_prob, expected, rtol=1e-6)
  np.testing.assert_array_equal(choice.sampling_log_prob, [0, 0])


def test_likeliest_is_argmax_over_the_last_axis():
  logits = waves(6, 31).reshape(2, 3, 31)
  np.testing.assert_array_equal(sampling.argmax(logits), logits.argmax(-1))


def test_likeliest_stays_within_the_vocabulary_where_logits_are_nan():
  assert sampling.argmax(jnp.full((1, 5), jnp.nan)) == 4


@pytest.mark.parametrize('k', [1, 2, 5, 30, 31, 100])
def test_top_k_keeps_the_k_likeliest(k):
  logits = waves(4, 31)
  kept = np.isfinite(sampling.keep_top_k(logits, k))
  for row, keep in zip(logits, kept, strict=True):
    order, _ = sorted_probabilities(row)
    np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(order[:k]))


@pytest.mark.parametrize('p', [1e-6, 0.1, 0.5, 0.9, 0.99])
def test_top_p_keeps_the_fewest_that_reach_p(p):
  logits = waves(4, 31)
  kept = np.isfinite(sampling.keep_top_p(logits, p))
  for row, keep in zip(logits, kept, strict=True):
    order, probabilities = sorted_probabilities(row)
    fewest = np.searchsorted(np.cumsum(probabilities), p) + 1
    np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(order[:fewest]))


def test_top_p_of_1_keeps_everything_that_counts():
  assert np.isfinite(sampling.keep_top_p(waves(3, 31), 1.0)).all()


def test_what_ties_with_the_last_one_kept_is_kept():
  logits = jnp.array([[1.0, 2.0, 1.0, 0.0]])
  np.testing.assert_array_equal(
    np.isfinite(sampling.keep_top_k(logits, 2)), [[True, True, True, False]]
  )
  np.testing.assert_array_equal(
    np.isfinite(sampling.keep_top_p(logits, 0.6)), [[True, True, True, False]]
  )


def test_tokens_cut_beforehand_stay_cut():
  logits = jnp.array([[-jnp.inf, 2.0, -jnp.inf, 0.0]])
  np.testing.assert_array_equal(sampling.keep_top_k(logits, 3), logits)
  np.testing.assert_array_equal(sampling.keep_top_p(logits, 1.0), logits)


def test_kept_logits_keep_their_values_and_signs():
  logits = jnp.array([[-0.5, -3.0, 0.0, 0.25, -0.125]])
  kept = sampling.keep_top_k(logits, 4)
  np.testing.assert_array_equal(kept, [[-0.5, -np.inf, 0.0, 0.25, -0.125]])


def test_top_k_comes_before_top_p():
  rule = sampling.Sampling(top_k=2, top_p=0.6)
  # Of the first row's two likeliest, 3.0 alone holds 62 %; of all five only 53 %.
  np.testing.assert_array_equal(
    np.isfinite(rule.truncated(LOGITS))[0], [False, True, False, False, False]
  )
  assert np.isfinite(sampling.Sampling(top_p=0.6).truncated(LOGITS))[0].sum() == 2


@pytest.mark.parametrize('temperature', [0, 0.0, jnp.float32(0)])
def test_temperature_0_is_greedy(temperature):
  logits = waves(5, 31)
  choice = draw(sampling.Sampling(temperature), logits, row_keys(0, 5), positions(5))
  greedy = sampling.Greedy()(logits)
  np.testing.assert_array_equal(choice.token, greedy.token)
  np.testing.assert_allclose(choice.log_prob, greedy.log_prob, rtol=1e-6)
  np.testing.assert_array_equal(choice.sampling_log_prob, np.zeros(5))


@pytest.mark.parametrize(
  'rule',
  [
    sampling.Sampling(),
    sampling.Sampling(0.5),
    sampling.Sampling(1.7, top_k=3),
    sampling.Sampling(0.8, top_p=0.7),
    sampling.Sampling(1.3, top_k=11, top_p=0.6),
  ],
)
def test_log_probs_are_the_models_and_those_drawn_from(rule):
  logits = np.asarray(waves(40, 13))
  choice = draw(rule, logits, row_keys(1, 40), positions(40))
  for row in range(40):
    token = int(choice.token[row])
    order, probabilities = sorted_probabilities(logits[row])
    np.testing.assert_allclose(
      choice.log_prob[row], np.log(probabilities[order == token][0]), rtol=1e-5, atol=1e-6
    )
    order, probabilities = sorted_probabilities(logits[row] / rule.temperature)
    kept = 13 if rule.top_k is None else rule.top_k
    probabilities = probabilities[:kept] / probabilities[:kept].sum()
    if rule.top_p is not None:
      kept = np.searchsorted(np.cumsum(probabilities), rule.top_p) + 1
      probabilities = probabilities[:kept] / probabilities[:kept].sum()
    assert token in order[:kept]
    np.testing.assert_allclose(
      choice.sampling_log_prob[row],
      np.log(probabilities[order[:kept] == token][0]),
      rtol=1e-5,
      atol=1e-6,
    )


def test_frequencies_of_draws_approach_the_probabilities():
  count = 20000
  rule = sampling.Sampling(0.7, top_k=4)
  logits = LOGITS[:1].repeat(count, axis=0)
  choice = draw(rule, logits, row_keys(2, count), positions(count))
  frequencies = np.bincount(choice.token, minlength=5) / count
  expected = np.asarray(jax.nn.softmax(rule.truncated(LOGITS[0])))
  assert expected[2] == 0
  # Six standard deviations of a frequency.
  bound = 6 * np.sqrt(expected * (1 - expected) / count)
  assert (np.abs(frequencies - expected) <= bound).all()


def test_draws_of_successive_positions_are_independent():
  count = 5000
  rule = sampling.Sampling()
  logits = jnp.zeros((count, 2))
  keys = row_keys(3, count)
  first, second = (draw(rule, logits, keys, positions(count, at)).token for at in (0, 1))
  assert abs(np.mean(np.asarray(first == second)) - 0.5) < 6 * 0.5 / np.sqrt(count)


def test_a_draw_depends_on_its_rows_key_and_position_alone():
  rule = sampling.Sampling(top_k=20)
  logits = waves(7, 31, scale=0.5)
  keys, at = row_keys(4, 7), jnp.arange(7)
  together = draw(rule, logits, keys, at)
  order = jnp.array([3, 0, 6, 5, 1, 4, 2])
  mixed = draw(rule, logits[order], keys[order], at[order])
  np.testing.assert_array_equal(mixed.token, together.token[order])
  for row in range(7):
    alone = draw(rule, logits[row : row + 1], keys[row : row + 1], at[row : row + 1])
    assert alone.token[0] == together.token[row]


def test_drawing_needs_keys():
  with pytest.raises(ValueError, match='needs keys'):
    sampling.Sampling()(waves(7, 31), None, positions(7))


def test_settings_may_be_traced():
  logits, keys, at = waves(7, 31), row_keys(5, 7), positions(7)
  traces = []

  @jax.jit
  def token(rule):
    traces.append(1)
    return rule(logits, keys, at).token

  for numbers in ((0.5, 3, 0.9), (2.0, 7, 0.4)):
    plain = jax.jit(lambda numbers=numbers: sampling.Sampling(*numbers)(logits, keys, at).token)
    np.testing.assert_array_equal(token(sampling.Sampling(*numbers)), plain())
  assert len(traces) == 1


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    (sampling.Greedy(num_samples=0), 'num_samples must be a whole number of at least 1, not 0'),
    (sampling.Sampling(num_samples=-1), 'num_samples must be a whole number of at least 1, not -1'),
    (sampling.Sampling(-0.1), 'temperature must be a number of at least 0, not -0.1'),
    (sampling.Sampling(float('nan')), 'temperature must be a number of at least 0, not nan'),
    (sampling.Sampling(float('inf')), 'temperature must be a number of at least 0, not inf'),
    (sampling.Sampling(top_k=0), 'top_k must be a whole number of at least 1 or None, not 0'),
    (sampling.Sampling(top_p=0.0), r'top_p must be a number in \(0, 1\] or None, not 0.0'),
    (sampling.Sampling(top_p=1.1), r'top_p must be a number in \(0, 1\] or None, not 1.1'),
  ],
)
def test_settings_out_of_range_are_named(rule, message):
  with pytest.raises(ValueError, match=message):
    sampling.check(rule)


@pytest.mark.parametrize(
  'rule',
  [sampling.Greedy(), sampling.Sampling(), sampling.Sampling(0, 1, 1.0), sampling.Sampling(9.0)],
)
def test_settings_within_range_pass(rule):
  sampling.check(rule)


@pytest.mark.parametrize(
  ('numbers', 'expected'),
  [
    ({}, sampling.Greedy()),
    ({'temperature': 0}, sampling.Greedy()),
    ({'temperature': 0.7}, sampling.Sampling(0.7)),
    ({'top_k': 5}, sampling.Sampling(1.0, top_k=5)),
    ({'top_p': 0.9, 'temperature': 2}, sampling.Sampling(2, top_p=0.9)),
    ({'num_samples': 3}, sampling.Sampling(1.0, num_samples=3)),
  ],
)
def test_numbers_say_how_to_choose(numbers, expected):
  assert sampling.choice(**numbers) == expected


@pytest.mark.parametrize(
  ('numbers', 'complaint'),
  [
    ({'temperature': 'abc'}, "TEMPERATURE is 'abc', and must be a number, 0 or more"),
    ({'temperature': -1}, 'temperature must be a number of at least 0, not -1'),
    ({'temperature': float('nan')}, 'temperature must be a number of at least 0, not nan'),
    ({'top_k': 2.5}, r'TOP_K is 2\.5, and must be a whole number'),
    ({'top_k': True}, 'TOP_K is True'),
    ({'top_k': 0}, 'top_k must be a whole number of at least 1'),
    ({'top_p': 1.5}, r'top_p must be a number in \(0, 1\]'),
    ({'num_samples': 0}, 'num_samples must be a whole number of at least 1'),
    ({'temperature': 0, 'top_k': 5, 'num_samples': 2}, 'TOP_K, NUM_SAMPLES would have no effect'),
  ],
)
def test_numbers_that_say_nothing_sensible_are_named(numbers, complaint):
  with pytest.raises(ValueError, match=complaint):
    sampling.choice(**numbers)
