"""The rows that models of E-LANG's experiments are asked, and what they say of them, on disk."""

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from elang_pairs import SETS, Said
from experiments import TASKS, find_file, tokenizer_in

from calm import storage
from calm.tasks import examples, labelled
from calm.tasks.examples import Example
from elang import cost
from sweet import data
from sweet.predictor import ExitsPredictor

HELD_OUT = 500  # training rows whose scores make thresholds
SCORED_TEST = ('mrpc',)  # whose test split has labels
OUTPUTS = 'outputs.npz'


@functools.cache
def rows_of(folder: str, name: str, directory: str) -> data.Rows:
  """A task's rows, in a folder of GLUE's tasks, as the tokenizer of a checkpoint reads them.

  Raises:
    FileNotFoundError: a split has no file.
  """
  task, splits = TASKS[name], ['train', 'validation']
  if name in SCORED_TEST:
    splits.append('test')
  files = {'validation': task.validation}
  paths = {one: find_file(Path(folder, task.folder), files.get(one, one)) for one in splits}
  made = labelled.from_files(task.form, **paths, metrics=task.metrics, name=task.folder)
  return data.Rows(made, tokenizer_in(directory))


@functools.lru_cache(maxsize=1)
def _examples(rows: data.Rows) -> dict[str, list[Example]]:
  return {split: examples.evaluation_examples(rows.task, split) for split in rows.task.splits}


def sets_of(
  rows: data.Rows, *, num_examples: int, num_calibration: int, seed: int
) -> dict[str, list[Example]]:
  """The rows that a model is asked, by the names of `elang_pairs.SETS`: the same for all of a seed.

  Scored is the test split, if the task has one, and the validation split calibrates; else the
  validation split is scored, and training rows calibrate that the seed has not drawn.

  Raises:
    ValueError: there are too few of those.
  """
  found = _examples(rows)
  known = found['train']
  drawn = data.draw(len(known), num_examples=num_examples, num_held_out=HELD_OUT, seed=seed)
  path = [known[i] for i in drawn.held_out]
  if 'test' in found:
    scored, calibrated = found['test'], found['validation']
    return {'evaluation': scored, 'calibration': calibrated, 'trial': scored, 'path': path}
  seen = np.concatenate([drawn.trained, drawn.held_out])
  unused = np.setdiff1d(np.arange(len(known)), seen)
  if len(unused) <= num_calibration:
    raise ValueError(
      f'{rows.task.name} has {len(unused)} training rows that are not trained on, and more than'
      f' {num_calibration} are needed: lower --num_examples or --num_calibration.'
    )
  order = np.random.default_rng(seed).permutation(unused)[: 2 * num_calibration]
  unseen = [known[i] for i in order]
  return {
    'evaluation': found['validation'],
    'calibration': unseen[:num_calibration],
    'trial': unseen[num_calibration:],
    'path': path,
  }


def ask(trained: ExitsPredictor, rows: Sequence[Example]) -> Said:
  """What a model says of rows."""
  answers = trained.with_evidence(rows)
  price, labels = cost.flops_of(trained), trained.labels.labels
  return Said(
    np.array([row['logits'] for row in answers], np.float32),
    np.array([labels.index(one.target) for one in rows]),
    np.array([price(one, row) for one, row in zip(rows, answers, strict=True)], np.float64),
    np.array([len(' '.join(one.texts.values()).split()) for one in rows]),
  )


def write(folder: Path, said: Mapping[str, Said]) -> None:
  """Keeps what a model has said of all sets in a run's folder, whole or not at all."""
  arrays = {
    f'{name}/{field}': value
    for name, one in said.items()
    for field, value in dataclasses.asdict(one).items()
  }
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  folder.mkdir(parents=True, exist_ok=True)
  storage.write_bytes(folder / OUTPUTS, file.getvalue())


def read(folder: Path) -> dict[str, Said]:
  """What `write` has kept.

  Raises:
    FileNotFoundError: nothing was.
  """
  fields = [field.name for field in dataclasses.fields(Said)]
  with np.load(folder / OUTPUTS, allow_pickle=False) as kept:
    return {name: Said(**{field: kept[f'{name}/{field}'] for field in fields}) for name in SETS}
