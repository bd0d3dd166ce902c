"""Lines of text and records of JSON Lines, each with the name of where it stands."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO


def text_lines(file: BinaryIO | gzip.GzipFile, name: str) -> Iterator[tuple[str, str]]:
  """Yields ('name:line', text) of every line of a binary file, blank ones too, as they arrive.

  Raises:
    ValueError: a line is not UTF-8, or the gzip file is damaged; the message names the line.
  """
  number = 0
  try:
    for number, line in enumerate(file, 1):
      decoded = line.decode('utf-8-sig' if number == 1 else 'utf-8')
      yield f'{name}:{number}', decoded.rstrip('\r\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'{name}:{number}: not UTF-8: {error}.') from None
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise ValueError(f'{name}:{number + 1}: the gzip file is damaged: {error}.') from None


def json_records(
  lines: Iterable[tuple[str, str]], example: str
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where, record) of lines of JSON; blank ones are skipped.

  Raises:
    ValueError: a line does not parse, or is no object, as in `example`; the message names it.
  """
  for where, line in lines:
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{where}: not JSON: {error}.') from None
    if not isinstance(record, dict):
      raise ValueError(f'{where}: a JSON object is needed, as in {example}.')
    yield where, record
