"""Calibrates a threshold: predicts, compares with the full system, certifies.

CALM, section 4: `calm.calibration` decides from losses alone; here is where they come from.
"""

import functools
import importlib.metadata
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import seqio

from calm import fingerprints, settings, storage
from calm.calibration import bounds, consistency, testing
from calm.calibration import certificate as certificates
from calm.evaluation.losses import check_objective, losses_of
from calm.evaluation.outcomes import outcomes_of
from calm.evaluation.predictor import Predictor
from calm.evaluation.split import read_split

FOLDER = 'calibration'
CERTIFICATES = 'certificates'
# What decides a certificate beside what decides the predictions.
CODE = ('calm.calibration', 'calm.evaluation', 'calm.tasks')


def calibrate(
  *,
  task: seqio.Task,
  split: str,
  predictor: Predictor,
  workdir: str,
  deltas: Annotated[Sequence[settings.Level], settings.NotEmpty()] = (0.1,),
  epsilon: settings.Level = 0.05,
  objective: Literal['textual', 'risk'] = 'textual',
  dissimilarity: consistency.Dissimilarity = consistency.rouge_l,
  grid: Annotated[Sequence[settings.Finite], settings.NotEmpty()] | None = None,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
  limit: settings.Count | None = None,
  name: str | None = None,
) -> list[certificates.Certificate]:
  """Certifies the lowest threshold for each tolerance; writes and returns the certificates.

  What the full system and each threshold give is predicted once, kept in `workdir`/calibration and
  taken up again by an interrupted or repeated call. A certificate is
  `workdir`/certificates/`name`_`objective`_`delta`.json; if one of another claim is there, the new
  one's name says so and the other stays.

  Args:
    task: a `seqio.Task`.
    split: its split, of examples that were not trained on.
    predictor: answers, at any threshold.
    workdir: folder of the run.
    deltas: tolerances on the expected loss, each certified on its own.
    epsilon: the probability with which a certificate may be wrong.
    objective: 'textual' (Definition 1: near the full model's text) or 'risk' (Definition 2: no
      farther from the references than the full model's text, but for delta).
    dissimilarity: of texts, or `consistency.token_disagreement`, of tokens (textual only).
    grid: descending thresholds; 0.95 to 0 in steps of 0.05 by default.
    p_value: of losses and delta.
    procedure: which p-values reject.
    limit: examples at most, from the first on.
    name: of what varies with the threshold, in paths; the predictor's own by default.

  Raises:
    ValueError: too few examples to certify a delta, whatever the losses (said before anything is
      predicted), a predictor without a threshold, or settings that cannot be.
  """
  settings.check(calibrate, deltas=deltas, epsilon=epsilon, objective=objective, limit=limit)
  check_objective(objective, dissimilarity)
  grid = testing.check_grid(testing.descending_grid() if grid is None else grid)
  system = predictor.family
  name = name or predictor.name
  read = read_split(task, split, limit=limit)
  for delta in deltas:
    testing.check_sample_size(len(read.examples), delta, epsilon, p_value, procedure, len(grid))
  with storage.lock(Path(workdir, FOLDER, '.lock'), f'{workdir}/{FOLDER}'):
    outcomes = outcomes_of(read, predictor, Path(workdir, FOLDER), name)
    losses_at = functools.cache(losses_of(outcomes, objective, dissimilarity))
    found = []
    for delta in deltas:
      calibration = testing.calibrate(
        losses_at,
        grid,
        delta,
        epsilon,
        num_examples=len(read.examples),
        p_value=p_value,
        procedure=procedure,
      )
      certificate = certificates.certify(
        calibration,
        objective=objective,
        dissimilarity=fingerprints.identity(dissimilarity),
        system=system,
        **read.identity,
        data=read.data_fingerprint,
        versions=versions(),
      )
      path = save(certificate, Path(workdir, CERTIFICATES), f'{name}_{objective}_{delta:g}')
      print(f'{certificate}\n  {path}')
      found.append(certificate)
  return found


def save(certificate: certificates.Certificate, folder: Path, name: str) -> Path:
  """Writes a certificate under a name that no other claim has; returns its path.

  A certificate of the same claim is replaced. Of another it is told in which way it differs.
  """
  claim = certificate.claim
  for number in itertools.count(1):
    path = folder / (f'{name}.json' if number == 1 else f'{name}_{number}.json')
    if not path.exists():
      break
    try:
      other = certificates.read(path).claim
    except ValueError as error:
      storage.warn(f'{error} It is left as it is.')
      continue
    differing = fingerprints.differences(other, claim)
    if not differing:
      break
    storage.warn(f'{path} stays: {fingerprints.in_words(differing)}.')
  certificate.save(path)
  return path


def versions() -> dict[str, str]:
  """What made a certificate: the project's version and code, and that of what computes."""
  found = {'calm': 'unknown', 'code': fingerprints.code(*CODE)}
  for name, distribution in {'calm': 'adaptive-inference', 'jax': 'jax', 'flax': 'flax'}.items():
    try:
      found[name] = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
