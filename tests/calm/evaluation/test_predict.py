"""`calm decode`: files in, JSON Lines out, whatever interrupts it."""

import io
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from calm.decoding import corpus, decoder, sampling, text_decoder

STEPS, BATCH_SIZE, INPUTS_LENGTH = 6, 4, 24
LINES = ['seven', 'a', 'of', 'the best', '', 'eleven', 'é', 'x y z', 'last but one', 'last']


@pytest.fixture(scope='module')
def vocabulary():
  """Bytes."""
  return pytest.importorskip('seqio').ByteVocabulary()


@pytest.fixture
def settings(byte_model, vocabulary):
  """What all calls of `decode` here have in common."""
  model, params = byte_model
  return {
    'decoder': decoder.Decoder(model, STEPS),
    'params': params,
    'vocabulary': vocabulary,
    'inputs_length': INPUTS_LENGTH,
    'batch_size': BATCH_SIZE,
  }


@pytest.fixture
def source(tmp_path):
  """A file of ten lines, one of them blank."""
  path = tmp_path / 'in.txt'
  path.write_text('\n'.join(LINES) + '\n', encoding='utf-8')
  return path


@pytest.fixture
def decode(settings, source, tmp_path):
  """Decodes the file of lines to out.jsonl, or as told; returns the output's path."""

  def call(**options):
    paths = {'input_path': str(source), 'output_path': str(tmp_path / 'out.jsonl')}
    corpus.decode(**(settings | paths | options))
    return tmp_path / 'out.jsonl'

  return call


def records(path):
  """The objects of a file of JSON Lines."""
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def test_lines_of_output_correspond_to_lines_of_input(decode):
  output = records(decode())
  assert [record['inputs'] for record in output] == LINES
  assert [record['index'] for record in output] == list(range(10))
  assert len({record['prediction'] for record in output}) > 3


def test_results_are_the_decoders(decode, settings, byte_model, vocabulary):
  model, params = byte_model
  tokens = np.zeros((BATCH_SIZE, INPUTS_LENGTH), np.int32)
  for row, line in enumerate(LINES[:BATCH_SIZE]):
    encoded = [*vocabulary.encode(line), 1]
    tokens[row, : len(encoded)] = encoded
  decoded = jax.device_get(settings['decoder'](params, tokens))
  for row, record in enumerate(records(decode())[:BATCH_SIZE]):
    number = (decoded.exit_layer[row] > 0).sum()
    assert record == {
      'index': row,
      'inputs': LINES[row],
      'prediction': vocabulary.decode(decoded.tokens[row].tolist()),
      'num_tokens': number,
      'layers_per_token': model.config.num_decoder_layers,
      'log_prob': float(decoded.log_prob[row]),
    }


def test_a_blank_line_gives_an_empty_prediction(decode):
  record = records(decode())[LINES.index('')]
  assert record['prediction'] == ''
  assert (record['num_tokens'], record['layers_per_token'], record['log_prob']) == (0, 0, 0)


def test_batches_do_not_change_predictions(decode):
  expected = [record['prediction'] for record in records(decode())]
  others = records(decode(batch_size=7, overwrite=True))
  assert [record['prediction'] for record in others] == expected


def test_a_cut_output_is_continued_to_the_same_file(decode, capsys):
  path = decode()
  whole = path.read_bytes()
  ends = [i + 1 for i, byte in enumerate(whole) if byte == ord('\n')]
  for end in (0, 1, ends[0], ends[2] - 1, ends[3], ends[4] + 20, ends[8], len(whole) - 1):
    path.write_bytes(whole[:end])
    decode()
    assert path.read_bytes() == whole
  assert '10 inputs, 9 of them earlier' in capsys.readouterr().err


def test_what_is_there_is_not_decoded_again(decode, monkeypatch):
  path = decode()
  whole = path.read_bytes()
  monkeypatch.setattr(text_decoder.TextDecoder, '__call__', lambda *_: pytest.fail('decoded'))
  decode()
  assert path.read_bytes() == whole


def test_an_interrupt_loses_no_finished_batch(decode, monkeypatch):
  batches = []
  original = text_decoder.TextDecoder.__call__

  def interrupted(self, items):
    batches.append(len(items))
    if len(batches) == 3:
      raise KeyboardInterrupt
    return original(self, items)

  with monkeypatch.context() as patch:
    patch.setattr(text_decoder.TextDecoder, '__call__', interrupted)
    with pytest.raises(KeyboardInterrupt):
      decode()
  assert batches == [4, 4, 2]
  assert len(records(decode())) == 10


def test_draws_are_the_same_after_an_interruption(decode, settings, byte_model):
  rule = sampling.Sampling(2.0, num_samples=2)
  drawing = decoder.Decoder(byte_model[0], STEPS, rule)
  path = decode(decoder=drawing)
  whole = path.read_bytes()
  record = json.loads(whole.splitlines()[0])
  assert set(record) == {'index', 'inputs', 'predictions'} | set(text_decoder.RESULTS[2:6])
  assert all(len(record[key]) == 2 for key in record if key in text_decoder.RESULTS)
  path.write_bytes(whole[: len(whole) // 2])
  decode(decoder=drawing)
  assert path.read_bytes() == whole
  path.unlink()
  assert decode(decoder=drawing, seed=1).read_bytes() != whole


@pytest.mark.parametrize('change', ['params', 'decoder', 'seed', 'inputs_template'])
def test_outputs_of_other_settings_are_refused_and_overwritten_on_request(
  decode, settings, byte_model, change
):
  other = {
    'params': jax.tree.map(lambda array: array * 1.5, byte_model[1]),
    'decoder': decoder.Decoder(byte_model[0], STEPS - 1),
    'seed': 1,
    'inputs_template': 'say {x}',
  }[change]
  path = decode()
  whole = path.read_bytes()
  with pytest.raises(FileExistsError, match=rf'other settings \({change};.*overwrite = True'):
    decode(**{change: other})
  assert path.read_bytes() == whole
  assert len(records(decode(**{change: other}, overwrite=True))) == 10


def test_another_input_is_refused(decode, source):
  decode()
  source.write_text('\n'.join(['other', *LINES[1:]]), encoding='utf-8')
  with pytest.raises(ValueError, match=r'out\.jsonl:1 was made of another input'):
    decode()
  source.write_text('\n'.join(LINES[:6]), encoding='utf-8')
  with pytest.raises(ValueError, match='has 10 lines, the input only 6'):
    decode()


def test_an_input_that_grew_is_continued(decode, source):
  before = decode().read_bytes()
  source.write_text('\n'.join([*LINES, 'more']), encoding='utf-8')
  path = decode()
  assert path.read_bytes()[: len(before)] == before
  assert len(records(path)) == 11


def test_records_keep_their_fields_but_not_their_results(decode, tmp_path):
  path = tmp_path / 'in.jsonl'
  rows = [{'en': 'one', 'id': 7, 'prediction': 'old'}, {'en': 'two', 'id': 8, 'fr': ['deux']}]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
  output = records(decode(input_path=str(path), inputs_template='say {en}'))
  assert [record['inputs'] for record in output] == ['say one', 'say two']
  assert [record['id'] for record in output] == [7, 8]
  assert output[1]['fr'] == ['deux']
  assert output[0]['prediction'] != 'old'
  decode(input_path=str(path), inputs_template='say {en}')


def test_standard_input_to_standard_output(decode, monkeypatch, capsys):
  expected = decode().read_text(encoding='utf-8')
  capsys.readouterr()
  buffer = io.BytesIO('\n'.join(LINES).encode())
  monkeypatch.setattr('sys.stdin', types.SimpleNamespace(buffer=buffer))
  decode(input_path='-', output_path='-')
  output = capsys.readouterr()
  assert output.out == expected
  assert output.err == ''


@pytest.mark.parametrize('output_path', ['-', None])
def test_a_line_that_is_too_long_is_named_before_anything_is_decoded(
  decode, source, tmp_path, output_path
):
  with open(source, 'a', encoding='utf-8') as file:
    file.write('x' * (INPUTS_LENGTH - 1) + '\n' + 'x' * INPUTS_LENGTH + '\n')
  options = {'output_path': output_path} if output_path else {}
  with pytest.raises(
    ValueError, match=r'in\.txt:12: the inputs have 25 tokens, and INPUTS_LENGTH is 24'
  ):
    decode(**options)
  assert not (tmp_path / 'out.jsonl').exists()


def test_longer_inputs_are_cut_on_request(decode, source):
  whole = 'abcdefgh' * 4
  source.write_text(f'{whole}\n{whole[: INPUTS_LENGTH - 1]}\n', encoding='utf-8')
  cut, same = records(decode(truncate=True))
  assert cut['inputs'] == whole
  assert cut['prediction'] == same['prediction']


def test_an_empty_input_gives_an_empty_output(decode, source):
  source.write_text('')
  assert decode().read_bytes() == b''


def test_a_missing_input_is_named(decode, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.txt'):
    decode(input_path=str(tmp_path / 'none.txt'))
  with pytest.raises(ValueError, match='Nothing to decode: set --input'):
    decode(input_path='')


def test_the_input_is_never_overwritten(decode, source):
  before = source.read_bytes()
  with pytest.raises(ValueError, match='is the input itself'):
    decode(output_path=str(source), overwrite=True)
  assert source.read_bytes() == before


def test_a_vocabulary_that_does_not_fit_is_named(decode, settings, byte_model):
  seqio = pytest.importorskip('seqio')
  with pytest.raises(ValueError, match='has 359 tokens, the model only 259'):
    decode(vocabulary=seqio.ByteVocabulary(extra_ids=100))
  with pytest.raises(ValueError, match='No vocabulary'):
    decode(vocabulary=None)
  with pytest.raises(ValueError, match='ends texts with 1, the decoder with 2'):
    decode(decoder=decoder.Decoder(byte_model[0], STEPS, eos_id=2))


def test_a_split_of_a_task_is_decoded(decode, settings, tmp_path, vocabulary):
  files = pytest.importorskip('calm.tasks.files')
  path = tmp_path / 'test.jsonl'
  path.write_text('{"en": "seven", "fr": "sept"}\n{"en": "a", "fr": "un"}\n', encoding='utf-8')
  task = files.task(inputs='{en}', targets='{fr}', vocabulary=vocabulary, test=str(path))
  lines = records(decode())
  split = {'input_path': None, 'task': task, 'split': 'test', 'vocabulary': None}
  output = records(decode(**split, overwrite=True))
  assert [record['targets'] for record in output] == ['sept', 'un']
  assert [record['prediction'] for record in output] == [
    record['prediction'] for record in lines[:2]
  ]


@pytest.mark.parametrize(
  ('longest', 'inputs_length', 'expected'),
  [(0, 512, 32), (1, 512, 32), (33, 512, 64), (64, 512, 64), (400, 500, 500), (5, 20, 20)],
)
def test_batches_are_padded_to_few_lengths(longest, inputs_length, expected):
  assert text_decoder.padded_length(longest, inputs_length) == expected


def test_importing_does_not_import_tensorflow():
  code = (
    'import sys, calm.decoding.corpus, calm.decoding.evaluation;'
    'assert not {"tensorflow", "seqio", "torch", "gin"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
