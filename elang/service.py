"""A router that many ask at a time: one thread runs the models, for one request after the other."""

import collections
import concurrent.futures
import dataclasses
import queue
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calm import errors, storage
from calm.evaluation.predictor import Row
from calm.tasks.examples import Example
from elang import messages
from elang.endpoint import EndpointError
from elang.messages import Question, RefusedError
from elang.remembered import Remembered
from elang.routing import Router


class Service:
  """Answers questions, in the order in which they come.

  Its models remember their latest inputs, so that a moved threshold runs them for nothing that they
  said already, and measure their seconds.
  """

  def __init__(self, router: Router, *, waiting: int = 16, remembered: int = 1024):
    models = [Remembered(model, remembered) for model in router.models]
    self.router = dataclasses.replace(router, models=models)
    self.answered: collections.Counter[str] = collections.Counter()  # By model, since the start.
    self._queue: queue.Queue = queue.Queue(waiting)
    # Not waited for at the end of the process: whoever stops it has waited, or is in a hurry.
    threading.Thread(target=self._work, name='models', daemon=True).start()

  def submit(self, question: Question) -> concurrent.futures.Future[dict[str, Any]]:
    """What will be said, as `messages.answer` or `messages.answers` has it.

    The future raises a RefusedError if a model cannot read an input (400), did not reply (503), or
    failed (500).

    Raises:
      RefusedError: too many others are waiting (503).
    """
    future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
    try:
      self._queue.put_nowait((future, question))
    except queue.Full:
      raise RefusedError('Too many requests are waiting: try again in a while.', 503) from None
    return future

  @property
  def waiting(self) -> int:
    """How many questions wait for their turn."""
    return self._queue.qsize()

  def _work(self) -> None:
    while True:
      future, question = self._queue.get()
      if not future.set_running_or_notify_cancel():
        continue  # Nobody waits for it any more.
      try:
        future.set_result(self._answer(question))
      except RefusedError as error:
        future.set_exception(error)
      except BaseException as error:  # Whatever is in the boxes, the next request is answered.
        future.set_exception(_failed(error))

  def _answer(self, question: Question) -> dict[str, Any]:
    router = question.of(self.router)
    try:
      router.check(question.examples)
    except ValueError as error:
      raise RefusedError(_in_words(error)) from None
    rows = self._rows(router, question.examples)
    self.answered.update(row['model'] for row in rows)
    return messages.answer(rows[0], router) if question.single else messages.answers(rows, router)

  def _rows(self, router: Router, examples: Sequence[Example]) -> list[Row]:
    try:
      return router(examples)
    except EndpointError as error:
      said = _in_words(error)
      storage.warn(said)
      raise RefusedError(said, 503) from None


def _failed(error: BaseException) -> RefusedError:
  said = _in_words(error)  # Without what gin adds about its calls.
  if not said or not str(error).startswith(said) or not isinstance(error, Exception):
    frames = traceback.extract_tb(error.__traceback__)
    place = f' ({Path(frames[-1].filename).name}, line {frames[-1].lineno})' if frames else ''
    said = f'A model failed, and did not say why{place}.'
  storage.warn(said)
  return RefusedError(said, 500)


def _in_words(error: BaseException) -> str:
  return errors.in_words(error, lambda name, value: None)
