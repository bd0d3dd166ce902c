"""Small networks with random weights, and vocabularies, for the tests of this folder."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece

from calm.models import parameters, pretrained, t5

FIXTURES = Path(__file__).parents[2] / 'fixtures'


def _varied(config, seed=7):
  generator = np.random.default_rng(seed)
  flat = {}
  for name, shape in parameters.shapes(t5.T5(config)).items():
    value = generator.standard_normal(shape, np.float32)
    if name.endswith('decoder_norm/scale'):
      value *= 2  # Of either sign: else a tied head would repeat the last token.
    elif name.endswith('scale'):
      value = 1 + 0.3 * value
    elif name.endswith('query/kernel'):
      value *= 1.5 / np.sqrt(shape[0] * config.head_dim)
    elif name.endswith('kernel'):
      value *= 1.5 / np.sqrt(shape[0])
    flat[name] = value.astype(np.float32)
  return parameters.unflatten(flat)


@pytest.fixture(scope='session')
def varied_params():
  """Makes params of a config in which no parameter is trivial: no norm is 1, no bias 0."""
  return _varied


@pytest.fixture(scope='session')
def varied_encoder():
  """Makes params of an encoder in which no parameter is trivial: no norm is 1, no bias 0."""

  def make(model, seed=7):
    generator = np.random.default_rng(seed)
    flat = {}
    for name, shape in parameters.shapes(model).items():
      value = generator.standard_normal(shape, np.float32)
      if name.endswith('scale'):
        value = 1 + 0.3 * value
      elif name.endswith('bias'):
        value *= 0.3
      elif name.endswith('kernel'):
        value *= 1.5 / np.sqrt(shape[0])
      flat[name] = value.astype(np.float32)
    return parameters.unflatten(flat)

  return make


@pytest.fixture(scope='session')
def ragged_tokens():
  """Makes int32 tokens [rows, length] in [2, vocab_size): row i has lengths[i], then padding."""

  def make(config, lengths, seed=5):
    length = max(lengths)
    tokens = np.random.default_rng(seed).integers(2, config.vocab_size, (len(lengths), length))
    return np.where(np.arange(length) < np.array(lengths)[:, None], tokens, 0).astype(np.int32)

  return make


@pytest.fixture(scope='session')
def equal_trees():
  """Whether two parameter trees have equal names, types and bits."""

  def equal(ours, others):
    assert jax.tree.structure(ours) == jax.tree.structure(others)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(others), strict=True):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)

  return equal


@pytest.fixture(scope='session')
def fixtures():
  """The folder of stored checkpoints."""
  return FIXTURES


WORDS = ['quick', 'brown', 'fox', 'jumps', 'lazy', 'dog', 'ça', 'été', 'über', '½', 'm²', 'ﬁne']


@pytest.fixture(scope='session')
def sentencepiece_model():
  """Makes the bytes of a SentencePiece model of a few words; options are its trainer's."""

  def make(**options):
    lines = [' '.join(WORDS[i * j % len(WORDS)] for j in range(1, 9)) for i in range(1, 80)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      **{'vocab_size': 37, 'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, **options},
      minloglevel=2,
    )
    return model.getvalue()

  return make


@pytest.fixture
def altered_export(tmp_path):
  """Exports params for transformers and lets `change(settings, tensors)` alter what is written."""

  def write(config, params, change=None):
    directory = pretrained.save_huggingface(tmp_path / 'exported', config, params)
    settings = json.loads((directory / 'config.json').read_text())
    tensors = safetensors.numpy.load_file(directory / 'model.safetensors')
    if change is not None:
      change(settings, tensors)
    (directory / 'config.json').write_text(json.dumps(settings))
    safetensors.numpy.save_file(tensors, directory / 'model.safetensors')
    return directory

  return write
