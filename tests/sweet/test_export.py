"""A classifier that is exported says what it said."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from calm.models import pretrained
from calm.tasks.classification import Classification
from sweet import export
from sweet.model import ENCODERS
from sweet.objectives import classifiers

LABELS = Classification(('text',), ('no', 'yes', 'maybe'))
TEMPERATURES = (1.5, 0.5)


@pytest.fixture(scope='module', params=['bert', 'deberta', 'shared pooler', 'multi_model'])
def system(request, config, deberta_config, made_up):
  """(model, its parameters), of two classifiers."""
  chosen = deberta_config if request.param == 'deberta' else config
  pooler = 'shared' if request.param == 'shared pooler' else 'own'
  chosen = dataclasses.replace(chosen, exits=(1, 3), pooling='cls', pooler=pooler)
  model = classifiers(chosen, 'multi_model' if request.param == 'multi_model' else 'sweet')
  return model, made_up(model)


def said(model, params, batch, k):
  """The logits of classifier k over its temperature."""
  state = None
  for number in range(1, k + 1):
    state, outputs, _ = model.stage(params, number, batch, state)
  return np.asarray(outputs) / TEMPERATURES[k - 1]


@pytest.mark.parametrize('k', [1, 2])
def test_a_directory_holds_the_classifier_and_the_layers_below_it(
  system, batch, tmp_path, k, capsys
):
  model, params = system
  path = export.export(
    model=model, params=params, labels=LABELS, directory=str(tmp_path / 'out'), exit=k,
    temperatures=TEMPERATURES,
  )  # fmt: skip
  assert f'classifier {k} of 2, after {model.exits[k - 1]} layers' in capsys.readouterr().out
  names = json.loads((path / 'config.json').read_text())['id2label']
  assert list(names.values()) == list(LABELS.labels)
  config, theirs = pretrained.load(path)
  assert config.num_layers == model.exits[k - 1]
  network = ENCODERS[type(config)](config)
  mask = jnp.arange(batch['tokens'].shape[1]) < batch['lengths'][:, None]

  def logits(bound):
    *_, last = bound(batch['tokens'], mask, batch['token_types'])
    return bound.classify(bound.pool(last))

  found = network.apply({'params': theirs}, method=logits)
  np.testing.assert_allclose(found, said(model, params, batch, k), rtol=1e-5, atol=2e-5)


def test_transformers_says_the_same(system, batch, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model, params = system
  path = export.export(
    model=model, params=params, labels=LABELS, directory=str(tmp_path / 'out'),
    temperatures=TEMPERATURES,
  )  # fmt: skip
  theirs = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
  lengths = np.asarray(batch['lengths'])[:, None]
  mask = (np.arange(batch['tokens'].shape[1]) < lengths).astype(np.int64)
  given = {
    'input_ids': np.int64(batch['tokens']),
    'attention_mask': mask,
    'token_type_ids': np.int64(batch['token_types']),
  }
  with torch.inference_mode():
    logits = theirs(**{name: torch.from_numpy(value) for name, value in given.items()}).logits
  known = batch['lengths'] > 0
  ours = said(model, params, batch, 2)
  np.testing.assert_allclose(logits.numpy()[known], ours[known], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
  ('changes', 'exit', 'message'),
  [
    ({'pooling': 'mean'}, None, "POOLING = 'cls'"),
    ({'pooler': 'none'}, None, 'have a pooler'),
    ({}, 4, 'there are 3 classifiers'),
  ],
)
def test_what_transformers_has_no_class_for_is_refused(
  config, made_up, tmp_path, changes, exit, message
):
  model = classifiers(dataclasses.replace(config, **{'pooling': 'cls', **changes}))
  with pytest.raises(ValueError, match=message):
    export.export(model=model, params={}, labels=LABELS, directory=str(tmp_path / 'out'), exit=exit)
  assert not (tmp_path / 'out').exists()
