"""`sweet gradients`: what it writes of held-out rows, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from calm.tasks.length_sorted import EncodedTexts
from calm.tasks.tokenization import RaggedArray
from sweet import gradients
from sweet.model import EarlyExitClassifier
from sweet.multi_model import MultiModel


@dataclasses.dataclass(frozen=True)
class FakeTask:
  name: str = 'fake'


@dataclasses.dataclass(frozen=True)
class FakeRows:
  """Eighty rows of up to seven tokens, three labels."""

  task: FakeTask = dataclasses.field(default_factory=FakeTask)
  length: int = 32
  regression = False

  def encoded(self, split):
    rows = [np.arange(1, 2 + i % 7, dtype=np.int32) for i in range(80)]
    zeros = [np.zeros_like(row) for row in rows]
    labels = np.arange(80, dtype=np.int32) % 3
    return EncodedTexts(RaggedArray.from_rows(rows), RaggedArray.from_rows(zeros), labels)


def test_two_batches_are_measured_written_and_drawn(config, tmp_path, capsys):
  model = EarlyExitClassifier(config)
  params = model.init_params(jax.random.key(0))
  found = gradients.measure(
    model=model, params=params, rows=FakeRows(), workdir=str(tmp_path), batch_size=4
  )
  # The first layer stands before three classifiers, the second before two of them.
  one, two, _ = config.exits
  pairs = [(one, (1, 2)), (one, (1, 3)), (one, (2, 3)), (two, (2, 3))]
  assert [(row['layer'], row['classifiers']) for row in found] == pairs * 2
  assert [row['batch'] for row in found] == [1] * 4 + [2] * 4
  assert all(-1 <= row['cosine'] <= 1 for row in found)
  weights = config.encoder.mlp_dim * config.encoder.emb_dim
  assert found[0]['random'] == pytest.approx(1 / np.sqrt(weights))
  kept = json.loads((tmp_path / 'gradients' / 'gradients.json').read_text())['similarities']
  assert [row['cosine'] for row in kept] == [row['cosine'] for row in found]
  assert (tmp_path / 'gradients' / 'gradients.png').read_bytes().startswith(b'\x89PNG')
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == '| layer | classifiers | batch 1 | batch 2 | random |'
  cells = f'{found[0]["cosine"]:.3f} | {found[4]["cosine"]:.3f} | ±{found[0]["random"]:.3f} |'
  assert lines[2] == f'| {one} | 1, 2 | {cells}'
  first, second = gradients.figure(found).axes
  assert (first.get_title(), second.get_title()) == (f'layer {one}', f'layer {two}')
  heights = [bar.get_height() for bar in first.patches]
  assert heights == [row['cosine'] for row in [*found[:3], *found[4:7]]]


def test_models_that_share_no_layer_are_refused(config, tmp_path):
  with pytest.raises(ValueError, match='share no layer'):
    gradients.measure(model=MultiModel(config), params={}, rows=FakeRows(), workdir=str(tmp_path))


def test_too_few_held_out_rows_are_told(config, tmp_path):
  with pytest.raises(ValueError, match=r'need 32 held-out rows, .* has 8 .*set NUM_BATCHES or'):
    gradients.measure(
      model=EarlyExitClassifier(config), params={}, rows=FakeRows(), workdir=str(tmp_path)
    )
