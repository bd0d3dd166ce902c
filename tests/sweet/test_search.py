"""The learning rate: the largest area, looked up by what it depends on."""

import dataclasses

import jax
import numpy as np
import pytest

from calm import storage
from calm.exits import stopping
from calm.tasks.classification import Classification
from calm.tasks.length_sorted import EncodedTexts
from calm.tasks.tokenization import RaggedArray
from calm.training.guards import NonFiniteError
from sweet import search
from sweet.model import EarlyExitClassifier

LABELS = Classification(('text',), ('a', 'b', 'c'))


@dataclasses.dataclass(frozen=True)
class FakeRows:
  """Thirty rows of one token each."""

  task: str = 'fake'
  tokenizer: str = 'fake'
  length: int = 8
  truncate: bool = True

  def encoded(self, split):
    tokens = RaggedArray.from_rows([np.array([1 + i % 3], np.int32) for i in range(30)])
    return EncodedTexts(tokens, tokens, np.arange(30, dtype=np.int32) % 3)


@pytest.fixture
def trained(monkeypatch, config):
  """Rates that have been trained, in place of training; 1e-2 has no finite loss."""
  rates: list[float] = []

  def train(*, workdir, learning_rate, **settings):
    rates.append(learning_rate)
    if learning_rate == 1e-2:
      raise NonFiniteError('The loss is NaN at step 3.')
    return {}, {}

  def curve(*, workdir, **settings):
    area = 100 - 1e4 * abs(rates[-1] - 2e-4)
    alone = [{'score': area - 1}, {'score': area}, {'score': area + 1}]
    return {'area': area, 'metric': 'accuracy', 'exits': [1, 2, 4], 'classifiers': alone}

  monkeypatch.setattr(search.train, 'train', train)
  monkeypatch.setattr(search.speed_accuracy, 'measure_curve', curve)
  monkeypatch.setattr(search, 'ExitsPredictor', lambda *args, **kwargs: None)
  monkeypatch.setattr(search.temperature, 'of_run', lambda workdir: None)
  params = EarlyExitClassifier(config).init_params(jax.random.key(0))
  monkeypatch.setattr(search.begin, 'initial_params', lambda *args, **kwargs: params)
  return rates


@pytest.fixture
def find(trained, config, tmp_path):
  """find(...): searches in one workdir."""

  def find(learning_rates=(1e-4, 2e-4, 4e-4), **settings):
    return search.search(
      model=EarlyExitClassifier(config),
      rows=FakeRows(),
      labels=LABELS,
      workdir=str(tmp_path),
      measure=stopping.Confidence(),
      checkpoint='begun',
      learning_rates=learning_rates,
      **{'method': 'sweet', **settings},
    )

  return find


def test_the_rate_of_the_largest_area_is_the_best(find, trained, capsys):
  found = find()
  assert (found['learning_rate'], found['at_edge']) == (2e-4, False)
  assert trained == [1e-4, 2e-4, 4e-4]
  printed = capsys.readouterr().out
  assert '| 0.0002 (best) | 100.00 | 99.00 | 100.00 | 101.00 |' in printed
  assert 'split validation, seed 0' in printed
  assert 'edge' not in printed


def test_the_edge_of_the_grid_is_told(find, capsys):
  assert find((2e-4, 4e-4))['at_edge']
  assert 'The best, 0.0002, is at the edge of the grid' in capsys.readouterr().out


def test_what_is_finished_is_looked_up(find, trained):
  first = find()
  assert find() == first
  assert find((2e-4, 1e-3))['learning_rate'] == 2e-4
  assert trained == [1e-4, 2e-4, 4e-4, 1e-3]


@pytest.mark.parametrize('other', [{'seed': 1}, {'batch_size': 8}, {'method': 'early_exit'}])
def test_other_settings_are_run_anew(find, trained, other):
  find((1e-4,))
  find((1e-4,), **other)
  find((1e-4,))
  assert trained == [1e-4, 1e-4]


def test_a_rate_without_finite_losses_is_shown_and_not_chosen(find, trained, capsys, tmp_path):
  found = find((1e-4, 1e-2))
  assert found['learning_rate'] == 1e-4
  assert '| 0.01 | - | - | - | - |' in capsys.readouterr().out
  (folder,) = (tmp_path / 'search').glob('0.01_*')
  assert storage.read_record(folder / 'result.json')['failed'] == 'The loss is NaN at step 3.'
  find((1e-4, 1e-2))
  assert trained == [1e-4, 1e-2]


def test_a_grid_without_a_finite_loss_is_an_error(find):
  with pytest.raises(ValueError, match='try smaller ones'):
    find((1e-2,))


@pytest.mark.parametrize('rates', [(), (1e-4, 1e-4)])
def test_a_grid_has_different_rates(find, rates):
  with pytest.raises(ValueError, match='LEARNING_RATES'):
    find(rates)


def test_of_equal_areas_the_smallest_rate_is_taken():
  assert search.best({1e-4: 5.0, 2e-4: 7.0, 3e-4: 7.0}) == search.Best(2e-4, False)
