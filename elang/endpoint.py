"""A model behind an OpenAI-style HTTP endpoint, at an address that its user names.

POST <address>/chat/completions with a message per text, as vLLM, llama.cpp, Ollama and others
serve it. Nothing is sent anywhere else: redirects are not followed, and proxies not asked.
"""

import concurrent.futures
import dataclasses
import http.client
import json
import math
import os
import ssl
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from calm import storage
from calm.evaluation.predictor import Identity, Row
from calm.settings import Count, Positive
from calm.tasks.examples import Example
from calm.tasks.templates import FieldError, Template
from elang.black_box import mean_log_prob
from elang.model import Asked, Priced, answered, check_version

LARGEST_REPLY = 16 << 20  # bytes


class EndpointError(ValueError):
  """An endpoint did not answer, or with something that is no answer; says what to look at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint(Priced):
  """A served model: one request per text, several at a time.

  Its score is the mean log-probability of the answer's tokens, if the endpoint gives those
  (`logprobs`). What it serves is known to its user alone: `version` stands for it.

  Raises:
    ValueError: the address is none, or there is no version, or a number is out of range.
  """

  address: str  # As in 'http://127.0.0.1:8000/v1'.
  model: str  # The name that the endpoint knows it by.
  template: str = '{inputs}'  # The message, of the example's texts.
  max_tokens: Count = 256
  seconds: Positive = 60.0  # That one answer may take.
  attempts: Count = 2  # Where there is no reply, or the endpoint is busy.
  at_once: Count = 4
  key_variable: str = ''  # The environment variable that holds the key, if one is needed.

  def __post_init__(self) -> None:
    super().__post_init__()
    check_version(self)
    parts = urllib.parse.urlsplit(self.address)
    if parts.scheme not in ('http', 'https') or not parts.hostname or parts.query:
      raise ValueError(
        f'{self.name}: address is {self.address!r}, and must be like http://127.0.0.1:8000/v1.'
      )
    for field in ('max_tokens', 'seconds', 'attempts', 'at_once'):
      if not getattr(self, field) > 0:
        raise ValueError(f'{self.name}: {field} must be above 0, not {getattr(self, field)}.')
    _ = Template(self.template)

  @property
  def identity(self) -> Identity:
    """Model, version, message and length; neither the address nor the key changes an answer."""
    names = ('model', 'version', 'template', 'max_tokens')
    return {name: getattr(self, name) for name in names}

  def check(self, examples: Sequence[Example]) -> None:
    """Raises a ValueError that names the first example that does not fill the template."""
    for example in examples:
      self._message(example)

  def answer(self, examples: Sequence[Example]) -> list[Row]:
    """A row for each example: `prediction`, and `log_prob` and `units` if there are log-probs.

    Raises:
      EndpointError: there was no answer in time, or it is none.
    """
    return self._rows(examples, scored=False)

  def ask(self, examples: Sequence[Example]) -> Asked:
    """Answers all; the answers wait.

    Raises:
      EndpointError: as `answer`, or there are no log-probabilities.
    """
    rows = self._rows(examples, scored=True)
    return answered([mean_log_prob(row) for row in rows], rows)

  def _rows(self, examples: Sequence[Example], scored: bool) -> list[Row]:
    key = self._key()
    with concurrent.futures.ThreadPoolExecutor(self.at_once) as pool:
      return list(pool.map(lambda example: self._row(example, key, scored), examples))

  def _row(self, example: Example, key: str, scored: bool) -> Row:
    request = {
      'model': self.model,
      'messages': [{'role': 'user', 'content': self._message(example)}],
      'max_tokens': self.max_tokens,
      'temperature': 0,
      **({'logprobs': True} if scored else {}),
    }
    reply = self._request(json.dumps(request).encode(), key)
    return self._read(reply, example, scored)

  def _message(self, example: Example) -> str:
    try:
      return Template(self.template).fill(example.texts, {})
    except FieldError as error:
      raise ValueError(f'{example.where}: {error}') from None

  def _key(self) -> str:
    if not self.key_variable:
      return ''
    key = os.environ.get(self.key_variable, '')
    if not key:
      raise ValueError(f'{self.name}: the environment variable {self.key_variable} is not set.')
    return key

  def _request(self, body: bytes, key: str) -> bytes:
    """The reply's body; asked again where another attempt may help."""
    for left in reversed(range(self.attempts)):
      try:
        status, reply = self._post(body, key)
      except TimeoutError:
        problem = f'no answer within {self.seconds:g} s: allow more (seconds)'
      except ssl.SSLError:
        raise self._error('its certificate or protocol is not accepted') from None
      except (OSError, http.client.HTTPException):
        problem = 'no connection, as if nothing ran there'
      else:
        if status == 200:
          return reply
        problem = f'status {status}, {storage.shortened(_explained(reply))}'
        if status < 500 and status != 429:
          raise self._error(problem)
      if not left:
        raise self._error(problem)
    raise AssertionError('The last attempt returns or raises.')

  def _post(self, body: bytes, key: str) -> tuple[int, bytes]:
    parts = urllib.parse.urlsplit(self.address)
    kind = http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
    connection = kind(parts.hostname or '', parts.port, timeout=self.seconds)
    headers = {'Content-Type': 'application/json'}
    if key:
      headers['Authorization'] = f'Bearer {key}'
    try:
      connection.request('POST', f'{parts.path.rstrip("/")}/chat/completions', body, headers)
      response = connection.getresponse()
      reply = self._within_limits(response, time.monotonic() + self.seconds)
    finally:
      connection.close()
    return response.status, reply

  def _within_limits(self, response: http.client.HTTPResponse, end: float) -> bytes:
    """The whole reply, however slowly it drips."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
      parts.append(part)
      size += len(part)
      if size > LARGEST_REPLY:
        raise self._error(f'a reply of more than {LARGEST_REPLY >> 20} MiB')
      if time.monotonic() > end:
        raise TimeoutError
    return b''.join(parts)

  def _read(self, reply: bytes, example: Example, scored: bool) -> Row:
    try:
      choice = json.loads(reply)['choices'][0]
      text = choice['message']['content'] or ''
      found = _log_probs(choice) if scored else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
      raise self._error(
        f'{example.where}: the reply is no chat completion: {storage.shortened(_explained(reply))}'
      ) from None
    if not isinstance(text, str):
      raise self._error(f'{example.where}: the answer is {type(text).__name__}, not a text')
    if not scored:
      return {'prediction': text}
    if found is None:
      raise self._error(
        'it gives no logprobs, which a model before the last is scored by: put it last, or choose'
        ' another score'
      )
    return {'prediction': text, 'log_prob': math.fsum(found), 'units': len(found)}

  def _error(self, what: str) -> EndpointError:
    return EndpointError(f'{self.name} at {self.address}: {what}.')


def _log_probs(choice: Any) -> list[float] | None:
  """The log-probabilities of a choice's tokens; None if it has none."""
  if not choice.get('logprobs') or choice['logprobs'].get('content') is None:
    return None
  return [float(token['logprob']) for token in choice['logprobs']['content']]


def _explained(reply: bytes) -> str:
  """What a reply says of what went wrong."""
  text = reply[:2000].decode('utf-8', 'replace').strip() or 'nothing said'
  try:
    error = json.loads(reply)['error']
    return str(error['message'] if isinstance(error, dict) else error)
  except (ValueError, KeyError, TypeError):
    return text
