"""A served router over HTTP: JSON for scripts, words for mistakes, and nothing for other pages."""

import concurrent.futures
import contextlib
import http.client
import json
import re
import socket
import time
from pathlib import Path

import pytest

pytest.importorskip('uvicorn')
from elang.messages import Limits, Reading


@pytest.fixture(scope='module')
def client(served, make_router):
  """Asks one that answers texts of three letters or more backwards, and others in capitals."""
  limits = Limits(inputs=5, letters=30, body_bytes=400, body_seconds=0.5)
  with served(make_router(), limits=limits, examples=[{'inputs': 'pick'}]) as client:
    yield client


def test_one_input_gets_one_answer(client):
  status, said = client.post({'input': 'four'})
  assert status == 200
  assert 0 < said.pop('seconds') < 60
  assert said == {
    'model': 'swift',
    'prediction': 'ruof',
    'score': 4.0,
    'threshold': 3.0,
    'scores': {'swift': 4.0},
    'thresholds': {'swift': 3.0},
    'flops': 1e6,
  }


def test_several_inputs_are_answered_in_order_at_the_threshold_they_name(client):
  status, said = client.post({'inputs': ['one', 'three', 'é'], 'threshold': 3.5})
  assert status == 200
  assert [one['model'] for one in said['answers']] == ['super', 'swift', 'super']
  assert [one['prediction'] for one in said['answers']] == ['ONE', 'eerht', 'É']
  assert [one['flops'] for one in said['answers']] == [1e6 + 1e9, 1e6, 1e6 + 1e9]
  assert {one['threshold'] for one in said['answers']} == {3.5}
  assert said['shares'] == pytest.approx({'swift': 1 / 3, 'super': 2 / 3})


@pytest.mark.parametrize(
  ('threshold', 'model', 'score'),
  [(None, 'super', None), ('-inf', 'swift', 3.0), ([4], 'super', 3.0)],
)
def test_a_threshold_may_keep_all_or_nothing(client, threshold, model, score):
  status, said = client.post({'input': 'abc', 'threshold': threshold})
  assert (status, said['model'], said['score']) == (200, model, score)
  assert said['threshold'] == (4 if threshold == [4] else threshold)


def test_what_there_is_to_ask_is_told(client):
  before = client.get()
  client.post({'inputs': ['a', 'four']})
  after = client.get()
  assert before | {'answered': None} == {
    'models': ['swift', 'super'],
    'threshold': 3,
    'path': False,
    'fields': ['inputs'],
    'limits': {'inputs': 5, 'letters': 30, 'body_bytes': 400},
    'examples': [{'inputs': 'pick'}],
    'answered': None,
  }
  assert {name: after['answered'][name] - n for name, n in before['answered'].items()} == {
    'swift': 1,
    'super': 1,
  }


@pytest.mark.parametrize(
  ('body', 'status', 'message'),
  [
    ('{', 400, 'not JSON'),
    ('{"input": "a", "threshold": NaN}', 400, 'not JSON'),
    ({'input': 'a', 'threshold': [1, 2]}, 400, '1 are needed'),
    ({'input': 'a', 'model': 'super'}, 400, "no key 'model'"),
    ({'input': 'a' * 31}, 413, '31 characters'),
    ({'inputs': ['a'] * 6}, 413, '6 inputs'),
    ({'input': ' ' * 500}, 413, 'longer than the 400 bytes'),
    ({'input': 'break', 'threshold': None}, 500, 'super failed on .*out of memory'),
  ],
)
def test_what_is_wrong_is_said_in_json(client, body, status, message, capsys):
  found, said = client.post(body)
  assert found == status
  assert re.search(message, said['error'])
  assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize(
  ('method', 'path', 'status'),
  [
    ('GET', '/api/answer', 405),
    ('OPTIONS', '/api/answer', 405),
    ('DELETE', '/', 405),
    ('GET', '/api/../main.py', 404),
    ('GET', '/page/../main.py', 404),
    ('GET', '/nothing', 404),
  ],
)
def test_where_nothing_is_to_be_had_is_said_in_json(client, method, path, status):
  found, headers, body = client.send(method, path)
  assert found == status
  assert headers['Content-Type'] == 'application/json'
  assert json.loads(body)['error']
  assert 'access-control-allow-origin' not in headers


@pytest.mark.parametrize('kind', ['text/plain', 'application/x-www-form-urlencoded', ''])
def test_forms_of_other_pages_are_not_read(client, kind):
  status, said = client.post({'input': 'a'}, Content_Type=kind)
  assert (status, said['error']) == (415, 'The Content-Type must be application/json.')


def test_the_page_asks_for_its_own_files_alone(client):
  page, style, *scripts = (
    client.send('GET', path)[2].decode() for path in ('/', '/page.css', '/page.js', '/view.js')
  )
  assert re.findall(r'(?:src|href)="([^"]*)"', page) == ['data:,', '/page.css', '/page.js']
  for text in (page, style, *scripts):
    assert not re.search(r'https?:|//\w+\.|@import|url\(', text)
  interpreted = r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\('
  assert not any(re.search(interpreted, script) for script in scripts)
  assert not re.search(r'<style|style=|<script>|\son\w+=', page)


def test_a_body_that_does_not_end_is_not_waited_for(client):
  start = time.monotonic()
  with socket.create_connection(('127.0.0.1', client.port), timeout=60) as raw:
    head = f'POST /api/answer HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: application/json\r\n'
    raw.sendall(f'{head}Content-Length: 20\r\n\r\n{{'.encode())
    reply = http.client.HTTPResponse(raw)
    reply.begin()
    assert reply.status == 408
    assert 'did not arrive within 0.5 s' in json.loads(reply.read())['error']
    assert raw.recv(1) == b''
  assert time.monotonic() - start < 20


def test_a_body_without_a_length_is_measured_as_it_comes(client):
  connection = http.client.HTTPConnection('127.0.0.1', client.port, timeout=60)
  with contextlib.closing(connection):
    kind = {'Content-Type': 'application/json'}
    parts = [b'{"input": "', b' ' * 300, b' ' * 300]
    connection.request('POST', '/api/answer', iter(parts), kind, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_many_at_a_time_get_their_own_answers(client):
  texts = [f'{i}' * (1 + i % 5) for i in range(40)]
  with concurrent.futures.ThreadPoolExecutor(10) as pool:
    replies = list(pool.map(lambda text: client.post({'input': text}), texts))
  for text, (status, said) in zip(texts, replies, strict=True):
    assert status == 200
    assert said['prediction'] == (text[::-1] if len(text) >= 3 else text.upper())


def test_a_busy_server_says_so_and_still_shows_its_page(slow):
  with concurrent.futures.ThreadPoolExecutor(2) as pool, slow(1) as (client, entered, let):
    first = pool.submit(client.post, {'input': 'four'})
    assert entered.wait(60)
    second = pool.submit(client.post, {'input': 'fives'})
    while not client.service.waiting:
      time.sleep(0.01)
    status, headers, said = client.send(
      'POST', '/api/answer', '{"input": "a"}', {'Content-Type': 'application/json'}
    )
    assert (status, headers['Retry-After']) == (503, '1')
    assert 'Too many requests are waiting' in json.loads(said)['error']
    assert client.send('GET', '/')[0] == 200
    let.set()
    assert [one.result(60)[0] for one in (first, second)] == [200, 200]


def test_the_page_of_the_docs_shows_what_is_asked_and_answered(client):
  text = (Path(__file__).parents[2] / 'docs' / 'elang.md').read_text()
  bodies = re.findall(r"-d '(\{.*?\})'", text)
  replies = [client.post(body) for body in bodies]
  assert [status for status, _ in replies] == [200, 200]
  (shown,) = re.findall(r'```json\n(.*?)```', text, re.DOTALL)
  assert list(json.loads(shown)) == list(replies[0][1])
  assert {*replies[1][1]} == {'answers', 'shares'}


def test_fields_are_asked_for_by_name(served, make_router):
  reading = Reading('{a}+{b}')
  with served(make_router(), reading=reading) as client:
    assert client.get()['fields'] == ['a', 'b']
    assert client.post({'input': {'a': 'x', 'b': 'y'}})[1]['prediction'] == 'y+x'
    status, said = client.post({'input': 'x'})
    assert (status, said['error']) == (400, 'input is a text: an object of a, b is needed.')
