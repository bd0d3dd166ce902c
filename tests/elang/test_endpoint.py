"""A model behind HTTP, against a server of this process that is told what to reply."""

import http.server
import json
import math
import threading
import time

import pytest

from calm.tasks.examples import Example
from elang.endpoint import Endpoint, EndpointError
from elang.routing import Router

EXAMPLES = [Example(i, f'in.txt:{i + 1}', {'inputs': text}, '', {}) for i, text in enumerate('abc')]


def completion(text, log_probs=None):
  """A reply as endpoints give it."""
  choice = {'message': {'content': text}, 'logprobs': None}
  if log_probs is not None:
    choice['logprobs'] = {'content': [{'token': 'x', 'logprob': one} for one in log_probs]}
  return {'choices': [choice]}


@pytest.fixture
def server():
  """A server on the loopback address: `reply(request, number)` gives (status, body)."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      served.paths.append(self.path)
      served.keys.append(self.headers.get('Authorization'))
      request = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      served.requests.append(request)
      status, body = served.reply(request, len(served.requests))
      data = body if isinstance(body, bytes) else json.dumps(body).encode()
      self.send_response(status)
      if status == 302:
        self.send_header('Location', 'http://127.0.0.1:1/elsewhere')
      self.send_header('Content-Length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)

    def log_message(self, *args):
      pass

  served = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  served.paths, served.keys, served.requests = [], [], []
  served.handle_error = lambda *args: None  # Who waited has gone.
  thread = threading.Thread(target=served.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  yield served
  served.shutdown()
  thread.join()
  served.server_close()


@pytest.fixture
def endpoint(server):
  """Makes an Endpoint at the server."""

  def make(**changes):
    address = f'http://127.0.0.1:{server.server_port}/v1'
    return Endpoint(name='far', version='1', address=address, model='m', **changes)

  return make


def test_each_text_is_a_message_and_answers_keep_the_order(server, endpoint):
  server.reply = lambda request, _: (200, completion(request['messages'][0]['content'].upper()))
  model = endpoint(template='say {inputs}', max_tokens=7)
  assert [row['prediction'] for row in model.answer(EXAMPLES)] == ['SAY A', 'SAY B', 'SAY C']
  assert set(server.paths) == {'/v1/chat/completions'}
  assert {request['max_tokens'] for request in server.requests} == {7}
  assert all('logprobs' not in request for request in server.requests)


def test_it_is_as_sure_as_its_tokens_and_passes_on_what_it_is_not_sure_of(server, endpoint):
  log_probs = {'a': [-1.0, -3.0], 'b': [-0.5], 'c': []}

  def reply(request, _):
    text = request['messages'][0]['content']
    return 200, completion(f'{request["model"]} {text}', log_probs[text])

  server.reply = reply
  small = endpoint()
  assert small.ask(EXAMPLES).scores.tolist() == [-2.0, -0.5, -math.inf]
  large = Endpoint(name='large', version='1', address=small.address, model='n')
  rows = Router((small, large), -1.0)(EXAMPLES)
  assert [row['prediction'] for row in rows] == ['n a', 'm b', 'n c']


@pytest.mark.parametrize(
  ('reply', 'message', 'count'),
  [
    ((404, {'error': {'message': 'no model m'}}), 'status 404, no model m', 1),
    ((401, b'who are you?'), r'status 401, who are you\?', 1),
    ((302, b''), 'status 302, nothing said', 1),
    ((503, {'error': 'loading'}), 'status 503, loading', 2),
    ((200, b'<html>'), 'in.txt:1: the reply is no chat completion: <html>', 1),
    ((200, {'choices': []}), 'no chat completion', 1),
    ((200, [1]), 'no chat completion', 1),
    ((200, completion('x')), 'it gives no logprobs', 1),
    ((200, {'choices': [{'message': {'content': 7}}]}), 'the answer is int, not a text', 1),
  ],
)
def test_what_is_no_answer_is_said_with_name_and_address(server, endpoint, reply, message, count):
  server.reply = lambda request, number: reply
  with pytest.raises(EndpointError, match=message) as error:
    endpoint().ask(EXAMPLES[:1])
  assert str(error.value).startswith(f'far at http://127.0.0.1:{server.server_port}/v1: ')
  assert len(server.requests) == count


def test_a_busy_endpoint_is_asked_again(server, endpoint):
  server.reply = lambda _, number: (429, b'busy') if number == 1 else (200, completion('x'))
  assert endpoint().answer(EXAMPLES[:1]) == [{'prediction': 'x'}]


def test_an_endpoint_has_its_time_and_no_more(server, endpoint):
  waiting = threading.Event()

  def reply(request, number):
    waiting.wait(5)
    return 200, completion('late')

  server.reply = reply
  start = time.monotonic()
  with pytest.raises(EndpointError, match=r'no answer within 0.05 s: allow more \(seconds\)'):
    endpoint(seconds=0.05, attempts=1).answer(EXAMPLES[:1])
  assert time.monotonic() - start < 3
  waiting.set()


def test_where_nothing_listens_it_is_said(server, endpoint):
  model = endpoint()
  server.shutdown()
  server.server_close()
  with pytest.raises(EndpointError, match=r'no connection, as if nothing ran there\.$'):
    model.answer(EXAMPLES[:1])


def test_a_key_comes_from_the_environment_and_is_no_part_of_the_identity(
  server, endpoint, monkeypatch
):
  server.reply = lambda request, _: (200, completion('x'))
  model = endpoint(key_variable='FAR_KEY')
  monkeypatch.delenv('FAR_KEY', raising=False)
  with pytest.raises(ValueError, match='the environment variable FAR_KEY is not set'):
    model.answer(EXAMPLES)
  monkeypatch.setenv('FAR_KEY', 'secret')
  model.answer(EXAMPLES[:1])
  assert server.keys == ['Bearer secret']
  assert 'secret' not in repr(model)
  assert model.identity == {'model': 'm', 'version': '1', 'template': '{inputs}', 'max_tokens': 256}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'address': 'localhost:8000'}, 'must be like http'),
    ({'address': 'file:///etc/passwd'}, 'must be like http'),
    ({'version': ''}, 'needs a version'),
    ({'seconds': 0}, 'seconds must be above 0'),
    ({'template': '{'}, 'a single {'),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
  settings = {'name': 'far', 'version': '1', 'address': 'http://127.0.0.1:1', 'model': 'm'}
  with pytest.raises(ValueError, match=message):
    Endpoint(**{**settings, **changes})


def test_an_example_that_does_not_fill_the_message_is_named(endpoint):
  with pytest.raises(ValueError, match=r'in.txt:1: .*premise'):
    endpoint(template='{premise}').check(EXAMPLES)
