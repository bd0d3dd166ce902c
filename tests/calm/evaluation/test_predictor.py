"""A Python function answers a split as any predictor does, and counts by what it is."""

import pytest

from calm.calibration import certificate as certificates
from calm.calibration import consistency
from calm.evaluation import calibrate, certified, evaluate
from calm.evaluation.predictor import FunctionPredictor

LABELS = {'seven': 'odd', 'a': 'letter', 'of': 'word'}


def classify(examples, threshold):
  """Looks at the whole text, or, where it is sure enough, at its length alone."""
  rows = []
  for example in examples:
    text = example.texts['inputs']
    early = threshold is not None and threshold <= len(text) / 10
    cost = 1 if early else 3
    said = LABELS.get(text, 'other') if not early or len(text) > 6 else 'short'
    rows.append({'prediction': said, 'units': 1, 'costs': {'calls': cost}})
  return rows


def other(examples, threshold):
  """Says the same of everything."""
  return [{'prediction': 'x', 'units': 1, 'costs': {'calls': 1}} for _ in examples]


def test_a_function_is_evaluated_calibrated_and_certified(make_task, tmp_path):
  inputs = [f'number {i}' if i % 3 else 'of' for i in range(60)]
  task = make_task([LABELS.get(text, 'other') for text in inputs], inputs)
  predictor = FunctionPredictor(classify, 'labels')
  metrics = evaluate.evaluate(
    task=task, split='test', predictor=predictor, workdir=str(tmp_path / 'run')
  )
  assert (metrics['num_examples'], metrics['calls_per_example']) == (60, 3)
  (made,) = calibrate.calibrate(
    task=task,
    split='test',
    predictor=predictor,
    workdir=str(tmp_path / 'run'),
    grid=(0.9, 0.7, 0.1),
    deltas=(0.1,),
    dissimilarity=consistency.exact_match,
  )
  # At 0.7 only the long ones are answered early, and rightly so; at 0.1 'of' is 'short'.
  assert made.threshold == 0.7
  path = tmp_path / 'run' / 'certificates' / 'labels_textual_0.1.json'
  assert certificates.load(path).system['answers']['function'].endswith('classify')
  assert certified.at_certificate(predictor, str(path), task).threshold == 0.7
  with pytest.raises(ValueError, match=r'answers: certified for .*classify, here .*other'):
    certified.at_certificate(FunctionPredictor(other, 'labels'), str(path), task)


def test_a_black_box_counts_by_the_version_its_user_gives():
  one = FunctionPredictor(classify, version='2026-11')
  assert one.identity == FunctionPredictor(classify, version='2026-11').identity
  assert one.identity != FunctionPredictor(classify, version='2026-12').identity
  assert one.identity != FunctionPredictor(other, version='2026-11').identity
  assert one.at(0.5).identity != one.identity
  assert one.at(0.5).family == one.family
