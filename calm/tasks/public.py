"""Public tasks over TensorFlow Datasets, in T5's text-to-text form, each with its metric.

To add a task, add a row to `TASKS`.
"""

import contextlib
import dataclasses
import logging
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import requests
import seqio
import tensorflow as tf

from calm.tasks import metrics as metric_functions
from calm.tasks import prompts, text
from calm.tasks.classification import Classification, Form, Regression

_LABELLED = {'train': 'train', 'validation': 'validation'}  # GLUE's and SuperGLUE's tests are not.
_ALL = {**_LABELLED, 'test': 'test'}
_RETRIES = 6  # after 0, 0.4, 0.8, 1.6, 3.2 and 6.4 seconds


@dataclasses.dataclass(frozen=True)
class PublicTask:
  """What there is to know of a task."""

  tfds_name: str  # data set, configuration, version
  prompt: prompts.Prompt
  metrics: tuple[Callable, ...]
  splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: _LABELLED)
  postprocess_fn: Callable | None = None
  regression: Regression | None = None  # of a prompt that asks for a number
  in_training: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None  # for split 'train'

  @property
  def labels(self) -> Form | None:
    """What a classifier sees of a record, if it could answer the task."""
    return self.regression or getattr(self.prompt, 'classification', None)


def _glue(
  name: str,
  fields: tuple[str, ...],
  labels: tuple[str, ...],
  *metrics: Callable,
  splits: Mapping[str, str] | None = None,
) -> PublicTask:
  return PublicTask(
    f'glue/{name}:2.*.*',
    prompts.ClassificationPrompt(name, Classification(fields, labels)),
    metrics or (metric_functions.accuracy,),
    splits or _LABELLED,
  )


def _super_glue(
  name: str, fields: tuple[str, ...], labels: tuple[str, ...], *metrics: Callable
) -> PublicTask:
  return PublicTask(
    f'super_glue/{name}:1.*.*',
    prompts.ClassificationPrompt(name, Classification(fields, labels)),
    metrics or (metric_functions.accuracy,),
  )


def _wmt(data: str, source: str, target: str, pair: str) -> PublicTask:
  prompt = prompts.Translation(source, target)
  return PublicTask(f'{data}/{pair}:1.*.*', prompt, (metric_functions.bleu,), _ALL)


_SENTENCES = ('sentence1', 'sentence2')
_ENTAILMENT = ('entailment', 'not_entailment')

TASKS = {
  'wmt15_en_fr': _wmt('wmt15_translate', 'en', 'fr', 'fr-en'),
  'wmt16_en_ro': _wmt('wmt16_translate', 'en', 'ro', 'ro-en'),
  'cnn_dailymail': PublicTask(
    'cnn_dailymail:3.*.*',
    prompts.Summary('article', 'highlights'),
    (metric_functions.rouge,),
    _ALL,
  ),
  'squad': PublicTask('squad/v1.1:3.*.*', prompts.squad, (metric_functions.squad,)),
  'glue_cola': _glue(
    'cola', ('sentence',), ('unacceptable', 'acceptable'), metric_functions.matthews
  ),
  'glue_sst2': _glue('sst2', ('sentence',), ('negative', 'positive')),
  'glue_mrpc': _glue(
    'mrpc',
    _SENTENCES,
    ('not_equivalent', 'equivalent'),
    metric_functions.binary_f1('equivalent'),
    metric_functions.accuracy,
  ),
  'glue_qqp': _glue(
    'qqp',
    ('question1', 'question2'),
    ('not_duplicate', 'duplicate'),
    metric_functions.binary_f1('duplicate'),
    metric_functions.accuracy,
  ),
  'glue_stsb': PublicTask(
    'glue/stsb:2.*.*',
    prompts.stsb,
    (metric_functions.pearson_spearman,),
    regression=Regression(_SENTENCES, lowest=0, highest=5),
  ),
  'glue_mnli': _glue(
    'mnli',
    ('hypothesis', 'premise'),
    ('entailment', 'neutral', 'contradiction'),
    splits={
      'train': 'train',
      'validation': 'validation_matched',
      'validation_mismatched': 'validation_mismatched',
    },
  ),
  'glue_qnli': _glue('qnli', ('question', 'sentence'), _ENTAILMENT),
  'glue_rte': _glue('rte', _SENTENCES, _ENTAILMENT),
  'glue_wnli': _glue('wnli', _SENTENCES, ('not_entailment', 'entailment')),
  'super_glue_boolq': _super_glue('boolq', ('passage', 'question'), ('False', 'True')),
  'super_glue_cb': _super_glue(
    'cb',
    ('hypothesis', 'premise'),
    ('entailment', 'contradiction', 'neutral'),
    metric_functions.macro_f1,
    metric_functions.accuracy,
  ),
  # The paper's example has 'True' for the second choice; T5's released code names the choice.
  'super_glue_copa': _super_glue(
    'copa', ('choice1', 'choice2', 'premise', 'question'), ('choice1', 'choice2')
  ),
  'super_glue_multirc': PublicTask(
    'super_glue/multirc:1.*.*',
    prompts.multirc,
    (metric_functions.multirc,),
    postprocess_fn=prompts.with_question,
  ),
  'super_glue_record': PublicTask(
    'super_glue/record:1.*.*',
    prompts.cloze,
    (metric_functions.squad,),
    in_training=prompts.each_answer,
  ),
  'super_glue_rte': _super_glue('rte', ('hypothesis', 'premise'), _ENTAILMENT),
  # The paper's example has a part of speech as well; the data set's records have none.
  'super_glue_wic': _super_glue('wic', (*_SENTENCES, 'word'), ('False', 'True')),
  'super_glue_wsc': PublicTask(
    'super_glue/wsc.fixed:1.*.*',
    prompts.pronoun,
    (metric_functions.accuracy,),
    postprocess_fn=prompts.is_candidate,
    in_training=prompts.right_candidates,
  ),
}


def task(
  name: str,
  vocabulary: seqio.Vocabulary,
  *,
  tfds_data_dir: str | None = None,
  splits: Mapping[str, str] | None = None,
  metrics: Callable | Sequence[Callable] | None = None,
) -> seqio.Task:
  """A public task; its data set is downloaded by TensorFlow Datasets when it is first read.

  Args:
    name: a key of `TASKS`, such as 'wmt16_en_ro', 'glue_sst2' or 'super_glue_cb'.
    vocabulary: of inputs and targets.
    tfds_data_dir: where data sets are kept; None is TensorFlow Datasets' own place.
    splits: split names and the slices of the data set that they stand for, if not all with
      labels, such as {'train': 'train[:10%]', 'validation': 'validation'}.
    metrics: functions (targets, predictions) -> dict of floats, if not the task's own.

  Raises:
    ValueError: there is no task of this name.
  """
  if name not in TASKS:
    raise ValueError(f'No public task {name!r}; there are {", ".join(sorted(TASKS))}.')
  row = TASKS[name]
  return text.task(
    name,
    _Source(row, dict(splits or row.splits), tfds_data_dir),
    vocabulary,
    preprocessors=[seqio.map_over_dataset(row.prompt)],
    postprocess_fn=row.postprocess_fn,
    metrics=row.metrics if metrics is None else metrics,
  )


def records(name: str, split: str, *, tfds_data_dir: str | None = None) -> Iterator[dict[str, Any]]:
  """Yields the records of a public task's data set as it has them, text as str.

  Raises:
    UnicodeDecodeError: a text is not UTF-8.
    ConnectionError: the data set is not here and cannot be downloaded.
  """
  row = TASKS[name]
  source = seqio.TfdsDataSource(row.tfds_name, tfds_data_dir, dict(row.splits))
  read = _download(source.get_dataset, row.tfds_name, split, shuffle=False)
  for record in read.as_numpy_iterator():
    yield text.decoded(record)


def _download(
  read: Callable[..., tf.data.Dataset], name: str, *args: Any, **kwargs: Any
) -> tf.data.Dataset:
  """What `read` gives of a data set, which it downloads if it is not here yet."""
  try:
    with _briefly():
      return read(*args, **kwargs)
  except requests.RequestException as error:
    asked = error.request and urllib.parse.urlsplit(str(error.request.url)).netloc
    raise ConnectionError(
      f'The data set {name} is not here and cannot be downloaded: no answer from'
      f' {asked or "its host"}. Give a folder that has it (TFDS_DATA_DIR), or files of your own'
      ' (gin/tasks/files.gin).'
    ) from error


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
  """Has TensorFlow Datasets ask a host that is silent for a quarter of a minute, without a word.

  By itself it asks for minutes and writes a line each time; nothing public tells it otherwise.
  """
  from tensorflow_datasets.core.download import downloader

  loggers = [logging.getLogger(name) for name in ('urllib3.connectionpool', 'absl')]
  levels = [logger.level for logger in loggers]
  retries = downloader.MAX_RETRIES
  downloader.MAX_RETRIES = min(retries, _RETRIES)
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    downloader.MAX_RETRIES = retries
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)


class _Source(seqio.TfdsDataSource):
  """A data set of TensorFlow Datasets, its split 'train' made ready for training."""

  def __init__(self, row: PublicTask, splits: dict[str, str], data_dir: str | None):
    super().__init__(row.tfds_name, data_dir, splits, caching_permitted=False)
    self._in_training = row.in_training
    self.form = {'tfds': row.tfds_name, 'prompt': row.prompt, 'in_training': row.in_training}

  def get_dataset(self, split: str = 'train', **kwargs: Any) -> tf.data.Dataset:
    records = _download(super().get_dataset, self.tfds_dataset.name, split, **kwargs)
    return self._in_training(records) if split == 'train' and self._in_training else records
