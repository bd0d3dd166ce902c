"""A split at every threshold, each of them predicted once and kept on disk.

A way of predicting has a folder of its own, by all that its rows depend on: what has changed leads
to another folder and leaves what was there. Prediction is journaled, so that what was interrupted
goes on.
"""

import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from calm import fingerprints, storage
from calm.evaluation import journal
from calm.evaluation.predict import run
from calm.evaluation.predictor import Identity, Predictor, Replayable, Row
from calm.evaluation.split import Split, head

ROWS = 'predictions.jsonl'


@dataclasses.dataclass(frozen=True)
class Results:
  """What one way of predicting gave: a row for each example."""

  rows: list[Row]
  folder: Path
  num_predicted: int  # examples that were answered now, not found on disk
  seconds: float  # that this took, compilation included

  @property
  def predictions(self) -> list[str]:
    """The texts, one for each example."""
    return [row['prediction'] for row in self.rows]

  @property
  def units(self) -> np.ndarray:
    """Units float64[n] of each example: tokens, or 1."""
    return np.array([row['units'] for row in self.rows], np.float64)

  @property
  def costs(self) -> list[str]:
    """The names of the costs."""
    return list(self.rows[0]['costs'])

  def cost(self, name: str) -> np.ndarray:
    """A cost float64[n] of each example per unit; 0 where there is no unit."""
    totals = np.array([row['costs'][name] for row in self.rows], np.float64)
    return totals / np.maximum(1, self.units)

  def cost_per_unit(self, name: str) -> float:
    """A cost by all units of all examples."""
    total = sum(row['costs'][name] for row in self.rows)
    return round(float(total / max(1.0, self.units.sum())), 6)


class Outcomes(Protocol):
  """What a system says of a split, at any threshold."""

  @property
  def split(self) -> Split:
    """The examples."""

  def full(self) -> Results:
    """What the full system says."""

  def at(self, threshold: float) -> Results:
    """What is said at a threshold."""


@dataclasses.dataclass(frozen=True)
class Rerun:
  """Outcomes of a predictor that is run again at each threshold, as far as asked for.

  For systems whose early answers change what follows, as a token does all later ones.
  """

  split: Split
  predictor: Predictor
  folder: Path
  name: str  # of the predictor's family, in paths

  def full(self) -> Results:
    """What the full system says; run once for all families."""
    return self.run('full', self.predictor.at(None))

  def at(self, threshold: float) -> Results:
    """What is said at a threshold."""
    return self.run(f'{self.name}/{threshold:g}', self.predictor.at(threshold))

  def run(self, name: str, predictor: Predictor) -> Results:
    """What any predictor says, kept under `name`."""
    results = predict_split(self.split, predictor, self.folder / self.split.name / name)
    if results.num_predicted:
      costs = ', '.join(
        f'{results.cost_per_unit(cost):.2f} {cost}/{predictor.unit}' for cost in results.costs
      )
      print(f'{results.folder}: {costs}, {results.seconds:.1f} s', file=sys.stderr)
    return results


@dataclasses.dataclass(frozen=True)
class Replay:
  """Outcomes of a predictor that is run once: every threshold is looked up in what that gave.

  For systems whose early answers change nothing that follows, as those of classifiers.
  """

  split: Split
  predictor: Replayable
  folder: Path

  def full(self) -> Results:
    """What the full system says."""
    return self._replayed(None)

  def at(self, threshold: float) -> Results:
    """What is said at a threshold."""
    return self._replayed(threshold)

  def _replayed(self, threshold: float | None) -> Results:
    rows = self.predictor.replay(self.recorded.rows, threshold)
    return dataclasses.replace(self.recorded, rows=rows)

  @functools.cached_property
  def recorded(self) -> Results:
    """The run, whose rows hold all that thresholds decide about."""
    folder = self.folder / self.split.name / 'recorded'
    return predict_split(self.split, self.predictor.recording, folder)


def outcomes_of(split: Split, predictor: Predictor, folder: Path, name: str) -> Outcomes:
  """A split at every threshold of a predictor, by as few runs as it needs.

  `folder` keeps what is predicted, `name` is that of the predictor's family in paths.
  """
  if hasattr(type(predictor), 'replay'):
    return Replay(split, cast(Replayable, predictor), folder)
  return Rerun(split, predictor, folder, name)


def predict_split(split: Split, predictor: Predictor, folder: Path) -> Results:
  """Predicts what is not kept below `folder` yet; says in a line what has changed since.

  Rows lie in `folder`/<8 hexadecimal digits of what they depend on>/predictions.jsonl. A smaller
  part of a split than is kept is taken from it, a larger one goes on from it.

  Raises:
    ValueError: an example cannot be read; names it.
  """
  settings = settings_of(split, predictor)
  pairs = [(head(example), example) for example in split.examples]
  predictor.check(split.examples)
  start = time.perf_counter()
  for path in _candidates(folder, settings):
    _mend_settings(path, settings)
    try:
      with journal.Journal(path / ROWS, settings) as output:
        _say_what_changed(folder, path, settings)
        kept = min(output.count, len(pairs))
        run(pairs, predictor, output, len(pairs), partial=True)
      rows = journal.read(path / ROWS, len(pairs))
    except (journal.OtherInputsError, journal.OtherSettingsError):
      continue
    return Results(rows, path, len(pairs) - kept, time.perf_counter() - start)
  raise AssertionError('There is always another name.')


def settings_of(split: Split, predictor: Predictor) -> Identity:
  """All that rows depend on beside their example: the predictor's identity.

  The task is in the example's texts; of the rest of it, metrics and the like, rows say nothing.
  """
  return {'split': split.name, **predictor.identity}


def _candidates(folder: Path, settings: Identity) -> Iterator[Path]:
  """Folders in which rows of these settings may lie."""
  digits = fingerprints.fingerprint(settings).removeprefix(fingerprints.FINGERPRINT)[:8]
  yield folder / digits
  yield from (folder / f'{digits}-{number}' for number in itertools.count(2))


def _mend_settings(path: Path, settings: Identity) -> None:
  """Writes settings again that are damaged or lost: the folder's name tells what they were."""
  rows = path / ROWS
  if rows.exists() and journal.read_settings(rows) is None:
    storage.warn(f'{journal.settings_path(rows)} is damaged and written again.')
    storage.write_record(journal.settings_path(rows), settings)


def _say_what_changed(folder: Path, path: Path, settings: Identity) -> None:
  """Tells of the nearest of what is kept under the same name, if there is nothing here yet."""
  if (path / ROWS).stat().st_size:
    return
  others = [one.parent for one in folder.glob(f'*/{ROWS}') if one.parent != path]
  found = []
  for other in others:
    kept = journal.read_settings(other / ROWS)
    if kept is not None:
      found.append((fingerprints.differences(kept, settings), other))
  if not found:
    return
  differences, other = min(found, key=lambda pair: (len(pair[0]), pair[1].name))
  what = fingerprints.in_words(differences) if differences else 'the data differ'
  print(f'{path}: predicting anew, since {what} ({other.name} stays).', file=sys.stderr)
