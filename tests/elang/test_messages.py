"""Requests are read strictly, and what is wrong with one is said in a sentence."""

import json
import math

import pytest

from calm.tasks.classification import Classification
from elang.messages import Limits, Reading, RefusedError, answer, answers, read, written
from elang.routing import Router

LIMITS = Limits(inputs=3, letters=11, body_bytes=99)
PAIR = Reading(form=Classification(('question1', 'question2'), ('other', 'same')))
GREETING = Reading('Say {greeting} to {who|all}.')


def question(value, reading=None):
  body = value if isinstance(value, bytes) else json.dumps(value).encode()
  return read(body, reading or Reading(), LIMITS)


@pytest.mark.parametrize(
  ('value', 'texts'),
  [
    ({'input': 'a'}, ['a']),
    ({'inputs': ['a', 'é ']}, ['a', 'é ']),
    ({'inputs': [{'inputs': 'a'}, 'b']}, ['a', 'b']),
  ],
)
def test_inputs_are_texts_or_objects_of_the_field(value, texts):
  found = question(value)
  assert [example.texts['inputs'] for example in found.examples] == texts
  assert found.single == ('input' in value)
  assert found.thresholds == ()


def test_a_template_is_filled():
  found = question({'inputs': [{'greeting': 'hi', 'who': 'me'}, {'greeting': 'ho'}]}, GREETING)
  assert [e.texts['inputs'] for e in found.examples] == ['Say hi to me.', 'Say ho to all.']


def test_a_classifier_reads_its_fields_apart():
  found = question({'input': {'question2': 'b', 'question1': 'a'}}, PAIR)
  assert found.examples[0].texts == {'question1': 'a', 'question2': 'b'}


@pytest.mark.parametrize(
  ('value', 'threshold'),
  [
    (2, 2.0),
    (-0.5, -0.5),
    (None, None),
    ('-inf', -math.inf),
    ([1, None, '-inf'], [1.0, math.inf, -math.inf]),
  ],
)
def test_a_threshold_is_a_number_or_an_end_or_several(value, threshold):
  found = question({'input': 'a', 'threshold': value}).thresholds
  assert found == (threshold,)
  assert written(found[0]) == value


@pytest.mark.parametrize(
  ('body', 'message', 'status'),
  [
    (b'', 'not JSON', 400),
    (b'{"input": "a"', 'not JSON', 400),
    (b'{"input": "\xff"}', 'not UTF-8', 400),
    (b'{"input": "a", "input": "b"}', 'appears twice', 400),
    (b'{"input": "a", "threshold": NaN}', 'not JSON', 400),
    (b'{"input": "a", "threshold": 1e999}', 'not JSON', 400),
    (b'[' * 90, 'not JSON', 400),
    ([], 'The body is a list', 400),
    ('a', 'The body is a text', 400),
    (None, 'The body is null', 400),
    ({}, 'Give one of "input"', 400),
    ({'input': 'a', 'inputs': ['a']}, 'Give one of "input"', 400),
    ({'input': 'a', 'temperature': 1}, "no key 'temperature'", 400),
    ({'input': 7}, 'input is a number', 400),
    ({'input': None}, 'input is null', 400),
    ({'input': ['a']}, 'input is a list', 400),
    ({'input': {'text': 'a'}}, "a key 'text': the keys are inputs", 400),
    ({'input': {'inputs': 3}}, 'input: inputs is a number', 400),
    ({'input': {}}, 'input is blank', 400),
    ({'inputs': 'a'}, 'inputs is a text', 400),
    ({'inputs': []}, 'an empty list', 400),
    ({'inputs': ['a', True]}, r'inputs\[1\] is a boolean', 400),
    ({'inputs': ['a', ' \n']}, r'inputs\[1\] is blank', 400),
    ({'inputs': ['a'] * 4}, '4 inputs: 3 are answered', 413),
    ({'inputs': ['a', 'b' * 12]}, r'inputs\[1\] is 12 characters long: 11', 413),
    ({'input': 'half \ud800'}, 'surrogate', 400),
    ({'input': 'a', 'threshold': True}, 'threshold is True', 400),
    ({'input': 'a', 'threshold': '0.5'}, "threshold is '0.5'", 400),
    ({'input': 'a', 'threshold': {}}, 'threshold is {}', 400),
    ({'input': 'a', 'threshold': [[1]]}, r'threshold is \[\[1\]\]', 400),
    ({'input': 'a', 'threshold': 10**400}, 'threshold is 1', 400),
  ],
)
def test_what_cannot_be_read_is_refused_in_words(body, message, status):
  with pytest.raises(RefusedError, match=message) as info:
    question(body)
  assert info.value.status == status


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ('a', 'an object of question1, question2'),
    ({'question1': 'a'}, 'question2'),
    ({'question1': 'abcdef', 'question2': 'abcdef'}, '12 characters'),
  ],
)
def test_a_pair_needs_both_its_texts(given, message):
  with pytest.raises(RefusedError, match=message):
    question({'input': given}, PAIR)


def test_a_threshold_must_fit_the_router(models):
  router = Router(models, 1.0)
  assert question({'input': 'a'}).of(router) is router
  assert question({'input': 'a', 'threshold': [1, None]}).of(router).threshold == (1, math.inf)
  with pytest.raises(RefusedError, match='2 are needed'):
    question({'input': 'a', 'threshold': [1]}).of(router)


@pytest.mark.parametrize('template', ['no field', '{a[b]}'])
def test_a_template_that_cannot_be_typed_is_refused(template):
  with pytest.raises(ValueError, match='plain fields'):
    Reading(template)


def test_an_answer_has_the_score_that_decided_and_its_threshold(models, examples):
  router = Router(models, (2.0, 4.0))
  for row in (row for row in router(examples) if row['units']):
    said = answer(row, router)
    small, middle = said['scores']['small'], said['scores']['middle']
    decided = {'small': (small, 2.0)}.get(said['model'], (middle, 4.0))
    assert (said['score'], said['threshold']) == decided
    assert said['thresholds'] == {'small': 2, 'middle': 4}
    if said['score'] is not None:
      assert (said['score'] >= said['threshold']) == (said['model'] != 'large')
    assert said['flops'] == {'small': 1, 'middle': 11, 'large': 111}[said['model']]
    assert said['seconds'] is None
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_shares_are_of_all_models(models, examples):
  known = [example for example in examples if example.texts]
  router = Router(models)
  said = answers(router(known), router)
  assert said['shares'] == {'small': 0, 'middle': 0, 'large': 1}
  assert [one['threshold'] for one in said['answers']] == [None] * 9


@pytest.mark.parametrize(
  ('name', 'text', 'reading', 'expected'),
  [
    ('a.txt', 'one\n\ntwo\n', Reading('Say {x}.'), [{'x': 'one'}, {'x': 'two'}]),
    ('a.jsonl', '{"x": 3, "y": "n"}\n', Reading('Say {x}.'), [{'x': '3'}]),
    (
      'a.jsonl',
      '{"greeting": "hi", "who": "me"}\n',
      GREETING,
      [{'greeting': 'hi', 'who': 'me'}],
    ),
    (
      'a.tsv',
      'question1\tquestion2\tlabel\na\tb\t1\n',
      PAIR,
      [{'question1': 'a', 'question2': 'b'}],
    ),
    ('a.txt', 'a\nb\nc\nd\n', Reading(), [{'inputs': x} for x in 'abc']),
  ],
)
def test_inputs_to_pick_from_are_those_of_a_file(tmp_path, name, text, reading, expected):
  (tmp_path / name).write_text(text)
  found = reading.records(str(tmp_path / name), None, LIMITS)
  assert found == expected
  for record in found:
    assert all(text in str(question({'input': record}, reading)) for text in record.values())


def test_an_input_to_pick_that_is_too_long_is_named(tmp_path):
  (tmp_path / 'a.txt').write_text('short\nfar too long\n')
  with pytest.raises(ValueError, match=r'a\.txt:2 is 12 characters long'):
    Reading().records(str(tmp_path / 'a.txt'), None, LIMITS)
