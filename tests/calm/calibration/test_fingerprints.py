"""Fingerprints are equal for equals and differ for everything else."""

import dataclasses

import numpy as np
import pytest

from calm.calibration.fingerprints import code_fingerprint, fingerprint


@dataclasses.dataclass(frozen=True)
class _Sizes:
  width: int = 3
  names: tuple[str, ...] = ('a',)


@dataclasses.dataclass(frozen=True)
class _Others:
  width: int = 3
  names: tuple[str, ...] = ('a',)


def test_different_values_have_different_fingerprints():
  array = np.arange(6, dtype=np.int32)
  values = [
    None, True, 1, 1.0, '1', b'1', 'None', '', [], {}, ['ab'], ['a', 'b'], ['a', ['b']],
    [['a'], 'b'], {'a': 'b'}, {'a': ['b']}, {'b': 'a'}, array,
    array.reshape(2, 3), array.astype(np.int64), array.astype(np.float32), -array,
    np.int32(5), np.array([5], np.int32), np.dtype('float32'),
    _Sizes(), _Sizes(width=5), _Others(), {'width': 3, 'names': ['a']},
  ]  # fmt: skip
  found = [fingerprint(value) for value in values]
  assert len(set(found)) == len(values)
  assert all(f.startswith('sha256:') and len(f) == 71 for f in found)


def test_order_of_keys_and_memory_do_not_matter():
  square = np.arange(9.0).reshape(3, 3)
  one = {'a': {'kernel': square}, 'b': (1, 2)}
  other = {'b': [1, 2], 'a': {'kernel': np.asfortranarray(square)}}
  assert fingerprint(one) == fingerprint(other)


def test_a_single_weight_changes_the_fingerprint():
  params = {'layers_0': {'kernel': np.zeros((17, 13), np.float32)}}
  changed = {'layers_0': {'kernel': np.zeros((17, 13), np.float32)}}
  changed['layers_0']['kernel'][16, 12] = 1e-30
  assert fingerprint(params) != fingerprint(changed)


@pytest.mark.parametrize('value', [{'a': [1, object()]}, {'a': [1, np.array([None])]}])
def test_what_has_no_fingerprint_is_named(value):
  with pytest.raises(ValueError, match=r"value\['a'\]\[1\] is a"):
    fingerprint(value)


def test_keys_are_strings():
  with pytest.raises(ValueError, match='keys that are not strings'):
    fingerprint({1: 2})


def test_code_changes_with_contents_and_names_not_with_place(tmp_path):
  for place in ('here', 'there'):
    (tmp_path / place / 'deep').mkdir(parents=True)
    (tmp_path / place / 'deep' / 'one.py').write_text('x = 1\n')
    (tmp_path / place / 'note.txt').write_text(place)
  here, there = tmp_path / 'here', tmp_path / 'there'
  assert code_fingerprint(here) == code_fingerprint(str(there))
  assert code_fingerprint(here) != code_fingerprint(here, there)
  (there / 'deep' / 'one.py').write_text('x = 2\n')
  assert code_fingerprint(here) != code_fingerprint(there)
  (there / 'deep' / 'one.py').write_text('x = 1\n')
  (there / 'deep' / 'one.py').rename(there / 'two.py')
  assert code_fingerprint(here) != code_fingerprint(there)


def test_a_folder_without_code_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='No Python file at'):
    code_fingerprint(tmp_path)
