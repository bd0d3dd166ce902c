"""Calibrates a decoder's exit threshold: decodes, compares with the full model, certifies.

CALM, section 4: `calm.calibration` decides from losses alone; here is where they come from.
"""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calm.calibration import bounds, consistency, testing
from calm.calibration.certificate import Certificate, certify
from calm.calibration.fingerprints import code_fingerprint
from calm.decoding import evaluation
from calm.decoding.stored import Results, StoredSplit
from calm.decoding.text_decoder import TextDecoder
from calm.exits.rules import ExitRule, NeverExit

OBJECTIVES = ('textual', 'risk')
_CODE = ('calibration', 'decoding', 'exits', 'models', 'tasks')


def calibrate(
  *,
  task,
  split: str,
  decoder,
  params,
  rule_at: evaluation.RuleAt,
  workdir: str,
  inputs_length: int,
  deltas: Sequence[float] = (0.1,),
  epsilon: float = 0.05,
  objective: str = 'textual',
  dissimilarity: consistency.Dissimilarity = consistency.rouge_l,
  grid: Sequence[float] | None = None,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
  batch_size: int = 32,
  truncate: bool = False,
  limit: int | None = None,
  name: str | None = None,
) -> list[Certificate]:
  """Certifies the lowest threshold for each tolerance; writes and returns the certificates.

  The full model's outputs and those at each threshold are decoded once, kept in
  `workdir`/calibration/`name` and taken up again by an interrupted or repeated call.
  `workdir`/certificates/`name`_`objective`_`delta`.json are the certificates.

  Args:
    task: a `seqio.Task`.
    split: its split, of examples that were not trained on.
    decoder: a `calm.decoding.decoder.Decoder`; its rule is not used.
    params: the parameters of its model.
    rule_at: maps a threshold to a rule: `calm.exits.rules.confident`, its measure bound.
    workdir: folder of the run.
    inputs_length: tokens of an input at most, EOS among them.
    deltas: tolerances on the expected loss, each certified on its own.
    epsilon: the probability with which a certificate may be wrong.
    objective: 'textual' (Definition 1: near the full model's text) or 'risk' (Definition 2: no
      farther from the references than the full model's text, but for delta).
    dissimilarity: of texts, or `consistency.token_disagreement`, of tokens (textual only).
    grid: descending thresholds; 0.95 to 0 in steps of 0.05 by default.
    p_value: of losses and delta.
    procedure: which p-values reject.
    batch_size: inputs decoded at once.
    truncate: cut longer inputs instead of raising an error.
    limit: examples at most, from the first on.
    name: of the measure, in paths; the measure's own by default.

  Raises:
    ValueError: too few examples to certify a delta, whatever the losses (said before anything is
      decoded), or settings that cannot be.
  """
  if objective not in OBJECTIVES:
    raise ValueError(f'objective: {objective!r} is not one of {", ".join(OBJECTIVES)}.')
  grid = testing.check_grid(testing.descending_grid() if grid is None else grid)
  stored = evaluation.read_split(
    task, split, inputs_length=inputs_length, truncate=truncate, limit=limit
  )
  for delta in deltas:
    testing.check_sample_size(len(stored.examples), delta, epsilon, p_value, procedure, len(grid))
  vocabulary = task.output_features['targets'].vocabulary
  text_decoder = TextDecoder(
    decoder, params, vocabulary, inputs_length, batch_size, truncate, per_token=True
  )
  name = name or measure_name(rule_at)
  sweep = Sweep(stored, text_decoder, rule_at, Path(workdir, 'calibration'), name)
  losses_at = functools.cache(losses_of(sweep, objective, dissimilarity))
  compared = f'{objective} consistency by {testing.name_of(dissimilarity)} on {task.name} {split}'
  prints = {
    **evaluation.identity(text_decoder, task, rule_at),
    'data': stored.data_fingerprint,
    'code': _code(),
  }
  certificates = []
  for delta in deltas:
    calibration = testing.calibrate(
      losses_at,
      grid,
      delta,
      epsilon,
      num_examples=len(stored.examples),
      p_value=p_value,
      procedure=procedure,
    )
    certificate = certify(calibration, objective=compared, fingerprints=prints)
    path = Path(workdir, 'certificates', f'{name}_{objective}_{delta:g}.json')
    certificate.save(path)
    print(f'{certificate}\n  {path}')
    certificates.append(certificate)
  return certificates


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A split decoded by the full model, and under a rule at each threshold, as far as asked for."""

  stored: StoredSplit
  text_decoder: TextDecoder
  rule_at: evaluation.RuleAt
  folder: Path
  name: str  # of the rule, in paths

  def full(self) -> Results:
    """What the full model gives; computed once for all rules."""
    return self.decode('full', NeverExit())

  def at(self, threshold: float) -> Results:
    """What is given at a threshold."""
    return self.decode(f'{self.name}/{threshold:g}', self.rule_at(threshold))

  def decode(self, name: str, rule: ExitRule) -> Results:
    """What any rule gives, kept under `name`."""
    decoder = evaluation.with_rule(self.text_decoder, rule)
    path = self.folder / self.stored.name / f'{name}.jsonl'
    results = self.stored.decode(path, decoder)
    if results.num_decoded:
      layers = f'{results.layers_per_token:.2f} layers/token'
      print(f'{path}: {layers}, {results.seconds:.1f} s', file=sys.stderr)
    return results


def losses_of(
  sweep: Sweep, objective: str, dissimilarity: consistency.Dissimilarity
) -> Callable[[float], np.ndarray]:
  """Maps a threshold to losses float64[n] of Definition 1 ('textual') or 2 ('risk')."""
  losses = losses_of_results(sweep.stored, sweep.full(), objective, dissimilarity)
  return lambda threshold: losses(sweep.at(threshold))


def losses_of_results(
  stored: StoredSplit, full: Results, objective: str, dissimilarity: consistency.Dissimilarity
) -> Callable[[Results], np.ndarray]:
  """Maps any results to losses float64[n] of Definition 1 ('textual') or 2 ('risk')."""
  if inspect.unwrap(dissimilarity) is consistency.token_disagreement:  # gin wraps it.
    if objective == 'risk':
      raise ValueError('token_disagreement compares tokens, and references are texts.')

    def outputs(results) -> list[Any]:
      return [np.array(row['tokens'], np.int32) for row in results.rows]
  else:

    def outputs(results) -> list[Any]:
      return results.predictions

  if objective == 'textual':
    return lambda results: consistency.textual_consistency(
      outputs(results), outputs(full), dissimilarity
    )
  references = stored.targets()
  full_risks = consistency.risks(full.predictions, references, dissimilarity)
  return lambda results: consistency.risk_increase(
    consistency.risks(results.predictions, references, dissimilarity), full_risks
  )


def measure_name(rule_at: evaluation.RuleAt) -> str:
  """What a family of rules is called in paths: its measure's name, and tau if it decays."""
  rule = rule_at(0.5)
  name = getattr(getattr(rule, 'measure', None), '__name__', 'rule')
  tau = getattr(getattr(rule, 'threshold', None), 'tau', None)
  return name if tau is None else f'{name}_tau_{tau:g}'


@functools.cache
def _code():
  package = Path(__file__).resolve().parent.parent
  return code_fingerprint(*(package / room for room in _CODE))
