"""Models without a network, whose every input is counted, and examples for them."""

import dataclasses
import json

import numpy as np
import pytest

from calm.tasks.examples import Example
from elang.black_box import BlackBox, ScoredFirst

TEXTS = ['seven', 'a', 'of', 'the best', '', 'eleven', 'é', 'x y z', 'last but one', 'last']


@dataclasses.dataclass
class Counted:
  """Answers with its name and the text's first letter; is sure by the text's bytes."""

  name: str
  step: int = 1
  calls: list = dataclasses.field(default_factory=list)  # Of each call the texts.

  def __call__(self, texts):
    self.calls.append(list(texts))
    return [f'{self.name} {text[0]}' for text in texts], [self.score(text) for text in texts]

  def score(self, text):
    """From -7 to 5; of 'é' there is none."""
    return float('nan') if text == 'é' else float(sum(text.encode()) * self.step % 13 - 7)

  @property
  def seen(self):
    """All texts that it was given."""
    return [text for call in self.calls for text in call]


@pytest.fixture(scope='session')
def examples():
  """Ten, one of them without a text."""
  return [
    Example(i, f'in.txt:{i + 1}', {'inputs': text} if text else {}, '', {})
    for i, text in enumerate(TEXTS)
  ]


@pytest.fixture
def counted():
  """Three: small, middle and large."""
  return Counted('small'), Counted('middle', 5), Counted('large')


@pytest.fixture
def models(counted):
  """The same as models, of 1, 10 and 100 FLOPs, small in batches of 4."""
  return tuple(
    BlackBox(name=one.name, version='1', function=one, batch_size=size, prices={'flops': flops})
    for one, size, flops in zip(counted, (4, 32, 32), (1, 10, 100), strict=True)
  )


@pytest.fixture
def asked_first(counted, models):
  """The small model, scored before it answers, at 1 FLOP for the score and 1 for the answer."""

  def scores(examples):
    return np.array([counted[0].score(example.texts['inputs']) for example in examples])

  return ScoredFirst(name='small', model=models[0], score=scores, prices_of_asking={'flops': 1})


@pytest.fixture
def make_task(tmp_path):
  """Makes a task over a file of inputs x and targets y, of its split 'test'."""
  files = pytest.importorskip('calm.tasks.files')
  seqio = pytest.importorskip('seqio')

  def make(inputs, targets, metrics=()):
    rows = [{'x': x, 'y': y} for x, y in zip(inputs, targets, strict=True)]
    path = tmp_path / 'test.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    options = {'inputs': '{x}', 'targets': '{y}', 'vocabulary': seqio.ByteVocabulary()}
    return files.task(**options, test=str(path), metrics=metrics)

  return make
