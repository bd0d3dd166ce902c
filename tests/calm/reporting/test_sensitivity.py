"""Wrong tokens: one position changes, and nothing before it."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from calm.exits.rules import Evidence
from calm.reporting import sensitivity


def rows_of(study, kind, position):
  """What was decoded with one wrong token."""
  folder = Path(study.workdir, 'calibration', 'validation', 'perturbed', kind, str(position))
  (path,) = folder.glob('*/predictions.jsonl')
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def test_a_rank_is_taken_at_its_position_only():
  logits = jnp.array([[0.0, 3.0, 1.0, 2.0], [5.0, 1.0, 4.0, 2.0]])
  choose = sensitivity.RankedAt(7, rank=3)
  np.testing.assert_array_equal(choose(logits, None, jnp.array([7, 7])).token, [2, 3])
  np.testing.assert_array_equal(choose(logits, None, jnp.array([7, 6])).token, [2, 0])
  np.testing.assert_array_equal(choose(logits, None, jnp.array([6, 8])).token, [1, 0])


def test_the_first_layer_predicts_at_its_position_only():
  rule = sensitivity.FirstLayerAt(2)
  state = jnp.zeros((3, 4))
  position = jnp.array([1, 2, 3])
  for layer, stops in ((1, [False, True, False]), (2, [False] * 3)):
    evidence = Evidence(layer=layer, num_layers=3, position=position, hidden=state, previous=state)
    np.testing.assert_array_equal(rule(evidence)[0], stops)


def test_rows_say_how_many_texts_reach_the_position(speaking):
  lengths = np.array([row['units'] for row in speaking.full.results.rows])
  rows = sensitivity.sensitivity(speaking, (0, 2, 50))
  assert [(row['kind'], row['position'], row['num_examples']) for row in rows] == [
    (kind, position, (lengths > position).sum())
    for kind in sensitivity.KINDS
    for position in (0, 2)
  ]
  assert all(0 <= row['similarity'] <= 1 for row in rows)


def test_tokens_before_the_wrong_one_are_the_full_models(speaking):
  sensitivity.sensitivity(speaking, (2,))
  for full, row in zip(speaking.full.results.rows, rows_of(speaking, 'ranked', 2), strict=True):
    assert row['tokens'][:2] == full['tokens'][:2]
    if len(full['tokens']) > 2:
      assert row['tokens'][2] != full['tokens'][2]


def test_only_the_wrong_token_leaves_early(speaking):
  sensitivity.sensitivity(speaking, (2,))
  for full, row in zip(
    speaking.full.results.rows, rows_of(speaking, 'first_layer', 2), strict=True
  ):
    assert row['tokens'][:2] == full['tokens'][:2]
    expected = [1 if position == 2 else 2 for position in range(row['units'])]
    assert row['exit_layers'] == expected


def test_an_impossible_rank_is_refused(speaking):
  with pytest.raises(ValueError, match='rank 0'):
    sensitivity.sensitivity(speaking, (0,), rank=0)
