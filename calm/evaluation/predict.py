"""Predicts lines, JSON Lines or a split of a task to JSON Lines, as they are done."""

import itertools
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal

import seqio
import tqdm

from calm import storage
from calm.calibration import bounds, testing
from calm.evaluation import certified, journal
from calm.evaluation.inputs import STANDARD_INPUT, Reader
from calm.evaluation.predictor import Predictor, Row
from calm.evaluation.split import head, read_split
from calm.tasks.classification import Form
from calm.tasks.examples import Example

STANDARD_OUTPUT = '-'
Pairs = Iterable[tuple[Row, Example]]


def predict(
  *,
  predictor: Predictor,
  input_path: str | None = None,
  output_path: str = STANDARD_OUTPUT,
  task: seqio.Task | None = None,
  split: str | None = None,
  inputs_template: str = '{inputs}',
  form: Form | None = None,
  input_format: Literal['lines', 'jsonl', 'tsv', 'csv'] | None = None,
  prefix_template: str | None = None,
  overwrite: bool = False,
  certificate: str | None = None,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
) -> int:
  """Predicts a file, standard input or a split; returns the number of inputs.

  Writes a JSON object for each input, in their order: `index` from 0, `inputs` (or the fields of a
  `form`) as the predictor reads them, and what it says of them, `prediction`, `units` (tokens
  generated, EOS among them, or 1) and `costs` (each in total) among it. A record of JSON Lines
  keeps its own fields, except those named like a result. In a file each line ends with its
  checksum.

  The output is written batch by batch. The same call again goes on after the last whole line, and
  ends with the file of a run that was never interrupted.

  Args:
    predictor: answers.
    input_path: a file of plain lines, or of records if it ends in .jsonl, .json or .tsv, gzip or
      not; '-' is standard input. None or '' predicts `split` of `task`.
    output_path: a file; '-' is standard output, where nothing is continued.
    task: a `seqio.Task`, needed for a split and for a certificate.
    split: its split.
    inputs_template: what is read, as in 'translate English to French: {en}'. A plain line fills its
      only field.
    form: of what a classifier reads, whose fields are read instead of the template.
    input_format: 'lines', 'jsonl', 'tsv' or 'csv', whatever the path ends in.
    prefix_template: what each prediction begins with, as 'Le ' or '{begin}'; the rest is predicted.
    overwrite: start anew, even if there is an output.
    certificate: path of what a calibration wrote; its threshold is used.
    p_value: the bound of the certificate, if it is one of the user's.
    procedure: likewise.

  Raises:
    FileNotFoundError: there is no such input.
    FileExistsError: the output was not made here, or with other settings.
    storage.BusyError: another process writes the output.
    ValueError: settings do not fit together, or an input cannot be read or is too long; the
      message names file and line; or the certificate holds for another system or task.
  """
  if certificate:
    predictor = certified.at_certificate(
      predictor, certificate, task, p_value=p_value, procedure=procedure
    )
  if prefix_template and not (input_path and getattr(predictor, 'takes_prefix', False)):
    what = f'{predictor.name} continues no text' if input_path else 'it is for a file of inputs'
    raise ValueError(f'DECODE_PREFIX (--prefix) has no effect here: {what}.')
  if input_path:
    settings: Row = {'input_format': input_format}
    if form is None:  # A form is part of who reads it.
      settings['inputs_template'] = inputs_template
    if prefix_template:
      settings['prefix_template'] = prefix_template
    reader = Reader(input_path, inputs_template, input_format, prefix_template, form)
    pairs: Pairs = reader
    total = _check_all(reader, predictor) if reader.rereadable else None
    if total is None:
      pairs = _checked(reader, predictor)
  else:
    settings = {'task': task and task.name, 'split': split}
    pairs = _of_split(task, split)
    predictor.check([example for _, example in pairs])
    total = len(pairs)
  if output_path == STANDARD_OUTPUT:
    with journal.Standard() as standard:
      return run(pairs, predictor, standard, total)
  _check_output(input_path, output_path)
  settings |= {**predictor.identity, 'results': predictor.results}
  start = time.perf_counter()
  with journal.Journal(output_path, settings, overwrite=overwrite) as output:
    number = run(pairs, predictor, output, total)
  before = f', {output.count} of them earlier' if output.count else ''
  seconds = time.perf_counter() - start
  storage.warn(f'{output_path}: {number} inputs{before}, {seconds:.1f} s.')
  return number


def run(
  pairs: Pairs,
  predictor: Predictor,
  output: journal.Standard | journal.Journal,
  total: int | None = None,
  *,
  partial: bool = False,
) -> int:
  """Predicts what `output` does not hold yet; returns how many inputs there are.

  Batches begin at multiples of batch_size, also when continued: a row's neighbours, and with them
  the last bits of its numbers, are the same as without a break. The bar appears on terminals only.

  Args:
    pairs: what each line begins with, and the example.
    predictor: answers.
    output: gets the lines.
    total: how many there are, if that is known.
    partial: `output` may hold more.

  Raises:
    journal.OtherInputsError: `output` holds results of other inputs.
  """
  number = 0
  with tqdm.tqdm(
    desc='Predicting',
    total=total,
    unit='input',
    file=sys.stderr,
    disable=not sys.stderr.isatty(),
  ) as bar:
    for batch in _batches(pairs, predictor.batch_size):
      heads = [_without_results(own, predictor.results) for own, _ in batch]
      if output.lacks(number, heads):
        rows = predictor([example for _, example in batch])
        output.add(number, [own | row for own, row in zip(heads, rows, strict=True)])
      number += len(batch)
      bar.update(len(batch))
  output.end(number, partial=partial)
  return number


def _of_split(task: seqio.Task | None, split: str | None) -> list[tuple[Row, Example]]:
  if task is None or not split:
    raise ValueError(
      "Nothing to predict: set --input to a file, or to '-' for standard input, or give a task and"
      ' a split.'
    )
  return [(head(example), example) for example in read_split(task, split).examples]


def _check_all(reader: Reader, predictor: Predictor) -> int:
  """Reads a file through: a bad line shows before hours of work, and the bar knows its end."""
  count = 0

  def counted() -> Iterator[Example]:
    nonlocal count
    for _, example in reader:
      count += 1
      yield example

  predictor.check(counted())
  return count


def _checked(reader: Reader, predictor: Predictor) -> Pairs:
  """Inputs that cannot be read twice, each looked at as it comes."""
  for own, example in reader:
    predictor.check([example])
    yield own, example


def _check_output(input_path: str | None, output_path: str) -> None:
  if input_path in (None, '', STANDARD_INPUT) or not Path(output_path).exists():
    return
  if Path(input_path).exists() and Path(input_path).samefile(output_path):
    raise ValueError(f'{output_path} is the input itself: choose another output.')


def _batches(pairs: Pairs, size: int) -> Iterator[list[tuple[Row, Example]]]:
  iterator = iter(pairs)
  while batch := list(itertools.islice(iterator, size)):
    yield batch


def _without_results(own: Row, results: Collection[str]) -> Row:
  # The checksum is the journal's.
  return {key: value for key, value in own.items() if key not in (*results, storage.CHECKSUM)}
