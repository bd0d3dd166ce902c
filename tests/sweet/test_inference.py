"""Rows that leave early, in batches made anew: what is said of one depends on it alone."""

import dataclasses

import jax
import numpy as np
import pytest

from calm.exits import buckets, confidence, stopping
from sweet import inference
from sweet.inference import StagedRun
from sweet.objectives import classifiers

MAX_LENGTH = 24  # Two lengths of padding: 16 and this.
STAGE = inference.stage


class Calls(list):
  """Stages that were run, as (k, size of the batch, length)."""

  def of_stage(self, k):
    return [size for stage, size, _ in self if stage == k]


@pytest.fixture
def compiled():
  """The names of the programs that XLA is given."""
  found = []

  def listen(event, _, fun_name=None, **__):
    if event == '/jax/core/compile/backend_compile_duration':
      found.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def calls(monkeypatch):
  """What `inference.stage` is called with."""
  found = Calls()

  def recorded(params, inputs, *rest, k, **options):
    found.append((k, *inputs['tokens'].shape))
    return STAGE(params, inputs, *rest, k=k, **options)

  monkeypatch.setattr(inference, 'stage', recorded)
  return found


class System:
  """A model with parameters, run over the rows."""

  def __init__(self, model, params, rows, **options):
    self.model, self.params, self.rows = model, params, rows
    self.options = {'max_length': MAX_LENGTH, **options}
    self.last = len(model.exits)

  def run(self, threshold, measure=None, max_batch_size=4, temperatures=None):
    measure = measure or stopping.Confidence()
    staged = StagedRun(self.model, measure, max_batch_size, **self.options)
    return staged(self.params, self.rows, threshold, temperatures)

  def everything(self):
    staged = StagedRun(self.model, stopping.Confidence(), 4, **self.options)
    return staged.everything(self.params, self.rows)


@pytest.fixture(scope='module', params=['early_exit', 'multi_model'])
def system(request, config, made_up, rows):
  """A model that shares layers between its classifiers, and one that does not."""
  exits = (1, 2, 3) if request.param == 'early_exit' else (1, 2)
  model = classifiers(dataclasses.replace(config, exits=exits), request.param)
  return System(model, made_up(model), rows)


@pytest.fixture(scope='module')
def short(config, made_up, rows):
  """A model over the rows that are padded to one length."""
  model = classifiers(config)
  return System(model, made_up(model), [row for row in rows if len(row[0]) <= 16])


@pytest.fixture(scope='module')
def early(config, made_up, rows):
  """A model with modules that have learned to exit, and layers between its exits."""
  model = classifiers(dataclasses.replace(config, exits=(1, 3), learning_to_exit='own'))
  return System(model, made_up(model), rows)


def thresholds_between(confidences, count):
  """Some thresholds, each between two confidences that have been seen."""
  values = np.unique(confidences)
  places = np.linspace(0, len(values) - 2, count).astype(int)
  return [float(values[i] + values[i + 1]) / 2 for i in places]


def test_exits_and_labels_are_those_of_batches_of_one(system):
  outputs, _ = system.everything()
  found = np.asarray(stopping.confidences(stopping.Confidence(), outputs))
  seen = set()
  for threshold in thresholds_between(found, 7):
    # Where a confidence is the threshold but for rounding, either may be said.
    sure = (np.abs(found - threshold) >= 1e-5).all(1)
    assert sure.sum() >= 15
    alone, together = (system.run(threshold, max_batch_size=size) for size in (1, 4))
    np.testing.assert_array_equal(alone.exits[sure], together.exits[sure])
    np.testing.assert_allclose(alone.outputs[sure], together.outputs[sure], atol=1e-5)
    expected = (found >= threshold) | (np.arange(system.last) == system.last - 1)
    np.testing.assert_array_equal(together.exits[sure], expected.argmax(1)[sure] + 1)
    seen |= {*together.exits.tolist()}
  assert seen == {*range(1, system.last + 1)}


def test_at_the_loose_end_one_stage_is_run_and_at_the_strict_end_all(system, calls):
  for threshold, exits in ((1 / 3, 1), (1.0, system.last), (None, system.last)):
    calls.clear()
    assert (system.run(threshold).exits == exits).all()
    assert {k for k, *_ in calls} == {*range(1, exits + 1)}


def test_answers_of_everything_are_those_of_a_run_that_nobody_leaves(system):
  outputs, scores = system.everything()
  assert scores is None
  np.testing.assert_allclose(system.run(None).outputs, outputs[:, -1], atol=1e-6)
  np.testing.assert_allclose(system.run(1 / 3).outputs, outputs[:, 0], atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Fresh(stopping.Confidence):
  """A measure that nothing has been compiled for."""


def test_a_program_is_compiled_for_a_stage_size_and_length_and_for_no_threshold(
  early, calls, compiled
):
  outputs, _ = early.everything()
  found = np.asarray(stopping.confidences(Fresh(), outputs[:, :1]))
  (middle,) = thresholds_between(found, 1)
  compiled.clear()
  of_all_types = (middle, np.float64(middle), np.float32(middle), np.array(middle), 1, True, None)
  for threshold in of_all_types:
    early.run(threshold, Fresh(), temperatures=None if threshold == 1 else [2.0, 0.5])
  assert compiled == ['jit(stage)'] * len({*calls})
  assert {size for _, size, _ in calls} <= {*map(buckets.next_size, range(1, 5))}
  assert {length for *_, length in calls} == {16, MAX_LENGTH}


def test_each_stage_is_run_on_full_batches_of_the_rows_that_stay(system, calls):
  outputs, _ = system.everything()
  found = np.asarray(stopping.confidences(stopping.Confidence(), outputs))
  for threshold in thresholds_between(found, 4):
    calls.clear()
    answers = system.run(threshold)
    for k in range(1, system.last + 1):
      staying, sizes = int((answers.exits >= k).sum()), calls.of_stage(k)
      assert sum(sizes) >= staying
      assert len(sizes) <= -(-staying // 4) + k - 1  # A batch that is not full for each stage.


def test_a_measure_remembers_what_it_has_seen_of_a_row_in_whichever_batch(short):
  outputs, _ = short.everything()
  labels = outputs.argmax(-1)
  agree = labels[:, 1] == labels[:, 0]
  for size in (1, 4):
    answers = short.run(1.0, stopping.Patience(), max_batch_size=size)
    np.testing.assert_array_equal(answers.exits, np.where(agree, 2, 3))
  assert 0 < agree.sum() < len(agree)


def test_a_fixed_exit_is_one_classifier_alone(short):
  outputs, _ = short.everything()
  for k in (1, 2, 3):
    answers = short.run(float(k), stopping.FixedExit())
    assert (answers.exits == k).all()
    np.testing.assert_allclose(answers.outputs, outputs[:, k - 1], atol=1e-5)


def test_temperatures_divide_logits_and_with_them_move_exits_but_no_label(early):
  outputs, _ = early.everything()
  cold, hot = (early.run(0.8, temperatures=[t, 1.0]) for t in (1e-3, 1e3))
  assert (cold.exits == 1).mean() > 0.9
  assert (hot.exits == 2).all()
  np.testing.assert_allclose(cold.outputs[0], outputs[0, cold.exits[0] - 1] * 1e3, rtol=1e-4)


def test_what_has_learned_to_exit_decides_by_its_own_score(early):
  outputs, scores = early.everything()
  answers = early.run(0.5, stopping.Confidence(confidence.classifier))
  clear = np.abs(scores[:, 0]) > 1e-4
  np.testing.assert_array_equal((answers.exits == 1)[clear], (scores[:, 0] > 0)[clear])
  assert outputs.shape == (19, 2, 3)


def test_no_rows_are_no_trouble_and_settings_that_cannot_be_are_refused(early):
  nobody = System(early.model, early.params, [])
  assert nobody.run(0.5).exits.shape == (0,)
  assert nobody.everything()[0].shape == (0, 2, 3)
  with pytest.raises(ValueError, match='NaN'):
    early.run(float('nan'))
  with pytest.raises(ValueError, match='max_batch_size must be at least 1'):
    StagedRun(early.model, stopping.Confidence(), 0)
