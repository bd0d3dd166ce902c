"""What a task and a vocabulary are, by content and never by place, in words.

Descriptions are dicts of plain values, and of functions and dataclasses where code decides: what
makes fingerprints of them knows how functions count.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from calm import fingerprints
from calm.tasks import text


def describe_task(task: seqio.Task) -> dict[str, Any]:
  """What a task makes of a record: its name, form, preprocessors, postprocessing and features.

  Of a task over files the form is its templates, references and labels; of a public one its data
  set of TensorFlow Datasets and its prompt; of any other what its source tells of itself. Paths,
  splits, metrics and the vocabulary (`describe_vocabulary`) are no part of it.
  """
  before = text.before_tokenization(task)
  return {
    'name': task.name,
    **_form(task.source),
    'preprocessors': list(task.preprocessors) if before is None else before,
    'postprocessing': task.postprocessor,
    'features': {
      name: {'add_eos': feature.add_eos} for name, feature in task.output_features.items()
    },
  }


def describe_vocabulary(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
  """A vocabulary's type, size, extra ids and settings; a file counts by its content.

  Raises:
    MissingVocabularyError, VocabularyError: as on a vocabulary's first use.
  """
  described = {
    'type': type(vocabulary).__qualname__,
    'vocab_size': int(vocabulary.vocab_size),
    'extra_ids': int(vocabulary.extra_ids),
  }
  settings = {name.lstrip('_'): value for name, value in vars(vocabulary).items()}
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    described['type'] = 'SentencePieceVocabulary'
    described['content'] = _content(settings.pop('sentencepiece_model_file'))
    described['normalizer'] = str(settings.pop('normalizer_spec_overrides') or '')
    for name in ('model', 'use_fast_tokenizer'):  # The same tokens either way.
      settings.pop(name, None)
  described |= {name: found for name, value in settings.items() if (found := _plain(value)) != ()}
  if type(vocabulary).__module__.partition('.')[0] not in ('seqio', 'calm'):
    described |= {name: getattr(type(vocabulary), f'_{name}') for name in ('encode', 'decode')}
  return described


def _form(source: seqio.DataSource) -> dict[str, Any]:
  """What a source tells of itself."""
  form: Mapping[str, Any] | None = getattr(source, 'form', None)
  if form is not None:
    return dict(form)
  described: dict[str, Any] = {'source': type(source).__qualname__}
  if isinstance(source, seqio.TfdsDataSource):
    data = source.tfds_dataset
    splits = data.tfds_splits or {}
    described['tfds'] = {split: one.dataset for split, one in splits.items()} or data.name
  elif isinstance(source, seqio.FunctionDataSource):
    described['read'] = source._dataset_fn  # It has no public name.
  return described


def _plain(value: Any) -> Any:
  """A setting as JSON takes it, a file by its content; () if it is no plain value."""
  if isinstance(value, str) and tf.io.gfile.exists(value) and not tf.io.gfile.isdir(value):
    return {'content': _content(value)}
  if isinstance(value, Mapping):
    return {str(key): str(item) for key, item in value.items()}
  if isinstance(value, list | tuple | set | frozenset):
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else list(map(str, value))
  return value if isinstance(value, str | bool | int | float) or value is None else ()


def _content(path: str) -> str:
  with tf.io.gfile.GFile(path, 'rb') as file:
    return fingerprints.fingerprint(file.read())
