"""A task over files reads what a user has, and names the place of what it cannot read."""

import bz2
import gzip
import json
import lzma

import pytest
import tensorflow as tf

from calm.tasks import files, metrics, text, vocabularies


def read(path, inputs='{a}', targets='{b}', **options):
  """(inputs, targets, references) of every example of a file."""
  task = files.task(
    train=path,
    inputs=inputs,
    targets=targets,
    vocabulary=vocabularies.byte_vocabulary(),
    **options,
  )
  return [
    (one['inputs_pretokenized'], one['targets_pretokenized'], one['references'])
    for one in text.examples(task, 'train')
  ]


def test_json_lines_fill_the_templates(write):
  path = write('x.jsonl', [{'en': 'chat', 'fr': 'été'}, {'en': 'a  b', 'fr': '日本'}])
  assert read(path, 'to French: {en}', '{fr}') == [
    ('to French: chat', 'été', ['été']),
    ('to French: a  b', '日本', ['日本']),
  ]


def test_tab_separated_values_take_their_names_from_the_header(write):
  path = write('x.tsv', 'a\tb\nun "deux\ttrois\n\nquatre\t\n')
  assert read(path) == [('un "deux', 'trois', ['trois']), ('quatre', '', [''])]


def test_tabs_alone_are_a_row_of_empty_texts(write):
  assert read(write('x.tsv', 'a\tb\n\t\nx\ty\n  \n')) == [('', '', ['']), ('x', 'y', ['y'])]


@pytest.mark.parametrize('name', ['x.jsonl.gz', 'x.tsv.gz', 'no_ending_says_so.jsonl'])
def test_gzip_is_unpacked_whatever_the_name(write, name):
  content = 'a\tb\nx\ty\n' if 'tsv' in name else '{"a": "x", "b": "y"}\n'
  assert read(write(name, gzip.compress(content.encode()))) == [('x', 'y', ['y'])]


def test_a_byte_order_mark_windows_line_ends_blank_lines_and_a_missing_last_newline_do_no_harm(
  write,
):
  content = b'\xef\xbb\xbf{"a": "1", "b": "2"}\r\n\r\n  \n{"a": "3", "b": "4"}'
  assert read(write('x.jsonl', content)) == [('1', '2', ['2']), ('3', '4', ['4'])]


def test_only_newlines_part_lines(write):
  path = write('x.jsonl', [{'a': 'x\u2028y\u0085z\x0c', 'b': 'w'}])
  assert read(path) == [('x\u2028y\u0085z\x0c', 'w', ['w'])]


def test_a_pattern_stands_for_all_its_files_in_the_order_of_their_names(write):
  write('part-1.jsonl', [{'a': 'third', 'b': ''}])
  write('part-0.jsonl', [{'a': 'first', 'b': ''}, {'a': 'second', 'b': ''}])
  path = write('other.jsonl', [{'a': 'not this', 'b': ''}]).replace('other', 'part-*')
  assert [inputs for inputs, _, _ in read(path)] == ['first', 'second', 'third']


def test_a_name_with_a_star_in_it_is_a_file_first(write):
  write('ab.jsonl', [{'a': 'not this', 'b': ''}])
  assert read(write('a*.jsonl', [{'a': 'this', 'b': ''}])) == [('this', '', [''])]


def test_a_pattern_leaves_folders_out(write, tmp_path):
  (tmp_path / 'part-0.jsonl').mkdir()
  path = write('part-1.jsonl', [{'a': 'this', 'b': ''}]).replace('part-1', 'part-*')
  assert read(path) == [('this', '', [''])]
  with pytest.raises(FileNotFoundError, match=r'part-0\*: no such file'):
    read(str(tmp_path / 'part-0*'))


def test_labels_give_words_to_numbers(write):
  path = write('x.jsonl', [{'a': 'good', 'label': 1}, {'a': 'bad', 'label': '0'}])
  names = {'label': ['negative', 'positive']}
  targets = [target for _, target, _ in read(path, '{a}', '{label}', labels=names)]
  assert targets == ['positive', 'negative']


@pytest.mark.parametrize('label', [2, -1, None, 'positive', 1.0])
def test_a_value_without_label_is_an_error_that_says_which(write, label):
  path = write('x.jsonl', [{'a': 'x', 'label': label}])
  with pytest.raises(ValueError, match=r'x\.jsonl:1: label is .*, not a label from 0 to 1'):
    read(path, '{a}', '{label}', labels={'label': ['negative', 'positive']})


@pytest.mark.parametrize(
  ('labels', 'complaint'),
  [
    (
      {'lable': ['no', 'yes']},
      r"labels for 'lable', which no template has; they have 'a', 'label'",
    ),
    ({'label': 'no'}, r"The labels of 'label' are 'no', and a list of texts or a mapping"),
    ({'label': [0, 1]}, r"The labels of 'label' are \[0, 1\]"),
    ({'label': {'n': 0}}, r"The labels of 'label' are \{'n': 0\}"),
  ],
)
def test_labels_that_fit_nothing_are_an_error_before_any_record(write, labels, complaint):
  with pytest.raises(ValueError, match=complaint):
    read(write('x.jsonl', []), '{a}', '{label}', labels=labels)


def test_labels_may_be_of_items_and_of_references(write):
  path = write('x.jsonl', [{'a': 'x', 'votes': [1, 0]}])
  names = ['no', 'yes']
  ((_, target, references),) = read(
    path,
    targets='{votes[0]}',
    references='{votes}',
    labels={'votes[0]': names, 'votes': {1: 'yes', 0: 'no'}},
  )
  assert (target, references) == ('yes', ['yes', 'no'])


def test_references_are_a_list_of_a_record(write):
  path = write('x.jsonl', [{'q': 'who?', 'answers': {'text': ['Ann', 'Ann B.']}}])
  (example,) = read(path, '{q}', '{answers[text][0]}', references='{answers[text]}')
  assert example == ('who?', 'Ann', ['Ann', 'Ann B.'])


def test_metrics_see_the_references(write):
  path = write(
    'x.jsonl', [{'q': 'who?', 'answers': ['Ann', 'Ann B.']}, {'q': '', 'answers': ['x']}]
  )
  task = files.task(
    train=path,
    inputs='{q}',
    targets='{answers[0]}',
    references='{answers}',
    vocabulary=vocabularies.byte_vocabulary(),
    metrics=metrics.exact_match,
  )
  examples = list(text.examples(task, 'train'))
  targets = [
    task.postprocess_fn(one['targets_pretokenized'], example=one, is_target=True)
    for one in examples
  ]
  assert targets == [['Ann', 'Ann B.'], 'x']
  assert task.metric_fns[0](targets, ['Ann B.', 'y']) == {'exact_match': 50.0}


@pytest.mark.parametrize(
  ('line', 'complaint'),
  [
    (b'{"a": "x", "b": ', 'not JSON'),
    (b'plain text', 'not JSON'),
    (b'["x", "y"]', 'a JSON object is needed'),
    (b'{"a": "caf\xe9", "b": "y"}', 'not UTF-8'),
    (b'{"a": "x"}', "no field 'b'; there are 'a'"),
    (b'{"a": "x", "b": null}', 'b is null, not a text'),
    (b'{"a": "x", "b": ["y"]}', 'b is a list, not a text'),
    (b'{"a": "x", "b": "\\ud800"}', 'cannot be written as UTF-8'),
    (b'[' * 100_000, 'not JSON: it is nested too deeply'),
    (b'{"a": 1' + b'0' * 5000 + b', "b": ""}', 'not JSON: a number of 5001 digits is out of range'),
    (b'{"a": 1e999, "b": ""}', 'not JSON: the number 1e999 is out of range'),
    (b'{"a": NaN, "b": ""}', 'not JSON: NaN is no number'),
    (b'{"a": "x", "b": -Infinity}', 'not JSON: -Infinity is no number'),
    (b'{"a": "x", "b": "y", "a": "z"}', "not JSON: the key 'a' appears twice"),
    (b'{"a": "x", "b": {"c": 1, "c": 1}}', "not JSON: the key 'c' appears twice"),
    (b'{"a": "x"} {"b": "y"}', 'more than one value: the second is at column 12'),
    (b'{"a": "x", "b": "y",}', 'not JSON'),
    (b'{"a": "x" "b": "y"}', 'no comma at column 11'),
    (b'{"a": "x\ty", "b": ""}', 'a control character that is not escaped'),
    (b'{"a": "\\x41", "b": ""}', 'an escape that JSON does not know'),
    (b"{'a': 'x', 'b': 'y'}", 'no key in double quotes at column 2'),
    (b'{', r'where it ends\. A record is one line'),
    (b'\xef\xbb\xbf{"a": "x", "b": "y"}', 'not JSON'),
  ],
)
def test_a_bad_line_is_named_by_file_and_number(write, line, complaint):
  path = write('x.jsonl', b'{"a": "x", "b": "y"}\n\n' + line + b'\n')
  with pytest.raises(ValueError, match=complaint) as raised:
    read(path)
  assert str(raised.value).startswith(f'{path}:3: ')


@pytest.mark.parametrize(
  ('content', 'looks_like'),
  [
    ('{"a": "x", "b": "y"}'.encode('utf-16'), 'UTF-16 text'),
    (bz2.compress(b'{"a": "x", "b": "y"}'), 'packed by bzip2'),
    (lzma.compress(b'{"a": "x", "b": "y"}'), 'packed by xz'),
    (b'PK\x03\x04\xff', 'a zip archive'),
    (b'\x80\x04', 'byte 1 of the line is 0x80'),
  ],
)
def test_a_file_that_is_no_text_is_told_by_its_beginning(write, content, looks_like):
  with pytest.raises(ValueError, match=rf'x\.jsonl:1: not UTF-8: .*{looks_like}'):
    read(write('x.jsonl', content))


@pytest.mark.parametrize(
  'line',
  [
    b'{"a": "' + b'x' * 10**6 + b'"}',
    b'{"a": "x", "b": ["' + b'y' * 10**6 + b'"]}',
    b'x' * 10**6,
    b'{"a": "x", "b": "' + b'y' * 10**6,
    b'{"a": ' + b'1' * 10**6 + b'}',
    b'{' + b', '.join(b'"%d": 0' % i for i in range(10**5)) + b'}',
    b'{"' + b'k' * 10**6 + b'": 0, "' + b'k' * 10**6 + b'": 0}',
  ],
)
def test_a_message_stays_short_whatever_stands_in_the_line(write, line):
  for name, content in (('x.jsonl', line), ('x.tsv', b'a\t' + line + b'\nx\n')):
    with pytest.raises(ValueError, match=r':[12]: ') as raised:
      read(write(name, content), targets='{b[c]}')
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
  'name', ['x.jsonl', 'x.JSONL', 'x.ndjson', 'X.NDJSON.GZ', 'x.Json', 'x.txt', 'x.jsonl.gzip']
)
def test_names_that_json_lines_have(write, name):
  assert read(write(name, '{"a": "x", "b": "y"}\n')) == [('x', 'y', ['y'])]


@pytest.mark.parametrize('name', ['x.tsv', 'x.TSV', 'x.tab', 'x.tsv.gz', 'X.Tsv.Gz'])
def test_names_that_tab_separated_values_have(write, name):
  assert read(write(name, 'a\tb\nx\t"y,"\n')) == [('x', '"y,"', ['"y,"'])]


@pytest.mark.parametrize('name', ['x.csv', 'x.CSV', 'x.csv.gz'])
def test_comma_separated_values_are_quoted_as_spreadsheets_do(write, name):
  content = '\ufeffa,b\r\n"x, ""x""","y\r\nz"\r\n\r\n,é\r\n'
  assert read(write(name, content)) == [('x, "x"', 'y\nz', ['y\nz']), ('', 'é', ['é'])]


@pytest.mark.parametrize(
  ('content', 'complaint'),
  [
    ('a,b\n"x\ny","z"\nx\n', r'x\.csv:4: 1 columns, but the header line has 2'),
    ('a,b\nx,y\nx,"y\nz\n', r'x\.csv:3: not CSV: a quote is opened and never closed'),
    ('a,b\n"x"y,z\n', r'x\.csv:2: not CSV: a quote inside a value'),
    ('a,a\nx,y\n', r'x\.csv:1: a column name appears twice'),
    ('a;b\nx;y\n', r"x\.csv:2: no field '[ab]'; there are 'a;b'"),
  ],
)
def test_a_bad_row_of_comma_separated_values_is_named(write, content, complaint):
  with pytest.raises(ValueError, match=complaint):
    read(write('x.csv', content))


def test_blank_lines_among_records_are_counted_once(write, capsys):
  path = write('x.jsonl', '{"a": "", "b": ""}\n\n \n{"a": "", "b": ""}\n\n')
  for _ in range(2):
    assert len(read(path)) == 2
  assert capsys.readouterr().err == f'{path}: 2 blank lines skipped, from line 2 on.\n'


def test_remote_files_are_read_as_local_ones():
  for name, content in (
    ('x.jsonl', b'{"a": "x", "b": "y"}\n'),
    ('x.csv.gz', gzip.compress(b'a,b\nx,y')),
  ):
    path = f'ram://{name}'
    with tf.io.gfile.GFile(path, 'wb') as file:
      file.write(content)
    assert read(path) == [('x', 'y', ['y'])]


@pytest.mark.parametrize(
  ('content', 'complaint'),
  [
    ('a\tb\nx\ty\nx\ty\tz\n', r'x\.tsv:3: 3 columns, but the header line has 2'),
    ('a\tb\nx\n', r'x\.tsv:2: 1 columns, but the header line has 2'),
    ('a\ta\nx\ty\n', r'x\.tsv:1: a column name appears twice'),
    ('x\ty\nz\tw\n', r"x\.tsv:2: no field '[ab]'; there are 'x', 'y'"),
    ('a,b\nx,y\n', r"x\.tsv:2: no field '[ab]'; there are 'a,b'"),
    (b'a\tb\n\ncaf\xe9\ty\n', r'x\.tsv:3: not UTF-8'),
  ],
)
def test_a_bad_row_is_named_by_file_and_number(write, content, complaint):
  with pytest.raises(ValueError, match=complaint):
    read(write('x.tsv', content))


@pytest.mark.parametrize('damage', ['cut short', 'header', 'block', 'checksum', 'appended'])
def test_a_damaged_gzip_file_is_named(write, damage):
  packed = bytearray(gzip.compress(b''.join(b'{"a": "%d", "b": ""}\n' % i for i in range(999))))
  if damage == 'cut short':
    packed = packed[:-40]
  elif damage == 'appended':
    packed += b'and more'
  else:  # The method is byte 2, deflate's first byte is 10, the checksum is 8 bytes from the end.
    packed[{'header': 2, 'block': 10, 'checksum': -8}[damage]] ^= 255
  path = write('x.jsonl.gz', bytes(packed))
  with pytest.raises(ValueError, match=rf'{path}:\d+: the gzip file is damaged'):
    read(path)


def test_a_missing_file_is_named_with_the_macro_that_sets_it(tmp_path, write):
  with pytest.raises(FileNotFoundError, match=r'no\.jsonl: no such file\. Set TRAIN_FILE'):
    read(str(tmp_path / 'no.jsonl'))
  with pytest.raises(FileNotFoundError, match='a folder, not a file'):
    read(str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r'no-\*: no such file'):
    read(str(tmp_path / 'no-*'))


def test_no_file_is_asked_for_before_its_split_is_read(write, tmp_path):
  gone = str(tmp_path / 'no.jsonl')
  path = write('x.jsonl', [{'a': 'x', 'b': 'y'}])
  assert read(path, validation=gone, test=gone) == [('x', 'y', ['y'])]
  task = files.task(
    train=gone, test=path, inputs='{a}', targets='{b}', vocabulary=vocabularies.byte_vocabulary()
  )
  assert len(list(text.examples(task, 'test'))) == 1
  with pytest.raises(FileNotFoundError, match=r'no\.jsonl: no such file\. Set TRAIN_FILE'):
    next(text.examples(task, 'train'))


def test_where_there_is_no_answer_the_template_says_what_is_right(write):
  records = [{'q': 'who?', 'answers': ['Ann']}, {'q': 'why?', 'answers': []}, {'q': 'when?'}]
  path = write('x.jsonl', records)
  found = read(path, '{q}', '{answers[0]|no answer}', references='{answers|no answer}')
  assert [(target, references) for _, target, references in found] == [
    ('Ann', ['Ann']),
    ('no answer', ['no answer']),
    ('no answer', ['no answer']),
  ]
  with pytest.raises(ValueError, match=r'x\.jsonl:2: no item answers\[0\].*\|no answer\} says'):
    read(path, '{q}', '{answers[0]}')


def test_a_file_that_is_gone_when_it_is_read_is_named(write, tmp_path):
  task = files.task(
    train=write('x.jsonl', []),
    inputs='{a}',
    targets='{b}',
    vocabulary=vocabularies.byte_vocabulary(),
  )
  (tmp_path / 'x.jsonl').unlink()
  with pytest.raises(FileNotFoundError, match=r'x\.jsonl: no such file'):
    list(text.examples(task, 'train'))


def test_a_task_without_files_names_the_macros():
  with pytest.raises(ValueError, match='TRAIN_FILE, VALIDATION_FILE or TEST_FILE'):
    read('')


def test_splits_are_those_with_a_path_and_others_are_an_error(write):
  path = write('x.jsonl', [{'a': '', 'b': ''}])
  task = files.task(
    test=path, inputs='{a}', targets='{b}', vocabulary=vocabularies.byte_vocabulary()
  )
  assert list(task.splits) == ['test']
  with pytest.raises(ValueError, match=r"no split 'train', only test.*TRAIN_FILE"):
    list(text.examples(task, 'train'))


def test_seqio_reads_the_same_texts(write):
  records = [{'a': 'ça', 'b': 'là'}, {'a': '', 'b': ' '}]
  task = files.task(
    train=write('x.jsonl', records),
    inputs='{a}',
    targets='{b}',
    vocabulary=vocabularies.byte_vocabulary(),
  )
  dataset = task.get_dataset({'inputs': 9, 'targets': 9}, 'train', shuffle=False)
  texts = [
    {'a': one['inputs_pretokenized'].decode(), 'b': one['targets_pretokenized'].decode()}
    for one in dataset.as_numpy_iterator()
  ]
  assert json.dumps(texts) == json.dumps(records)
