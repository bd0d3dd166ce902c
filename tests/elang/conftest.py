"""Models without a network, whose every input is counted, and examples for them.

And who asks a served router: a client, and a browser if there is one.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import select
import threading
import time

import numpy as np
import pytest

from calm.tasks.examples import Example
from elang.black_box import BlackBox, ScoredFirst
from elang.routing import Router

KEYS = {'Home': 36, 'End': 35, 'ArrowRight': 39, 'Tab': 9, 'Enter': 13}
SECONDS = 20
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


class Client:
  """Asks a served router, each time over a connection of its own."""

  def __init__(self, port):
    self.port, self.host = port, f'127.0.0.1:{port}'

  def send(self, method, path, body=None, headers=()):
    """The status, the headers and the body that come back."""
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
    try:
      connection.request(method, path, body, dict(headers))
      reply = connection.getresponse()
      return reply.status, reply.headers, reply.read()
    finally:
      connection.close()

  def post(self, body, **headers):
    """The status and the JSON that answers a body, text or a value to be written as JSON."""
    body = body if isinstance(body, bytes | str) else json.dumps(body)
    body = body.encode('utf-8', 'surrogatepass') if isinstance(body, str) else body
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    status, _, said = self.send(
      'POST', '/api/answer', body, {'Content-Type': 'application/json', **named}
    )
    return status, json.loads(said)

  def get(self, path='/api/router'):
    """The JSON at a path."""
    return json.loads(self.send('GET', path)[2])


@contextlib.contextmanager
def _served(router, *, reading=None, limits=None, waiting=16, remembered=64, hosts=(), **settings):
  from elang import application, messages, serve, service

  limits = limits or messages.Limits()
  one = service.Service(router, waiting=waiting, remembered=remembered)
  reading, hosts = reading or messages.Reading(), (*serve.LOOPBACK, *hosts)
  made = application.make(one, reading, limits, hosts=hosts, **settings)
  with serve.listening('127.0.0.1', 0) as listener, serve.running(made, listener) as server:
    client = Client(listener.getsockname()[1])
    client.server, client.service = server, one
    yield client


@pytest.fixture(scope='session')
def served():
  """served(router) serves one at a free port while a block runs, and gives a client."""
  pytest.importorskip('uvicorn')
  return _served


def _backwards(texts):
  return [text[::-1] for text in texts], [float(len(text)) for text in texts]


def _in_capitals(texts):
  if 'break' in texts:
    raise ValueError('out of memory')
  return [text.upper() for text in texts]


def _make_router(first=_backwards):
  functions = {'swift': first, 'super': _in_capitals}
  flops = {'swift': 1e6, 'super': 1e9}
  models = [
    BlackBox(name=name, version='1', function=one, prices={'flops': flops[name]})
    for name, one in functions.items()
  ]
  return Router(models, threshold=3)


@pytest.fixture(scope='session')
def make_router():
  """Makes one that answers texts of three letters or more backwards, and others in capitals."""
  return _make_router


@pytest.fixture(scope='session')
def slow(served):
  """slow() serves a router whose first model waits until `let` is set, once `entered` is."""

  @contextlib.contextmanager
  def slow(waiting=16):
    entered, let = threading.Event(), threading.Event()

    def first(texts):
      entered.set()
      assert let.wait(60)
      return _backwards(texts)

    with served(_make_router(first), waiting=waiting) as client:
      try:
        yield client, entered, let
      finally:
        let.set()

  return slow


class Browser:
  """A tab of Chromium, driven by its own protocol over two pipes."""

  def __init__(self, chromium, profile):
    command = [*chromium, '--remote-debugging-pipe', f'--user-data-dir={profile}', 'about:blank']
    # It reads from descriptor 3 and writes to 4: theirs are moved out of the way first.
    ends = [*os.pipe(), *os.pipe()]
    theirs = [os.dup2(end, 60 + i) for i, end in enumerate((ends[0], ends[3]))]
    quiet = os.open(os.devnull, os.O_RDWR)
    moved = [(os.POSIX_SPAWN_DUP2, theirs[0], 3), (os.POSIX_SPAWN_DUP2, theirs[1], 4)]
    moved += [(os.POSIX_SPAWN_DUP2, quiet, i) for i in (0, 1, 2)]
    self.process = os.posix_spawn(chromium[0], command, os.environ, file_actions=moved)
    for end in (ends[0], ends[3], quiet, *theirs):
      os.close(end)
    self.input, self.output = os.fdopen(ends[1], 'wb'), os.fdopen(ends[2], 'rb')
    self.number, self.tab, self.received = 0, {}, b''
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
    self.tab = {'sessionId': attached['sessionId']}
    self.call('Page.enable')

  def close(self):
    with contextlib.suppress(BrokenPipeError), self.input:
      self.send('Browser.close')
    self.output.close()
    os.waitpid(self.process, 0)

  def send(self, method, **parameters):
    self.number += 1
    call = {'id': self.number, 'method': method, 'params': parameters, **self.tab}
    self.input.write(json.dumps(call).encode() + b'\0')
    self.input.flush()

  def call(self, method, **parameters):
    """What a method of the protocol gives."""
    self.send(method, **parameters)
    while True:
      said = json.loads(self.receive())
      if said.get('id') == self.number:
        assert 'error' not in said, said
        return said['result']

  def receive(self):
    """The next message."""
    while b'\0' not in self.received:
      ready, _, _ = select.select([self.output], [], [], SECONDS)
      part = os.read(self.output.fileno(), 1 << 16) if ready else b''
      assert part, 'The browser says nothing.'
      self.received += part
    message, _, self.received = self.received.partition(b'\0')
    return message

  def value(self, script):
    """What a script gives."""
    return self.call('Runtime.evaluate', expression=script, returnByValue=True)['result'].get(
      'value'
    )

  def wait(self, script):
    """Waits until a script gives something true."""
    end = time.monotonic() + SECONDS
    while not self.value(f'Boolean({script})'):
      assert time.monotonic() < end, f'{script}: {self.value("document.body.innerText")}'
      time.sleep(0.02)

  def press(self, key):
    """Presses a key, as a person would."""
    named = {'key': key, 'code': key, 'windowsVirtualKeyCode': KEYS[key]}
    text = {'text': '\r'} if key == 'Enter' else {}
    self.call('Input.dispatchKeyEvent', type='keyDown', **named, **text)
    self.call('Input.dispatchKeyEvent', type='keyUp', **named)

  def focus(self, selector):
    self.value(f'document.querySelector({json.dumps(selector)}).focus()')

  def type(self, text, until=None):
    """Types into the first field, presses Enter and waits for the answer."""
    self.focus('textarea')
    self.call('Input.insertText', text=text)
    self.press('Enter')
    first = "document.querySelector('#answers .text')?.textContent"
    self.wait(until or f'{first} === {json.dumps(text)}')

  def look(self, width, scheme='light', height=900):
    """Makes the window so wide, and light or dark."""
    size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
    self.call('Emulation.setDeviceMetricsOverride', **size)
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    self.call('Emulation.setEmulatedMedia', features=features)


@pytest.fixture(scope='session')
def browser(chromium, tmp_path_factory):
  """A tab."""
  browser = Browser(chromium, tmp_path_factory.mktemp('profile'))
  yield browser
  browser.close()
