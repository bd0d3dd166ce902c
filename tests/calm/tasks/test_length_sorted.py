"""Batches of rows of about one length: every row once in an epoch, and nothing lost in a break."""

import itertools
import json

import numpy as np
import pytest

from calm.tasks.length_sorted import LENGTHS, EncodedTexts, LengthSortedBatches, padded_length
from calm.tasks.tokenization import RaggedArray


def rows_of(lengths):
  """Texts of given lengths; the first token of each is its number, counted from 1."""
  tokens = [np.full(length, 1 + i, np.int32) for i, length in enumerate(lengths)]
  types = [np.full(length, i % 2, np.int32) for i, length in enumerate(lengths)]
  return EncodedTexts(
    RaggedArray.from_rows(tokens), RaggedArray.from_rows(types), np.arange(len(lengths)) % 3
  )


LENGTHS_OF_ROWS = np.random.default_rng(7).integers(1, 90, 53)


def stream(lengths=LENGTHS_OF_ROWS, **options):
  settings = {'batch_size': 4, 'limit': 100, 'window': 5, 'seed': 3}
  return LengthSortedBatches(rows_of(lengths), **(settings | options))


def epochs(batches, count=1):
  """The batches of some epochs."""
  return list(itertools.islice(batches, count * batches.batches_per_epoch))


def numbers(batches):
  """Which rows batches hold, from 0, in order."""
  return [int(row) - 1 for batch in batches for row in batch['tokens'][batch['weights'] > 0, 0]]


@pytest.mark.parametrize('window', [1, 2, 5, 99])
@pytest.mark.parametrize('batch_size', [1, 4, 60])
def test_every_row_comes_once_in_each_epoch_and_in_another_order(window, batch_size):
  batches = stream(window=window, batch_size=batch_size)
  first, second = (numbers(epochs(batches)) for _ in range(2))
  assert sorted(first) == sorted(second) == list(range(53))
  if batch_size == 1 or window < 99:
    assert first != second


def test_a_row_keeps_its_tokens_types_label_and_length():
  for batch in epochs(stream()):
    for row in np.flatnonzero(batch['weights']):
      number, length = int(batch['tokens'][row, 0]) - 1, int(batch['lengths'][row])
      assert length == LENGTHS_OF_ROWS[number]
      assert batch['tokens'][row].tolist() == [number + 1] * length + [0] * (
        batch['tokens'].shape[1] - length
      )
      assert batch['token_types'][row, :length].tolist() == [number % 2] * length
      assert batch['labels'][row] == number % 3


def test_rows_that_are_not_there_have_no_weight_and_no_length():
  last = [batch for batch in epochs(stream()) if not batch['weights'].all()]
  assert len(last) == 1
  (batch,) = last
  assert batch['weights'].sum() == 53 % 4
  empty = batch['weights'] == 0
  assert not batch['tokens'][empty].any()
  assert not batch['lengths'][empty].any()


def test_batches_are_numbered_through_all_epochs():
  found = epochs(stream(), 2)
  assert [batch['batch_number'].tolist() for batch in found] == [[i] * 4 for i in range(28)]


def test_sorting_within_windows_leaves_less_padding():
  def padding(window):
    return sum(b['tokens'].size - b['lengths'].sum() for b in epochs(stream(window=window)))

  assert padding(99) < 0.6 * padding(1)


def test_batches_of_a_window_are_in_no_order_of_length():
  longest = [batch['lengths'].max() for batch in epochs(stream(window=99))]
  assert longest != sorted(longest)


@pytest.mark.parametrize('place', [0, 1, 13, 14, 15, 30])
def test_a_stream_goes_on_from_any_place_as_if_there_had_been_no_break(place):
  whole, before, after = stream(), stream(), stream()
  expected = list(itertools.islice(whole, 33))[place:]
  list(itertools.islice(before, place))
  after.set_state(json.loads(json.dumps(before.get_state())))
  for one, other in zip(expected, itertools.islice(after, 33 - place), strict=True):
    assert one.keys() == other.keys()
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize('shards', [2, 4])
def test_hosts_have_parts_of_the_same_batches(shards):
  whole = epochs(stream(shard_index=0, num_shards=1))
  parts = [epochs(stream(shard_index=i, num_shards=shards)) for i in range(shards)]
  for batch, *own in zip(whole, *parts, strict=True):
    for name, value in batch.items():
      np.testing.assert_array_equal(value, np.concatenate([one[name] for one in own]))


def test_lengths_are_few_and_the_longest_allowed_is_among_them():
  found = [padded_length(n, 100) for n in (1, 16, 17, 64, 65, 96, 97, 100)]
  assert found == [16, 16, 32, 64, 96, 96, 100, 100]
  assert padded_length(5, 7) == 7
  assert padded_length(600, 700) == 700
  found = {batch['tokens'].shape[1] for batch in epochs(stream())}
  assert found <= {*LENGTHS, 100}


def test_settings_tell_streams_apart_by_content():
  base = stream().settings
  assert stream().settings == base
  assert json.loads(json.dumps(base)) == base
  for change in ({'seed': 4}, {'window': 6}, {'batch_size': 2}, {'limit': 99}):
    assert stream(**change).settings != base
  assert stream(LENGTHS_OF_ROWS[::-1]).settings != base


@pytest.mark.parametrize(
  ('change', 'complaint'),
  [
    ({'lengths': []}, 'no rows'),
    ({'window': 0}, 'window must be at least 1, not 0'),
    ({'batch_size': 0}, 'BATCH_SIZE .* not 0'),
    ({'batch_size': 3, 'shard_index': 0, 'num_shards': 2}, 'BATCH_SIZE .* the 2 hosts'),
  ],
)
def test_sizes_that_cannot_be_are_refused(change, complaint):
  with pytest.raises(ValueError, match=complaint):
    stream(**change)
