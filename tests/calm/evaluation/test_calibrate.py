"""`calm calibrate`: losses as defined, decoded once; certificates and what they serve."""

import functools
import json

import numpy as np
import pytest

from calm.calibration import certificate as certificates
from calm.calibration import consistency
from calm.decoding import calibrating, decoder, evaluation
from calm.exits import confidence, rules
from calm.tasks import files, vocabularies

SIZES = {'inputs_length': 16, 'batch_size': 32}
RULES = functools.partial(rules.confident, measure=confidence.softmax_margin)
GRID = (0.99, 0.6, 0.3, 0.0)


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  """96 examples in bytes."""
  path = tmp_path_factory.mktemp('data') / 'test.jsonl'
  rows = [{'x': f'{i * 7919:x}', 'y': f'{i}'} for i in range(96)]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
  bytes_ = vocabularies.byte_vocabulary()
  return files.task(inputs='{x}', targets='{y}', vocabulary=bytes_, test=str(path))


@pytest.fixture(scope='module')
def calibrate(byte_model, task, tmp_path_factory):
  """Calibrates on the test split, with options in place of the usual arguments."""
  model, params = byte_model
  workdir = tmp_path_factory.mktemp('run')

  def call(**options):
    usual = {
      'task': task,
      'split': 'test',
      'decoder': decoder.Decoder(model, 6),
      'params': params,
      'rule_at': RULES,
      'workdir': str(workdir),
      'grid': GRID,
      'dissimilarity': consistency.chrf,
      **SIZES,
    }
    return calibrating.calibrate(**{**usual, **options})

  call.workdir = workdir
  return call


def read(workdir, name):
  """Predictions kept under a name."""
  lines = (workdir / 'calibration' / 'test' / f'{name}.jsonl').read_text(encoding='utf-8')
  return [json.loads(line)['prediction'] for line in lines.splitlines()]


def test_losses_are_those_of_definition_1(calibrate):
  (certificate,) = calibrate(deltas=(0.9,))
  full = read(calibrate.workdir, 'full')
  tested = GRID[: len(certificate.mean_losses)]
  means = [
    np.mean([consistency.chrf(a, b) for a, b in zip(early, full, strict=True)])
    for early in (read(calibrate.workdir, f'softmax_margin/{value:g}') for value in tested)
  ]
  np.testing.assert_allclose(certificate.mean_losses, means)
  assert max(means) > 0
  assert certificate.num_examples == 96


def test_risk_takes_the_references_and_never_rewards(calibrate, task):
  (certificate,) = calibrate(deltas=(0.5,), objective='risk')
  full, early = (read(calibrate.workdir, name) for name in ('full', 'softmax_margin/0'))
  targets = [str(i) for i in range(96)]
  increase = [
    max(0, consistency.chrf(e, t) - consistency.chrf(f, t))
    for e, f, t in zip(early, full, targets, strict=True)
  ]
  assert certificate.threshold == 0
  np.testing.assert_allclose(certificate.mean_losses[-1], np.mean(increase))


def test_a_second_call_decodes_nothing(calibrate, capsys, monkeypatch):
  first = calibrate(deltas=(0.9,))
  monkeypatch.setattr(decoder.Decoder, '__call__', lambda *_, **__: pytest.fail('decoded again'))
  again, _ = calibrate(deltas=(0.9, 0.95))
  assert again.threshold == first[0].threshold


def test_too_few_examples_are_told_before_anything_is_decoded(calibrate, monkeypatch):
  monkeypatch.setattr(decoder.Decoder, '__call__', lambda *_, **__: pytest.fail('decoded'))
  with pytest.raises(ValueError, match=r'96 examples can never certify delta = 0.01 .* could'):
    calibrate(deltas=(0.01,))


def test_a_certificate_serves_its_own_model_task_and_rule_only(calibrate, byte_model, task):
  (made,) = calibrate(deltas=(0.9,))
  path = calibrate.workdir / 'certificates' / 'softmax_margin_textual_0.9.json'
  assert certificates.load(path).threshold == made.threshold
  model, params = byte_model

  def evaluate(**options):
    usual = {'task': task, 'split': 'test', 'decoder': decoder.Decoder(model, 6), 'params': params}
    usual |= {'workdir': str(calibrate.workdir), 'rule_at': RULES, **SIZES}
    return evaluation.evaluate(**{**usual, 'certificate': str(path), **options})

  early, full = evaluate(), evaluate(certificate=None)
  assert early['layers_per_token'] < full['layers_per_token'] == 3
  other = {**params, 'token_embedder': {'embedding': params['token_embedder']['embedding'] + 1}}
  with pytest.raises(ValueError, match='made for another model'):
    evaluate(params=other)
  with pytest.raises(ValueError, match='made for another task'):
    evaluate(inputs_length=24)
  with pytest.raises(ValueError, match='made for another rule'):
    evaluate(rule_at=functools.partial(rules.confident, measure=confidence.certainty))


def test_where_nothing_can_be_certified_the_full_model_is_used(calibrate, byte_model, task):
  (certificate,) = calibrate(deltas=(0.2,), dissimilarity=lambda a, b: float(a is not None))
  assert certificate.threshold is None
  model, params = byte_model
  metrics = evaluation.evaluate(
    task=task,
    split='test',
    decoder=decoder.Decoder(model, 6),
    params=params,
    workdir=str(calibrate.workdir),
    rule_at=RULES,
    certificate=str(calibrate.workdir / 'certificates' / 'softmax_margin_textual_0.2.json'),
    **SIZES,
  )
  assert metrics['layers_per_token'] == 3


def test_tokens_can_be_compared_in_place_of_texts(calibrate):
  (certificate,) = calibrate(deltas=(0.9,), dissimilarity=consistency.token_disagreement)
  assert 0 < max(certificate.mean_losses) <= 1
  with pytest.raises(ValueError, match='references are texts'):
    calibrate(deltas=(0.9,), dissimilarity=consistency.token_disagreement, objective='risk')
