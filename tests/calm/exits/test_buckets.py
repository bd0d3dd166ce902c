"""Sizes of batches: few, and none much larger than what it holds."""

import itertools

import pytest

from calm.exits import buckets


def test_sizes_are_the_powers_of_two_and_what_lies_halfway():
  first = list(itertools.islice(buckets.sizes(), 12))
  assert first == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def test_the_next_size_is_the_smallest_that_holds_the_rows():
  found = {count: buckets.next_size(count) for count in (1, 3, 5, 9, 13, 17, 33)}
  assert found == {1: 1, 3: 3, 5: 6, 9: 12, 13: 16, 17: 24, 33: 48}


def test_at_most_a_third_of_a_batch_is_padding_and_sizes_stay_as_they_are():
  for count in range(1, 700):
    size = buckets.next_size(count)
    assert count <= size
    assert 3 * (size - count) < size
    assert buckets.next_size(size) == size


def test_no_rows_make_no_batch():
  with pytest.raises(ValueError, match='at least 1 row, not 0'):
    buckets.next_size(0)
