"""Temperatures that make probabilities true, from rows that nothing else is measured on."""

import json

import jax
import numpy as np
import pytest
import scipy.special

from calm import storage
from calm.tasks.length_sorted import EncodedTexts
from calm.tasks.tokenization import RaggedArray
from sweet import temperature
from sweet.objectives import classifiers


def drawn(num_rows=4000, seed=0):
  """Logits[n, C], and labels drawn by their probabilities."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 2, (num_rows, 3))
  cumulated = scipy.special.softmax(logits, axis=-1).cumsum(-1)
  return logits, (rng.random((num_rows, 1)) > cumulated[:, :2]).sum(-1)


def test_logits_that_are_too_large_by_a_factor_have_it_for_a_temperature():
  logits, labels = drawn()
  outputs = np.stack([logits * factor for factor in (0.5, 1, 3)], axis=1)
  np.testing.assert_allclose(temperature.fit(outputs, labels), (0.5, 1, 3), rtol=0.06)


def test_it_is_the_best_of_all_temperatures():
  logits, labels = drawn(300)
  (found,) = temperature.fit(logits[:, None] * 2, labels)
  best = temperature.negative_log_likelihood(logits * 2, labels, found)
  for other in np.geomspace(*temperature.BOUNDS, 50):
    assert best <= temperature.negative_log_likelihood(logits * 2, labels, other) + 1e-9


def test_the_likelihood_is_by_hand():
  logits = np.log([[0.2, 0.8], [0.5, 0.5]])
  found = temperature.negative_log_likelihood(logits, np.array([1, 0]), 1.0)
  assert found == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2)


def test_labels_that_are_always_right_have_a_temperature_within_bounds():
  outputs = np.tile([[[5.0, 0.0]]], (9, 1, 1))
  (found,) = temperature.fit(outputs, np.zeros(9, int))
  assert temperature.BOUNDS[0] <= found < 0.2


@pytest.mark.parametrize('labels', [[], [1]])
def test_rows_and_labels_go_together(labels):
  with pytest.raises(ValueError, match='a temperature needs some'):
    temperature.fit(np.zeros((len(labels) * 2, 1, 2)), np.array(labels, int))


def encoded(rows, labels):
  tokens, types = zip(*rows, strict=True)
  return EncodedTexts(RaggedArray.from_rows(tokens), RaggedArray.from_rows(types), labels)


def test_too_few_rows_fit_nothing_and_say_so(config, made_up, rows, tmp_path, capsys):
  model = classifiers(config)
  held_out = encoded(rows, np.zeros(len(rows), np.int32))
  temperature.fit_run(tmp_path, model, made_up(model), held_out, 5)
  assert temperature.of_run(tmp_path) == (1.0, 1.0, 1.0)
  assert 'too few to fit temperatures (50)' in capsys.readouterr().err


def test_of_several_processes_the_first_one_alone_writes_and_speaks(
  config, made_up, rows, tmp_path, capsys, monkeypatch
):
  model = classifiers(config)
  held_out = encoded(rows, np.zeros(len(rows), np.int32))
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  temperature.fit_run(tmp_path, model, made_up(model), held_out, 5)
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr().err == ''


def test_a_run_keeps_its_temperatures_until_it_trains_on(tmp_path):
  assert temperature.of_run(tmp_path) is None
  storage.write_record(tmp_path / temperature.FILE, {'temperatures': [2, 0.5]})
  assert temperature.of_run(tmp_path) == (2.0, 0.5)
  temperature.forget(tmp_path)
  temperature.forget(tmp_path)
  assert temperature.of_run(tmp_path) is None


@pytest.mark.parametrize('record', [{}, {'temperatures': 3}, {'temperatures': ['x']}])
def test_a_file_that_holds_none_is_named_with_the_mend(tmp_path, record):
  storage.write_record(tmp_path / temperature.FILE, record)
  with pytest.raises(storage.DamagedError, match=r'temperatures\.json holds no .*sweet train'):
    temperature.of_run(tmp_path)


def test_a_changed_file_is_not_believed(tmp_path):
  path = tmp_path / temperature.FILE
  storage.write_record(path, {'temperatures': [1.0]})
  path.write_text(json.dumps({**json.loads(path.read_text()), 'temperatures': [9.0]}))
  with pytest.raises(storage.DamagedError, match='has been changed'):
    temperature.of_run(tmp_path)
