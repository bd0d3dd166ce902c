"""Seconds at thresholds: every batch is answered at each, in turn, and compiling is not counted."""

import dataclasses

import pytest

from sweet import timing


@dataclasses.dataclass
class FakePredictor:
  """Texts are numbers."""

  threshold: float | None = None
  model = measure = params = temperatures = None
  length = 8

  def at(self, threshold):
    return FakePredictor(threshold)

  def tokenize(self, examples):
    return list(examples)


@pytest.fixture
def clock(monkeypatch):
  """Calls of (batch, threshold): `threshold` seconds a row, and 100 more the first time."""
  calls, now = [], [0.0]

  class FakeRun:
    def __init__(self, model, measure, max_batch_size, max_length):
      del model, measure, max_batch_size, max_length

    def __call__(self, params, batch, threshold, temperatures):
      new = (tuple(batch), threshold) not in calls
      calls.append((tuple(batch), threshold))
      now[0] += threshold * len(batch) + 100 * new

  monkeypatch.setattr(timing, 'StagedRun', FakeRun)
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])
  return calls


def test_each_threshold_has_its_seconds_per_example(clock):
  found = timing.seconds_per_example(
    FakePredictor(), [1, 2, 3, 4, 5], [0.5, 2.0], batch_size=2, repeats=3
  )
  assert found == pytest.approx([0.5, 2.0])
  assert {batch for batch, _ in clock} == {(1, 2), (3, 4), (5,)}


def test_thresholds_take_turns_in_another_order_each_time(clock):
  timing.seconds_per_example(FakePredictor(), [1, 2], [0.5, 1.0, 2.0], batch_size=1, repeats=2)
  measured = [threshold for _, threshold in clock[6:]]
  turns = [tuple(measured[at : at + 3]) for at in range(0, 12, 3)]
  assert all(sorted(turn) == [0.5, 1.0, 2.0] for turn in turns)
  assert len({turn[0] for turn in turns}) == 3


@pytest.mark.parametrize(('examples', 'repeats'), [([], 3), ([1], 0)])
def test_nothing_to_measure_is_told(examples, repeats):
  with pytest.raises(ValueError, match='nothing to measure'):
    timing.seconds_per_example(FakePredictor(), examples, [0.5], batch_size=1, repeats=repeats)
