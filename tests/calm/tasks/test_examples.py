"""Examples are text: read in order without a vocabulary, postprocessed alike on both sides."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from calm.tasks import examples, metrics, text, vocabularies


def test_examples_are_the_texts_of_a_split_in_order(translation):
  found = examples.evaluation_examples(translation(), 'train', limit=2)
  assert [one.index for one in found] == [0, 1]
  assert [one.texts for one in found] == [{'inputs': 'en: one'}, {'inputs': 'en: twenty-one'}]
  assert [one.target for one in found] == ['un', 'vingt et un']
  assert found[1].raw['references'] == ['vingt et un']
  assert len(examples.evaluation_examples(translation(), 'train')) == 7


def test_an_example_of_a_file_is_named_by_its_line_and_any_other_by_its_number(translation):
  assert examples.evaluation_examples(translation(), 'train')[1].where.endswith('train.jsonl:2')
  assert examples.evaluation_examples(in_memory(), 'test')[1].where == 'test example 1'


def test_what_an_example_holds_does_not_tell_where_its_file_lies(translation, write):
  one = translation(train=write('one.jsonl', [{'en': 'a', 'fr': 'b'}]))
  other = translation(train=write('other.jsonl', [{'en': 'a', 'fr': 'b'}]))
  (first,), (second,) = (examples.evaluation_examples(task, 'train') for task in (one, other))
  assert first.where != second.where
  assert (first.texts, first.target, first.raw) == (second.texts, second.target, second.raw)


def test_no_vocabulary_is_read(translation):
  task = translation(vocabulary=vocabularies.sentencepiece('missing.model'))
  assert examples.evaluation_examples(task, 'train')[0].target == 'un'


def test_texts_are_those_that_seqio_tokenises(translation):
  task = translation()
  expected = task.get_dataset({'inputs': 99, 'targets': 99}, 'train', shuffle=False)
  found = examples.evaluation_examples(task, 'train')
  for one, other in zip(found, expected.as_numpy_iterator(), strict=True):
    assert one.texts['inputs'] == other['inputs_pretokenized'].decode()
    assert one.target == other['targets_pretokenized'].decode()


def test_a_limit_below_1_an_empty_and_an_unknown_split_are_errors(translation):
  with pytest.raises(ValueError, match='limit is 0: 1 at least'):
    examples.evaluation_examples(translation(), 'train', limit=0)
  with pytest.raises(ValueError, match=r"Split 'train' of task 'files' has no examples; .*jsonl\."):
    examples.evaluation_examples(translation([]), 'train')
  with pytest.raises(ValueError, match=r"no split 'test', only train, validation.*TEST_FILE"):
    examples.evaluation_examples(translation(), 'test')


def in_memory(postprocess_fn=None, metric_fns=(metrics.accuracy,)):
  """A task over two records of a tf.data set: 'is it 1?' to 'yes', and 2 to 'no'."""
  records = {'inputs': ['is it 1?', 'is it 2?'], 'targets': ['yes', 'no'], 'number': [1, 2]}
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(records),
    splits=('test',),
  )
  return text.task(
    'numbers',
    source,
    vocabularies.byte_vocabulary(),
    postprocess_fn=postprocess_fn,
    metrics=metric_fns,
  )


def with_number(text, example, is_target=False):
  return f'{example["number"]} {text if is_target else text.lower()}'


def test_targets_and_predictions_are_postprocessed_with_their_example():
  task = in_memory(with_number)
  found = examples.evaluation_examples(task, 'test')
  assert examples.postprocess_targets(task, found) == ['1 yes', '2 no']
  assert examples.postprocess_predictions(task, found, ['YES', 'YES']) == ['1 yes', '2 yes']
  assert examples.score(task, found, ['YES', 'YES']) == {'accuracy': 50}


def test_targets_without_postprocessing_are_all_their_references(translation):
  records = [{'en': 'a', 'fr': 'b', 'all': ['b', 'c']}]
  task = translation(records, references='{all}', metrics=metrics.exact_match)
  found = examples.evaluation_examples(task, 'train')
  assert examples.postprocess_targets(task, found) == [['b', 'c']]
  assert examples.score(task, found, ['c']) == {'exact_match': 100}


def test_scores_are_floats_whatever_number_a_metric_gives():
  def several(targets, predictions):
    return {'numpy': np.float32(0.5), 'seqio': seqio.metrics.Scalar(2), 'int': len(targets)}

  task = in_memory(metric_fns=several)
  scores = examples.score(task, examples.evaluation_examples(task, 'test'), ['', ''])
  assert scores == {'numpy': 0.5, 'seqio': 2.0, 'int': 2.0}
  assert all(type(value) is float for value in scores.values())


def test_a_metric_that_is_no_number_and_a_missing_prediction_are_errors():
  task = in_memory(metric_fns=lambda targets, predictions: {'text': 'fine'})
  found = examples.evaluation_examples(task, 'test')
  with pytest.raises(ValueError, match="Metric 'text' of task 'numbers' is a str: a number is"):
    examples.score(task, found, ['', ''])
  with pytest.raises(ValueError, match='1 predictions for 2 examples'):
    examples.score(task, found, [''])


def test_texts_of_ones_own_are_numbered_and_of_an_empty_one_nothing_is_asked():
  found = examples.of_texts(['one', ' ', 'two'])
  assert [one.index for one in found] == [0, 1, 2]
  assert [dict(one.texts) for one in found] == [{'inputs': 'one'}, {}, {'inputs': 'two'}]
  assert {one.target for one in found} == {''}
