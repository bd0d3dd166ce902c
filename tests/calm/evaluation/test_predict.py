"""`calm decode`: files in, JSON Lines out, whatever interrupts it."""

import dataclasses
import io
import json
import types

import pytest

from calm import storage
from calm.evaluation import journal, predict

LINES = ['seven', 'a', 'of', 'the best', '', 'eleven', 'é', 'x y z', 'last but one', 'last']


@pytest.fixture
def source(tmp_path):
  """A file of ten lines, one of them blank."""
  path = tmp_path / 'in.txt'
  path.write_text('\n'.join(LINES) + '\n', encoding='utf-8')
  return path


@pytest.fixture
def decode(predictor, source, tmp_path):
  """Predicts the file of lines to out.jsonl, or as told; returns the output's path."""

  def call(**options):
    paths = {'input_path': str(source), 'output_path': str(tmp_path / 'out.jsonl')}
    predict.predict(**({'predictor': predictor} | paths | options))
    return tmp_path / 'out.jsonl'

  return call


def records(path):
  """The objects of a file of JSON Lines, without their checksums."""
  lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
  return [{key: line[key] for key in line if key != storage.CHECKSUM} for line in lines]


def test_lines_of_output_correspond_to_lines_of_input(decode):
  output = records(decode())
  assert [record['inputs'] for record in output] == LINES
  assert [record['index'] for record in output] == list(range(10))
  assert output[3] == {
    'index': 3,
    'inputs': 'the best',
    'prediction': 'the best one',
    'units': 3,
    'costs': {'layers': 9},
  }


def test_a_blank_line_gives_an_empty_prediction(decode):
  record = records(decode())[LINES.index('')]
  assert (record['prediction'], record['units']) == ('', 0)


def test_a_cut_output_is_continued_to_the_same_file(decode, capsys):
  path = decode()
  whole = path.read_bytes()
  ends = [i + 1 for i, byte in enumerate(whole) if byte == ord('\n')]
  for end in (0, 1, ends[0], ends[2] - 1, ends[3], ends[4] + 20, ends[8], len(whole) - 1):
    path.write_bytes(whole[:end])
    decode()
    assert path.read_bytes() == whole
  assert '10 inputs, 9 of them earlier' in capsys.readouterr().err


def test_what_is_there_is_not_predicted_again(decode, predictor):
  whole = decode().read_bytes()
  predictor.calls.clear()
  assert decode(predictor=dataclasses.replace(predictor, batch_size=3)).read_bytes() == whole
  assert predictor.calls == []


@pytest.mark.parametrize('call', range(3))
def test_an_interrupt_loses_no_finished_batch(decode, predictor, call):
  with pytest.raises(KeyboardInterrupt):
    decode(predictor=dataclasses.replace(predictor, interrupt_at=call))
  decode()
  assert predictor.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_outputs_of_other_settings_are_refused_and_overwritten_on_request(decode, predictor):
  path = decode()
  whole = path.read_bytes()
  others = [
    ({'predictor': dataclasses.replace(predictor, version='two')}, 'version was one and is two'),
    ({'inputs_template': 'say {x}'}, r'inputs_template was \{inputs\} and is say \{x\}'),
    ({'input_format': 'lines'}, 'input_format was None and is lines'),
  ]
  for options, said in others:
    with pytest.raises(FileExistsError, match=rf'other settings: {said}.*overwrite = True'):
      decode(**options)
    assert path.read_bytes() == whole
  assert len(records(decode(**others[0][0], overwrite=True))) == 10


def test_another_input_is_refused(decode, source):
  decode()
  source.write_text('\n'.join(['other', *LINES[1:]]), encoding='utf-8')
  with pytest.raises(journal.OtherInputsError, match=r'out\.jsonl:1 was made of another input'):
    decode()
  source.write_text('\n'.join(LINES[:6]), encoding='utf-8')
  with pytest.raises(journal.OtherInputsError, match='has 10 lines, the input only 6'):
    decode()


def test_a_prefix_needs_who_continues_it_and_a_file(decode, predictor, make_task):
  with pytest.raises(ValueError, match=r'DECODE_PREFIX .* no effect here: score continues no text'):
    decode(prefix_template='the ')

  class Continuing(type(predictor)):
    takes_prefix = True

  task = make_task(['sept'], ['seven'])
  with pytest.raises(ValueError, match='no effect here: it is for a file of inputs'):
    decode(predictor=Continuing(), prefix_template='a', input_path=None, task=task, split='test')
  output = records(decode(predictor=Continuing(), prefix_template='the '))
  assert [record.get('prefix') for record in output[3:6]] == ['the ', None, 'the ']
  with pytest.raises(FileExistsError, match='prefix_template'):
    decode(predictor=Continuing(), prefix_template='a ')


def test_an_input_that_grew_is_continued(decode, source):
  before = decode().read_bytes()
  source.write_text('\n'.join([*LINES, 'more']), encoding='utf-8')
  path = decode()
  assert path.read_bytes()[: len(before)] == before
  assert len(records(path)) == 11


def test_two_at_once_are_refused_and_write_no_line_twice(decode, predictor):
  def second(examples):
    with pytest.raises(storage.BusyError, match=r'out\.jsonl is in use by another process \(pid'):
      decode()
    return [predictor.answer(example) for example in examples]

  class Slow(type(predictor)):
    def __call__(self, examples):
      return second(examples)

  assert len(records(decode(predictor=Slow()))) == 10


def test_records_keep_their_fields_but_not_their_results(decode, tmp_path):
  path = tmp_path / 'in.jsonl'
  rows = [
    {'en': 'one', 'index': 7, 'prediction': 'old', 'checksum': 'x'},
    {'en': 'two', 'index': 'b', 'fr': ['deux']},
  ]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
  output = records(decode(input_path=str(path), inputs_template='say {en}'))
  assert [record['inputs'] for record in output] == ['say one', 'say two']
  assert [record['index'] for record in output] == [7, 'b']
  assert output[1]['fr'] == ['deux']
  assert output[0]['prediction'] == 'say one one'
  decode(input_path=str(path), inputs_template='say {en}')


def test_standard_input_to_standard_output(decode, monkeypatch, capsys):
  expected = records(decode())
  capsys.readouterr()
  buffer = io.BytesIO('\n'.join(LINES).encode())
  monkeypatch.setattr('sys.stdin', types.SimpleNamespace(buffer=buffer))
  decode(input_path='-', output_path='-')
  output = capsys.readouterr()
  assert [json.loads(line) for line in output.out.splitlines()] == expected
  assert output.err == ''


@pytest.mark.parametrize('output_path', ['-', None])
def test_a_bad_line_is_named_before_anything_is_predicted(
  decode, source, tmp_path, predictor, output_path
):
  with open(source, 'a', encoding='utf-8') as file:
    file.write('x' * 20 + '\n' + 'x' * 21 + '\n')
  with pytest.raises(ValueError, match=r'in\.txt:12: too long'):
    decode(**({'output_path': output_path} if output_path else {}))
  assert predictor.calls == []
  assert not (tmp_path / 'out.jsonl').exists()


def test_an_empty_input_gives_an_empty_output(decode, source):
  source.write_text('')
  assert decode().read_bytes() == b''


def test_a_missing_input_is_named(decode, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.txt'):
    decode(input_path=str(tmp_path / 'none.txt'))
  with pytest.raises(ValueError, match='Nothing to predict: set --input'):
    decode(input_path='')


def test_the_input_is_never_overwritten(decode, source):
  before = source.read_bytes()
  with pytest.raises(ValueError, match='is the input itself'):
    decode(output_path=str(source), overwrite=True)
  assert source.read_bytes() == before


def test_a_split_of_a_task_is_predicted(decode, make_task):
  task = make_task(['sept', 'un'], ['seven', 'a'])
  output = records(decode(input_path=None, task=task, split='test'))
  assert [record['targets'] for record in output] == ['sept', 'un']
  assert [record['prediction'] for record in output] == ['seven one', 'a one']
