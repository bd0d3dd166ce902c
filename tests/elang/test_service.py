"""Many ask at a time: one is answered after the other, and none for another's mistake."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm.tasks.examples import Example
from elang.black_box import BlackBox
from elang.endpoint import Endpoint
from elang.messages import Question, RefusedError
from elang.routing import Router
from elang.service import Service

OF_GIN = "\n  In call to configurable 'small' (<function small at 0x7f>)"


def question(*texts, threshold=0.0):
  examples = [Example(i, f'inputs[{i}]', {'inputs': text}, '', {}) for i, text in enumerate(texts)]
  return Question(examples, False, (threshold,))


def said(service, *texts, threshold=0.0):
  return service.submit(question(*texts, threshold=threshold)).result(timeout=60)


class Gate:
  """Answers when it is let to; says how many were in it at a time."""

  def __init__(self):
    self.open, self.entered = threading.Event(), threading.Event()
    self.inside = self.most = 0
    self.seen = []

  def __call__(self, texts):
    self.inside += 1
    self.most = max(self.most, self.inside)
    self.entered.set()
    assert self.open.wait(60)
    self.seen += texts
    self.inside -= 1
    return [text.upper() for text in texts], [float(len(text)) for text in texts]


def routed(first, last=None):
  last = last or (lambda texts: [f'last {text}' for text in texts])
  models = [
    BlackBox(name=n, version='1', function=f) for n, f in (('first', first), ('last', last))
  ]
  return Router(models)


def test_all_who_ask_together_get_their_own_answers_one_after_the_other():
  gate = Gate()
  service = Service(routed(gate), waiting=64)
  texts = [['a' * n, 'b' * n] for n in range(1, 31)]
  futures = [service.submit(question(*pair, threshold=9.0)) for pair in texts]
  gate.open.set()
  for pair, future in zip(texts, futures, strict=True):
    kept = len(pair[0]) >= 9
    expected = [text.upper() if kept else f'last {text}' for text in pair]
    assert [one['prediction'] for one in future.result(60)['answers']] == expected
  assert gate.most == 1
  assert service.answered == {'first': 2 * 22, 'last': 2 * 8}


def test_who_finds_too_many_waiting_is_sent_away_at_once():
  gate = Gate()
  service = Service(routed(gate), waiting=2)
  running = service.submit(question('a'))
  assert gate.entered.wait(60)
  waiting = [service.submit(question(text)) for text in 'bc']
  with pytest.raises(RefusedError, match='Too many requests are waiting') as info:
    service.submit(question('d'))
  assert info.value.status == 503
  gate.open.set()
  for future in (running, *waiting):
    assert len(future.result(60)['answers']) == 1
  assert len(said(service, 'd')['answers']) == 1


def test_what_nobody_waits_for_any_more_is_not_begun():
  gate = Gate()
  service = Service(routed(gate))
  running = service.submit(question('a'))
  assert gate.entered.wait(60)
  assert service.submit(question('never')).cancel()
  later = service.submit(question('b'))
  gate.open.set()
  assert [one.result(60)['shares']['first'] for one in (running, later)] == [1, 1]
  assert gate.seen == ['a', 'b']


@pytest.mark.parametrize(
  ('failure', 'message'),
  [
    (ValueError('no memory left'), 'first failed on .*no memory left'),
    (ValueError(f'no memory left{OF_GIN}'), 'first failed on .*no memory left$'),
    (KeyError('x'), "first failed on .*KeyError: 'x'"),
    (SystemExit(3), r'A model failed, and did not say why \(test_service\.py, line \d+\)'),
  ],
)
def test_a_model_that_fails_is_an_error_of_one_request(failure, message, capsys):
  def moody(texts):
    if 'bad' in texts:
      raise failure
    return texts, [1.0] * len(texts)

  service = Service(routed(moody))
  with pytest.raises(RefusedError, match=message) as info:
    said(service, 'bad')
  assert info.value.status == 500
  assert str(info.value) in capsys.readouterr().err
  assert said(service, 'good')['answers'][0]['prediction'] == 'good'


def test_an_endpoint_that_does_not_reply_is_told_from_a_model_that_fails(capsys):
  far = Endpoint(name='far', version='1', address='http://127.0.0.1:9/v1', model='m', attempts=1)
  router = routed(lambda texts: (texts, [0.0] * len(texts)))
  service = Service(Router((router.models[0], far)))
  with pytest.raises(RefusedError, match=r'far at .*no connection') as info:
    said(service, 'a', threshold=1.0)
  assert info.value.status == 503
  assert 'no connection' in capsys.readouterr().err
  assert said(service, 'a', threshold=0.0)['shares'] == {'first': 1, 'far': 0}


def test_a_moved_threshold_compiles_nothing_and_runs_only_what_was_not_run():
  traced, run = [], []

  @jax.jit
  def score(lengths):
    traced.append(lengths)
    return jnp.sin(lengths)

  def small(texts):
    run.append(len(texts))
    lengths = np.array([*map(len, texts), *[0] * (8 - len(texts))], np.float32)
    return texts, np.asarray(score(lengths))[: len(texts)]

  def large(texts):
    run.append(len(texts))
    return [jnp.asarray(score(np.zeros(8, np.float32))).shape and text for text in texts]

  service = Service(routed(small, large))
  texts = ['a', 'bbb', 'ccccc', 'd' * 7]
  shares = [
    said(service, *texts, threshold=threshold)['shares']['first']
    for threshold in (None, -1.0, 0.0, 0.5, 1.0, 0.2)
  ]
  expected = [np.mean(np.sin([1, 3, 5, 7]) >= t) for t in (np.inf, -1.0, 0.0, 0.5, 1.0, 0.2)]
  assert shares == pytest.approx(expected)
  assert len(set(shares)) == 4
  assert len(traced) == 1
  assert run == [4, 4]
