"""The spelled numbers are right, and the same numbers wherever they are drawn."""

import sys

import pytest

from calm.tasks import batches, spelled_numbers, text, vocabularies
from calm.tasks.tokenization import ExampleError

SPLITS = ('train', 'validation', 'test')
# Seven numbers for each split, by seed 3: what was drawn once, in another process.
DRAWN = [
  [606, 86, 46578, 6, 82201, 86857, 1],
  [44, 8897, 13, 0, 5, 53378, 322],
  [9, 546, 239, 4, 364, 48, 788],
]


def task_of(**options):
  sizes = {'num_train': 50, 'num_validation': 20, 'num_test': 30}
  return spelled_numbers.task(vocabulary=vocabularies.byte_vocabulary(), **{**sizes, **options})


def pairs(task, split):
  return [
    (one['inputs_pretokenized'], one['targets_pretokenized']) for one in text.examples(task, split)
  ]


@pytest.mark.parametrize(
  ('number', 'english', 'french'),
  [
    (0, 'zero', 'zéro'),
    (16, 'sixteen', 'seize'),
    (17, 'seventeen', 'dix-sept'),
    (21, 'twenty-one', 'vingt et un'),
    (22, 'twenty-two', 'vingt-deux'),
    (70, 'seventy', 'soixante-dix'),
    (71, 'seventy-one', 'soixante et onze'),
    (77, 'seventy-seven', 'soixante-dix-sept'),
    (80, 'eighty', 'quatre-vingts'),
    (81, 'eighty-one', 'quatre-vingt-un'),
    (91, 'ninety-one', 'quatre-vingt-onze'),
    (97, 'ninety-seven', 'quatre-vingt-dix-sept'),
    (100, 'one hundred', 'cent'),
    (200, 'two hundred', 'deux cents'),
    (201, 'two hundred and one', 'deux cent un'),
    (280, 'two hundred and eighty', 'deux cent quatre-vingts'),
    (1000, 'one thousand', 'mille'),
    (2000, 'two thousand', 'deux mille'),
    (80_000, 'eighty thousand', 'quatre-vingt mille'),
    (999_999, None, 'neuf cent quatre-vingt-dix-neuf mille neuf cent quatre-vingt-dix-neuf'),
  ],
)
def test_irregular_french_numbers(number, english, french):
  spelled = spelled_numbers.spell(number)
  assert spelled == (english or spelled[0], french)


def test_no_two_numbers_have_the_same_words():
  for language in (0, 1):
    words = {spelled_numbers.spell(number)[language] for number in range(2000)}
    assert len(words) == 2000


def test_splits_have_their_sizes_and_no_number_in_common():
  task = task_of()
  of_split = {split: pairs(task, split) for split in SPLITS}
  assert {split: len(of_split[split]) for split in SPLITS} == {
    'train': 50,
    'validation': 20,
    'test': 30,
  }
  assert {split: task.source.num_input_examples(split) for split in SPLITS} == {
    split: len(of_split[split]) for split in SPLITS
  }
  inputs = [one for split in SPLITS for one, _ in of_split[split]]
  targets = [one for split in SPLITS for _, one in of_split[split]]
  assert len(set(inputs)) == len(set(targets)) == 100


def test_numbers_that_are_all_taken_are_shared_out():
  lists = spelled_numbers.draw_numbers((90, 7, 4), max_number=100)
  assert [len(numbers) for numbers in lists] == [90, 7, 4]
  assert sorted(number for numbers in lists for number in numbers) == list(range(101))


def test_short_numbers_are_not_lost_among_long_ones():
  train, *_ = spelled_numbers.draw_numbers((600, 10, 10), max_number=999_999)
  assert max(train) <= 999_999
  shares = [sum(len(str(number)) == digits for number in train) / 600 for digits in range(1, 7)]
  # Of the 10 and 90 short ones nearly all are there; long ones share what is left.
  assert sum(number < 100 for number in train) > 85
  assert min(shares[2:]) > 0.15


@pytest.mark.parametrize('maximum', [9, 10, 99, 100, 4711])
def test_the_largest_number_can_be_drawn_and_none_beyond(maximum):
  sizes = (maximum - 1, 1, 1)
  numbers = [one for numbers in spelled_numbers.draw_numbers(sizes, maximum) for one in numbers]
  assert sorted(numbers) == list(range(maximum + 1))


def test_the_order_follows_from_the_seed():
  assert pairs(task_of(seed=3), 'train') == pairs(task_of(seed=3), 'train')
  assert pairs(task_of(seed=3), 'train') != pairs(task_of(seed=4), 'train')


def test_every_process_draws_the_same_numbers():
  assert spelled_numbers.draw_numbers((7, 7, 7), 99_999, seed=3) == DRAWN


def test_an_error_names_the_number():
  lengths = {'inputs_length': 5, 'targets_length': 99}
  with pytest.raises(ExampleError, match=r'spelled_numbers train: \d+: the inputs have'):
    batches.train_batches(task_of(), batch_size=4, **lengths)


def test_its_metric_is_the_share_that_is_spelled_right():
  (metric,) = task_of().metric_fns
  assert metric(['un', 'deux'], ['un', 'douze']) == {'exact_match': 50.0}


@pytest.mark.parametrize(
  ('options', 'complaint'),
  [
    ({'max_number': 98}, r'\[50, 20, 30\] different numbers, .* cannot be drawn from 0 to 98'),
    ({'max_number': -1}, 'max_number must be a whole number of at least 0, not -1'),
    ({'num_test': 0}, 'num_test must be a whole number of at least 1, not 0'),
    ({'max_number': 10**30}, f'max_number is {10**30}, and {sys.maxsize} is the most'),
  ],
)
def test_sizes_that_cannot_be_are_errors(options, complaint):
  with pytest.raises(ValueError, match=complaint):
    task_of(**options)
