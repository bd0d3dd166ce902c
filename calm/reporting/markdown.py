"""Tables in Markdown."""

import os
from collections.abc import Mapping, Sequence
from typing import Any


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows as a table in Markdown, means with their deviation or interval (`_std`)."""
  names = [name for name in dict.fromkeys(n for row in rows for n in row) if name[-4:] != '_std']
  texts = (str, os.PathLike)
  textual = {name for name in names if any(isinstance(row.get(name), texts) for row in rows)}
  lines = [names, ['---' if name in textual else '---:' for name in names]]
  lines += [[_cell(row, name) for name in names] for row in rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
  value, deviation = row.get(name), row.get(f'{name}_std')
  if value is None:
    return ''
  if isinstance(value, os.PathLike):
    return f'`{os.fspath(value)}`'
  if not isinstance(value, float):
    return str(value).replace('_', ' ').replace('|', '\\|')
  return f'{value:.2f}' + ('' if deviation is None else f' ± {deviation:.2f}')
