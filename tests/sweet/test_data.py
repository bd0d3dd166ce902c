"""Which rows are trained on and which are held out, and what is said of those that cannot be."""

import json

import numpy as np
import pytest

from calm.tasks import files, labelled, vocabularies
from calm.tasks.classification import Classification, Regression
from sweet import data

FORM = Classification(('text',), ('no', 'yes'))


@pytest.fixture
def make(tmp_path, tokenizer):
  """Makes the Rows of a task over records."""

  def make(records, form=FORM, **options):
    path = tmp_path / 'train.jsonl'
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    task = labelled.from_files(form, train=str(path))
    return data.Rows(task, tokenizer, **({'length': 24} | options))

  return make


def records(count):
  """Texts of 1 to 17 letters, each a token between two of the frame."""
  return [{'text': ' '.join('a' * (1 + i % 17)), 'label': i % 2} for i in range(count)]


def test_a_draw_is_without_replacement_and_what_is_held_out_is_not_trained_on():
  drawn = data.draw(1000, num_examples=600, num_held_out=90, seed=1)
  assert len(drawn.trained) == len(set(drawn.trained.tolist())) == 600
  assert len(drawn.held_out) == len(set(drawn.held_out.tolist())) == 90
  assert not set(drawn.trained.tolist()) & set(drawn.held_out.tolist())
  assert set(drawn.trained.tolist()) | set(drawn.held_out.tolist()) <= {*range(1000)}


def test_every_seed_draws_other_rows():
  # The published code trains each seed on the first 6000 rows.
  draws = [data.draw(1000, num_examples=100, seed=seed) for seed in range(5)]
  assert len({tuple(one.trained.tolist()) for one in draws}) == 5
  assert len({tuple(one.held_out.tolist()) for one in draws}) == 5
  assert not any(one.trained.tolist() == [*range(100)] for one in draws)


def test_more_rows_are_the_fewer_ones_and_others_and_hold_the_same_out():
  small, large = (data.draw(1000, num_examples=n, seed=3) for n in (100, 400))
  assert set(small.trained.tolist()) < set(large.trained.tolist())
  np.testing.assert_array_equal(small.held_out, large.held_out)


def test_at_most_a_tenth_is_held_out_and_all_others_are_trained_on_if_asked():
  drawn = data.draw(50)
  assert (len(drawn.trained), len(drawn.held_out)) == (45, 5)
  assert len(data.draw(50, num_examples=1000).trained) == 45
  assert len(data.draw(50, num_held_out=0).held_out) == 0


@pytest.mark.parametrize(
  ('change', 'complaint'),
  [
    ({'num_examples': 0}, 'NUM_EXAMPLES'),
    ({'num_held_out': -1}, 'NUM_HELD_OUT'),
    ({'num_rows': 0}, 'too few'),
  ],
)
def test_numbers_that_cannot_be_are_refused(change, complaint):
  with pytest.raises(ValueError, match=complaint):
    data.draw(**({'num_rows': 10} | change))


def test_all_methods_of_a_seed_see_the_same_batches(make):
  def first(seed):
    batches = data.train_batches(make(records(60)), batch_size=4, num_examples=20, seed=seed)
    return [next(batches) for _ in range(5)]

  for one, other in zip(first(0), first(0), strict=True):
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name])
  assert any((a['lengths'] != b['lengths']).any() for a, b in zip(first(0), first(1), strict=True))


def test_batches_hold_the_rows_that_were_drawn(make):
  rows = make(records(60))
  batches = data.train_batches(rows, batch_size=4, num_examples=20, seed=2)
  assert batches.batches_per_epoch == 5
  found = [next(batches) for _ in range(5)]
  drawn = data.draw(60, num_examples=20, seed=2).trained
  lengths = sorted(length for batch in found for length in batch['lengths'].tolist())
  assert lengths == sorted(3 + i % 17 for i in drawn.tolist())
  assert data.num_steps(batches) == 10
  assert data.num_steps(batches, 0.5) == 2
  with pytest.raises(ValueError, match=r'NUM_EPOCHS\) is 0'):
    data.num_steps(batches, 0)


def test_rows_that_are_cut_or_unknown_are_counted(make, capsys):
  rows = make([*records(17), {'text': 'a !', 'label': 0}], length=10)
  encoded = rows.encoded('train')
  assert np.diff(encoded.tokens.offsets).max() == 10
  said = capsys.readouterr().err
  assert 'files train: 9 of 18 texts are cut to 10 tokens.' in said
  assert 'files train: 1 of 18 texts have unknown tokens.' in said
  rows.encoded('train')  # Read once, and said once.
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  ('record', 'options', 'complaint'),
  [
    ({'text': 'a'}, {}, r"train\.jsonl:3: there is no label: no field 'label' .*, only 'text'\."),
    ({'text': 'a', 'label': -1}, {}, r'train\.jsonl:3: there is no label\. To train, give all'),
    ({'text': 'a b c d e f g', 'label': 1}, {'length': 8, 'truncate': False}, r'jsonl:3 has 9 tok'),
    ({'text': 'a \ud800', 'label': 1}, {}, r'train\.jsonl:3: '),
  ],
)
def test_a_row_that_cannot_be_trained_on_is_named(make, record, options, complaint):
  rows = make([*records(2), record], **options)
  with pytest.raises(ValueError, match=complaint):
    rows.encoded('train')


def test_a_regression_has_numbers(make):
  form = Regression(('text',), lowest=0, highest=5)
  rows = make([{'text': 'a', 'label': 2.5}, {'text': 'b', 'label': 4}], form)
  assert rows.regression
  assert rows.num_outputs == 1
  labels = rows.encoded('train').labels
  assert labels.dtype == np.float32
  assert labels.tolist() == [2.5, 4]


def test_a_task_of_texts_to_be_generated_is_refused(tmp_path, tokenizer):
  path = tmp_path / 'train.jsonl'
  path.write_text('{"x": "a", "y": "b"}\n')
  task = files.task(
    inputs='{x}', targets='{y}', vocabulary=vocabularies.byte_vocabulary(), train=str(path)
  )
  with pytest.raises(ValueError, match="'files' has no labels, but texts to be generated"):
    data.Rows(task, tokenizer).encoded('train')
