"""Which rows stop after this layer? Four rules, one interface.

A rule is a small frozen dataclass, a JAX pytree whose numbers may be traced. After each layer it is
shown the `Evidence` and says which rows stop and how sure it was. It says beforehand what it needs
to see, and nothing else is computed for it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from calm import settings
from calm.exits import confidence, thresholds

Layer = Annotated[int | jax.Array, settings.Range(1)]  # It may be traced.


@flax.struct.dataclass
class Evidence:
  """What is known of B rows after a layer; what no one asked for is None."""

  layer: int = flax.struct.field(pytree_node=False)  # from 1
  num_layers: int = flax.struct.field(pytree_node=False)
  position: jax.Array  # int32[B], of the token in its row, from 0
  hidden: jax.Array  # [B, D], the state after this layer
  previous: jax.Array  # [B, D], the state before it
  logits: jax.Array | None = None  # float32[B, V]
  shortlist_logits: jax.Array | None = None  # float32[B, K]
  exit_score: jax.Array | None = None  # float32[B], the classifier's logit
  full_token: jax.Array | None = None  # int32[B], what the last layer predicts


class ExitRule(Protocol):
  """Decides after which layer each row stops. After the last layer every row stops unasked."""

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of Evidence fields: 'logits', 'shortlist_logits', 'exit_score' or 'full_token'."""

  def may_exit(self, evidence: Evidence) -> jax.Array:
    """Which rows may stop after this layer at all, bool[B], judged without logits.

    For others no logits are made, and they do not stop, whatever is said of them.
    """

  def __call__(self, evidence: Evidence) -> tuple[jax.Array, jax.Array]:
    """Returns (stops bool[B], confidence float32[B] in [0, 1]).

    A row's answer depends on its own evidence alone.
    """


def _sure(evidence: Evidence) -> jax.Array:
  return jnp.ones_like(evidence.position, jnp.float32)


def _all_rows(evidence: Evidence, value: jax.typing.ArrayLike) -> jax.Array:
  return jnp.broadcast_to(jnp.asarray(value, bool), evidence.position.shape)


@flax.struct.dataclass
class NeverExit:
  """The full model: every layer runs. Not a threshold of 1, which a confidence may reach."""

  needs = ()

  def may_exit(self, evidence: Evidence) -> jax.Array:
    """No row."""
    return _all_rows(evidence, False)

  def __call__(self, evidence: Evidence) -> tuple[jax.Array, jax.Array]:
    """No row stops."""
    return self.may_exit(evidence), _sure(evidence)


@flax.struct.dataclass
class FixedLayer:
  """Every row stops after layer `layer`, from 1: CALM's static baseline."""

  layer: Layer
  needs = ()

  def may_exit(self, evidence: Evidence) -> jax.Array:
    """All rows, from that layer on."""
    return _all_rows(evidence, evidence.layer >= self.layer)  # type: ignore[operator]

  def __call__(self, evidence: Evidence) -> tuple[jax.Array, jax.Array]:
    """All rows stop from that layer on."""
    return self.may_exit(evidence), _sure(evidence)


@flax.struct.dataclass
class Confident:
  """A row stops where its confidence reaches the threshold: CALM, Eq. 4.

  `measure` is a function as `calm.exits.confidence` has them, or one of your own; `threshold` a
  number or one of `calm.exits.thresholds`. No row stops before layer `min_exit`, nor where the gate
  of a `confidence.Gated` is closed.

  A measure that compares with the `previous` state has nothing to compare after layer 1: there its
  confidence is 0, so that only a threshold of 0 stops (section 3.5).
  """

  measure: confidence.Measure = flax.struct.field(pytree_node=False)
  threshold: thresholds.Threshold | jax.typing.ArrayLike
  min_exit: Layer = 1

  @property
  def needs(self) -> tuple[str, ...]:
    """What the measure looks at, states aside, which are there anyway."""
    return tuple(
      name for name in confidence.needs(self.measure) if name not in ('hidden', 'previous')
    )

  def may_exit(self, evidence: Evidence) -> jax.Array:
    """From layer `min_exit` on, rows whose gate is open, if there is one."""
    late_enough = _all_rows(evidence, evidence.layer >= self.min_exit)  # type: ignore[operator]
    if not isinstance(self.measure, confidence.Gated):
      return late_enough
    names = confidence.needs(self.measure.gate)
    if _nothing_to_compare(names, evidence):
      return _all_rows(evidence, False)
    return late_enough & self.measure.gate_open(**_named(names, evidence))

  def __call__(self, evidence: Evidence) -> tuple[jax.Array, jax.Array]:
    """Compares measure and threshold, row by row."""
    names = confidence.needs(self.measure)
    if _nothing_to_compare(names, evidence):
      value = jnp.zeros_like(evidence.position, jnp.float32)
    else:
      value = self.measure(**_named(names, evidence))
    needed = thresholds.as_threshold(self.threshold)(evidence.position, evidence.layer)
    return (value >= needed) & self.may_exit(evidence), value


def _named(names: Iterable[str], evidence: Evidence) -> dict[str, jax.Array]:
  return {name: getattr(evidence, name) for name in names}


def _nothing_to_compare(names: Iterable[str], evidence: Evidence) -> bool:
  return 'previous' in names and evidence.layer == 1


@flax.struct.dataclass
class Oracle:
  """A row stops after the first layer that predicts what the last one does (section 3.3.1).

  It looks ahead, which no decoder can: an upper bound of what a measure could save.
  """

  needs = ('logits', 'full_token')

  def may_exit(self, evidence: Evidence) -> jax.Array:
    """All rows, after every layer."""
    return _all_rows(evidence, True)

  def __call__(self, evidence: Evidence) -> tuple[jax.Array, jax.Array]:
    """Compares the layer's prediction with the last one's."""
    named = _named(self.needs, evidence)
    return named['logits'].argmax(-1) == named['full_token'], _sure(evidence)


def check(rule: ExitRule, num_layers: int, has_classifier: bool) -> None:
  """Raises ValueError for a rule that a model cannot follow; traced numbers are not looked at.

  Args:
    rule: an ExitRule.
    num_layers: L, decoder layers of the model.
    has_classifier: whether it has an exit classifier.
  """
  if 'exit_score' in rule.needs and not has_classifier:
    raise ValueError(
      'The measure needs an exit classifier and the model has none: train one, or take another '
      'measure.'
    )
  for part in parts(rule):
    settings.check_fields(part)
    for name in ('layer', 'min_exit'):
      layer: Any = getattr(part, name, 1)
      if not isinstance(layer, jax.core.Tracer) and not 1 <= layer <= num_layers:
        wanted = f'a layer of the model, from 1 to {num_layers}'
        raise settings.SettingError(name, layer, wanted)
    if isinstance(part, thresholds.PerLayer) and np.shape(part.values) != (num_layers,):
      raise ValueError(
        f'PerLayer: {np.size(part.values)} thresholds for {num_layers} decoder layers.'
      )


def parts(rule: Any) -> Iterator[Any]:
  """A rule and whatever dataclasses it holds, such as its threshold, from the outside in."""
  if dataclasses.is_dataclass(rule) and not isinstance(rule, type):
    yield rule
    for field in dataclasses.fields(rule):
      yield from parts(getattr(rule, field.name))


def as_arrays(rule: Any) -> Any:
  """A rule with strongly typed arrays for its numbers, so that one compilation serves them all.

  Thresholds become float32, however 1, 1.0 or an array was written, and a bare one a `Constant`.
  Of other numbers the whole ones become int32, the rest float32. What is traced is left alone.
  """
  return _as_arrays(rule, jnp.int32)


def _as_arrays(part: Any, whole: Any) -> Any:
  """The same of any dataclass, with a type for whole numbers."""
  if isinstance(part, Confident):
    part = dataclasses.replace(part, threshold=thresholds.as_threshold(part.threshold))
  changes = {}
  for field in dataclasses.fields(part):
    value = getattr(part, field.name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
      changes[field.name] = _as_arrays(value, jnp.float32 if field.name == 'threshold' else whole)
    elif field.metadata.get('pytree_node', True) and _is_numeric(value):
      array = jnp.asarray(value)
      is_whole = jnp.issubdtype(array.dtype, jnp.integer)
      changes[field.name] = jnp.asarray(array, whole if is_whole else jnp.float32)
  return dataclasses.replace(part, **changes)


def _is_numeric(value: Any) -> bool:
  """Whether a value is a number, an array of numbers or a list of them, and known."""
  if isinstance(value, list | tuple):
    return bool(value) and all(map(_is_numeric, value))
  if isinstance(value, bool | jax.core.Tracer):
    return False
  return isinstance(value, int | float | np.number | np.ndarray | jax.Array)


def confident(
  value: Annotated[jax.typing.ArrayLike, settings.Range(0, 1)],
  measure: confidence.Measure,
  threshold: Callable[[Any], thresholds.Threshold] = thresholds.Constant,
  min_exit: Layer = 1,
) -> Confident:
  """The rule at one value of a family of thresholds: what a calibration walks down.

  Args:
    value: lambda, as the threshold's first number.
    measure: as in Confident.
    threshold: maps the value to a threshold: `thresholds.Constant`, or `thresholds.Decaying` with
      its other numbers bound.
    min_exit: as in Confident.
  """
  return Confident(measure, threshold(value), min_exit)
