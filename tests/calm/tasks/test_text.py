"""The text of a task can be read without its vocabulary, and compared as its metrics do."""

import pytest
import seqio
import tensorflow as tf

from calm.tasks import metrics, text, vocabularies

MISSING = vocabularies.sentencepiece('no such file')


def source_of(examples):
  return text.PythonSource(lambda split: examples[split], list(examples))


def example_of(inputs, targets, *references):
  several = list(references or [targets])
  return {'inputs': inputs, 'targets': targets, 'references': several, 'where': f'at {inputs}'}


@pytest.fixture
def source():
  return source_of({'train': [example_of('a', 'b'), example_of('é', '', 'x', 'y')]})


def upper(example):
  return {**example, 'inputs': tf.strings.upper(example['inputs'])}


def test_text_is_read_without_the_vocabulary(source):
  task = text.task('words', source, MISSING)
  assert list(text.examples(task, 'train')) == [
    {
      'inputs_pretokenized': 'a',
      'targets_pretokenized': 'b',
      'references': ['b'],
      'where': 'at a',
    },
    {
      'inputs_pretokenized': 'é',
      'targets_pretokenized': '',
      'references': ['x', 'y'],
      'where': 'at é',
    },
  ]


def test_preprocessors_change_the_text(source):
  task = text.task('words', source, MISSING, preprocessors=[seqio.map_over_dataset(upper)])
  examples = list(text.examples(task, 'train'))
  assert [one['inputs_pretokenized'] for one in examples] == ['A', 'é']
  assert [one['references'] for one in examples] == [['b'], ['x', 'y']]
  assert [one['where'] for one in examples] == ['at a', 'at é']


def test_any_seqio_task_that_ends_in_tokens_and_eos_is_read(source):
  feature = seqio.Feature(vocabularies.byte_vocabulary())
  for ending in (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim):
    task = seqio.Task(
      'other',
      source=source,
      preprocessors=[seqio.map_over_dataset(upper), seqio.preprocessors.tokenize, ending],
      output_features={'inputs': feature, 'targets': feature},
    )
    assert [one['inputs_pretokenized'] for one in text.examples(task, 'train')] == ['A', 'é']


@pytest.mark.parametrize(
  'preprocessors',
  [
    [],
    [seqio.preprocessors.tokenize],
    [*text.TOKENIZATION, seqio.map_over_dataset(upper)],
    [seqio.preprocessors.append_eos, seqio.preprocessors.tokenize],
  ],
)
def test_a_task_that_ends_otherwise_is_an_error(source, preprocessors):
  task = text.task('words', source, MISSING).replace(preprocessors=preprocessors)
  with pytest.raises(ValueError, match="Task 'words' does not end in seqio"):
    list(text.examples(task, 'train'))


def test_an_unknown_split_is_named_with_those_there_are(source):
  task = text.task('words', source, MISSING)
  with pytest.raises(ValueError, match="Task 'words' has no split 'test', only train"):
    next(text.examples(task, 'test'))


def test_bytes_in_dicts_and_arrays_become_text():
  def nested(example):
    return {**example, 'more': {'words': [['é', 'b'], ['c', 'd']], 'number': 3}}

  preprocessors = [seqio.map_over_dataset(nested)]
  task = text.task(
    'words', source_of({'train': [example_of('a', 'b')]}), MISSING, preprocessors=preprocessors
  )
  (example,) = text.examples(task, 'train')
  assert example['more'] == {'words': [['é', 'b'], ['c', 'd']], 'number': 3}


@pytest.mark.parametrize('at', ['inputs', 'more'])
def test_text_that_is_not_utf8_is_named_by_split_and_number(source, at):
  def spoilt(example):
    bad = tf.where(example['inputs'] == 'a', 'fine', b'caf\xe9')
    return {**example, at: bad if at == 'inputs' else [bad]}

  task = text.task('words', source, MISSING, preprocessors=[seqio.map_over_dataset(spoilt)])
  with pytest.raises(ValueError, match='words train example 1: not UTF-8'):
    list(text.examples(task, 'train'))


def test_targets_are_their_references_and_predictions_themselves():
  assert text.references('b', {'references': ['b']}, is_target=True) == 'b'
  assert text.references('b', {'references': [b'\xc3\xa9', 'y']}, is_target=True) == ['é', 'y']
  assert text.references('b', {'references': []}, is_target=True) == 'b'
  assert text.references('b', {}, is_target=True) == text.references('b', is_target=True) == 'b'
  assert text.references('a', {'references': ['b']}) == 'a'


def test_one_metric_or_several_become_a_list(source):
  one = text.task('words', source, MISSING, metrics=metrics.bleu)
  both = text.task('words', source, MISSING, metrics=(metrics.bleu, metrics.chrf))
  assert one.metric_fns == [metrics.bleu]
  assert both.metric_fns == [metrics.bleu, metrics.chrf]
  assert text.task('words', source, MISSING).metric_fns == []


def test_tasks_are_not_registered(source):
  text.task('words', source, MISSING)
  assert 'words' not in seqio.TaskRegistry.names()


@pytest.mark.parametrize('name', ['my-task', 'my task', ''])
def test_a_name_that_seqio_does_not_take_is_an_error(translation, name):
  with pytest.raises(ValueError, match=rf"Task name '{name}' \(TASK_NAME\): letters, digits"):
    translation(name=name)
