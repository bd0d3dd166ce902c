"""The paper's experiments start, on random records in the form of TensorFlow Datasets."""

import dataclasses
import re

import jax
import pytest
import tensorflow_datasets as tfds

import gin
from calm import configuration
from calm.models import bert, deberta
from sweet import checkpoint, from_scratch, train

ROOT = configuration.shipped_root()
PAPER = ROOT / 'configs' / 'sweet' / 'paper'
TASKS = ('sst2', 'mrpc', 'cola', 'mnli', 'qqp', 'qnli', 'rte')
# The paper's Table 2, in units of 1e-5: early-exit, multi-model, SWEET.
RATES = {
  'bert_base': ('555', '534', '445', '555', '555', '545', '554'),
  'bert_large': ('422', '454', '434', '434', '534', '443', '333'),
  'deberta_base': ('333', '455', '454', '243', '455', '343', '214'),
  'deberta_large': ('243', '321', '332', '222', '223', '321', '122'),
}
SIZES = {'emb_dim': 4, 'num_heads': 2, 'mlp_dim': 4}
CASES = [(model, task) for model in RATES for task in TASKS]


@pytest.fixture(scope='module', autouse=True)
def data_sets():
  """Random records."""
  with tfds.testing.mock_data(num_examples=7):
    yield
  gin.clear_config()


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """For each model a workdir with an encoder of its depth, four wide."""
  found = {}
  tokenizer = from_scratch.train_wordpiece(iter(['a b c', 'd e']), vocab_size=40)
  for model in RATES:
    kind = bert.BertConfig if model.startswith('bert') else deberta.DebertaConfig
    depth = 24 if model.endswith('large') else 12
    folder = tmp_path_factory.mktemp(model) / checkpoint.FOLDER
    folder.mkdir()
    checkpoint.write_config(folder, kind(vocab_size=40, num_layers=depth, **SIZES))
    (folder / 'tokenizer.json').write_text(tokenizer.to_str())
    found[model] = folder.parent
  return found


@pytest.fixture
def started(monkeypatch):
  """start() trains what is configured, up to its first step, and returns what that would be of."""

  def start():
    found = {}
    monkeypatch.setattr(train.loop, 'train', lambda **given: found.update(given) or ({}, {}))
    gin.get_configurable(train.train)()
    return found

  return start


@pytest.fixture(scope='module')
def traced():
  """Encoders whose classifiers have taken a batch."""
  return set()


def parse(model, task, workdir, **bindings):
  given = {'WORKDIR': repr(str(workdir)), 'CHECKPOINT': "'begun'", **bindings}
  lines = [f'{name} = {value}' for name, value in given.items()]
  configuration.parse([f'configs/sweet/paper/{model}_{task}.gin'], lines, [], {})


def test_every_model_has_every_task():
  assert sorted(path.stem for path in PAPER.iterdir()) == sorted(f'{m}_{t}' for m, t in CASES)


@pytest.mark.parametrize(('model', 'task'), CASES)
def test_an_experiment_starts(model, task, workdirs, started, traced):
  parse(model, task, workdirs[model])
  found = started()
  objective = found['objective']
  exits = (1, 6, 12, 24) if model.endswith('large') else (1, 4, 6, 12)
  assert objective.model.exits == exits
  assert objective.model.config.num_outputs == (3 if task == 'mnli' else 2)
  assert objective.model.config.pooling == 'cls'
  batch = next(found['batches'])
  assert len(batch['tokens']) == (8 if model == 'deberta_large' else 16)
  # Seven rows, two epochs.
  assert found['num_steps'] == 2
  expected = float(RATES[model][TASKS.index(task)][2]) * 1e-5
  assert float(found['optimizer'].learning_rate(0)) == pytest.approx(expected)
  if objective.model.config.encoder not in traced:
    params = jax.eval_shape(objective.init, jax.random.key(0))
    loss, _ = jax.eval_shape(objective, params, batch)
    assert loss.shape == ()
    traced.add(objective.model.config.encoder)


@pytest.mark.parametrize(('place', 'method'), enumerate(('early_exit', 'multi_model', 'sweet')))
def test_each_method_has_its_rate(place, method, workdirs, started):
  for model in RATES:
    for task in ('mrpc', 'rte'):
      parse(model, task, workdirs[model], METHOD=repr(method))
      expected = float(RATES[model][TASKS.index(task)][place]) * 1e-5
      rate = started()['optimizer'].learning_rate(0)
      assert float(rate) == pytest.approx(expected), (model, task)


def test_a_method_without_a_rate_is_told(workdirs, started):
  parse('bert_base', 'sst2', workdirs['bert_base'], METHOD="'alternating'")
  with pytest.raises(ValueError, match="none for 'alternating': give a number"):
    started()


@pytest.mark.parametrize('config', sorted(path.name for path in PAPER.iterdir()))
def test_a_config_is_marked_as_not_run(config):
  source = (PAPER / config).read_text()
  assert 'Not run here' in source.partition('\n')[0]
  assert re.search(rf'sweet train --gin_file=configs/sweet/paper/{config} ', source)


def test_kept_configs_are_read_again(workdirs):
  for model, workdir in workdirs.items():
    kept = checkpoint._kept_config(workdir / checkpoint.FOLDER)
    assert dataclasses.asdict(kept)['num_layers'] == (24 if model.endswith('large') else 12)
