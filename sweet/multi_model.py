"""Multi-Model: an independent model for each exit, as deep as that, run from the smallest on.

Rotem et al., section 2, https://arxiv.org/abs/2306.02307. Trained here side by side: nothing of one
reaches another, and each sees the same rows in the same order, with the same draws of dropout, as
if it were trained alone.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from sweet.model import EarlyExitClassifier, ExitsConfig


@dataclasses.dataclass(frozen=True)
class MultiModel:
  """A model for each exit of a config; its parameters are theirs, as `model_1`, `model_2`, ..."""

  config: ExitsConfig

  @property
  def exits(self) -> tuple[int, ...]:
    """The depth of each model."""
    return tuple(self.config.exits or ())

  @property
  def layers_run(self) -> tuple[int, ...]:
    """Layers that are run for a row, by the model that answers it: those of all models so far."""
    return tuple(itertools.accumulate(self.exits))

  @property
  def models(self) -> tuple[EarlyExitClassifier, ...]:
    """Each with a single exit, after its last layer."""
    return tuple(
      EarlyExitClassifier(dataclasses.replace(self.config, exits=(exit,))) for exit in self.exits
    )

  @property
  def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
    """The encoder's: see `calm.training.sharding.by_rules`."""
    return self.models[0].partition_rules

  def init_params(self, key: jax.Array) -> dict[str, Any]:
    """Fresh float32 parameters of all models, each as it would be alone."""
    return {f'model_{k}': model.init_params(key) for k, model in enumerate(self.models, 1)}

  def stage(
    self,
    params: Any,
    k: int,
    inputs: Mapping[str, Any],
    state: Any,
    *,
    stopped: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[Any, jax.Array, jax.Array | None]:
    """Model k, from the tokens on; see `EarlyExitClassifier.stage`. The state stays as it is."""
    del stopped  # No two share a parameter.
    model = self.models[k - 1]
    _, outputs, scores = model.stage(params[f'model_{k}'], 1, inputs, None, key=key)
    return state, outputs, scores

  def owner(self, name: str) -> int | None:
    """The number of the model that a parameter is of, by its flat name."""
    found = re.match(r'model_(\d+)/', name)
    return int(found[1]) if found else None

  def reads(self, k: int, name: str) -> bool:
    """Whether model k has a parameter, by its flat name."""
    return self.owner(name) == k

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """There is nothing that all models do together."""
    raise NotImplementedError('MultiModel is run stage by stage.')
