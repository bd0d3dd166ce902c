"""Damages files of data at random, and looks at what reading them says.

  python scripts/check_data_damages.py --number 3000 --seed 0

Each trial writes a small file (JSON Lines, tab- or comma-separated, plain lines to decode; gzip or
not), damages it in one way, and reads it as training and decoding do. Either every line that is
there is read, as a strict reader of the same form would, or there is an error that names the file,
and the line where there is one, in our words, in few characters, within LIMIT seconds. Prints how
many ended how, by kind of damage, and exits with 1 if any did not.
"""

import argparse
import collections
import csv
import gzip
import io
import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from calm.evaluation import inputs
from calm.tasks import files, text, vocabularies

LIMIT = 5.0  # seconds
MOST = 2000  # characters of a message
NAMES = ('a.jsonl', 'a.NDJSON', 'a.tsv', 'a.csv', 'a.jsonl.gz', 'a.tsv.gz', 'a.CSV.gz', 'a.txt')
TEXTS = (
  'un',
  'l\u2019\u00e9t\u00e9, demain',
  '\u65e5\u672c \u8a9e',
  '',
  '"quoted"',
  'm\u00b2 \u00bd',
)
# Words of Python and of its libraries, which say nothing to who has a broken file.
PYTHONS_WORDS = re.compile(
  r"codec can't|Expecting|object has no|NoneType|list index|KeyError|Traceback|recursion"
  r'|set_int_max|Error -\d|line contains NUL|unhashable|Exceeds the limit|<class'
)


def records(rng):
  """Some records, with the fields that the templates read and others."""
  return [
    {
      'a': rng.choice(TEXTS),
      'b': rng.choice(TEXTS),
      'label': rng.randrange(2),
      'c': {'d': [rng.choice(TEXTS)]},
    }
    for _ in range(rng.randrange(2, 12))
  ]


def written(name, found):
  """Records as a file of this name holds them, before it is packed."""
  lower = name.lower()
  if 'json' in lower:
    return ''.join(json.dumps(one, ensure_ascii=False) + '\n' for one in found).encode()
  columns = ('a', 'b', 'label')
  rows = [columns, *([str(one[key]) for key in columns] for one in found)]
  if 'csv' in lower:
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerows(rows)
    return out.getvalue().encode()
  if 'tsv' in lower:
    return ''.join('\t'.join(row) + '\n' for row in rows).encode()
  return ''.join(f'{row[0]}\n' for row in rows).encode()


def _at(rng, content):
  return rng.randrange(len(content) + 1)


def _spliced(rng, content, inserted, removed=0):
  at = _at(rng, content)
  return content[:at] + inserted + content[at + removed :]


def _line(rng, content, change):
  lines = content.split(b'\n')
  at = rng.randrange(len(lines))
  return b'\n'.join([*lines[:at], *change(lines[at]), *lines[at + 1 :]])


# Each maps (rng, content) to damaged content, before it is packed.
DAMAGES = {
  'flip a bit': lambda r, c: _spliced(r, c, bytes([r.randrange(256)]), 1),
  'cut a span': lambda r, c: _spliced(r, c, b'', r.randrange(1, 40)),
  'cut the end': lambda r, c: c[: _at(r, c)],
  'random bytes': lambda r, c: _spliced(r, c, r.randbytes(r.randrange(1, 9))),
  'NUL': lambda r, c: _spliced(r, c, b'\0'),
  'a byte order mark': lambda r, c: _spliced(r, c, b'\xef\xbb\xbf'),
  'a newline': lambda r, c: _spliced(r, c, b'\n'),
  'a carriage return': lambda r, c: _spliced(r, c, b'\r'),
  'a tab': lambda r, c: _spliced(r, c, b'\t'),
  'a comma': lambda r, c: _spliced(r, c, b','),
  'a quote': lambda r, c: _spliced(r, c, b'"'),
  'a brace': lambda r, c: _spliced(r, c, r.choice([b'{', b'}', b'[', b']'])),
  'no line': lambda r, c: b'',
  'a line twice': lambda r, c: _line(r, c, lambda line: [line, line]),
  'two lines in one': lambda r, c: c.replace(b'\n', b'', 1),
  'a blank line': lambda r, c: _line(r, c, lambda line: [b'', line]),
  'a long line': lambda r, c: _line(r, c, lambda line: [line, b'x' * 10**6]),
  'a long text': lambda r, c: c.replace(b'un', b'un' * 10**5),
  'a deep line': lambda r, c: _line(r, c, lambda line: [b'[' * 10**5]),
  'a key twice': lambda r, c: c.replace(b'"a": ', b'"a": "", "a": ', 1),
  'a key less': lambda r, c: c.replace(b'"b": ', b'"z": ', 1),
  'NaN': lambda r, c: c.replace(b'"label": 1', b'"label": NaN'),
  'infinity': lambda r, c: c.replace(b'"label": 0', b'"label": -Infinity'),
  'a large number': lambda r, c: c.replace(b'"label": 1', b'"label": 1e999'),
  'a long number': lambda r, c: c.replace(b'1', b'1' * 5000, 1),
  'another label': lambda r, c: re.sub(rb'[01]\}?\n', b'7\n', c, count=1),
  'null': lambda r, c: c.replace(b'"label": 1', b'"label": null'),
  'another type': lambda r, c: re.sub(rb'"a": "[^"]*"', b'"a": {"a": []}', c, count=1),
  'half a pair': lambda r, c: c.replace(b'"un"', b'"\\ud800"', 1),
  'UTF-16': lambda r, c: c.decode().encode('utf-16'),
  'Latin-1': lambda r, c: c.decode().encode('latin-1', 'replace'),
  'quoted by apostrophes': lambda r, c: c.replace(b'"', b"'"),
  'Windows line ends': lambda r, c: c.replace(b'\n', b'\r\n'),
}
# Of a packed file, after packing.
PACKED = {
  'packed: a byte': lambda r, c: _spliced(r, c, bytes([r.randrange(256)]), 1),
  'packed: cut': lambda r, c: c[: _at(r, c)],
  'packed: more behind': lambda r, c: c + r.randbytes(5),
  'packed twice': lambda r, c: gzip.compress(c),
}


def damaged(rng, name):
  """(kind of damage, content before packing or None, content of the file)."""
  content = written(name, records(rng))
  packed = name.endswith('.gz')
  kind = rng.choice([*DAMAGES, *(PACKED if packed else ())])
  if kind in DAMAGES:
    content = DAMAGES[kind](rng, content)
    return kind, content, gzip.compress(content, mtime=0) if packed else content
  return kind, None, PACKED[kind](rng, gzip.compress(content, mtime=0))


def read(path):
  """What training reads of a file of records, and decoding of one of lines, in their order."""
  if path.name == 'a.txt':
    return [head['inputs'] for head, _ in inputs.Reader(str(path))]
  task = files.task(
    train=str(path),
    inputs='{a}: {label}',
    targets='{b}',
    labels={'label': ('no', 'yes')},
    vocabulary=vocabularies.byte_vocabulary(),
  )
  found = [one['inputs_pretokenized'] for one in text.examples(task, 'train')]
  reader = inputs.Reader(str(path), '{a}')
  assert len(found) == sum(1 for _ in reader)
  return found


def rows_in(name, content):
  """How many lines or records a strict reader finds."""
  decoded = content.decode('utf-8-sig')
  lines = [line.rstrip('\r') for line in decoded.split('\n')]
  if name == 'a.txt':
    return len(lines) - (not lines[-1] and not decoded.endswith('\r'))
  if 'csv' in name.lower():
    whole = '\n'.join(lines) + '\n'
    return max(0, sum(1 for row in csv.reader(io.StringIO(whole, newline='')) if row) - 1)
  blank = ' ' if 'tsv' in name.lower() else None
  return max(0, sum(1 for line in lines if line.strip(blank)) - ('tsv' in name.lower()))


def trial(seed, folder):
  """(name, kind of damage, how it ended, what is wrong or '')."""
  rng = random.Random(seed)
  name = rng.choice(NAMES)
  kind, content, file = damaged(rng, name)
  path = Path(folder, name)
  path.write_bytes(file)
  start = time.perf_counter()
  try:
    found = read(path)
  except (ValueError, OSError) as error:
    return name, kind, 'refused', _wrong(str(error), path, time.perf_counter() - start)
  if time.perf_counter() - start > LIMIT:
    return name, kind, 'read', 'it took too long'
  if content is not None and len(found) != rows_in(name, content):
    return name, kind, 'read', f'{len(found)} were read, and {rows_in(name, content)} are there'
  return name, kind, 'read', ''


def _wrong(message, path, seconds):
  if seconds > LIMIT:
    return f'it took {seconds:.1f} s'
  if len(message) > MOST:
    return f'a message of {len(message)} characters'
  if PYTHONS_WORDS.search(message):
    return f"Python's words: {message}"
  return '' if re.match(rf'{re.escape(str(path))}:\d+: ', message) else f'no line: {message}'


def main():
  """Runs the trials; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--number', type=int, default=3000, help='trials')
  parser.add_argument('--seed', type=int, default=0, help='of the first trial')
  args = parser.parse_args()
  ended, wrong, slowest = collections.defaultdict(collections.Counter), [], 0.0
  with tempfile.TemporaryDirectory() as folder:
    for seed in range(args.seed, args.seed + args.number):
      start = time.perf_counter()
      name, kind, end, complaint = trial(seed, folder)
      slowest = max(slowest, time.perf_counter() - start)
      ended[kind][end] += 1
      if complaint:
        wrong.append(f'seed {seed}, {name}, {kind}: {complaint}')
  for kind, counts in ended.items():
    print(f'{kind:24} {counts["refused"]:5} refused {counts["read"]:5} read')
  print(f'{args.number} trials, the slowest {slowest:.2f} s; {len(wrong)} went wrong.')
  print(*wrong[:20], sep='\n')
  return 1 if wrong else 0


if __name__ == '__main__':
  sys.exit(main())
