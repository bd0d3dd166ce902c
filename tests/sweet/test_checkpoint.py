"""A run begins with a checkpoint's encoder and needs it no more."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from calm import fingerprints, storage
from calm.models import bert, parameters, pretrained, t5
from calm.tasks.classification import Classification, Regression
from sweet import checkpoint as begin
from sweet.objectives import classifiers

LABELS = Classification(('text',), ('no', 'yes', 'maybe'))


@pytest.fixture(scope='module')
def encoder(config):
  """The whole encoder of the checkpoint, pooler and all."""
  return dataclasses.replace(config.encoder, pooler=True)


@pytest.fixture(scope='module')
def folder(checkpoint, encoder):
  """A checkpoint whose folder is called as what a run keeps is."""
  return checkpoint(encoder)


@pytest.fixture(scope='module')
def theirs(folder):
  """The checkpoint's parameters by flat name."""
  return parameters.flatten(pretrained.load(folder)[1])


def configured(folder, **options):
  return begin.exits_config(checkpoint=str(folder), labels=LABELS, exits=(1, 3), **options)


def test_the_config_is_the_checkpoints_with_what_was_chosen(folder, encoder):
  found = configured(folder, pooling='mean', dropout_rate=0.0, dtype='bfloat16')
  assert found.num_outputs == 3
  assert found.pooling == 'mean'
  assert found.encoder.emb_dim == encoder.emb_dim
  assert found.encoder.dropout_rate == found.encoder.attention_dropout_rate == 0.0
  assert found.encoder.dtype == 'bfloat16'
  number = begin.exits_config(checkpoint=str(folder), labels=Regression(('text',)))
  assert number.num_outputs == 1
  assert number.exits == (1, 2, 3)


@pytest.mark.parametrize('method', ['sweet', 'multi_model'])
def test_every_pooler_is_a_copy_of_the_checkpoints_and_classifiers_are_fresh(
  folder, theirs, method
):
  model = classifiers(configured(folder), method)
  found = parameters.flatten(begin.initial_params(str(folder), model, seed=1))
  assert found.keys() == parameters.shapes(model).keys()
  copied = set()
  for name, value in found.items():
    own = name.partition('/')[2] if method == 'multi_model' else name
    part, _, rest = own.partition('/')
    if part == 'encoder' or part.startswith('pooler'):
      np.testing.assert_array_equal(value, theirs[rest if part == 'encoder' else f'pooler/{rest}'])
      copied.add(part)
  assert {'encoder', 'pooler_1'} <= copied
  other = parameters.flatten(begin.initial_params(str(folder), model, seed=2))
  differ = {name for name in found if not np.array_equal(found[name], other[name])}
  assert {name.rpartition('/')[2] for name in differ} == {'kernel'}
  assert all('classifier_' in name for name in differ)


def test_a_checkpoint_without_a_pooler_says_that_they_begin_anew(checkpoint, encoder, capsys):
  bare = checkpoint(dataclasses.replace(encoder, pooler=False))
  model = classifiers(configured(bare))
  found = begin.initial_params(str(bare), model)
  assert 'has no pooler: those of the classifiers begin anew' in capsys.readouterr().err
  assert np.abs(found['pooler_1']['dense']['kernel']).max() > 0
  none = classifiers(configured(bare, pooler='none'))
  begin.initial_params(str(bare), none)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  ('change', 'complaint'),
  [({'mlp_dim': 20}, 'mlp_dim is 20, not 12'), ({'num_layers': 2}, 'has 2 layers, and the last')],
)
def test_another_encoder_is_refused(checkpoint, encoder, folder, change, complaint):
  model = classifiers(configured(folder))
  other = checkpoint(dataclasses.replace(encoder, **change))
  with pytest.raises(ValueError, match=complaint):
    begin.initial_params(str(other), model)


def test_a_run_keeps_what_it_needs_and_can_be_moved(folder, tmp_path):
  before = tmp_path / 'run'
  begin.keep(str(folder), str(before))
  begin.keep(None, str(before))  # It is there already.
  moved = tmp_path / 'moved'
  shutil.move(before, moved)
  found = begin.exits_config(workdir=str(moved), labels=LABELS, exits=(1, 3))
  assert found == configured(folder)
  tokenizers = begin.tokenizer(None, str(moved)), begin.tokenizer(str(folder))
  assert len({json.dumps(fingerprints.identity(one)) for one in tokenizers}) == 1


def test_what_the_run_has_kept_goes_before_a_checkpoint(folder, checkpoint, encoder, tmp_path):
  begin.keep(str(folder), str(tmp_path))
  other = checkpoint(dataclasses.replace(encoder, mlp_dim=20))
  assert configured(other, workdir=str(tmp_path)).encoder.mlp_dim == encoder.mlp_dim
  assert configured(other, workdir=str(tmp_path / 'none')).encoder.mlp_dim == 20


def test_a_deberta_is_kept_too(checkpoint, deberta_config, tmp_path):
  folder = checkpoint(dataclasses.replace(deberta_config.encoder, pooler=True))
  begin.keep(str(folder), str(tmp_path))
  kept = begin.exits_config(workdir=str(tmp_path), labels=LABELS, exits=(1, 3))
  assert kept == configured(folder)
  model = classifiers(kept)
  found = parameters.flatten(begin.initial_params(str(folder), model))
  theirs = parameters.flatten(pretrained.load(folder)[1])
  np.testing.assert_array_equal(found['encoder/rel_embeddings'], theirs['rel_embeddings'])


def test_nothing_to_begin_with_is_said_with_the_mend(tmp_path):
  for workdir in (None, str(tmp_path)):
    with pytest.raises(FileNotFoundError, match=r'name a directory with an encoder.*CHECKPOINT'):
      begin.exits_config(workdir=workdir, labels=LABELS)


def test_what_is_no_encoder_is_refused(tmp_path, made_up):
  config = t5.published('tiny', vocab_size=31)
  folder = pretrained.save_huggingface(tmp_path / 't5', config, made_up(t5.T5(config)))
  with pytest.raises(ValueError, match='holds a T5Config: the checkpoint of a BERT or DeBERTa is'):
    begin.exits_config(checkpoint=str(folder), labels=LABELS)


def test_a_kept_config_of_another_version_is_named(tmp_path):
  (tmp_path / 'encoder').mkdir()
  storage.write_record(tmp_path / 'encoder' / 'config.json', {'class': 'Bart', 'fields': {}})
  with pytest.raises(storage.DamagedError, match=r'holds no settings of a BertConfig or Deberta'):
    begin.exits_config(workdir=str(tmp_path), labels=LABELS)


def test_texts_must_have_embeddings_and_positions(config, deberta_config, tokenizer):
  begin.check_texts(classifiers(config), tokenizer, 24)
  with pytest.raises(ValueError, match=r'LENGTH\) is 25, and the encoder has 24 positions'):
    begin.check_texts(classifiers(config), tokenizer, 25)
  begin.check_texts(classifiers(deberta_config), tokenizer, 1000)
  small = dataclasses.replace(config, encoder=bert.BertConfig(30, 8, 2, 12, 3, 24))
  with pytest.raises(ValueError, match='The tokenizer has 31 tokens, and the encoder 30'):
    begin.check_texts(classifiers(small), tokenizer, 24)
