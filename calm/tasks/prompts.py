"""Records of public data sets as T5 reads and writes them.

The formats are those of Raffel et al., https://arxiv.org/abs/1910.10683, appendix D. A prompt maps
a record of TensorFlow Datasets to `inputs` and `targets`, and keeps what the metric needs. Where a
record has no label, as in the test splits of GLUE, the target is empty.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from calm.tasks.classification import Classification

Record = Mapping[str, Any]
Prompt = Callable[[Record], dict[str, Any]]


_LANGUAGES = {'en': 'English', 'fr': 'French', 'ro': 'Romanian'}


@dataclasses.dataclass(frozen=True)
class Translation:
  """'translate English to French: ...' between two languages, given by their codes."""

  source: str
  target: str

  def __call__(self, record: Record) -> dict[str, Any]:
    prefix = f'translate {_LANGUAGES[self.source]} to {_LANGUAGES[self.target]}: '
    return {'inputs': prefix + record[self.source], 'targets': record[self.target]}


@dataclasses.dataclass(frozen=True)
class Summary:
  """'summarize: ...' from one field to another."""

  article: str
  highlights: str

  def __call__(self, record: Record) -> dict[str, Any]:
    return {'inputs': 'summarize: ' + record[self.article], 'targets': record[self.highlights]}


def squad(record: Record) -> dict[str, Any]:
  """'question: ... context: ...' to the first answer; every answer is a reference."""
  # T5's released code also puts spaces around punctuation; the paper's examples have none.
  return {
    'inputs': _join(record, ('question', 'context')),
    'targets': _first(record['answers']['text']),
    'references': record['answers']['text'],
  }


@dataclasses.dataclass(frozen=True)
class ClassificationPrompt:
  """'<name> <field>: ... <field>: ...' to the label's name."""

  name: str
  classification: Classification

  def __call__(self, record: Record) -> dict[str, Any]:
    form = self.classification
    return {
      'inputs': _join(record, form.fields, self.name),
      'targets': _word(form.labels, record[form.label_field]),
    }


def stsb(record: Record) -> dict[str, Any]:
  """Similarity from 0 to 5, to be written in steps of 0.2; metrics see the exact one."""
  label = record['label']
  return {
    'inputs': _join(record, ('sentence1', 'sentence2'), 'stsb'),
    'targets': tf.where(label < 0, '', tf.strings.as_string(tf.round(label * 5) / 5, precision=1)),
    'references': tf.strings.as_string(label, precision=3)[None],
  }


def multirc(record: Record) -> dict[str, Any]:
  """Is this answer to this question right? `question_id` is common to a question's answers."""
  inputs = _join(record, ('question', 'answer', 'paragraph'), 'multirc')
  inputs = tf.strings.regex_replace(inputs, '<br>', ' ')
  ids = [tf.strings.as_string(record['idx'][key]) for key in ('paragraph', 'question')]
  return {
    'inputs': tf.strings.regex_replace(inputs, '</?b>', ''),
    'targets': _word(('False', 'True'), record['label']),
    'question_id': tf.strings.join(ids, '-'),
  }


def with_question(text: str, example: Record, is_target: bool = False) -> str | tuple[str, str]:
  """Postprocessing of MultiRC: a target becomes (question_id, label)."""
  return (example['question_id'], text) if is_target else text


def cloze(record: Record) -> dict[str, Any]:
  """ReCoRD: which entity stands for @placeholder in the query?"""
  # News highlights follow the passage, each after a line '@highlight'; each becomes a sentence.
  passage = tf.strings.regex_replace(record['passage'], r'([^.?!"\'])\n@highlight\n', r'\1. ')
  passage = tf.strings.regex_replace(passage, r'\n@highlight\n', ' ')
  entities = tf.strings.reduce_join(record['entities'], separator=', ')
  return {
    'inputs': _join(
      {'query': record['query'], 'entities': entities, 'passage': passage},
      ('query', 'entities', 'passage'),
      'record',
    ),
    'targets': _first(record['answers']),
    'references': record['answers'],
  }


def each_answer(records: tf.data.Dataset) -> tf.data.Dataset:
  """A record for each answer, to train on them all."""
  return records.flat_map(
    lambda record: tf.data.Dataset.from_tensor_slices(record['answers']).map(
      lambda answer: {**record, 'answers': answer[None]}
    )
  )


def pronoun(record: Record) -> dict[str, Any]:
  """WSC: a text with its *pronoun* marked, to the noun that it stands for."""
  words = tf.strings.split(record['text'], ' ')
  index = record['span2_index']
  # The pronoun may have punctuation about it, or, in one record, stand a word later.
  marked = tf.strings.regex_replace(
    tf.strings.reduce_join(words[index:], separator=' '),
    tf.strings.join([r'\b\Q', record['span2_text'], r'\E\b']),
    r'*\0*',
    replace_global=False,
  )
  return {
    'inputs': tf.strings.reduce_join(
      tf.concat([['wsc:'], words[:index], [marked]], 0), separator=' '
    ),
    'targets': record['span1_text'],
    'candidate': record['span1_text'],
    'label': record['label'],
  }


def right_candidates(records: tf.data.Dataset) -> tf.data.Dataset:
  """Those records of WSC whose noun is the right one: the others say nothing of what is."""
  return records.filter(lambda record: record['label'] == 1)


def is_candidate(text: str, example: Record, is_target: bool = False) -> str:
  """Postprocessing of WSC: 'True' or 'False', is the candidate what the pronoun stands for?

  As in T5's evaluation, a predicted noun is taken for the candidate if the words of one are among
  those of the other, apart from determiners and case: 'the grey cat', 'Cat'. But "Bob's hat" is
  not 'hat'.
  """
  if is_target:
    return str(bool(example['label'] == 1))
  predicted, candidate = _content_words(text), _content_words(example['candidate'])
  owned = ["'" in ''.join(words) for words in (predicted, candidate)]
  alike = predicted <= candidate or candidate <= predicted
  return str(bool(predicted) and alike and owned[0] == owned[1])


_DETERMINERS = (
  'a an each every few her his many much my our some that the their these this those which whose'
  ' your'
)


def _content_words(text: str) -> set[str]:
  return set(text.lower().split()) - set(_DETERMINERS.split())


def _join(record: Mapping[str, tf.Tensor], fields: Sequence[str], *prefixes: Any) -> tf.Tensor:
  """'prefix field: text field: text'."""
  parts = [part for field in fields for part in (f'{field}:', record[field])]
  return tf.strings.join([*prefixes, *parts], ' ')


def _word(labels: Sequence[str], label: tf.Tensor) -> tf.Tensor:
  return tf.where(label < 0, '', tf.gather(tf.constant(labels), tf.maximum(label, 0)))


def _first(texts: tf.Tensor) -> tf.Tensor:
  return tf.strings.reduce_join(texts[:1])
