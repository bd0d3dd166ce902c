"""Reading inputs: plain lines and records, files, pipes and standard input."""

import gzip
import io
import os
import types

import pytest
import tensorflow as tf

from calm.evaluation import inputs
from calm.tasks.classification import Classification


def read(path, **options):
  """What a line of output begins with, and the example, of all inputs of a file."""
  return list(inputs.Reader(str(path), **options))


def heads(path, **options):
  """What the lines of output would begin with."""
  return [head for head, _ in read(path, **options)]


@pytest.fixture
def file(tmp_path):
  """Writes bytes or text to a file and returns its path."""

  def write(name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path

  return write


@pytest.fixture
def stdin(monkeypatch):
  """Sets what standard input holds."""

  def write(content):
    buffer = io.BytesIO(content.encode())
    monkeypatch.setattr('sys.stdin', types.SimpleNamespace(buffer=buffer))

  return write


def test_a_line_fills_the_only_field_of_the_template(file):
  path = file('a.txt', 'one\ntwo three\n')
  found = read(path, template='translate: {en}')
  assert [head for head, _ in found] == [
    {'index': 0, 'inputs': 'translate: one'},
    {'index': 1, 'inputs': 'translate: two three'},
  ]
  assert [dict(example.texts) for _, example in found] == [
    {'inputs': 'translate: one'},
    {'inputs': 'translate: two three'},
  ]


def test_a_blank_line_has_nothing_to_decode_but_its_place(file):
  found = read(file('a.txt', 'one\n\n \nfour\n'), template='translate: {en}')
  assert [example.texts for _, example in found[1:3]] == [{}, {}]
  assert [example.index for _, example in found] == [0, 1, 2, 3]
  assert [example.where.rpartition(':')[2] for _, example in found] == ['1', '2', '3', '4']
  assert found[1][0]['inputs'] == ''


@pytest.mark.parametrize(
  ('content', 'expected'),
  [
    ('', []),
    ('a', ['a']),
    ('a\nb', ['a', 'b']),
    ('a\r\nb\r\n', ['a', 'b']),
    ('\ufeffa\nb\n', ['a', 'b']),
    ('é\u2028x\n', ['é\u2028x']),
  ],
)
def test_lines_end_where_files_end_them(file, content, expected):
  for path in (file('a.txt', content), file('a.gz', gzip.compress(content.encode()))):
    assert [head['inputs'] for head in heads(path)] == expected


def test_what_an_answer_begins_with_is_a_text_or_a_template(file):
  found = read(file('a.txt', 'one\n\ntwo\n'), template='say {x}', prefix='the {x}')
  assert [example.prefix for _, example in found] == ['the one', '', 'the two']
  assert found[0][0] == {'index': 0, 'prefix': 'the one', 'inputs': 'say one'}
  assert found[1][0] == {'index': 1, 'inputs': ''}
  found = read(file('a.jsonl', '{"inputs": "x", "begin": "Le"}\n'), prefix='{begin} ')
  assert found[0][1].prefix == 'Le '
  with pytest.raises(ValueError, match='needs records'):
    read(file('a.txt', 'one\n'), prefix='{other}')
  with pytest.raises(ValueError, match=r"a\.jsonl:1: no field 'other'"):
    read(file('a.jsonl', '{"inputs": "x"}\n'), prefix='{other}')


def test_records_fill_the_template_and_keep_their_fields(file):
  path = file('a.jsonl', '{"en": "one", "id": 7}\n\n{"en": "two", "id": [null]}\n')
  assert heads(path, template='say: {en}') == [
    {'index': 0, 'inputs': 'say: one', 'en': 'one', 'id': 7},
    {'index': 1, 'inputs': 'say: two', 'en': 'two', 'id': [None]},
  ]


def test_a_records_own_inputs_and_index_are_kept(file):
  path = file('a.json', '{"inputs": "one", "index": "x"}\n')
  assert heads(path, template='say: {inputs}') == [{'index': 'x', 'inputs': 'one'}]


def test_tsv_has_records_too(file):
  assert heads(file('a.tsv', 'en\tfr\none\tun\n'), template='{en}')[0]['fr'] == 'un'


@pytest.mark.parametrize('name', ['a.csv', 'a.CSV.GZ', 'a.TSV', 'a.tab'])
def test_tables_have_records_whatever_the_case_of_their_names(file, name):
  comma = ',' if 'csv' in name.lower() else '\t'
  content = f'en{comma}fr\none{comma}un\n'
  assert heads(file(name, content), template='{en}')[0]['fr'] == 'un'


@pytest.mark.parametrize('name', ['a.NDJSON', 'a.ndjson.gz'])
def test_json_lines_have_other_names(file, name):
  assert heads(file(name, '{"en": "one", "id": 7}\n'), template='{en}')[0]['id'] == 7


def test_the_format_may_be_given(file, stdin):
  stdin('en,fr\none,un\n')
  assert heads('-', input_format='csv', template='{en}')[0]['fr'] == 'un'
  content = '{"inputs": "one"}\n'
  assert heads(file('a.txt', content), input_format='jsonl')[0]['inputs'] == 'one'
  assert heads(file('a.jsonl', content), input_format='lines')[0]['inputs'] == content.strip()


ONE = Classification(('text',), ('no', 'yes'))
PAIR = Classification(('a', 'b'), ('no', 'yes'))


def test_a_form_reads_its_fields_apart_and_wants_no_label(file):
  for path in (
    file('p.jsonl', '{"b": "two", "a": "one", "id": 7}\n{"a": "", "b": "x", "label": "?"}\n'),
    file('p.tsv', 'b\ta\tid\ntwo\tone\t7\nx\t\t8\n'),
  ):
    found = read(path, form=PAIR)
    assert [list(example.texts.items()) for _, example in found] == [
      [('a', 'one'), ('b', 'two')],
      [('a', ''), ('b', 'x')],
    ]
    assert found[0][0] == {'index': 0, 'a': 'one', 'b': 'two', 'id': found[0][0]['id']}


def test_a_form_of_one_field_reads_lines_and_a_blank_one_has_no_text(file):
  found = read(file('a.txt', 'one\n\n{x}\n'), form=ONE)
  assert [dict(example.texts) for _, example in found] == [{'text': 'one'}, {}, {'text': '{x}'}]
  assert [head for head, _ in found][:2] == [{'index': 0, 'text': 'one'}, {'index': 1, 'text': ''}]


@pytest.mark.parametrize(
  ('name', 'content', 'form', 'message'),
  [
    ('a.txt', 'one\n', PAIR, 'Texts of the fields a, b need records, but .*a.txt is read as plain'),
    ('a.jsonl', '{"a": "1", "b": "2"}\n{"a": "1"}\n', PAIR, "a.jsonl:2: no field 'b'"),
    ('a.jsonl', '{"a": "1", "b": 2}\n', PAIR, 'a.jsonl:1: b is 2, not a text'),
    ('a.jsonl', '3\n', ONE, r'a.jsonl:1: .*\{"text": "\.\.\."\}'),
  ],
)
def test_what_does_not_fit_a_form_is_named(file, name, content, form, message):
  with pytest.raises(ValueError, match=message):
    read(file(name, content), form=form)


def test_standard_input_has_lines_or_records(stdin):
  stdin('one\ntwo\n')
  assert [head['inputs'] for head in heads('-')] == ['one', 'two']
  stdin('{"inputs": "one", "id": 7}\n\n{"inputs": "two", "id": 8}\n')
  assert [head['id'] for head in heads('-', input_format='jsonl')] == [7, 8]


def test_a_line_of_a_pipe_is_there_before_the_next_is_written():
  out, into = os.pipe()
  reader = inputs.Reader(f'/dev/fd/{out}')
  assert not reader.rereadable
  os.write(into, b'one\n')
  found = iter(reader)
  assert next(found)[0]['inputs'] == 'one'
  os.write(into, b'two\n')
  assert next(found)[0]['inputs'] == 'two'
  os.close(into)
  assert next(found, None) is None
  os.close(out)


def test_only_files_can_be_read_again(file):
  assert inputs.Reader(str(file('a.txt', ''))).rereadable
  assert not inputs.Reader('-').rereadable


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.txt', b'ok\n\xff\n', 'a.txt:2: not UTF-8'),
    ('a.txt.gz', gzip.compress(b'ok\n', mtime=0)[:-6], 'a.txt.gz:2: the gzip file is damaged'),
    ('a.jsonl', '{"inputs": "1"}\n{"inputs"\n', 'a.jsonl:2: not JSON'),
    ('a.jsonl', '{"inputs": "1"}\n\n{"text": "2"}\n', "a.jsonl:3: no field 'inputs'"),
  ],
)
def test_a_bad_line_is_named(file, name, content, message):
  with pytest.raises(ValueError, match=message):
    read(file(name, content))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"inputs"\n', 'standard input:1: not JSON'),
    ('3\n', 'standard input:1: a JSON object'),
    ('[' * 100_000, 'standard input:1: not JSON: it is nested too deeply'),
  ],
)
def test_a_bad_record_of_standard_input_is_named(stdin, content, message):
  stdin(content)
  with pytest.raises(ValueError, match=message):
    read('-', input_format='jsonl')


def test_a_remote_file_is_read_and_a_missing_one_named():
  with tf.io.gfile.GFile('ram://in.txt', 'wb') as remote:
    remote.write(gzip.compress(b'one\ntwo\n'))
  assert [head['inputs'] for head in heads('ram://in.txt')] == ['one', 'two']
  with pytest.raises(FileNotFoundError, match=r'ram://none\.txt: no such file'):
    read('ram://none.txt')


@pytest.mark.parametrize(
  ('ending', 'line'), [('txt', '{}'), ('tsv', 'inputs\n{}'), ('csv', 'inputs\n{}')]
)
def test_a_pattern_stands_for_all_its_files(file, tmp_path, ending, line):
  for number in (1, 0):
    file(f'part-{number}.{ending}', line.format(f'of {number}'))
  found = read(tmp_path / f'part-*.{ending}')
  assert [head['inputs'] for head, _ in found] == ['of 0', 'of 1']
  assert [head['index'] for head, _ in found] == [0, 1]
  with pytest.raises(FileNotFoundError, match='no such file'):
    read(tmp_path / f'other-*.{ending}')


def test_a_missing_file_and_a_folder_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none.txt: no such file. Set --input'):
    read(tmp_path / 'none.txt')
  with pytest.raises(FileNotFoundError, match=r'none.jsonl'):
    read(tmp_path / 'none.jsonl')
  with pytest.raises(FileNotFoundError, match='a folder, not a file'):
    read(tmp_path)


@pytest.mark.parametrize(
  ('path', 'options', 'message'),
  [
    ('a.txt', {'template': 'say it'}, 'has no field'),
    ('a.txt', {'template': '{a} {b}'}, 'a.txt is read as plain lines'),
    ('-', {'template': '{a[b]}'}, 'needs records'),
    ('a.txt', {'input_format': 'xml'}, "input_format is 'xml'"),
  ],
)
def test_settings_that_do_not_fit_are_named(path, options, message):
  with pytest.raises(ValueError, match=message):
    inputs.Reader(path, **options)
