"""CALM's comparison: a split decoded at all thresholds, at fixed depths, with an oracle."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from calm import fingerprints, settings
from calm.calibration import consistency, testing
from calm.decoding.text_predictor import TextPredictor
from calm.evaluation import calibrate
from calm.evaluation.outcomes import Rerun, Results
from calm.evaluation.split import Split, read_split
from calm.exits import confidence, rules
from calm.exits.families import Family
from calm.models.t5 import T5Config
from calm.reporting.comparison import Judged, Way
from calm.reporting.cost_t5 import DecoderCost
from calm.reporting.timing import time_rules


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study(Judged):
  """A split of a task, a model, and the measures that are compared on them: a `Comparison`.

  What is decoded is kept in `workdir`/calibration, where `calm calibrate` finds and leaves its own;
  interrupted, it goes on.

  Args:
    task: a `seqio.Task`.
    split_name: its split, of examples that were not trained on.
    predictor: decodes with the model, and says of each token where it stopped. Its `exits` are the
      rule in which each measure takes its turn; a rule without a measure is compared beside them.
    workdir: folder of the run.
    measures: functions as in `calm.exits.confidence`; those over the exit classifier are left out
      if the model has none.
    thresholds: makes a threshold of a number, by a measure's name, for measures that have another
      than the rule: `thresholds.Constant`, or `thresholds.Decaying` with its other numbers bound.
    grid: descending thresholds; 0.95 to 0 in steps of 0.05 by default.
    dissimilarity: of texts, from which losses are made.
    limit: examples at most, from the first on.

  Raises:
    ValueError: no measure, two of the same name, or thresholds of a measure that is not there.
  """

  task: Any
  split_name: str
  predictor: TextPredictor
  workdir: str
  measures: Annotated[Sequence[confidence.Measure], settings.NotEmpty()] = (
    confidence.softmax_margin,
    confidence.Gated(),
    confidence.state_saturation,
    confidence.classifier,
  )
  thresholds: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
  grid: Annotated[Sequence[settings.Finite], settings.NotEmpty()] = dataclasses.field(
    default_factory=testing.descending_grid
  )
  dissimilarity: consistency.Dissimilarity = consistency.rouge_l
  limit: settings.Count | None = None
  unit: str = 'token'
  costs: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {
      'layers': 'decoder layers per token',
      'flops': 'decoder FLOPs per token',
      'layer_flops': 'decoder FLOPs per token, without the head',
    }
  )

  def __post_init__(self) -> None:
    settings.check_fields(self)
    object.__setattr__(self, 'grid', testing.check_grid(self.grid))
    names = [confidence.name_of(measure) for measure in self.measures]
    unknown = sorted(set(self.thresholds) - set(names))
    if len(set(names)) < len(names) or unknown:
      raise ValueError(
        f'Measures are {", ".join(names)}: name each once, and no '
        f'thresholds of others ({", ".join(unknown) or "there are none"}).'
      )
    object.__setattr__(self, 'predictor', dataclasses.replace(self.predictor, per_token=True))

  @property
  def config(self) -> T5Config:
    """The T5Config of the model."""
    return self.predictor.generator.model.config

  @property
  def num_layers(self) -> int:
    """L, the decoder layers of the model."""
    return self.config.num_decoder_layers

  @property
  def folder(self) -> str:
    """The workdir."""
    return self.workdir

  @property
  def about(self) -> str:
    """The sizes of the model."""
    cfg = self.config
    return (
      f'a T5 of {cfg.num_encoder_layers} encoder and {cfg.num_decoder_layers} decoder layers, '
      f'{cfg.emb_dim} wide, {cfg.vocab_size} words'
    )

  @property
  def identity(self) -> dict[str, Any]:
    """The split, the model, and all that is compared."""
    return fingerprints.identity(
      {
        **self.split.identity,
        'data': self.split.data_fingerprint,
        'full': self.predictor.at(None).identity,
        'families': {name: outcomes.predictor.family for name, outcomes in self.outcomes.items()},
        'grid': list(self.grid),
        'dissimilarity': self.dissimilarity,
      }
    )

  @functools.cached_property
  def split(self) -> Split:
    """The examples."""
    return read_split(self.task, self.split_name, limit=self.limit)

  @functools.cached_property
  def outcomes(self) -> dict[str, Rerun]:
    """The split at any threshold, by each measure that the model can follow."""
    found = {}
    if self.predictor.exits is not None and self.predictor.exits.confident is None:
      found[self.predictor.name] = self._rerun(self.predictor.exits)
    for measure in self.measures:
      if 'exit_score' in confidence.needs(measure) and not self.config.exit_classifier:
        print(
          f'{confidence.name_of(measure)}: left out, the model has no exit classifier.',
          file=sys.stderr,
        )
        continue
      outcomes = self.outcomes_of(measure, self.thresholds.get(confidence.name_of(measure)))
      found[outcomes.name] = outcomes
    if not found:
      raise ValueError('MEASURES has none that this model can follow: name another.')
    return found

  def outcomes_of(self, measure: confidence.Measure, threshold: Callable | None = None) -> Rerun:
    """The split at any threshold by any measure, and of another kind of threshold if given."""
    exits = self.predictor.exits
    if exits is None or exits.confident is None:
      exits = Family(rules.Confident(measure, 0.5))
    return self._rerun(exits.with_measure(measure, threshold))

  def measure_of(self, family: str) -> confidence.Measure | None:
    """The measure of one of `families`; None if it is a rule of one's own without one."""
    exits = self.outcomes[family].predictor.exits  # type: ignore[attr-defined]
    return None if exits.confident is None else exits.confident.measure

  @property
  def families(self) -> list[str]:
    """The measures by their names in paths."""
    return list(self.outcomes)

  @functools.cached_property
  def full(self) -> Way:
    """The full model."""
    return self._way(f'{self.num_layers} layers', self._any.full(), rules.NeverExit())

  @functools.cached_property
  def static(self) -> list[Way]:
    """The model that always stops after layer d, for each d but the last."""
    ways = []
    for layer in range(1, self.num_layers):
      label = '1 layer' if layer == 1 else f'{layer} layers'
      ways.append(self._decoded(label, f'fixed_layer/{layer}', rules.FixedLayer(layer)))
    return ways

  @functools.cached_property
  def oracle(self) -> Way:
    """Each token stops at the first layer that predicts what the last does."""
    return self._decoded('oracle', 'oracle', rules.Oracle())

  def at(self, family: str, threshold: float) -> Way:
    """A measure at a threshold."""
    return self.way_of(self.outcomes[family], threshold)

  def way_of(self, outcomes: Rerun, threshold: float) -> Way:
    """Any outcomes at a threshold."""
    rule = _rule_of(outcomes.predictor.at(threshold))
    return self._way(outcomes.name, outcomes.at(threshold), rule)

  def seconds(
    self, ways: Mapping[str, Way], *, batch_size: int, num_examples: int, repeats: int
  ) -> dict[str, float]:
    """Seconds per token of each of `ways`, encoder included."""
    times = time_rules(
      self.predictor.generator,
      self.predictor.params,
      [self.predictor.tokenize(example) for example in self.split.examples[:num_examples]],
      {name: _rule_of(way.predictor) for name, way in ways.items()},
      batch_size=batch_size,
      repeats=repeats,
      inputs_length=self.predictor.inputs_length,
    )
    return {name: timing.seconds_per_token for name, timing in times.items()}

  @property
  def _any(self) -> Rerun:
    return next(iter(self.outcomes.values()))

  def _rerun(self, exits: Family) -> Rerun:
    predictor = dataclasses.replace(self.predictor, exits=exits)
    return Rerun(self.split, predictor, Path(self.workdir, calibrate.FOLDER), exits.name)

  def _decoded(self, label: str, name: str, rule: rules.ExitRule) -> Way:
    return self._way(label, self._any.run(name, self.predictor.with_rule(rule)), rule)

  def _way(self, label: str, results: Results, rule: rules.ExitRule) -> Way:
    costs = {
      'layers': results.cost('layers'),
      'flops': self._flops(results, rule, with_head=True),
      'layer_flops': self._flops(results, rule, with_head=False),
    }
    return Way(label, results, costs, self.predictor.with_rule(rule))

  def _flops(self, results: Results, rule: rules.ExitRule, *, with_head: bool) -> np.ndarray:
    """Decoder FLOPs float64[n] of each example, per token it generated."""
    cost = DecoderCost(self.config)
    totals = [
      cost.sequence(
        row['exit_layers'], row['input_tokens'], rule, row['num_logits'] if with_head else 0
      )
      for row in results.rows
    ]
    return np.array(totals) / np.maximum(1, results.units)


def _rule_of(predictor: Any) -> rules.ExitRule:
  """The rule of a TextPredictor."""
  return predictor.generator.rule
