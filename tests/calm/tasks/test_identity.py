"""Tasks and vocabularies are described by what they hold, wherever that lies."""

import shutil

import pytest
import seqio
import tensorflow as tf

from calm.tasks import prompts, public, spelled_numbers, text, vocabularies
from calm.tasks.classification import Classification
from calm.tasks.identity import describe_task, describe_vocabulary

BYTES = vocabularies.byte_vocabulary()


def test_a_task_over_files_is_its_templates_references_and_labels(translation):
  records = [{'en': 'a', 'fr': 'b', 'kind': 0, 'all': ['b']}]
  options = {'inputs': '{kind}: {en}', 'references': '{all}', 'labels': {'kind': ('x', 'y')}}
  described = describe_task(translation(records, name='mine', **options))
  assert described == {
    'name': 'mine',
    'inputs': '{kind}: {en}',
    'targets': '{fr}',
    'references': ['{all}'],
    'labels': {'kind': ['x', 'y']},
    'preprocessors': [],
    'postprocessing': text.references,
    'features': {'inputs': {'add_eos': True}, 'targets': {'add_eos': True}},
  }


def test_where_files_lie_does_not_count(translation, write):
  records = [{'en': 'a', 'fr': 'b'}]
  one, other = (translation(train=write(name, records)) for name in ('one.jsonl', 'other.jsonl'))
  assert describe_task(one) == describe_task(other)
  assert describe_task(one) == describe_task(translation(validation=None))


@pytest.mark.parametrize(
  'options',
  [
    {'name': 'other'},
    {'inputs': 'en:  {en}'},
    {'targets': '{en}'},
    {'references': ('{fr}',)},
    {'labels': {'fr': {'un': 'deux'}}},
  ],
)
def test_whatever_changes_a_record_s_texts_counts(translation, options):
  assert describe_task(translation(**options)) != describe_task(translation())


def test_labels_by_number_and_by_name_are_told_apart(translation):
  by_number = translation(labels={'fr': ('a', 'b')})
  by_name = translation(labels={'fr': {'a': 'a', 'b': 'b'}})
  assert describe_task(by_number)['labels'] == {'fr': ['a', 'b']}
  assert describe_task(by_name)['labels'] == {'fr': {'a': 'a', 'b': 'b'}}


def test_whether_a_text_ends_in_eos_counts(translation):
  task = translation()
  feature = seqio.Feature(BYTES, add_eos=False)
  without = task.replace(output_features={'inputs': feature, 'targets': feature})
  assert describe_task(without)['features']['targets'] == {'add_eos': False}


def test_spelled_numbers_are_spelled_and_the_number_of_them_is_data():
  options = {'num_train': 7, 'num_validation': 3, 'num_test': 2, 'max_number': 99}
  described = describe_task(spelled_numbers.task(vocabulary=BYTES, **options))
  assert described['spell'] is spelled_numbers.spell

  def again(**other):
    return describe_task(spelled_numbers.task(vocabulary=BYTES, **{**options, **other}))

  assert again(num_train=8) == again(seed=5) == described
  assert again(max_number=999) != described


def test_a_public_task_is_its_data_set_and_its_prompt():
  described = describe_task(public.task('glue_sst2', BYTES, tfds_data_dir='elsewhere'))
  assert described['tfds'] == 'glue/sst2:2.*.*'
  form = Classification(('sentence',), ('negative', 'positive'))
  assert described['prompt'] == prompts.ClassificationPrompt('sst2', form)
  assert 'elsewhere' not in str(described)
  wsc = describe_task(public.task('super_glue_wsc', BYTES))
  assert wsc['postprocessing'] is prompts.is_candidate
  assert wsc['in_training'] is prompts.right_candidates


def lower(dataset):
  return dataset.map(lambda one: {**one, 'inputs': tf.strings.lower(one['inputs'])})


def test_any_other_task_is_its_source_and_preprocessors():
  def read(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensors({'inputs': 'A', 'targets': 'b'})

  source = seqio.FunctionDataSource(read, splits=('train',))
  described = describe_task(text.task('own', source, BYTES, preprocessors=[lower]))
  assert described['source'] == 'FunctionDataSource'
  assert described['read'] is read
  assert described['preprocessors'] == [lower]

  source = seqio.TfdsDataSource('wmt15_translate/fr-en:1.0.0', 'elsewhere', ('train',))
  described = describe_task(text.task('own', source, BYTES))
  assert described['tfds'] == 'wmt15_translate/fr-en:1.0.0'
  assert 'elsewhere' not in str(described)


def test_a_vocabulary_of_pieces_counts_by_its_content(translation, tmp_path):
  path = vocabularies.write_vocabulary(translation(), str(tmp_path / 'a.model'), 41)
  described = describe_vocabulary(vocabularies.sentencepiece(path))
  assert (described['vocab_size'], described['extra_ids']) == (41, 0)
  moved = shutil.copy(path, tmp_path / 'b.model')
  assert describe_vocabulary(vocabularies.sentencepiece(moved)) == described
  assert describe_vocabulary(seqio.SentencePieceVocabulary(path)) == described
  other = vocabularies.write_vocabulary(translation(), str(tmp_path / 'c.model'), 40)
  assert describe_vocabulary(vocabularies.sentencepiece(other))['content'] != described['content']
  assert str(tmp_path) not in str(described)


def test_other_sentinels_are_another_vocabulary(translation, tmp_path):
  path = vocabularies.write_vocabulary(translation(), str(tmp_path / 'a.model'), 41)
  options = [{}, {'extra_ids': 7}, {'extra_ids': 7, 'reverse_extra_ids': False}]
  found = [describe_vocabulary(seqio.SentencePieceVocabulary(path, **one)) for one in options]
  assert [one['vocab_size'] for one in found] == [41, 48, 48]
  assert found[1] != found[2]


def test_bytes_with_and_without_sentinels_differ():
  assert describe_vocabulary(BYTES) == describe_vocabulary(seqio.ByteVocabulary())
  assert describe_vocabulary(BYTES) != describe_vocabulary(seqio.ByteVocabulary(100))


def test_other_vocabularies_count_by_their_settings():
  one, other = (seqio.PartialCodepointVocabulary([ord(c) for c in text]) for text in ('ab', 'ac'))
  assert describe_vocabulary(one) != describe_vocabulary(other)
  sizes = [describe_vocabulary(seqio.PassThroughVocabulary(size)) for size in (5, 7)]
  assert sizes[0] != sizes[1]


def test_a_vocabulary_of_one_s_own_counts_by_its_code():
  class Shifted(seqio.ByteVocabulary):
    def _encode(self, s):
      return [token + 1 for token in super()._encode(s)]

  described = describe_vocabulary(Shifted())
  assert described['encode'] is Shifted._encode
  assert described != describe_vocabulary(BYTES)


def test_a_missing_vocabulary_is_named(tmp_path):
  with pytest.raises(vocabularies.MissingVocabularyError, match=r'missing\.model: make it with'):
    describe_vocabulary(vocabularies.sentencepiece(f'{tmp_path}/missing.model'))
