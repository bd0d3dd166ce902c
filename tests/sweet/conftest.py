"""A tiny encoder with three exits, its parameters, tokens and texts for it, and a checkpoint."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from calm.models import bert, deberta, parameters, pretrained
from calm.tasks import wordpiece
from sweet.model import ExitsConfig

WORDS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz')


@pytest.fixture(scope='session')
def config():
  """Exits after layers 1, 2 and 3 of a BERT 8 wide, three labels."""
  encoder = bert.BertConfig(
    vocab_size=31, emb_dim=8, num_heads=2, mlp_dim=12, num_layers=3, max_length=24
  )
  return ExitsConfig(encoder, exits=(1, 2, 3), num_outputs=3)


@pytest.fixture(scope='session')
def deberta_config(config):
  """The same of a DeBERTa."""
  encoder = deberta.DebertaConfig(
    vocab_size=31, emb_dim=8, num_heads=2, mlp_dim=12, num_layers=3, max_relative_positions=4
  )
  return dataclasses.replace(config, encoder=encoder)


@pytest.fixture(scope='session')
def made_up():
  """Makes parameters of a model in which none is trivial: nothing to compile."""

  def make(model, seed=7):
    rng = np.random.default_rng(seed)
    flat = {}
    for name, shape in parameters.shapes(model).items():
      value = rng.standard_normal(shape, np.float32)
      if name.endswith('scale'):
        value = 1 + 0.3 * value
      elif name.endswith('bias'):
        value *= 0.1
      elif name.endswith('kernel'):
        value *= (3 if 'classifier' in name else 1.5) / np.sqrt(shape[0])
      flat[name] = value
    return parameters.unflatten(flat)

  return make


@pytest.fixture(scope='session')
def batch():
  """Five rows of up to seven tokens, the last of them without weight."""
  lengths = np.array([3, 7, 5, 1, 0], np.int32)
  places = np.arange(8)
  tokens = np.where(places < lengths[:, None], 1 + (7 * places + lengths[:, None]) % 30, 0)
  return {
    'tokens': tokens.astype(np.int32),
    'token_types': (places >= 2).astype(np.int32) * (tokens > 0),
    'lengths': lengths,
    'labels': np.array([0, 1, 2, 1, 0], np.int32),
    'weights': np.array([1, 1, 1, 1, 0], np.float32),
    'batch_number': np.zeros(5, np.int32),
  }


@pytest.fixture(scope='session')
def rows():
  """Nineteen rows of tokens of many lengths, five above 16, with their token types."""
  rng = np.random.default_rng(3)
  lengths = [1, 2, 24, 17, *rng.integers(17, 24, 3), *rng.integers(3, 16, 12)]
  return [(rng.integers(1, 31, n).astype(np.int32), np.zeros(n, np.int32)) for n in lengths]


@pytest.fixture(scope='session')
def key():
  """A key of dropout."""
  return jax.random.key(5)


def write_tokenizer(folder):
  """A WordPiece tokenizer of single letters, 31 tokens."""
  (folder / 'vocab.txt').write_text(''.join(f'{word}\n' for word in WORDS))
  (folder / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': True}))


@pytest.fixture(scope='session')
def tokenizer(tmp_path_factory):
  """Letters as tokens."""
  folder = tmp_path_factory.mktemp('tokenizer')
  write_tokenizer(folder)
  return wordpiece.load(folder)


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory, made_up):
  """Makes a directory of an encoder with its tokenizer, as others write it."""

  def make(encoder, seed=7):
    network = {bert.BertConfig: bert.Bert, deberta.DebertaConfig: deberta.Deberta}[type(encoder)]
    params = made_up(network(encoder), seed)
    folder = pretrained.save_huggingface(
      tmp_path_factory.mktemp('made') / 'encoder', encoder, params
    )
    write_tokenizer(folder)
    return folder

  return make
