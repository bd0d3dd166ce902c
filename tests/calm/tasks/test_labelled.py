"""Labelled texts of files and public data sets, as classifiers read them."""

import dataclasses

import pytest
import tensorflow_datasets as tfds

from calm.tasks import examples, files, labelled, metrics, vocabularies
from calm.tasks.classification import Classification, Regression

PAIR = Classification(('sentence1', 'sentence2'), ('no', 'yes'))
RECORDS = [
  {'sentence1': 'It rains.', 'sentence2': 'It is wet.', 'label': 'yes', 'id': 7},
  {'sentence1': 'It rains.', 'sentence2': 'It is dry.', 'label': 0},
  {'sentence1': 'It snows.', 'sentence2': '', 'label': -1},
]
TSV = 'sentence1\tsentence2\tlabel\nIt rains.\tIt is wet.\tyes\nIt rains.\tIt is "dry".\t0\n'


def read(task, split='train'):
  return list(task.source.labelled(split))


def test_records_of_files_give_texts_in_the_forms_order_and_a_number(write):
  task = labelled.from_files(PAIR, train=write('train.jsonl', RECORDS))
  wheres, texts, labels, records = zip(*read(task), strict=True)
  assert [where.rpartition('/')[2] for where in wheres] == [f'train.jsonl:{n}' for n in (1, 2, 3)]
  assert [list(one) for one in texts] == [['sentence1', 'sentence2']] * 3
  assert texts[0] == {'sentence1': 'It rains.', 'sentence2': 'It is wet.'}
  assert labels == (1, 0, None)
  assert records[0]['id'] == 7


def test_a_table_says_the_same(write):
  task = labelled.from_files(PAIR, train=write('train.tsv', TSV))
  assert [(texts['sentence2'], label) for _, texts, label, _ in read(task)] == [
    ('It is wet.', 1),
    ('It is "dry".', 0),
  ]


def test_examples_have_the_labels_names_and_an_empty_target_where_there_is_none(write):
  task = labelled.from_files(PAIR, validation=write('v.jsonl', RECORDS))
  found = examples.evaluation_examples(task, 'validation')
  assert [one.target for one in found] == ['yes', 'no', '']
  assert [one.index for one in found] == [0, 1, 2]
  assert dict(found[1].texts) == {'sentence1': 'It rains.', 'sentence2': 'It is dry.'}


def test_predictions_are_scored_by_name_and_a_missing_label_is_named(write):
  path = write('v.jsonl', RECORDS[:2])
  task = labelled.from_files(PAIR, validation=path, metrics=metrics.accuracy)
  found = examples.evaluation_examples(task, 'validation')
  assert examples.score(task, found, ['yes', 'yes']) == {'accuracy': 50.0}
  unknown = labelled.from_files(PAIR, test=write('t.jsonl', RECORDS), metrics=metrics.accuracy)
  found = examples.evaluation_examples(unknown, 'test')
  with pytest.raises(ValueError, match=r't\.jsonl:3: there is no label to compare with'):
    examples.score(unknown, found, ['yes'] * 3)


@pytest.mark.parametrize(
  ('line', 'complaint'),
  [
    ('{"sentence1": "a", "label": 1}', r"train\.jsonl:2: no field 'sentence2'"),
    ('{"sentence1": "a", "sentence2": 3, "label": 1}', r'train\.jsonl:2: sentence2 is 3, not a'),
    ('{"sentence1": "a", "sentence2": "b", "label": "maybe"}', r"train\.jsonl:2: label is 'maybe'"),
    ('{"sentence1": "a", "sentence2": "b", "label": 2}', r'train\.jsonl:2: label is 2, not a num'),
    ('{"sentence1": ', r'train\.jsonl:2: not JSON'),
  ],
)
def test_a_record_that_cannot_be_used_is_named_by_file_and_line(write, line, complaint):
  good = '{"sentence1": "a", "sentence2": "b", "label": 1}\n'
  task = labelled.from_files(PAIR, train=write('train.jsonl', f'{good}{line}\n'))
  with pytest.raises(ValueError, match=complaint):
    read(task)


def test_a_task_without_files_and_a_missing_file_are_named(tmp_path):
  with pytest.raises(ValueError, match=r"'files' has no files: set TRAIN_FILE"):
    examples.evaluation_examples(labelled.from_files(PAIR), 'test')
  with pytest.raises(FileNotFoundError, match=r'none\.tsv.*TRAIN_FILE'):
    read(labelled.from_files(PAIR, train=str(tmp_path / 'none.tsv')))
  with pytest.raises(ValueError, match='TASK_NAME'):
    labelled.from_files(PAIR, train=__file__, name='my task')


def test_a_regression_has_a_number_within_its_range(write):
  form = Regression(('a', 'b'), lowest=0, highest=5, label_field='score')
  records = [{'a': 'x', 'b': 'y', 'score': score} for score in (3.8, '0', 5, None, -1)]
  task = labelled.from_files(form, train=write('train.jsonl', records))
  assert [label for _, _, label, _ in read(task)] == [3.8, 0.0, 5.0, None, None]
  for score in (5.1, 'high', True, float('inf'), [1]):
    with pytest.raises(ValueError, match='score'):
      form.label({'score': score})
  assert Regression(('a',)).label({'label': -1}) == -1  # A number like others, if any may be.
  with pytest.raises(ValueError, match=r'lowest \(2\) must be below highest \(1\)'):
    dataclasses.replace(form, lowest=2, highest=1)


def test_a_public_task_is_read_as_its_prompt_reads_it():
  with tfds.testing.mock_data(num_examples=3):
    for name, fields in {'glue_mrpc': 2, 'glue_sst2': 1, 'glue_stsb': 2}.items():
      task = labelled.from_public(name)
      found = read(task, 'validation')
      assert [where for where, *_ in found] == [f'{name} validation example {i}' for i in range(3)]
      for _, texts, label, _ in found:
        assert len(texts) == fields
        assert all(isinstance(text, str) for text in texts.values())
        assert label is None or 0 <= label < max(task.source.labels.num_outputs, 6)
      assert task.metric_fns


@pytest.mark.parametrize('name', ['squad', 'wmt15_en_fr', 'nonsense'])
def test_what_no_classifier_answers_is_refused_with_what_there_is(name):
  with pytest.raises(ValueError, match=r'No classifier answers task .*glue_mrpc.*glue_stsb'):
    labelled.from_public(name)


def test_a_split_that_there_is_not_is_named(write):
  task = labelled.from_files(PAIR, train=write('train.jsonl', RECORDS))
  with pytest.raises(ValueError, match="'test'"):
    examples.evaluation_examples(task, 'test')


def test_the_task_counts_by_its_form_and_not_by_where_its_files_lie(write, tmp_path):
  from calm.tasks import identity

  task = labelled.from_files(PAIR, train=write('a.jsonl', RECORDS))
  moved = labelled.from_files(PAIR, train=write('b.jsonl', RECORDS))
  other = labelled.from_files(
    dataclasses.replace(PAIR, labels=('yes', 'no')), train=write('c.jsonl', RECORDS)
  )
  assert identity.describe_task(task) == identity.describe_task(moved)
  assert identity.describe_task(task) != identity.describe_task(other)


def test_a_task_of_texts_to_be_generated_is_none_of_labelled_texts(write):
  task = files.task(
    inputs='{sentence1}',
    targets='{sentence2}',
    vocabulary=vocabularies.byte_vocabulary(),
    train=write('train.jsonl', RECORDS),
  )
  assert not isinstance(task.source, labelled.LabelledSource)
