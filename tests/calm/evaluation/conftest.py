"""Tasks of a few lines, and a predictor without a network whose every call is counted."""

import dataclasses
import json

import pytest

INPUTS = ['seven', 'a', 'of', 'the best', 'eleven', 'é', 'x y z', 'last but one', 'last']


@dataclasses.dataclass(frozen=True)
class Scripted:
  """Says of a text what a seeded hash of it would: early answers differ from the full system's.

  At a threshold t an example is answered early if its score reaches t; then its answer is a part of
  the full one.
  """

  version: str = 'one'
  threshold: float | None = None
  batch_size: int = 4
  name: str = 'score'
  unit: str = 'token'
  results: tuple[str, ...] = ('prediction', 'units', 'costs')
  flags: dict = dataclasses.field(default_factory=lambda: {'version': '--gin.VERSION'})
  calls: list = dataclasses.field(default_factory=list)  # Of each call the indices answered.
  interrupt_at: int | None = None  # The number of the call that is interrupted.

  @property
  def family(self):
    return {'version': self.version, 'code': 'sha256:1'}

  @property
  def identity(self):
    return {**self.family, 'threshold': self.threshold}

  def at(self, threshold):
    return dataclasses.replace(self, threshold=threshold)

  def check(self, examples):
    for example in examples:
      if len(example.texts.get('inputs', '')) > 20:
        raise ValueError(f'{example.where}: too long')

  def __call__(self, examples):
    if len(self.calls) == self.interrupt_at:
      raise KeyboardInterrupt
    self.calls.append([example.index for example in examples])
    return [self.answer(example) for example in examples]

  def answer(self, example):
    text = example.texts.get('inputs', '')
    words = f'{text} {self.version}'.split() if text else []
    score = sum(text.encode()) % 10 / 10
    early = self.threshold is not None and score >= self.threshold
    said = words[: 1 if early else None]
    return {
      'prediction': ' '.join(said),
      'units': len(said),
      'costs': {'layers': len(said) * (1 if early else 3)},
    }


@pytest.fixture(scope='session')
def vocabulary():
  """Bytes."""
  return pytest.importorskip('seqio').ByteVocabulary()


@pytest.fixture
def predictor():
  """A Scripted."""
  return Scripted()


@pytest.fixture
def make_task(tmp_path, vocabulary):
  """Makes a task over a file of inputs x and targets y, of its split 'test'."""
  files = pytest.importorskip('calm.tasks.files')

  def make(targets=None, inputs=INPUTS, metrics=(), folder='data', form=None):
    rows = [{'x': x, 'y': y} for x, y in zip(inputs, targets or inputs, strict=True)]
    path = tmp_path / folder / 'test.jsonl'
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    options = {'inputs': '{x}', 'targets': '{y}', 'vocabulary': vocabulary, **(form or {})}
    return files.task(**options, test=str(path), metrics=metrics)

  return make
