"""A rule at any value of its threshold: what a calibration walks down and certifies."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from calm import fingerprints
from calm.exits import confidence, thresholds
from calm.exits.rules import Confident, ExitRule, NeverExit

LAMBDA = 'lambda'  # Stands for the value wherever a family is described.


@dataclasses.dataclass(frozen=True)
class Family:
  """The rules that differ from `template` in the value of its threshold alone.

  The template is a `Confident`, a rule of one's own that holds one in a field, or a rule with a
  method `at(value)` that gives the rule at a value. Its own value does not count.
  """

  template: ExitRule

  def __call__(self, value: float) -> ExitRule:
    """The rule at a value.

    Raises:
      ValueError: the template has no threshold that a value could be given to.
    """
    return _at(self.template, value)

  @property
  def identity(self) -> Mapping[str, Any]:
    """What is the same for all values; see `calm.fingerprints.identity`. Raises as a call does."""
    own = hasattr(self.template, 'at')
    return fingerprints.identity(_at(self.template, 0.5 if own else LAMBDA))

  @property
  def name(self) -> str:
    """What it is called in paths: by measure, by tau if it decays, by the class of an own rule."""
    confident = self.confident
    own = type(self.template).__name__
    if confident is None:
      return own
    name = confidence.name_of(confident.measure)
    tau = getattr(confident.threshold, 'tau', None)
    name = name if tau is None else f'{name}_tau_{tau:g}'
    return name if confident is self.template else f'{own}_{name}'

  @property
  def confident(self) -> Confident | None:
    """The `Confident` in the template; None if a rule of one's own needs none."""
    found = _confidents(self.template)
    return found[0] if found else None

  def with_measure(
    self, measure: confidence.Measure, threshold: Callable[[float], Any] | None = None
  ) -> 'Family':
    """The same family by another measure, and another threshold (a family's) if one is given.

    Raises:
      ValueError: the template has no measure that could be replaced.
    """
    if self.confident is None:
      raise ValueError(
        f'{type(self.template).__name__} holds no Confident whose measure could vary.'
      )

    def change(rule: Confident) -> Confident:
      changed = dataclasses.replace(rule, measure=measure)
      return (
        changed if threshold is None else dataclasses.replace(changed, threshold=threshold(0.5))
      )

    return Family(_changed(self.template, change))


def family(rule: ExitRule, default: ExitRule) -> Family:
  """The family of a rule; where that is the full model, which has no threshold, of the default."""
  return Family(default if isinstance(rule, NeverExit) else rule)


def _at(rule: Any, value: Any) -> Any:
  if hasattr(rule, 'at'):
    return rule.at(value)
  if not _confidents(rule):
    raise ValueError(
      f'{type(rule).__name__} has no threshold to calibrate: give RULE one, as @rules.confident() '
      'has, hold such a rule in a field, or write a method at(value).'
    )
  return _changed(
    rule, lambda one: dataclasses.replace(one, threshold=_with_value(one.threshold, value))
  )


def _with_value(threshold: Any, value: Any) -> Any:
  if isinstance(threshold, thresholds.PerLayer):
    raise ValueError('PerLayer has a value for each layer and no single one to calibrate.')
  if dataclasses.is_dataclass(threshold) and hasattr(threshold, 'value'):
    return dataclasses.replace(threshold, value=value)  # type: ignore[type-var]
  if callable(threshold):
    raise ValueError(f'{type(threshold).__name__} has no field `value` to calibrate.')
  return thresholds.Constant(value)


def _confidents(rule: Any) -> list[Confident]:
  """Every `Confident` in a rule, itself and its fields', from the outside in."""
  if isinstance(rule, Confident):
    return [rule]
  if not dataclasses.is_dataclass(rule):
    return []
  return [
    one for field in dataclasses.fields(rule) for one in _confidents(getattr(rule, field.name))
  ]


def _changed(rule: Any, change: Callable[[Confident], Confident]) -> Any:
  """The rule with every `Confident` in it changed."""
  if isinstance(rule, Confident):
    return change(rule)
  inner = {
    field.name: _changed(getattr(rule, field.name), change)
    for field in dataclasses.fields(rule)
    if _confidents(getattr(rule, field.name))
  }
  return dataclasses.replace(rule, **inner)
