"""How sure is sure enough? Thresholds by position and layer, their numbers traced.

A threshold is a small frozen dataclass, called with the position[...] of the token in its sequence
(from 0) and the number of the layer (from 1); it returns float32[...]. A token stops where its
confidence reaches it. One compilation serves every value.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from calm import settings


class Threshold(Protocol):
  """What a confidence must reach."""

  def __call__(self, position: jax.Array, layer: jax.typing.ArrayLike) -> jax.Array:
    """Maps int32 position[...], from 0, and a layer, from 1, to float32[...]."""


@flax.struct.dataclass
class Constant:
  """The same everywhere."""

  value: jax.typing.ArrayLike

  def __call__(self, position: jax.typing.ArrayLike, layer: jax.typing.ArrayLike) -> jax.Array:
    """`value` for each of position[...]."""
    del layer
    return jnp.broadcast_to(jnp.asarray(self.value, jnp.float32), jnp.shape(position))


@flax.struct.dataclass
class Decaying:
  """CALM's Eq. 5: clip(0.9 value + 0.1 exp(-tau t / N), 0, 1), stricter early in a sequence.

  t is the token's position, from 0, N is `max_length`, that of the longest output. tau = 0 gives
  0.9 value + 0.1 throughout, as the formula says; `Constant` is the threshold without decay.
  """

  value: jax.typing.ArrayLike
  tau: Annotated[jax.typing.ArrayLike, settings.Range(0)]
  max_length: Annotated[jax.typing.ArrayLike, settings.Range(1)]

  def __call__(self, position: jax.typing.ArrayLike, layer: jax.typing.ArrayLike) -> jax.Array:
    """The threshold at each of position[...]."""
    del layer
    share = jnp.asarray(position, jnp.float32) / self.max_length
    tau = jnp.asarray(self.tau, jnp.float32)
    return jnp.clip(0.9 * self.value + 0.1 * jnp.exp(-tau * share), 0, 1)


@flax.struct.dataclass
class PerLayer:
  """One value for each layer, float[L]; one above 1 is never reached, one of 0 always."""

  values: jax.typing.ArrayLike | Sequence[float]

  def __call__(self, position: jax.typing.ArrayLike, layer: jax.typing.ArrayLike) -> jax.Array:
    """The layer's value for each of position[...]."""
    values = jnp.asarray(self.values, jnp.float32)
    return jnp.broadcast_to(values[jnp.asarray(layer) - 1], jnp.shape(position))


def as_threshold(threshold: Threshold | jax.typing.ArrayLike) -> Threshold:
  """A number as a Constant; any other threshold as it is."""
  return threshold if callable(threshold) else Constant(threshold)
