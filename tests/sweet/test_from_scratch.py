"""An encoder without a checkpoint: its vocabulary, its sizes, and a run that begins with them."""

import jax
import pytest
import seqio

import gin
from calm import configuration
from calm.models import bert
from calm.tasks import compared_numbers, spelled_numbers
from sweet import checkpoint, from_scratch, train

SIZES = {'emb_dim': 8, 'num_heads': 2, 'mlp_dim': 8, 'num_layers': 2, 'max_length': 24}


@pytest.fixture(scope='module')
def task():
  return compared_numbers.task(num_train=300, num_validation=5, num_test=5, max_digits=3)


@pytest.fixture(scope='module')
def workdir(task, tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('run'))
  from_scratch.write_encoder(
    task=task, workdir=folder, encoder=bert.BertConfig(vocab_size=100, **SIZES)
  )
  return folder


def test_words_of_the_task_are_single_tokens_and_pairs_have_types(workdir):
  tokenizer = checkpoint.tokenizer(workdir=workdir)
  (row,) = tokenizer.encode([('seven hundred and one', 'Forty')], 24)
  # [CLS] seven hundred and one [SEP] forty [SEP]
  assert len(row.tokens) == 8
  assert row.token_types.tolist() == [0] * 6 + [1] * 2
  assert row.num_unknown == 0


def test_the_run_has_the_sizes_and_the_vocabulary_that_was_found(workdir):
  config = checkpoint.exits_config(workdir=workdir, labels=compared_numbers.LABELS)
  assert config.encoder.emb_dim == 8
  assert config.exits == (1, 2)
  assert config.encoder.vocab_size == checkpoint.tokenizer(workdir=workdir).vocab_size <= 100


def test_what_is_there_stays(workdir, task, capsys):
  larger = bert.BertConfig(vocab_size=100, **{**SIZES, 'emb_dim': 16})
  from_scratch.write_encoder(task=task, workdir=workdir, encoder=larger)
  assert 'is there already' in capsys.readouterr().out
  config = checkpoint.exits_config(workdir=workdir, labels=compared_numbers.LABELS)
  assert config.encoder.emb_dim == 8


def test_a_task_without_labels_is_refused(tmp_path):
  task = spelled_numbers.task(vocabulary=seqio.ByteVocabulary(), num_train=5)
  with pytest.raises(ValueError, match="'spelled_numbers' has no labels"):
    from_scratch.write_encoder(task=task, workdir=str(tmp_path), encoder=bert.BertConfig())
  assert not list(tmp_path.iterdir())


def test_the_quickstart_begins_without_a_checkpoint(tmp_path, monkeypatch):
  found = {}
  monkeypatch.setattr(train.loop, 'train', lambda **given: found.update(given) or ({}, {}))
  sizes = ['num_train = 100', 'num_validation = 5', 'num_test = 5']
  bindings = [f'WORKDIR = {str(tmp_path)!r}', 'WARMUP_STEPS = 0']
  bindings += [f'compared_numbers.task.{one}' for one in sizes]
  try:
    configuration.parse(['configs/sweet/quickstart.gin'], bindings, [], {})
    gin.get_configurable(from_scratch.write_encoder)()
    gin.get_configurable(train.train)()
  finally:
    gin.clear_config()
  assert found['initial_params'] is None
  objective, batch = found['objective'], next(found['batches'])
  assert objective.model.config.encoder.vocab_size > batch['tokens'].max()
  # 90 rows, the others are held out.
  assert found['num_steps'] % -(-90 // len(batch['tokens'])) == 0
  params = jax.eval_shape(objective.init, jax.random.key(0))
  assert jax.eval_shape(objective, params, batch)[0].shape == ()
