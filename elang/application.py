"""A served router over HTTP: a page, and JSON for scripts.

  GET  /             the page
  GET  /api/router   models, threshold, fields, limits, inputs to pick from, answers so far
  POST /api/answer   as `elang.messages` says

Whatever else a browser has open can reach this address, too. So each request must name one of the
server's own hosts (a name that is made to point here is refused), none may come from another
site's page, and the page may load and run what lies here alone (`elang.guard`).
"""

import asyncio
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from calm import storage
from calm.reporting import page
from elang import messages
from elang.guard import Guard, refusal, reply
from elang.messages import Limits, Reading, RefusedError
from elang.service import Service

FILES = {
  'index.html': 'text/html',
  'page.css': 'text/css',
  'page.js': 'text/javascript',
  'view.js': 'text/javascript',
}


def make(
  service: Service,
  reading: Reading,
  limits: Limits,
  *,
  hosts: Sequence[str],
  any_address: bool = False,
  examples: Sequence[Mapping[str, str]] = (),
) -> ASGIApp:
  """The application.

  Args:
    service: answers.
    reading: of inputs.
    limits: of requests.
    hosts: by which it may be called, without ports.
    any_address: whether it may be called by any address in digits, too.
    examples: inputs to pick from, by field.
  """
  interface = _Interface(service, reading, limits, examples)
  routes = [
    Route('/', _file('index.html')),
    *(Route(f'/{name}', _file(name)) for name in FILES if name != 'index.html'),
    Route('/api/router', interface.describe),
    Route('/api/answer', interface.answer, methods=['POST']),
  ]
  handlers: dict[Any, Any] = {HTTPException: _no_route, RefusedError: _refused}
  return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts, any_address)


class _Interface:
  """The JSON side."""

  def __init__(
    self,
    service: Service,
    reading: Reading,
    limits: Limits,
    examples: Sequence[Mapping[str, str]],
  ):
    self.service, self.reading, self.limits = service, reading, limits
    self.examples = list(examples)

  async def describe(self, request: Request) -> Response:
    """What there is to ask."""
    del request
    router, limits = self.service.router, self.limits
    models = [model.name for model in router.models]
    return reply(
      {
        'models': models,
        'threshold': messages.written(router.threshold),
        'path': router.path is not None,  # Whether a threshold is a share that moves several.
        'fields': self.reading.fields,
        'limits': {
          'inputs': limits.inputs,
          'letters': limits.letters,
          'body_bytes': limits.body_bytes,
        },
        'examples': self.examples,
        'answered': {name: self.service.answered[name] for name in models},
      }
    )

  async def answer(self, request: Request) -> Response:
    """Answers to what was asked."""
    try:
      return await self._answer(request)
    except asyncio.CancelledError:
      raise RefusedError('The server was stopped before it could answer.', 503) from None

  async def _answer(self, request: Request) -> Response:
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'application/json':
      raise RefusedError('The Content-Type must be application/json.', 415)
    body = await self._body(request)
    question = messages.read(body, self.reading, self.limits)
    future = asyncio.wrap_future(self.service.submit(question))
    left = asyncio.ensure_future(_left(request))
    either: set[asyncio.Future[Any]] = {future, left}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not future.done():
      future.cancel()  # What has not begun need not.
      return Response()  # Which nobody reads.
    left.cancel()
    return reply(future.result())

  async def _body(self, request: Request) -> bytes:
    """The whole body, if it is not too long and does not take too long."""
    most, parts, size = self.limits.body_bytes, [], 0
    try:
      async with asyncio.timeout(self.limits.body_seconds):
        async for part in request.stream():
          parts.append(part)
          size += len(part)
          if size > most:
            raise RefusedError(f'The body is longer than the {most} bytes that are allowed.', 413)
    except TimeoutError:
      seconds = self.limits.body_seconds
      raise RefusedError(f'The body did not arrive within {seconds:g} s.', 408) from None
    except ClientDisconnect:
      raise RefusedError('The body ended early.') from None
    return b''.join(parts)


async def _left(request: Request) -> None:
  """Returns when who has asked is gone."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


def _file(name: str) -> Any:
  text = importlib.resources.files('elang').joinpath('page', name).read_text(encoding='utf-8')
  if name == 'page.css':
    text = page.colours() + text

  async def send(request: Request) -> Response:
    del request
    return Response(text, media_type=FILES[name])

  return send


async def _refused(request: Request, error: Exception) -> Response:
  del request
  assert isinstance(error, RefusedError)
  return refusal(str(error), error.status)


async def _no_route(request: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  path, method = storage.shown(request.url.path), storage.shortened(request.method)
  what = {404: f'There is no {path}.', 405: f'{path} does not take {method}.'}
  said = refusal(what.get(error.status_code, 'This cannot be asked.'), error.status_code)
  said.headers.update(error.headers or {})
  return said
