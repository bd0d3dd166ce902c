"""A router as a small web application: a page with a knob, and JSON for scripts."""

import contextlib
import dataclasses
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, cast

import seqio

from calm import storage
from calm.calibration import bounds, testing
from calm.evaluation import certified
from calm.settings import Count, Positive, Range
from calm.tasks.classification import Form
from elang.messages import Limits, Reading
from elang.routing import Router
from elang.service import Service

MISSING = (
  'A router is served with starlette and uvicorn: install them, as in'
  ' `pip install starlette uvicorn`.'
)
LOOPBACK = ('localhost', '127.0.0.1', '[::1]')
Port = Annotated[int, Range(0, 65535)]


def serve(
  *,
  router: Router,
  host: str = '127.0.0.1',
  port: Port = 8080,
  host_names: Sequence[str] = (),
  inputs_template: str = '{inputs}',
  form: Form | None = None,
  input_path: str | None = None,
  input_format: Literal['lines', 'jsonl', 'tsv', 'csv'] | None = None,
  max_inputs: Count = 64,
  max_letters: Count = 10_000,
  max_body_bytes: Count = 1 << 20,
  max_body_seconds: Positive = 30.0,
  max_waiting: Count = 16,
  remembered: Count = 1024,
  task: seqio.Task | None = None,
  certificate: str | None = None,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
) -> None:
  """Answers over HTTP until Ctrl-C or SIGTERM; requests in flight are answered first.

  A page lets people type or pick inputs and move the threshold; `elang.application` says what
  scripts can ask. Models are run by one thread, for one request after the other, and remember their
  latest inputs. A second signal waits for nothing.

  Args:
    router: answers; its threshold is where the knob begins, and that of requests that say none.
    host: the address to listen at; others than those of this machine itself let everybody in who
      can reach them, without a password.
    port: of it; 0 takes any that is free.
    host_names: names, beside `host` and addresses in digits, by which it is called from elsewhere.
    inputs_template: what is read, as in 'translate English to French: {en}', with plain fields.
    form: of what a classifier reads, whose fields are read instead of the template.
    input_path: a file of inputs to pick from, lines or records.
    input_format: 'lines', 'jsonl', 'tsv' or 'csv', whatever the path ends in.
    max_inputs: of one request, and on the page.
    max_letters: of one input, its fields together.
    max_body_bytes: of one request.
    max_body_seconds: that a request's body may take to arrive.
    max_waiting: requests that wait for the models; to others the server is busy.
    remembered: inputs of which each model remembers what it said.
    task: a `seqio.Task`, for the certificate.
    certificate: path of what a calibration wrote; its threshold is where the knob begins.
    p_value: the bound of the certificate, if it is one of the user's.
    procedure: likewise.

  Raises:
    FileNotFoundError: there is no such file.
    OSError: the address cannot be listened at; says why.
    RuntimeError: starlette or uvicorn is not installed.
    ValueError: the template cannot be typed, a file's input is too long, or the certificate holds
      for another router.
  """
  make = _maker()
  if certificate:
    found = certified.at_certificate(
      router, certificate, task, p_value=p_value, procedure=procedure
    )
    router = cast(Router, found)
  limits = Limits(max_inputs, max_letters, max_body_bytes, max_body_seconds)
  reading = Reading(inputs_template, form)
  examples = reading.records(input_path, input_format, limits) if input_path else []
  service = Service(router, waiting=max_waiting, remembered=max(remembered, max_inputs))
  with listening(host, port) as listener:
    local = _is_local(listener)
    hosts = (*LOOPBACK, f'[{host}]' if ':' in host else host, *host_names)
    application = make(
      service, reading, limits, hosts=hosts, any_address=not local, examples=examples
    )
    with running(application, listener) as server, _stopped_by_signals(server):
      _announce(router, listener)
      server.wait()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
  """A socket at an address.

  Raises:
    OSError: there is none to be had; says why.
  """
  try:
    family, *_, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.create_server(address[:2], family=family)
  except OSError as error:
    unknown = isinstance(error, socket.gaierror)
    why = 'there is no such address here' if unknown else os.strerror(error.errno or 0)
    raise OSError(
      f'Port {port} of {host} cannot be listened at: {why}. Choose another --port (0 takes any that'
      ' is free) or --host.'
    ) from None
  with listener:
    yield listener


@dataclasses.dataclass
class Running:
  """A server at work in a thread of its own."""

  server: Any  # uvicorn.Server
  thread: threading.Thread

  def stop(self) -> None:
    """Lets it finish what is in flight, and end; asked again, it ends at once."""
    self.server.force_exit = self.server.should_exit
    self.server.should_exit = True

  def wait(self) -> None:
    """Returns when it has ended, or is to end at once."""
    while self.thread.is_alive() and not self.server.force_exit:
      self.thread.join(0.5)


@contextlib.contextmanager
def running(application: Any, listener: socket.socket) -> Iterator[Running]:
  """Serves an ASGI application while the block runs; then finishes what is in flight."""
  import uvicorn

  config = uvicorn.Config(
    application,
    loop='asyncio',
    http='h11',
    ws='none',
    lifespan='off',
    log_config=None,
    access_log=False,
    proxy_headers=False,
    server_header=False,
    limit_concurrency=256,
  )
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, args=([listener],), name='http', daemon=True)
  thread.start()
  one = Running(server, thread)
  try:
    yield one
  finally:
    if not server.should_exit:
      one.stop()
    thread.join(5 if server.force_exit else None)


@contextlib.contextmanager
def _stopped_by_signals(server: Running) -> Iterator[None]:
  def stop(number: int, frame: Any) -> None:
    del number, frame
    server.stop()
    if not server.server.force_exit:
      storage.warn('Stopping: what was asked is answered first. The same again stops at once.')

  before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for one, handler in before.items():
      signal.signal(one, handler)


def _maker() -> Any:
  """`elang.application.make`, whose libraries are an extra."""
  try:
    import uvicorn  # noqa: F401

    from elang import application
  except ModuleNotFoundError as error:
    if error.name in ('starlette', 'uvicorn'):
      raise RuntimeError(MISSING) from None
    raise
  return application.make


def _is_local(listener: socket.socket) -> bool:
  return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _announce(router: Router, listener: socket.socket) -> None:
  address, port = listener.getsockname()[:2]
  if not _is_local(listener):
    storage.warn(f'Whoever can reach {address} can ask these models: there is no password.')
  shown = f'[{address}]' if ':' in address else address
  print(f'Serving {router.name} at http://{shown}:{port}/ (Ctrl-C stops it).', flush=True)
