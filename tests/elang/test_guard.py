"""Only the server's own page and scripts may ask, and each reply says what the page may do."""

import json
import socket

import pytest

pytest.importorskip('uvicorn')


@pytest.fixture(scope='module')
def client(served, make_router):
  """Asks at 127.0.0.1."""
  with served(make_router()) as client:
    yield client


@pytest.mark.parametrize(
  ('headers', 'status'),
  [
    ({'Host': 'evil.example'}, 403),
    ({'Host': 'evil.example:80'}, 403),
    ({'Host': '127.0.0.1.evil.example'}, 403),
    ({'Host': '192.168.0.7'}, 403),
    ({'Host': ''}, 403),
    ({'Host': 'localhost'}, 200),
    ({'Host': 'LocalHost:8080'}, 200),
    ({'Host': '[::1]:8080'}, 200),
    ({'Origin': 'http://evil.example'}, 403),
    ({'Origin': 'null'}, 403),
    ({'Host': 'localhost:7', 'Origin': 'http://localhost:8'}, 403),
    ({'Host': 'localhost:7', 'Origin': 'http://localhost:7'}, 200),
    ({'Sec-Fetch-Site': 'cross-site'}, 403),
    ({'Sec-Fetch-Site': 'same-site'}, 403),
    ({'Sec-Fetch-Site': 'same-origin'}, 200),
  ],
)
def test_only_its_own_page_and_scripts_may_ask(client, headers, status):
  body = json.dumps({'input': 'four'})
  kind = {'Content-Type': 'application/json'}
  found, replied, said = client.send('POST', '/api/answer', body, {**kind, **headers})
  assert found == status
  assert ('error' in json.loads(said)) == (status == 403)
  assert client.send('GET', '/api/router', headers=headers)[0] == status
  assert 'access-control-allow-origin' not in replied


def test_a_host_is_named_once(client):
  with socket.create_connection(('127.0.0.1', client.port), timeout=60) as raw:
    raw.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n')
    assert b' 200 ' not in raw.recv(100)


@pytest.mark.parametrize('path', ['/', '/page.css', '/page.js', '/api/router', '/nothing'])
def test_every_reply_forbids_what_the_page_does_not_need(client, path):
  headers = client.send('GET', path)[1]
  policy = headers['Content-Security-Policy']
  assert "default-src 'none'" in policy
  assert "frame-ancestors 'none'" in policy
  assert 'unsafe' not in policy
  assert '*' not in policy
  assert headers['X-Content-Type-Options'] == 'nosniff'
  assert headers['Referrer-Policy'] == 'no-referrer'
  assert headers['Cache-Control'] == 'no-store'
  assert 'Server' not in headers


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    ('192.0.2.7:8080', 200),
    ('[2001:db8::7]:8080', 200),
    ('gpu.example', 200),
    ('GPU.example:8080', 200),
    ('localhost', 200),
    ('other.example', 403),
    ('192.0.2.7.other.example', 403),
    ('192.0.2', 403),
  ],
)
def test_from_elsewhere_it_is_called_by_an_address_in_digits_or_a_name_it_knows(
  open_client, host, status
):
  assert open_client.send('GET', '/api/router', headers={'Host': host})[0] == status


@pytest.fixture(scope='module')
def open_client(served, make_router):
  """Asks one that others than this machine may ask, too."""
  with served(make_router(), hosts=('gpu.example',), any_address=True) as client:
    yield client
