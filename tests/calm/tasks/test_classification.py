"""A classification says which fields are the texts, and what the labels are called."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from calm.tasks import prompts, public
from calm.tasks.classification import Classification, Regression

PAIR = Classification(('premise', 'hypothesis'), ('entailment', 'neutral', 'contradiction'))
RECORD = {'hypothesis': 'It rains.', 'premise': 'It is wet.', 'label': 1, 'idx': 7}


def test_texts_are_the_fields_in_the_order_of_the_classification():
  assert list(PAIR.texts(RECORD).items()) == [
    ('premise', 'It is wet.'),
    ('hypothesis', 'It rains.'),
  ]


@pytest.mark.parametrize('label', [1, '1', np.int64(1), 'neutral'])
def test_a_label_is_a_number_or_a_name(label):
  assert PAIR.label({**RECORD, 'label': label}) == 1
  assert PAIR.target({**RECORD, 'label': label}) == 'neutral'


@pytest.mark.parametrize('label', [-1, '-1', np.int64(-1), None])
def test_a_record_may_have_no_label(label):
  assert PAIR.label({**RECORD, 'label': label}) is None
  assert PAIR.target({**RECORD, 'label': label}) == ''
  assert PAIR.label({'premise': 'x', 'hypothesis': 'y'}) is None


@pytest.mark.parametrize('label', [3, -2, 1.5, 'Neutral', ['neutral']])
def test_any_other_label_is_an_error_that_lists_the_names(label):
  with pytest.raises(ValueError, match=r"label is .*, not a number below 3 or one of 'entailment'"):
    PAIR.label({**RECORD, 'label': label})


def test_a_missing_field_and_one_that_is_no_text_are_errors():
  with pytest.raises(ValueError, match="no field 'premise'"):
    PAIR.texts({'hypothesis': 'x'})
  with pytest.raises(ValueError, match='premise is 5, not a text'):
    PAIR.texts({**RECORD, 'premise': 5})


@pytest.mark.parametrize(
  ('fields', 'labels', 'complaint'),
  [
    ((), ('a', 'b'), r'fields .FIELDS. are \(\), not a tuple of at least 1'),
    ('text', ('a', 'b'), "fields .FIELDS. are 'text', not a tuple"),
    (('x', 'x'), ('a', 'b'), r"fields .FIELDS. are \('x', 'x'\)"),
    (
      ('x',),
      ('a',),
      r"labels .LABEL_NAMES. are \('a',\), not a tuple of at least 2, all different",
    ),
    (('x',), ('a', 'a'), 'labels .LABEL_NAMES. are'),
  ],
)
def test_fields_and_labels_are_different_names(fields, labels, complaint):
  with pytest.raises(ValueError, match=complaint):
    Classification(fields, labels)


def test_lists_as_gin_gives_them_are_tuples():
  assert Classification(['x'], ['a', 'b']) == Classification(('x',), ('a', 'b'))


CLASSIFICATIONS = {
  name: row for name, row in public.TASKS.items() if isinstance(row.labels, Classification)
}


@pytest.mark.parametrize('name', sorted(CLASSIFICATIONS))
def test_a_prompt_asks_for_the_name_of_the_same_label(name):
  row = CLASSIFICATIONS[name]
  for number, label in enumerate(row.labels.labels):
    record = {**{field: f'some {field}' for field in row.labels.fields}, 'label': number}
    asked = row.prompt(tf.nest.map_structure(tf.constant, record))
    assert asked['targets'].numpy().decode() == label == row.labels.target(record)
    inputs = asked['inputs'].numpy().decode()
    texts = row.labels.texts(record)
    assert inputs == ' '.join([row.prompt.name, *(f'{key}: {text}' for key, text in texts.items())])


def test_public_classifications_are_those_with_labels_in_words():
  assert len(CLASSIFICATIONS) == 13
  assert public.TASKS['glue_mnli'].labels == Classification(
    ('hypothesis', 'premise'), ('entailment', 'neutral', 'contradiction')
  )
  assert public.TASKS['squad'].labels is None
  assert isinstance(public.TASKS['glue_stsb'].labels, Regression)


def test_the_label_may_be_in_another_field():
  form = dataclasses.replace(PAIR, label_field='gold')
  assert form.target({'gold': 'neutral', 'label': 0}) == 'neutral'
  asked = prompts.ClassificationPrompt('nli', form)({'premise': 'x', 'hypothesis': 'y', 'gold': 2})
  assert asked['targets'].numpy() == b'contradiction'


def test_a_regression_reads_numbers_and_answers_in_digits():
  form = Regression(('a', 'b'), lowest=0, highest=5)
  record = {'a': 'x', 'b': 'y', 'label': '3.25'}
  assert form.num_outputs == 1
  assert form.label(record) == 3.25
  assert float(form.target(record)) == 3.25
  assert form.target({'a': 'x', 'b': 'y'}) == ''
  assert float(form.answer(np.array([3.25], np.float32))) == 3.25
  assert 0 <= float(form.answer(np.array([7.5], np.float32))) <= 7.5


def test_a_classification_answers_with_the_name_of_the_largest():
  assert PAIR.num_outputs == 3
  assert PAIR.answer(np.array([0.1, -2, 5], np.float32)) == 'contradiction'
