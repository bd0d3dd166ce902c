"""Batches hold every example whole, in an order that can be restored anywhere."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import seqio

from calm.tasks import batches, text, tokenization, vocabularies

LENGTHS = {'inputs_length': 29, 'targets_length': 31}
FEATURES = [('encoder_input_tokens', 'encoder'), ('decoder_target_tokens', 'decoder')]


def stream(task, batch_size=4, shard=(0, 1), **options):
  options = {**LENGTHS, **options}
  return batches.train_batches(
    task, batch_size=batch_size, shard_index=shard[0], num_shards=shard[1], **options
  )


def take(iterator, number):
  return list(itertools.islice(iterator, number))


def assert_same(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def segments(batch):
  """(inputs, targets) of every segment of every row, as tuples of tokens."""
  for row in range(len(batch['encoder_input_tokens'])):
    for segment in range(1, batch['encoder_segment_ids'][row].max() + 1):
      yield tuple(
        tuple(batch[tokens][row][batch[f'{side}_segment_ids'][row] == segment].tolist())
        for tokens, side in FEATURES
      )


def pairs(task, split='train'):
  """(inputs, targets) of every example of a split, as tuples of tokens."""
  return [
    (tuple(tokens['inputs'].tolist()), tuple(tokens['targets'].tolist()))
    for _, tokens in tokenization.tokenise(task, split)
  ]


@pytest.fixture(params=['bytes', 'sentencepiece'])
def any_task(request, translation, tmp_path):
  """A task in bytes, and one in pieces with unknown characters and odd spaces."""
  if request.param == 'bytes':
    return translation()
  path = vocabularies.write_vocabulary(translation(), str(tmp_path / 'sp.model'), 41)
  records = [{'en': '  two \N{SNOWMAN}  words ', 'fr': ''}, {'en': '', 'fr': 'é\u00a0日\n'}]
  return translation(records, vocabulary=vocabularies.sentencepiece(path))


@pytest.mark.parametrize('length', [99, 7, 1])
def test_tokens_are_those_of_seqio(any_task, length):
  found = tokenization.tokenise(any_task, 'train')
  expected = any_task.get_dataset({'inputs': length, 'targets': 99}, 'train', shuffle=False)
  for (example, tokens), other in zip(found, expected.as_numpy_iterator(), strict=True):
    cut = tokenization.fit(tokens['inputs'], length, True, example.where, 'inputs')
    np.testing.assert_array_equal(cut, other['inputs'])
    np.testing.assert_array_equal(tokens['targets'], other['targets'])
    assert example.texts['inputs'] == other['inputs_pretokenized'].decode()
    assert example.target == other['targets_pretokenized'].decode()


def test_batches_have_the_names_shapes_and_type_of_seqio(translation):
  task = translation()
  (batch,) = take(stream(task, 4), 1)
  encoder = {'encoder_input_tokens', 'encoder_segment_ids', 'encoder_positions'}
  assert all(value.dtype == np.int32 for value in batch.values())
  assert {key for key, value in batch.items() if value.shape == (4, 29)} == encoder
  assert {key for key, value in batch.items() if value.shape == (4, 31)} == {
    'decoder_input_tokens',
    'decoder_target_tokens',
    'decoder_segment_ids',
    'decoder_positions',
    'decoder_loss_weights',
  }


@pytest.mark.parametrize('pack', [True, False])
def test_a_segment_is_a_whole_example(translation, pack):
  task = translation()
  expected = set(pairs(task))
  seen = [pair for batch in take(stream(task, pack=pack), 30) for pair in segments(batch)]
  assert set(seen) == expected
  if pack:
    assert len(seen) > 1.5 * 30 * 4
  else:
    assert len(seen) == 30 * 4


@pytest.mark.parametrize('pack', [True, False])
def test_positions_weights_and_shifted_inputs_follow_from_the_segments(translation, pack):
  for batch in take(stream(translation(), pack=pack), 5):
    for tokens, side in FEATURES:
      ids, positions = batch[f'{side}_segment_ids'], batch[f'{side}_positions']
      np.testing.assert_array_equal(batch[tokens] != 0, ids > 0)
      for row in range(4):
        sizes = np.bincount(ids[row], minlength=2)[1:]
        expected = [*np.concatenate([np.arange(size) for size in sizes]), *[0] * 99]
        np.testing.assert_array_equal(positions[row], expected[: ids.shape[1]])
        ends = np.cumsum(sizes) - 1
        np.testing.assert_array_equal(np.flatnonzero(batch[tokens][row] == 1), ends)
    ids, targets = batch['decoder_segment_ids'], batch['decoder_target_tokens']
    np.testing.assert_array_equal(batch['decoder_loss_weights'], ids > 0)
    for row, column in np.ndindex(ids.shape):
      first = column == 0 or ids[row, column] != ids[row, column - 1]
      before = 0 if first or not ids[row, column] else targets[row, column - 1]
      assert batch['decoder_input_tokens'][row, column] == before


def test_each_epoch_holds_every_example_once_in_an_order_of_its_own(translation):
  task = translation()
  epochs = [list(segments(batch)) for batch in take(stream(task, 7, pack=False), 4)]
  assert all(sorted(epoch) == sorted(pairs(task)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 1


def test_packing_neither_loses_nor_doubles_an_example(translation):
  task = translation([{'en': str(i), 'fr': str(-i)} for i in range(1009)])
  counts = dict.fromkeys(pairs(task), 0)
  packed = stream(task)
  while sum(counts.values()) < 3 * 1009:
    for pair in segments(next(packed)):
      counts[pair] += 1
  # What is read but not given out fits into 64 rows, 5 examples each: less than an epoch. So each
  # has been read 3 or 4 times, and of these the last two at most may be among the rows.
  assert 1 <= min(counts.values()) <= max(counts.values()) <= 4


def test_the_order_follows_from_the_seed(translation):
  task = translation()
  assert_same(take(stream(task, seed=3), 5), take(stream(task, seed=3), 5))
  one, other = take(stream(task, seed=3), 5), take(stream(task, seed=4), 5)
  assert any(
    (a['encoder_input_tokens'] != b['encoder_input_tokens']).any()
    for a, b in zip(one, other, strict=True)
  )


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('step', [0, 1, 23])
def test_a_state_in_json_continues_where_it_was_taken(translation, pack, step):
  task = translation()
  first = stream(task, pack=pack)
  take(first, step)
  state = json.dumps(first.get_state())
  expected = take(first, 7)

  fresh = stream(task, pack=pack)
  fresh.set_state(json.loads(state))
  assert_same(take(fresh, 7), expected)
  assert json.dumps(fresh.get_state()) == json.dumps(first.get_state())

  first.set_state(json.loads(state))  # Back on the same stream.
  assert_same(take(first, 7), expected)


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('num_shards', [2, 4])
def test_shards_together_are_the_batch_of_a_single_host(translation, pack, num_shards):
  task = translation()
  whole = stream(task, pack=pack)
  parts = [stream(task, shard=(i, num_shards), pack=pack) for i in range(num_shards)]
  for _ in range(7):
    expected = next(whole)
    of_parts = [next(part) for part in parts]
    joined = {key: np.concatenate([part[key] for part in of_parts]) for key in expected}
    assert_same([joined], [expected])
    assert all(part.get_state() == whole.get_state() for part in parts)


def test_a_state_fits_another_number_of_hosts(translation):
  task = translation()
  one = stream(task)
  take(one, 5)
  second = stream(task, shard=(1, 2))
  second.set_state(one.get_state())
  np.testing.assert_array_equal(
    next(second)['decoder_target_tokens'], next(one)['decoder_target_tokens'][2:]
  )


def test_rows_that_do_not_divide_among_hosts_are_an_error(translation):
  with pytest.raises(ValueError, match='BATCH_SIZE must be a multiple of the 2 hosts'):
    stream(translation(), 3, shard=(0, 2))
  for size in (0, -2):
    with pytest.raises(ValueError, match='batch_size must be a whole number of at least 1, not'):
      stream(translation(), size, shard=(0, 2))


@pytest.mark.parametrize(
  ('changes', 'differ'),
  [
    ({'seed': 1}, {'seed'}),
    ({'pack': False}, {'pack'}),
    ({'inputs_length': 37}, {'inputs_length'}),
    ({'targets_length': 37}, {'targets_length'}),
    ({'batch_size': 8}, {'batch_size'}),
    ({'split': 'validation'}, {'examples', 'data'}),
    ({'inputs_length': 9, 'truncate': True}, {'inputs_length', 'data'}),
    ({'shard': (1, 2)}, set()),
    ({'truncate': True}, set()),
    ({'vocab_size': 1000}, set()),
  ],
)
def test_settings_are_what_decides_the_batches_and_nothing_else(translation, changes, differ):
  one = stream(translation()).settings
  other = stream(translation(), **changes).settings
  assert json.loads(json.dumps(one)) == one
  assert {name for name in one if one[name] != other[name]} == differ


def test_data_are_the_same_by_their_tokens(translation):
  def data(*targets):
    return stream(translation([{'en': 'x', 'fr': fr} for fr in targets])).settings['data']

  assert data('un', 'deux') == data('un', 'deux')
  assert len({data('un', 'deux'), data('deux', 'un'), data('und', 'eux'), data('un')}) == 4


def test_without_shards_a_single_process_gets_it_all(translation):
  task = translation()
  iterator = batches.train_batches(task, batch_size=4, **LENGTHS)
  assert_same([next(iterator)], [next(stream(task))])


@pytest.mark.parametrize('feature', ['inputs', 'targets'])
def test_what_is_too_long_is_named_with_the_mend(translation, feature):
  # 'en: a thousand and one' and 'quatre-vingt-dix-neuf' are the longest, with EOS 23 and 22.
  line, tokens = {'inputs': (7, 23), 'targets': (4, 22)}[feature]
  upper = feature.upper()
  with pytest.raises(
    tokenization.ExampleError,
    match=rf'train\.jsonl:{line}: the {feature} have {tokens} tokens, and {upper}_LENGTH is'
    rf' {tokens - 1}\. .*TRUNCATE = True',
  ):
    stream(translation(), **{f'{feature}_length': tokens - 1})
  next(stream(translation(), **{f'{feature}_length': tokens}))


def test_what_is_cut_still_ends_in_eos(translation):
  task = translation()
  options = {'inputs_length': 6, 'targets_length': 5, 'truncate': True}
  for inputs, targets in segments(next(stream(task, 7, pack=False, **options))):
    assert inputs[-1] == targets[-1] == 1
    assert len(inputs) == 6
    assert len(targets) <= 5


@pytest.mark.parametrize('length', [0, -3])
@pytest.mark.parametrize('truncate', [True, False])
def test_a_row_without_room_is_an_error(translation, length, truncate):
  for feature in ('inputs', 'targets'):
    with pytest.raises(ValueError, match=f'{feature}_length must be .* of at least 1, not'):
      stream(translation(), **{f'{feature}_length': length}, truncate=truncate)


def without_eos(task):
  feature = seqio.Feature(vocabularies.byte_vocabulary(), add_eos=False)
  return task.replace(output_features={'inputs': feature, 'targets': feature})


@pytest.mark.parametrize(
  ('feature', 'record'), [('inputs', {'en': '', 'fr': 'x'}), ('targets', {'en': 'x', 'fr': ''})]
)
def test_an_example_without_a_token_is_named(translation, feature, record):
  task = translation([{'en': 'a', 'fr': 'b'}, record], inputs='{en}')
  stream(task)  # EOS alone is a token.
  with pytest.raises(
    tokenization.ExampleError, match=rf'train\.jsonl:2: the {feature} have no tokens'
  ):
    stream(without_eos(task))


def test_what_does_not_end_in_eos_is_cut_at_its_end(translation):
  task = without_eos(translation([{'en': 'abcdef', 'fr': 'xyz'}], inputs='{en}'))
  options = {'inputs_length': 4, 'targets_length': 2, 'truncate': True}
  ((inputs, targets),) = segments(next(stream(task, 1, pack=False, **options)))
  assert bytes(token - 3 for token in inputs) == b'abcd'
  assert bytes(token - 3 for token in targets) == b'xy'


def test_a_token_that_the_model_does_not_know_is_an_error(translation):
  # Bytes are tokens from 3 on: 'z' is 125, and 'x' 123 is the largest in these texts.
  records = [{'en': 'ab', 'fr': 'x'}, {'en': 'z', 'fr': ''}] * 40  # grain is slow with two.
  next(stream(translation(records), vocab_size=126))
  complaint = r'train\.jsonl:2: the inputs hold token 125, and the model knows 125 \(VOCAB_SIZE\)'
  with pytest.raises(tokenization.ExampleError, match=complaint):
    stream(translation(records), vocab_size=125)


def test_an_empty_split_is_an_error_that_names_the_file(translation):
  complaint = r"Split 'train' of task 'files' has no examples; it is read from .*train\.jsonl\."
  with pytest.raises(ValueError, match=complaint):
    stream(translation([]))


def test_an_unknown_split_is_an_error(translation):
  with pytest.raises(ValueError, match=r"no split 'test', only train, validation.*TEST_FILE"):
    stream(translation(), split='test')


def test_more_than_one_chunk_of_texts_keeps_its_order(translation):
  records = [{'en': str(i), 'fr': str(-i)} for i in range(2003)]
  found = list(tokenization.tokenise(translation(records), 'train'))
  assert [one.target for one, _ in found] == [str(-i) for i in range(2003)]
  assert [one.index for one, _ in found] == list(range(2003))
  decode = translation().output_features['targets'].vocabulary.decode
  assert [decode(tokens['targets'].tolist()) for _, tokens in found[998:1002]] == [
    str(-i) for i in range(998, 1002)
  ]


# SHA-256 of nine batches and the state after them, as they have been since the first version.
DIGESTS = {
  True: 'd30ac235d5d3503534af284ac37d9eade20fa36934b1a6818259f319263ea1a9',
  False: 'd49c074453b4404f4b3adaa4ff3e2ca2f90b520034906ce09a99b9d5b6e23b97',
}


@pytest.mark.parametrize('pack', [True, False])
def test_a_run_of_an_earlier_version_goes_on_with_the_same_batches(translation, pack):
  iterator = stream(translation(), seed=3, pack=pack)
  digest = hashlib.sha256()
  for batch in take(iterator, 9):
    for name in sorted(batch):
      digest.update(f'{name}{batch[name].shape}'.encode() + batch[name].tobytes())
  digest.update(json.dumps(iterator.get_state(), sort_keys=True).encode())
  assert digest.hexdigest() == DIGESTS[pack]


def numbered(start, count):
  """Columns of `count` examples: a sentence of one to three times its number, and that number."""
  numbers = range(start, start + count)
  return {
    'sentence': tokenization.RaggedArray.from_rows([[i] * (1 + i % 3) for i in numbers]),
    'label': tokenization.RaggedArray.from_rows([[i] for i in numbers]),
  }


def stream_of(drawn, **options):
  options = {'batch_size': 4, 'pack': False, 'shard_index': 0, 'num_shards': 1, **options}
  return batches.stream(drawn, {'sentence': 3, 'label': 1}, dict, **options)


def test_columns_of_any_name_stay_together():
  for batch in take(stream_of([(numbered(1, 7), 1.0)]), 9):
    for sentence, label in zip(batch['sentence'], batch['label'], strict=True):
      assert set(sentence.tolist()) - {0} == set(label.tolist())
    np.testing.assert_array_equal(batch['sentence_segment_ids'], batch['sentence'] > 0)


def labels_of(iterator, number):
  return np.concatenate([batch['label'][:, 0] for batch in take(iterator, number)])


@pytest.mark.parametrize('rates', [(3, 1), (0.75, 0.25), (3e6, 1e6)])
def test_columns_are_drawn_at_their_rates_each_in_epochs_of_its_own(rates):
  drawn = [(numbered(1, 5), rates[0]), (numbered(11, 3), rates[1])]
  labels = labels_of(stream_of(drawn), 15)
  first, second = labels[labels < 11], labels[labels >= 11]
  assert (len(first), len(second)) == (45, 15)
  assert all(sorted(epoch) == [1, 2, 3, 4, 5] for epoch in first.reshape(9, 5))
  assert all(sorted(epoch) == [11, 12, 13] for epoch in second.reshape(5, 3))
  assert len(set(map(tuple, first.reshape(9, 5)))) > 1
  assert (np.cumsum(labels >= 11) <= np.arange(1, 61) // 4 + 1).all()  # Mixed all the way.


@pytest.mark.parametrize('pack', [True, False])
def test_mixed_columns_continue_where_a_state_was_taken(pack):
  drawn = [(numbered(1, 5), 0.3), (numbered(11, 3), 0.2), (numbered(21, 7), 0.5)]
  first = stream_of(drawn, pack=pack, seed=3)
  take(first, 5)
  state = json.dumps(first.get_state())
  fresh = stream_of(drawn, pack=pack, seed=3)
  fresh.set_state(json.loads(state))
  assert_same(take(fresh, 7), take(first, 7))
  other = stream_of(drawn, pack=pack, seed=4)
  assert (labels_of(stream_of(drawn, pack=pack, seed=3), 5) != labels_of(other, 5)).any()


def test_a_task_that_ends_otherwise_is_an_error(translation):
  task = translation()
  task = task.replace(preprocessors=task.preprocessors[:-1])
  with pytest.raises(ValueError, match='does not end in seqio'):
    list(text.examples(task, 'train'))


def test_a_missing_vocabulary_is_told_before_any_example_is_read():
  def read(split):
    raise AssertionError(f'{split} is read')

  vocabulary = vocabularies.sentencepiece('nowhere/vocabulary.model')
  with pytest.raises(vocabularies.MissingVocabularyError, match=r'nowhere/vocabulary\.model'):
    stream(text.task('unread', text.PythonSource(read, ['train']), vocabulary))
