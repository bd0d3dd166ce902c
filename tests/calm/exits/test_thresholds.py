"""Thresholds: Eq. 5 at chosen positions, one per layer, numbers traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.exits import thresholds


def test_a_decaying_threshold_takes_eq_5s_values():
  # clip(0.9 * 0.8 + 0.1 * exp(-4 t / 10), 0, 1), by hand.
  decaying = thresholds.Decaying(0.8, tau=4.0, max_length=10)
  values = decaying(jnp.array([0, 5, 10]), 3)
  expected = [0.82, 0.72 + 0.1 * 0.1353352832, 0.72 + 0.1 * 0.0183156389]
  np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_decaying_threshold_stays_within_0_and_1():
  assert thresholds.Decaying(1.5, 0.0, 7)(jnp.array(0), 1) == 1
  assert thresholds.Decaying(-1.0, 9.0, 7)(jnp.array(6), 1) == 0


def test_without_temperature_it_does_not_decay():
  values = thresholds.Decaying(0.5, 0.0, 7)(jnp.arange(7), 1)
  np.testing.assert_allclose(values, np.full(7, 0.55), rtol=1e-6)


def test_a_constant_is_one_everywhere_and_layers_have_their_own():
  np.testing.assert_array_equal(thresholds.Constant(0.25)(jnp.arange(3), 2), [0.25] * 3)
  per_layer = thresholds.PerLayer([0.9, 0.5, 0.25])
  for layer, value in ((1, 0.9), (2, 0.5), (3, 0.25)):
    np.testing.assert_allclose(per_layer(jnp.arange(2), layer), [value] * 2)


@pytest.mark.parametrize('kind', [thresholds.Constant, lambda v: thresholds.Decaying(v, 4.0, 9)])
def test_numbers_are_traced(kind):
  traces = []

  @jax.jit
  def at(threshold):
    traces.append(1)
    return threshold(jnp.arange(4), 1)

  np.testing.assert_allclose(at(kind(0.4)), kind(0.4)(jnp.arange(4), 1))
  at(kind(0.7))
  assert len(traces) == 1


def test_a_number_is_a_constant():
  assert thresholds.as_threshold(0.3) == thresholds.Constant(0.3)
  decaying = thresholds.Decaying(0.3, 4.0, 9)
  assert thresholds.as_threshold(decaying) is decaying
