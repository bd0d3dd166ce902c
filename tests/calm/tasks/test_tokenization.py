"""Rows of tokens keep their order and ends, and fit a model or are named."""

import numpy as np
import pytest

from calm.tasks import tokenization


def test_pad_rows_writes_zeros_after_each_and_rejects_what_does_not_fit():
  rows = [np.array([5, 1]), np.array([7, 8, 1])]
  np.testing.assert_array_equal(
    tokenization.pad_rows(rows, 3, 3), np.array([[5, 1, 0], [7, 8, 1], [0, 0, 0]])
  )
  with pytest.raises(ValueError, match='2 sequences do not fit into 1'):
    tokenization.pad_rows(rows, 3, 1)
  with pytest.raises(ValueError, match='3 tokens does not fit into 2'):
    tokenization.pad_rows(rows, 2, 2)


def test_ragged_rows_are_as_they_were():
  rows = [[1, 2], [], [3]]
  ragged = tokenization.RaggedArray.from_rows(rows)
  assert [ragged[i].tolist() for i in range(len(ragged))] == rows


@pytest.mark.parametrize(
  ('length', 'ends_in_eos', 'kept'),
  [(4, True, [5, 6, 7, 1]), (3, True, [5, 6, 1]), (1, True, [1]), (3, False, [5, 6, 7])],
)
def test_what_is_cut_keeps_its_eos_if_it_has_one(length, ends_in_eos, kept):
  tokens = np.array([5, 6, 7, 1])
  cut = tokenization.fit(tokens, length, True, 'here', 'inputs', ends_in_eos=ends_in_eos)
  assert cut.tolist() == kept


def test_tokens_that_a_model_cannot_take_are_named():
  check = tokenization.checked
  assert check(np.array([7, 1]), 2, False, 'here', 'inputs', vocab_size=8).tolist() == [7, 1]
  with pytest.raises(tokenization.ExampleError, match='here: the inputs have no tokens'):
    check(np.zeros(0, np.int32), 2, False, 'here', 'inputs')
  with pytest.raises(tokenization.ExampleError, match='here: the inputs hold token 8, and the mod'):
    check(np.array([8, 1]), 2, False, 'here', 'inputs', vocab_size=8)
  with pytest.raises(tokenization.ExampleError, match='have 3 tokens, and INPUTS_LENGTH is 2'):
    check(np.array([7, 7, 1]), 2, False, 'here', 'inputs')


def test_a_split_is_tokenised_in_its_order(translation):
  found = list(tokenization.tokenise(translation(), 'validation'))
  assert [example.target for example, _ in found] == ['un', 'vingt et un', 'quatre-vingts']
  for example, tokens in found:
    for text, name in ((example.texts['inputs'], 'inputs'), (example.target, 'targets')):
      assert tokens[name].tolist() == [*(byte + 3 for byte in text.encode()), 1]
