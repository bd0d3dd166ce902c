"""What every reply of a served router carries, and which requests get none.

A browser lets any page that it shows send requests to this machine. So a request must name one of
the server's own hosts, or else a name that was made to point here would make another site's page
one of ours; and it must not say that it comes from another origin.
"""

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calm import storage

HEADERS = {
  'Content-Security-Policy': (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  'Cache-Control': 'no-store',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
}


class Guard:
  """Refuses what other sites' pages ask, and says in each reply what the page may do."""

  def __init__(self, application: ASGIApp, hosts: Sequence[str], any_address: bool):
    self.application, self.any_address = application, any_address
    self.hosts = {host.lower() for host in hosts}

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      return

    async def send_with_headers(message: Message) -> None:
      if message['type'] == 'http.response.start':
        MutableHeaders(scope=message).update(HEADERS)
      await send(message)

    problem = self._problem(Headers(scope=scope), scope['path'])
    application = self.application if problem is None else refusal(problem, 403)
    await application(scope, receive, send_with_headers)

  def _problem(self, headers: Headers, path: str) -> str | None:
    """What is wrong with a request, in words."""
    hosts, origins = headers.getlist('host'), headers.getlist('origin')
    if len(hosts) != 1 or not self._is_own(hosts[0]):
      named = storage.shortened(', '.join(hosts)) or 'no host'
      return f'This server is not called {named}: name it as its address does.'
    own = {f'{scheme}://{hosts[0]}'.lower() for scheme in ('http', 'https')}
    elsewhere = any(origin.lower() not in own for origin in origins)
    site = headers.get('sec-fetch-site', 'none')
    if elsewhere or (path.startswith('/api/') and site not in ('same-origin', 'none')):
      return 'Pages of other sites may not ask this server.'
    return None

  def _is_own(self, host: str) -> bool:
    name, colon, port = host.lower().rpartition(':')
    if not colon or not port.isdecimal():
      name = host.lower()
    return name in self.hosts or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
  """Whether a host is an address in digits, which no name server can point elsewhere."""
  try:
    ipaddress.ip_address(name[1:-1] if name.startswith('[') and name.endswith(']') else name)
  except ValueError:
    return False
  return True


def reply(value: Any, status: int = 200) -> Response:
  """A value as JSON."""
  # ASCII alone: a model may have said what is no character.
  text = json.dumps(value, allow_nan=False)
  return Response(text, status, media_type='application/json')


def refusal(what: str, status: int) -> Response:
  """What is wrong, in words, as JSON."""
  said = reply({'error': what}, status)
  if status == 503:
    said.headers['Retry-After'] = '1'
  if status in (408, 413):
    said.headers['Connection'] = 'close'  # The rest of the body is not read.
  return said
