"""Decodes lines, JSON Lines or a split of a task to JSON Lines, as they are done."""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tqdm

from calm.decoding import journal
from calm.decoding.items import STANDARD_INPUT, Item, Reader, of_examples
from calm.decoding.text_decoder import RESULTS, TextDecoder

STANDARD_OUTPUT = '-'


def decode(
  *,
  decoder,
  params,
  inputs_length: int,
  input_path: str | None = None,
  output_path: str = STANDARD_OUTPUT,
  task=None,
  split: str | None = None,
  vocabulary=None,
  batch_size: int = 32,
  truncate: bool = False,
  seed: int = 0,
  inputs_template: str = '{inputs}',
  input_format: str | None = None,
  overwrite: bool = False,
) -> int:
  """Decodes a file, standard input or a split; returns the number of inputs.

  Writes a JSON object for each input, in their order: `index` from 0, `inputs` as the model reads
  them, `prediction`, `num_tokens` generated, EOS among them, `layers_per_token`, and `log_prob`
  in nats; `sampling_log_prob` too if tokens are drawn. A record of JSON Lines keeps its own
  fields, except those named like a result. With several samples per input there is `predictions`
  in place of `prediction`, and all results are lists.

  The output is written batch by batch. The same call again goes on after the last whole line, and
  ends with the file of a run that was never interrupted.

  Args:
    decoder: a `calm.decoding.decoder.Decoder`.
    params: the parameters of its model.
    inputs_length: tokens of an input at most, EOS among them.
    input_path: a file of plain lines, or of records if it ends in .jsonl, .json or .tsv, gzip or
      not; '-' is standard input. None or '' decodes `split` of `task`.
    output_path: a file; '-' is standard output, where nothing is continued.
    task: a `seqio.Task`, needed for a split.
    split: its split.
    vocabulary: a seqio vocabulary; the task's if None.
    batch_size: inputs decoded at once.
    truncate: cut longer inputs instead of raising an error.
    seed: of the draws; those of an input depend on it and the input's index alone.
    inputs_template: what the model reads, as in 'translate English to French: {en}'. A plain line
      fills its only field.
    input_format: 'lines' or 'jsonl', whatever the path ends in.
    overwrite: start anew, even if there is an output.

  Raises:
    FileNotFoundError: there is no such input.
    FileExistsError: the output was not made here, or with other settings.
    ValueError: settings do not fit together, or an input cannot be read or is too long; the
      message names file and line.
  """
  if vocabulary is None:
    if task is None:
      raise ValueError('No vocabulary: set VOCABULARY, or give a task.')
    vocabulary = task.output_features['inputs'].vocabulary
  text_decoder = TextDecoder(decoder, params, vocabulary, inputs_length, batch_size, truncate, seed)
  if input_path:
    settings: dict[str, Any] = {'inputs_template': inputs_template, 'input_format': input_format}
    items: Any = Reader(input_path, text_decoder.tokenize, inputs_template, input_format)
    total = _count(items)
  else:
    settings = {'task': task and task.name, 'split': split}
    items = _examples(task, split, text_decoder)
    total = len(items)
  if output_path == STANDARD_OUTPUT:
    with journal.Standard() as standard:
      return run(items, text_decoder, standard, total)
  _check_output(input_path, output_path)
  settings |= text_decoder.settings
  start = time.perf_counter()
  with journal.Journal(output_path, settings, overwrite=overwrite) as output:
    number = run(items, text_decoder, output, total)
  before = f', {output.count} of them earlier' if output.count else ''
  seconds = time.perf_counter() - start
  print(f'{output_path}: {number} inputs{before}, {seconds:.1f} s.', file=sys.stderr)
  return number


def run(
  items: Iterable[Item],
  text_decoder: TextDecoder,
  output: journal.Standard | journal.Journal,
  total: int | None = None,
) -> int:
  """Decodes all items that `output` does not hold yet; returns how many items there are.

  Batches begin at multiples of batch_size, also when continued: a row's neighbours, and with them
  the last bits of its numbers, are always the same. The bar appears on terminals only.

  Raises:
    ValueError: `output` holds results of other inputs.
  """
  number = 0
  with tqdm.tqdm(
    desc='Decoding',
    total=total,
    unit='input',
    file=sys.stderr,
    disable=not sys.stderr.isatty(),
  ) as bar:
    for batch in _batches(items, text_decoder.batch_size):
      heads = [_without_results(item.head) for item in batch]
      output.check(number, heads)
      if number + len(batch) > output.count:
        results = text_decoder(batch)
        lines = [head | result for head, result in zip(heads, results, strict=True)]
        output.add(number, lines)
      number += len(batch)
      bar.update(len(batch))
  output.check_end(number)
  return number


def _examples(task, split, text_decoder):
  if task is None or not split:
    raise ValueError(
      "Nothing to decode: set --input (DECODE_INPUT) to a file, or to '-' for standard input, or"
      ' give a task and a split.'
    )
  from calm.tasks.batches import evaluation_examples

  examples = evaluation_examples(
    task, split, inputs_length=text_decoder.inputs_length, truncate=text_decoder.truncate
  )
  return of_examples(examples)


def _count(reader):
  """Reads a file through: a bad line shows before hours of work, and the bar knows its end."""
  return sum(1 for _ in reader) if reader.rereadable else None


def _check_output(input_path, output_path):
  if input_path in (None, '', STANDARD_INPUT) or not Path(output_path).exists():
    return
  if Path(input_path).exists() and Path(input_path).samefile(output_path):
    raise ValueError(f'{output_path} is the input itself: choose another output.')


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
  iterator = iter(items)
  while batch := list(itertools.islice(iterator, size)):
    yield batch


def _without_results(head):
  return {key: value for key, value in head.items() if key not in RESULTS}
