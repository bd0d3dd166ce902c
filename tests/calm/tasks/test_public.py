"""Every public task reads its data set, in T5's form, with TensorFlow Datasets' mock data.

The mock's records have the features of the real ones and random letters in them; what only real
records show is in test_prompts.py.
"""

import functools
import time

import numpy as np
import pytest
import requests
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from calm.tasks import batches, public, text, tokenization, vocabularies
from calm.tasks import examples as examples_module

# What T5's inputs begin with, and the words between the fields (Raffel et al., appendix D).
FORMS = {
  'wmt15_en_fr': ['translate English to French:'],
  'wmt16_en_ro': ['translate English to Romanian:'],
  'cnn_dailymail': ['summarize:'],
  'squad': ['question:', 'context:'],
  'glue_cola': ['cola sentence:'],
  'glue_sst2': ['sst2 sentence:'],
  'glue_mrpc': ['mrpc sentence1:', 'sentence2:'],
  'glue_qqp': ['qqp question1:', 'question2:'],
  'glue_stsb': ['stsb sentence1:', 'sentence2:'],
  'glue_mnli': ['mnli hypothesis:', 'premise:'],
  'glue_qnli': ['qnli question:', 'sentence:'],
  'glue_rte': ['rte sentence1:', 'sentence2:'],
  'glue_wnli': ['wnli sentence1:', 'sentence2:'],
  'super_glue_boolq': ['boolq passage:', 'question:'],
  'super_glue_cb': ['cb hypothesis:', 'premise:'],
  'super_glue_copa': ['copa choice1:', 'choice2:', 'premise:', 'question:'],
  'super_glue_multirc': ['multirc question:', 'answer:', 'paragraph:'],
  'super_glue_record': ['record query:', 'entities:', 'passage:'],
  'super_glue_rte': ['rte hypothesis:', 'premise:'],
  'super_glue_wic': ['wic sentence1:', 'sentence2:', 'word:'],
  'super_glue_wsc': ['wsc:'],
}


# Tasks whose target is a text of the record, not the word for its label.
WITHOUT_LABELS = {
  'wmt15_en_fr',
  'wmt16_en_ro',
  'cnn_dailymail',
  'squad',
  'glue_stsb',
  'super_glue_record',
  'super_glue_wsc',
}


@pytest.fixture(scope='module', autouse=True)
def mock_data():
  with tfds.testing.mock_data(num_examples=7):
    yield


@pytest.fixture(params=sorted(public.TASKS))
def name(request):
  return request.param


def task_of(name, **options):
  return public.task(name, vocabularies.byte_vocabulary(), **options)


def builder_of(name):
  return task_of(name).source.tfds_dataset.builder


@functools.cache
def examples_of(name, split):
  return examples_module.evaluation_examples(task_of(name), split)


class Downloads:
  """Stands in for TensorFlow Datasets' download manager: every address leads to one folder."""

  def __init__(self, folder):
    self.folder, self.addresses = folder, []

  def download_and_extract(self, urls):
    if isinstance(urls, dict):
      return {key: self.download_and_extract(value) for key, value in urls.items()}
    if isinstance(urls, list | tuple):
      return [self.download_and_extract(url) for url in urls]
    self.addresses.append(getattr(urls, 'url', urls))
    return str(self.folder)

  download = extract = download_and_extract


def test_splits_are_those_of_the_data_set(name, tmp_path, monkeypatch):
  # Mock data gives any split that is asked for; only the data set's own code knows their names.
  builder = builder_of(name)
  # CNN/DailyMail would look into its files.
  monkeypatch.setattr(f'{type(builder).__module__}._subset_filenames', lambda *_: {}, raising=False)
  downloads = Downloads(tmp_path)
  generators = builder._split_generators(downloads)
  names = generators if isinstance(generators, dict) else [one.name for one in generators]
  assert set(public.TASKS[name].splits.values()) <= set(map(str, names))
  # Where a data set is prepared, its files are known by size and checksum.
  assert downloads.addresses
  assert set(downloads.addresses) <= builder.url_infos.keys()


def test_versions_are_the_newest(name):
  builder = builder_of(name)
  assert str(builder.version) == str(type(builder).VERSION or builder.builder_config.version)


def test_every_split_has_the_form_of_t5(name):
  splits = task_of(name).splits
  assert {'train', 'validation'} <= set(splits)
  for split in splits:
    for example in examples_of(name, split):
      rest = example.texts['inputs']
      assert rest.startswith(f'{FORMS[name][0]} ')
      for words in FORMS[name]:
        before, found, rest = rest.partition(words)
        assert found
        assert before == '' or before.endswith(' ')
      assert example.target


@pytest.mark.parametrize('name', sorted(set(public.TASKS) - WITHOUT_LABELS))
def test_labels_are_the_words_of_the_data_set(name):
  names = builder_of(name).info.features['label'].names
  (record,) = task_of(name).source.get_dataset('validation', shuffle=False).take(1)
  targets = [
    public.TASKS[name].prompt({**record, 'label': tf.constant(i, tf.int64)})['targets']
    for i in range(-1, len(names))
  ]
  assert [one.numpy().decode() for one in targets] == ['', *names]  # -1: not labelled


def test_tokens_are_the_text_and_eos(name):
  for example, tokens in tokenization.tokenise(task_of(name), 'validation'):
    for one, feature in zip(texts_of(example), ('inputs', 'targets'), strict=True):
      assert tokens[feature].tolist() == [*(byte + 3 for byte in one.encode()), 1]


def texts_of(example):
  return example.texts['inputs'], example.target


def perfect(name):
  """Metrics of the validation split, its own targets predicted."""
  examples = examples_of(name, 'validation')
  predictions = [example.target for example in examples]
  if name == 'super_glue_wsc':  # A candidate that is not meant must not be predicted.
    pairs = zip(examples, predictions, strict=True)
    predictions = [one if example.raw['label'] == 1 else 'nothing' for example, one in pairs]
  return examples_module.score(task_of(name), examples, predictions)


@pytest.mark.parametrize('name', sorted(set(public.TASKS) - {'glue_stsb', 'cnn_dailymail'}))
def test_targets_predicted_score_100(name):
  scores = perfect(name)
  assert scores == pytest.approx(dict.fromkeys(scores, 100))


def test_rounded_similarities_correlate_almost_fully():
  scores = perfect('glue_stsb')  # Targets are rounded to steps of 0.2, references are not.
  assert set(scores) == {'pearson', 'spearman'}
  assert 90 < min(scores.values()) < 100


def test_summaries_predicted_score_100_but_for_the_pairs_of_single_words():
  scores = perfect('cnn_dailymail')
  texts = [example.target for example in examples_of('cnn_dailymail', 'validation')]
  with_pairs = np.mean([len(one.split()) > 1 for one in texts])
  assert 0 < with_pairs < 1
  assert scores == pytest.approx({'rouge1': 100, 'rouge2': 100 * with_pairs, 'rougeLsum': 100})


@pytest.mark.parametrize(
  ('name', 'keys'),
  [
    ('wmt15_en_fr', {'bleu'}),
    ('wmt16_en_ro', {'bleu'}),
    ('squad', {'em', 'f1'}),
    ('glue_cola', {'matthews'}),
    ('glue_mrpc', {'f1', 'accuracy'}),
    ('glue_qqp', {'f1', 'accuracy'}),
    ('glue_mnli', {'accuracy'}),
    ('super_glue_cb', {'macro_f1', 'accuracy'}),
    ('super_glue_multirc', {'f1a', 'em'}),
    ('super_glue_record', {'em', 'f1'}),
    ('super_glue_wsc', {'accuracy'}),
  ],
)
def test_metrics_are_those_that_are_published(name, keys):
  assert set(perfect(name)) == keys


@pytest.mark.parametrize('name', ['wmt15_en_fr', 'super_glue_record'])
def test_training_packs_its_examples(name):
  options = {'inputs_length': 2999, 'targets_length': 99, 'truncate': True, 'vocab_size': 259}
  iterator = batches.train_batches(
    task_of(name), batch_size=4, shard_index=0, num_shards=1, **options
  )
  batch = next(iterator)
  starts = batch['encoder_input_tokens'][:, : len(FORMS[name][0])]
  assert {bytes((row - 3).tolist()).decode() for row in starts} == {FORMS[name][0]}
  assert batch['decoder_segment_ids'].max() > 1


def test_record_trains_on_each_answer_and_validates_on_each_record():
  source = task_of('super_glue_record').source
  of_records = [
    [answer.decode() for answer in record['answers']]
    for record in source.get_dataset('validation', shuffle=False).as_numpy_iterator()
  ]
  assert max(map(len, of_records)) > 1
  validation, train = (examples_of('super_glue_record', one) for one in ('validation', 'train'))
  assert [one.raw['references'] for one in validation] == of_records
  assert [one.target for one in validation] == [answers[0] for answers in of_records]
  answers = [answer for answers in of_records for answer in answers]
  assert [one.target for one in train] == answers
  assert [one.raw['references'] for one in train] == [[answer] for answer in answers]


def test_wsc_trains_on_the_right_candidates_only():
  validation, train = (examples_of('super_glue_wsc', one) for one in ('validation', 'train'))
  assert {one.raw['label'] for one in validation} == {0, 1}
  right = [texts_of(one) for one in validation if one.raw['label'] == 1]
  assert [texts_of(one) for one in train] == right


def test_a_target_of_several_answers_is_all_of_them():
  example = examples_of('squad', 'validation')[0]
  target = task_of('squad').postprocess_fn('', example=example.raw, is_target=True)
  assert len(target) > 1
  assert target == example.raw['references']
  assert example.target == target[0]


def test_mnli_has_both_of_its_validation_splits():
  assert dict(public.TASKS['glue_mnli'].splits) == {
    'train': 'train',
    'validation': 'validation_matched',
    'validation_mismatched': 'validation_mismatched',
  }


def test_splits_metrics_and_folder_can_be_chosen():
  slices = []

  def as_dataset(self, split, **_):
    slices.append(str(split))
    record = {'sentence': 'fine', 'label': np.int64(1), 'idx': np.int32(0)}
    return tf.data.Dataset.from_tensors(record)

  task = task_of(
    'glue_sst2',
    splits={'train': 'train[:10%]', 'test': 'validation'},
    metrics=(),
    tfds_data_dir='elsewhere',
  )
  assert set(task.splits) == {'train', 'test'}
  assert task.source.tfds_dataset.data_dir == 'elsewhere'
  assert task.metric_fns == []
  with tfds.testing.mock_data(as_dataset_fn=as_dataset):
    for split in ('train', 'test'):
      (example,) = text.examples(task, split)
      assert example['inputs_pretokenized'] == 'sst2 sentence: fine'
      assert example['targets_pretokenized'] == 'positive'
  assert slices == ['train[:10%]', 'validation']


def test_a_text_that_is_not_utf8_is_named():
  def as_dataset(self, **_):
    records = {'sentence': [b'fine', b'caf\xe9'], 'label': [1, 1], 'idx': [0, 1]}
    return tf.data.Dataset.from_tensor_slices(records)

  task = task_of('glue_sst2')
  with (
    tfds.testing.mock_data(as_dataset_fn=as_dataset),
    pytest.raises(ValueError, match='glue_sst2 validation example 1: not UTF-8'),
  ):
    list(text.examples(task, 'validation'))


def test_a_split_without_labels_is_an_error():
  with pytest.raises(ValueError, match="'glue_sst2' has no split 'test', only train, validation"):
    list(text.examples(task_of('glue_sst2'), 'test'))


def test_an_unknown_name_lists_the_tasks():
  with pytest.raises(ValueError, match="No public task 'glue'; there are cnn_dailymail, glue_cola"):
    task_of('glue')


@pytest.mark.parametrize(
  'read',
  [
    lambda: public.records('squad', 'train'),
    lambda: text.examples(task_of('squad'), 'train'),
  ],
)
def test_a_data_set_that_cannot_be_downloaded_is_told_in_words(read, monkeypatch):
  def refuse(*_, **__):
    url = 'https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v1.1.json'
    raise requests.ConnectionError('Max retries', request=requests.Request(url=url))

  monkeypatch.setattr(seqio.TfdsDataSource, 'get_dataset', refuse)
  said = r'The data set squad/v1\.1:3.* no answer from rajpurkar\.github\.io\. .*TFDS_DATA_DIR'
  with pytest.raises(ConnectionError, match=said):
    list(read())


def test_a_silent_host_is_asked_for_a_quarter_of_a_minute_and_told_of_once(
  tmp_path, monkeypatch, caplog
):
  slept = []
  monkeypatch.setattr(time, 'sleep', slept.append)

  def ask(*_, **__):
    loader = downloader.get_downloader()
    with loader.tqdm():
      loader.download('http://127.0.0.1:1/train.json', tmp_path).get()

  monkeypatch.setattr(seqio.TfdsDataSource, 'get_dataset', ask)
  before = downloader.MAX_RETRIES
  with pytest.raises(ConnectionError, match=r'no answer from 127\.0\.0\.1:1'):
    list(public.records('squad', 'train'))
  assert 5 < sum(slept) < 15
  assert caplog.records == []
  assert before == downloader.MAX_RETRIES
