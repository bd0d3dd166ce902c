"""A template reaches the fields of a record and nothing else."""

import pytest

from calm.tasks.templates import FieldError, Template, lookup


@pytest.mark.parametrize(
  ('template', 'filled'),
  [
    ('no field', 'no field'),
    ('', ''),
    ('{a}', 'x'),
    ('{a}{a}, {n} {yes}', 'xx, 3 true'),
    ('{{{a}}}', '{x}'),
    ('{b[c][1]}', 'z'),
    ('{b[d e]}', '0.5'),
    ('{with.dot} {0}', 'w zero'),
    ('{a|none} {x|none}', 'x none'),
    ('{b[c][2]|no answer: ?}', 'no answer: ?'),
    ('{null|}{empty|so!}{empty[0]|, }{b[x]|}', 'so!, '),
    ('{false|none}{blank|none}', 'false'),
  ],
)
def test_fields_keys_and_indices(template, filled):
  record = {
    'a': 'x',
    'n': 3,
    'yes': True,
    'b': {'c': ['y', 'z'], 'd e': 0.5},
    'with.dot': 'w',
    '0': 'zero',
    'null': None,
    'empty': [],
    'false': False,
    'blank': '',
  }
  assert Template(template).fill(record, {}) == filled


def test_what_a_field_holds_is_not_a_template_again():
  assert Template('{a}').fill({'a': '{b}{0.__class__}'}, {}) == '{b}{0.__class__}'


@pytest.mark.parametrize(
  'template', ['{a.__class__}', '{a.upper}', '{b[c].__len__}', '{a[__class__]}', '{b[c][-1]}']
)
def test_attributes_and_odd_indices_are_out_of_reach(template):
  with pytest.raises(ValueError):
    Template(template).fill({'a': 'x', 'b': {'c': ['y']}}, {})


@pytest.mark.parametrize(
  'template', ['{a', 'a}', '{}', '{a!r}', '{a:>9}', '{a:{b}}', '{a[}', '{a[]}', '{[a]}', 7, None]
)
def test_what_cannot_be_read_is_an_error_before_any_record(template):
  with pytest.raises(ValueError, match=r'[Tt]emplate'):
    Template(template)


@pytest.mark.parametrize(
  ('path', 'complaint'),
  [
    (('x',), r"no field 'x'; there are 'a', 'b'"),
    (('b', 'x'), r"no field 'b\[x\]'; there are 'c'"),
    (('b', 'c', '2'), r'no item b\[c\]\[2\]: the list has 1'),
    (('b', 'c', 'x'), r'b\[c\] is a list, so b\[c\]\[x\] needs a number'),
    (('a', '0'), "a is 'text', which has no entry '0'"),
  ],
)
def test_a_path_that_leads_nowhere_is_named(path, complaint):
  with pytest.raises(FieldError, match=complaint):
    lookup({'a': 'text', 'b': {'c': ['y']}}, path)


def test_labels_name_numbers_texts_and_truth_values():
  labels = {'n': ['zero', 'one'], 's': {'n': 'no', 'y': 'yes'}, 'a[0]': ['first']}
  fill = lambda template, record: Template(template).fill(record, labels)  # noqa: E731
  assert fill('{n} {s}', {'n': 1, 's': 'y'}) == 'one yes'
  assert fill('{n}', {'n': True}) == 'one'
  assert fill('{a[0]}', {'a': [0]}) == 'first'
  with pytest.raises(FieldError, match="s is 'x', not one of the labels 'n', 'y'"):
    fill('{s}', {'s': 'x'})


def test_one_field_with_a_list_gives_every_text_of_it():
  fill_all = lambda template: Template(template).fill_all({'a': ['x', 'y'], 'b': []}, {})  # noqa: E731
  assert fill_all('{a}') == ['x', 'y']
  assert fill_all('{a[1]}!') == ['y!']
  with pytest.raises(FieldError, match='b is an empty list'):
    fill_all('{b}')
  with pytest.raises(FieldError, match='a is a list'):
    fill_all('one of {a}')


def test_a_default_stands_in_for_what_is_missing_and_for_nothing_else():
  fill = lambda record: Template('{a[0]|none}').fill(record, {'a[0]': ['no', 'yes']})  # noqa: E731
  assert fill({'a': [1]}) == 'yes'
  assert fill({'a': []}) == fill({}) == fill({'a': [None]}) == 'none'
  for wrong, complaint in (({'a': [2]}, 'not a label'), ({'a': 'text'}, 'has no entry')):
    with pytest.raises(FieldError, match=complaint):
      fill(wrong)
  assert Template('{a|none}').fill_all({'a': ['x', 'y']}, {}) == ['x', 'y']
  assert Template('{a|none}').fill_all({'a': []}, {}) == ['none']


def test_what_cannot_be_read_is_shown_and_explained():
  with pytest.raises(ValueError, match=r'a single \}. Braces themselves are written'):
    Template('a}')
  with pytest.raises(ValueError, match='takes no format or conversion'):
    Template('{a:>9}')
  with pytest.raises(ValueError) as raised:
    Template('{' + 'x[' * 10**5 + '}')
  assert len(str(raised.value)) < 1000


def test_fields_are_given_as_they_are_written():
  assert Template('{a} {{b}} {c[d][0]}{a}').fields == ['a', 'c[d][0]', 'a']
  assert Template('none').fields == []
