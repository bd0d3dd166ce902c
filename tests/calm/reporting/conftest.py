"""Studies: of made-up outputs, whose numbers can be computed by hand, and of a tiny model."""

import functools
import json

import jax
import numpy as np
import pytest

from calm.decoding import generator
from calm.decoding.text_predictor import TextPredictor
from calm.exits import confidence, rules
from calm.exits.families import Family
from calm.models import t5
from calm.reporting import chapters_calm, efficiency, report
from calm.reporting.study import Study

# D = 2, N H = 3, F = 5, three decoder layers, a head of 259 bytes.
CONFIG = t5.T5Config(259, 2, 1, 3, 5, 1, 3)
# By the name of a rule: a text of two tokens, and the layers run for each.
OUTPUTS = {
  'full': ('a b', [3, 3]),
  'fixed_layer/1': ('c', [1, 1]),
  'fixed_layer/2': ('a b', [2, 2]),
  'oracle': ('a b', [1, 2]),
  'softmax_margin/0.9': ('a b', [1, 3]),
  'softmax_margin/0.5': ('c', [1, 1]),
  'gated_shortlist_margin/0.9': ('a b', [2, 3]),
  'gated_shortlist_margin/0.5': ('c', [1, 1]),
  'gated_softmax_margin/0.9': ('a b', [2, 2]),
  'gated_softmax_margin/0.5': ('c', [1, 1]),
  'state_saturation/0.9': ('c', [2, 3]),
  'state_saturation/0.5': ('c', [2, 2]),
}
TARGETS = ['a b'] * 5 + ['c'] * 5


def exact_match(targets, predictions):
  """Percentage of predictions that are their target."""
  hits = [target == prediction for target, prediction in zip(targets, predictions, strict=True)]
  return {'exact_match': 100 * sum(hits) / len(hits)}


@pytest.fixture(scope='session')
def vocabulary():
  """Bytes."""
  return pytest.importorskip('seqio').ByteVocabulary()


@pytest.fixture(scope='session')
def make_task(vocabulary):
  """Makes a task of given inputs and targets, in split 'validation', its file in a folder."""
  files = pytest.importorskip('calm.tasks.files')

  def make(folder, inputs, targets):
    rows = [{'x': x, 'y': y} for x, y in zip(inputs, targets, strict=True)]
    path = folder / 'validation.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    return files.task(
      inputs='{x}',
      targets='{y}',
      vocabulary=vocabulary,
      validation=str(path),
      metrics=(exact_match,),
    )

  return make


class MadeUp(TextPredictor):
  """Says of every example what OUTPUTS has for the rule."""

  def __call__(self, examples):
    name = rule_name(self.generator.rule)
    text, exit_layers = OUTPUTS[name]
    # A margin asks for the whole head after every layer, if it is not likely words'.
    heads = exit_layers if 'softmax_margin' in name else [1, 1]
    num_logits = [CONFIG.vocab_size * times for times in heads]
    row = {
      'prediction': text,
      'units': 2,
      'costs': {'layers': sum(exit_layers), 'logits': sum(num_logits)},
      'tokens': [100, 1],
      'exit_layers': exit_layers,
      'num_logits': num_logits,
      'input_tokens': 3,
    }
    return [row for _ in examples]


def rule_name(rule):
  """A rule as a key of OUTPUTS."""
  if isinstance(rule, rules.Confident):
    return f'{Family(rule).name}/{rule.threshold.value:g}'
  names = {rules.NeverExit: 'full', rules.Oracle: 'oracle'}
  return names.get(type(rule)) or f'fixed_layer/{rule.layer}'


@pytest.fixture
def made_up(make_task, tmp_path, vocabulary):
  """Makes studies of ten examples, 'ab' with its EOS, whose outputs are OUTPUTS."""
  shapes = jax.eval_shape(t5.T5(CONFIG).init_params, jax.random.key(0))
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  exits = Family(rules.Confident(confidence.softmax_margin, 0.5))

  def make(**options):
    usual = {
      'task': make_task(tmp_path, ['ab'] * 10, TARGETS),
      'split_name': 'validation',
      'predictor': MadeUp(
        generator.Generator(t5.T5(CONFIG), 4), params, vocabulary, 8, per_token=True, exits=exits
      ),
      'workdir': str(tmp_path),
      'measures': (confidence.softmax_margin, confidence.state_saturation),
      'grid': (0.9, 0.5),
    }
    return Study(**(usual | options))

  return make


# A model of bytes that says various things.
SPEAKING = t5.T5Config(259, 12, 3, 5, 17, 1, 2, dropout_rate=0.0)
INPUTS = [
  'seven',
  'a',
  'of',
  'the best',
  'eleven',
  'é',
  'x y z',
  'two',
  'one',
  'far away',
  'b',
  'q',
]


def loud_params(config, seed=5):
  """Weights louder than fresh ones, which repeat themselves, and a head that often says EOS."""
  rng = np.random.default_rng(seed)

  def weights(path, leaf):
    name = jax.tree_util.keystr(path)
    if 'scale' in name:
      return np.ones(leaf.shape, np.float32)
    value = rng.normal(size=leaf.shape).astype(np.float32)
    if 'logits_dense' in name:
      value[:, 1] *= 2
    return value if leaf.ndim < 2 or 'embed' in name else 2.5 * value / np.sqrt(leaf.shape[0])

  shapes = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(weights, shapes)


@pytest.fixture(scope='session')
def speaking(make_task, tmp_path_factory, vocabulary):
  """A study of a tiny model and twelve inputs."""
  folder = tmp_path_factory.mktemp('speaking')
  predictor = TextPredictor(
    generator.Generator(t5.T5(SPEAKING), 6), loud_params(SPEAKING), vocabulary, 16, batch_size=12
  )
  return Study(
    task=make_task(folder, INPUTS, INPUTS),
    split_name='validation',
    predictor=predictor,
    workdir=str(folder),
    measures=(confidence.softmax_margin,),
    grid=(0.9, 0.5, 0.1),
  )


@pytest.fixture(scope='session')
def make_report(speaking):
  """Makes the report of `speaking`."""
  settings = efficiency.TrialSettings(
    deltas={'textual': (0.5, 0.9)}, num_trials=3, timed_batch_sizes=(2,), num_timed=4, repeats=1
  )
  chapters = (
    chapters_calm.shortlists,
    functools.partial(chapters_calm.decaying, taus=(4.0,)),
    functools.partial(chapters_calm.wrong_tokens, positions=(0, 2, 50)),
    chapters_calm.coloured_texts,
  )
  return lambda: report.report(speaking, settings, chapters=chapters)


@pytest.fixture(scope='session')
def reported(make_report):
  """The path of the report of `speaking`, made once."""
  return make_report()
