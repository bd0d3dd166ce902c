"""The command that serves: from a config to an address, and to a graceful end."""

import concurrent.futures
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip('uvicorn')
from elang import main, serve
from elang.routing import Router

CONFIG = """from __gin__ import dynamic_registration
import served_by_a_test
SWIFT_FUNCTION = @served_by_a_test.small
SUPER_FUNCTION = @served_by_a_test.large
SWIFT_VERSION = '1'
SUPER_VERSION = '1'
INPUTS = 'number {x}'
TARGETS = '{y}'
"""
MODELS = """import time


def small(texts):
  return ['even'] * len(texts), [-float(text.split()[1]) for text in texts]


def large(texts):
  time.sleep(0.5)
  return ['odd' if int(text.split()[1]) % 2 else 'even' for text in texts]
"""


def run(*arguments):
  config = ['--gin_file=configs/elang/functions.gin', '--gin_file=mine.gin', '--import_from=.']
  return main.main(['serve', *config, '--workdir=run', *arguments])


@pytest.fixture
def files(tmp_path, monkeypatch):
  (tmp_path / 'served_by_a_test.py').write_text(MODELS)
  (tmp_path / 'mine.gin').write_text(CONFIG)
  (tmp_path / 'numbers.txt').write_text('7\n8\n')
  monkeypatch.chdir(tmp_path)


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as found:
    return found.getsockname()[1]


class Asker(threading.Thread):
  """Waits for the server, asks it, and sends the process a signal while it works."""

  def __init__(self, port, number):
    super().__init__(daemon=True)
    self.address, self.number, self.found = f'http://127.0.0.1:{port}', number, {}

  def run(self):
    end = time.monotonic() + 60
    while 'router' not in self.found and time.monotonic() < end:
      try:
        self.found['router'] = self.ask('/api/router')
      except urllib.error.URLError:
        time.sleep(0.02)
    threading.Timer(0.2, os.kill, (os.getpid(), self.number)).start()
    self.found['answer'] = self.ask('/api/answer', {'input': '7'})

  def ask(self, path, value=None):
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(
      self.address + path, body, {'Content-Type': 'application/json'}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
      return json.loads(reply.read())


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_a_config_until_a_signal_and_finishes_what_was_asked(
  files, capsys, number
):
  port, before = free_port(), signal.getsignal(number)
  asker = Asker(port, number)
  asker.start()
  assert run(f'--port={port}', '--threshold=-5', '--input=numbers.txt') == 0
  asker.join(60)
  said = capsys.readouterr()
  assert said.out == f'Serving swift-super at http://127.0.0.1:{port}/ (Ctrl-C stops it).\n'
  assert 'Stopping' in said.err
  assert 'Traceback' not in said.err
  assert asker.found['router']['threshold'] == -5
  assert asker.found['router']['fields'] == ['x']
  assert asker.found['router']['examples'] == [{'x': '7'}, {'x': '8'}]
  answer = asker.found['answer']
  assert (answer['model'], answer['prediction'], answer['score']) == ('super', 'odd', -7)
  assert (answer['flops'], answer['seconds'] > 0.5) == (None, True)
  assert signal.getsignal(number) == before


def reached(client):
  """Whether anybody answers there."""
  try:
    return bool(client.get())
  except ConnectionError:
    return False


def test_what_was_asked_before_it_stops_is_answered(slow):
  with concurrent.futures.ThreadPoolExecutor(1) as pool, slow() as (client, entered, let):
    asked = pool.submit(client.post, {'input': 'four'})
    assert entered.wait(60)
    client.server.stop()
    while reached(client):
      time.sleep(0.01)
    assert not asked.done()
    let.set()
    assert asked.result(60)[1]['prediction'] == 'ruof'
    client.server.thread.join(60)
    assert not client.server.thread.is_alive()


def test_stopped_twice_it_waits_for_nothing(slow, caplog):
  with concurrent.futures.ThreadPoolExecutor(1) as pool, slow() as (client, entered, let):
    asked = pool.submit(client.post, {'input': 'four'})
    assert entered.wait(60)
    client.server.stop()
    client.server.stop()
    client.server.wait()
    client.server.thread.join(60)
    assert not client.server.thread.is_alive()
    status, said = asked.result(60)
    assert (status, said['error']) == (503, 'The server was stopped before it could answer.')
    assert not let.is_set()
    assert caplog.records == []


def test_a_port_that_is_taken_is_named(files, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    assert run(f'--port={port}') == 1
  error = capsys.readouterr().err
  assert f'Port {port} of 127.0.0.1 cannot be listened at: Address already in use.' in error
  assert '--port (0 takes any' in error


@pytest.mark.parametrize(
  ('option', 'message'),
  [
    ('--host=192.0.2.1', 'of 192.0.2.1 cannot be listened at: Cannot assign'),
    ('--port=70000', '--port (PORT) must be a whole number in [0, 65535], not 70000'),
    ('--gin.MAX_INPUTS=0', 'MAX_INPUTS must be a whole number of at least 1, not 0'),
    ('--input=missing.txt', 'missing.txt'),
    ('--certificate=missing.json', 'missing.json'),
    ('--gin.DECODE_TEMPLATE={a[b]}', 'it needs plain fields'),
  ],
)
def test_what_cannot_be_served_is_said_in_a_line(files, capsys, option, message):
  assert run(option) == 1
  error = capsys.readouterr().err
  assert message in error
  assert 'Traceback' not in error


def test_without_the_libraries_it_says_what_to_install(models, monkeypatch):
  monkeypatch.setitem(sys.modules, 'uvicorn', None)
  with pytest.raises(RuntimeError, match='pip install starlette uvicorn'):
    serve.serve(router=Router(models))


def test_the_help_says_how_it_is_asked(capsys):
  with pytest.raises(SystemExit):
    main.main(['serve', '--help'])
  said = ' '.join(capsys.readouterr().out.split())
  for word in ('/api/answer', '"inputs"', '--host', '--port', '127.0.0.1', 'Ctrl-C'):
    assert word in said
