"""Pairs of numbers in words: labels are right, splits share nothing, difficulty varies."""

import itertools

import pytest

from calm.tasks import compared_numbers
from calm.tasks.labelled import labels_of


def records(task, split):
  return [
    (record['first'], record['second'], record['label']) for _, record in task.source.read(split)
  ]


def test_the_label_says_how_the_first_compares_with_the_second():
  found = list(compared_numbers._records('here', [(90, 712), (712, 90)]))
  texts = [('ninety', 'seven hundred and twelve'), ('seven hundred and twelve', 'ninety')]
  assert [(one['first'], one['second']) for _, one in found] == texts
  assert [one['label'] for _, one in found] == ['less', 'greater']
  assert found[0][0] == 'here: 90, 712'


def test_splits_have_their_sizes_and_share_no_pair():
  task = compared_numbers.task(num_train=200, num_validation=30, num_test=20)
  found = [records(task, split) for split in ('train', 'validation', 'test')]
  assert [len(one) for one in found] == [200, 30, 20]
  pairs = [one[:2] for one in itertools.chain.from_iterable(found)]
  assert len(set(pairs)) == 250
  assert {label for *_, label in found[0]} == {'less', 'greater'}
  again = compared_numbers.task(num_train=200, num_validation=30, num_test=20)
  assert records(again, 'train') == found[0]
  assert labels_of(task) == compared_numbers.LABELS


def test_some_pairs_have_as_many_digits_and_others_do_not():
  pairs = compared_numbers.draw_pairs(400, max_digits=4, seed=1)
  alike = sum(len(str(one)) == len(str(other)) for one, other in pairs) / 400
  begin_alike = sum(str(one)[0] == str(other)[0] for one, other in pairs) / 400
  assert 0.4 < alike < 0.9
  assert 0.2 < begin_alike < 0.7
  assert max(max(pair) for pair in pairs) < 10_000


@pytest.mark.parametrize(
  ('count', 'digits', 'named'), [(1, 1, 'max_digits'), (1001, 2, 'too many')]
)
def test_what_cannot_be_drawn_is_told(count, digits, named):
  with pytest.raises(ValueError, match=named):
    compared_numbers.draw_pairs(count, digits)
