"""The `calm` command, from a vocabulary to an export, and how it ends when something is wrong."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from calm import configuration, main

CONFIG = '--gin_file=configs/quickstart.gin'
# A model and data so small that all commands together take seconds.
TINY = [
  CONFIG,
  *(
    f'--gin.{binding}'
    for binding in (
      'VOCAB_SIZE=64',
      'BATCH_SIZE=4',
      'NUM_STEPS=4',
      'WARMUP_STEPS=1',
      'MAX_DECODE_STEPS=5',
      'DECODE_BATCH_SIZE=3',
      'loop.train.steps_per_checkpoint=2',
      'loop.train.steps_per_report=2',
      'loop.train.num_validation_batches=1',
      'spelled_numbers.task.num_train=67',
      'spelled_numbers.task.num_validation=11',
      'spelled_numbers.task.num_test=7',
      't5.T5Config.emb_dim=16',
      't5.T5Config.num_heads=2',
      't5.T5Config.head_dim=8',
      't5.T5Config.mlp_dim=16',
      't5.T5Config.num_encoder_layers=1',
      't5.T5Config.num_decoder_layers=2',
      'losses.EncoderDecoderObjective.exit_weights="linear"',
    )
  ),
]
LINES = ['one', 'seventy-one', '', 'two hundred and three', 'eleven', 'five', 'ninety', 'ten']


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
  """A run stopped by Ctrl-C in its third step: (workdir, exit code, what it said).

  It is called where its folder lies, by a path relative to there.
  """
  from calm.training.progress import Progress

  folder = tmp_path_factory.mktemp('runs')
  advance = Progress.advance

  def interrupt(self, step):
    advance(self, step)
    if step == 3:
      signal.raise_signal(signal.SIGINT)

  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
    patch.chdir(folder)
    patch.setattr(Progress, 'advance', interrupt)
    assert main.main(['vocab', *TINY, '--workdir=tiny']) == 0
    code = main.main(['train', *TINY, '--workdir=tiny'])
  return folder / 'tiny', code, said.getvalue()


@pytest.fixture(scope='module')
def workdir(interrupted):
  """The folder of that run, trained to its end by the same command."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(interrupted[0].parent)
    assert main.main(['train', *TINY, '--workdir=tiny']) == 0
  return interrupted[0]


@pytest.fixture
def lines(tmp_path):
  """A file of lines to decode."""
  path = tmp_path / 'lines.txt'
  path.write_text('\n'.join(LINES) + '\n')
  return path


def decode(workdir, *arguments):
  return main.main(['decode', f'--workdir={workdir}', *map(str, arguments)])


def test_ctrl_c_ends_a_run_saved(interrupted):
  workdir, code, said = interrupted
  assert code == 130
  assert 'Stopped after step 3, which is saved' in said
  assert said.endswith('calm train: interrupted; the same command goes on.\n')
  assert (workdir / 'checkpoints' / '3').is_dir()


def test_long_work_says_once_what_it_does(interrupted):
  begun = ('Tokenising', 'Devices: ', 'Parameters: ', 'Compiling', 'First loss: ')
  lines = [line for line in interrupted[2].splitlines() if line.startswith(begun)]
  words = [next(word for word in begun if line.startswith(word)) for line in lines]
  assert words == ['Tokenising', 'Tokenising', *begun[1:]]  # Two splits.


def test_a_run_leaves_checkpoints_metrics_and_its_configuration(workdir):
  assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == ['3', '4']
  reports = [json.loads(line) for line in (workdir / 'metrics.jsonl').open()]
  assert [report['step'] for report in reports] == [2, 4]
  assert {'loss', 'validation_loss'} <= reports[-1].keys()
  assert f"WORKDIR = '{workdir}'" in (workdir / 'config.gin').read_text()
  assert 'loop.train.num_validation_batches = 1' in (workdir / 'operative_config.gin').read_text()


def test_the_same_command_on_a_finished_run_does_nothing(workdir, capfd):
  before = (workdir / 'metrics.jsonl').read_bytes()
  assert main.main(['train', *TINY, f'--workdir={workdir}']) == 0
  assert f'Nothing to do: step 4 of 4 in {workdir}' in capfd.readouterr().err
  assert (workdir / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
  ('setting', 'complaint'),
  [
    ('VOCAB_SIZE=65', 'does not fit'),
    ('t5.T5Config.emb_dim=24', 'does not fit'),
    (
      'loop.train.steps_per_report=0',
      'loop.train.steps_per_report must be a whole number of at least 1, not 0',
    ),
    ('INPUTS_LENGTH=2', 'INPUTS_LENGTH is 2'),
    ('NUM_STEPS=4', None),  # There is nothing to do.
  ],
)
def test_a_run_that_does_not_go_on_keeps_what_is_in_its_workdir(
  workdir, setting, complaint, capsys
):
  def content():
    return {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}

  before = content()
  arguments = [f'--workdir={workdir}', '--gin.NUM_STEPS=6', f'--gin.{setting}']
  assert main.main(['train', *TINY, *arguments]) == bool(complaint)
  assert (complaint or 'Nothing to do') in capsys.readouterr().err
  assert content() == before


def test_a_saved_run_is_evaluated_from_anywhere_by_its_workdir(workdir, capsys):
  assert main.main(['evaluate', f'--workdir={workdir}']) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed == json.loads((workdir / 'evaluations' / 'test.json').read_text())
  assert (printed['num_examples'], printed['layers_per_token']) == (7, 2.0)
  assert 0 <= printed['exact_match'] <= 100
  assert main.main(['evaluate', f'--workdir={workdir}', '--split=validation']) == 0
  assert json.loads(capsys.readouterr().out)['num_examples'] == 11
  # Without --workdir, by the configuration alone.
  assert main.main(['evaluate', f'--gin_file={workdir}/config.gin']) == 0
  assert json.loads(capsys.readouterr().out) == printed


def test_a_run_moved_elsewhere_is_evaluated_there(workdir, tmp_path, capsys):
  assert main.main(['evaluate', f'--workdir={workdir}', '--split=validation']) == 0
  printed = json.loads(capsys.readouterr().out)
  moved = workdir.rename(workdir.parent / 'moved')
  try:
    assert main.main(['evaluate', f'--workdir={moved}', '--split=validation']) == 0
    # The same to the last digit of its seconds: nothing was decoded again.
    assert json.loads(capsys.readouterr().out) == printed
    assert not workdir.exists()
  finally:
    moved.rename(workdir)


def test_lines_are_decoded_to_a_file_or_to_standard_output(workdir, lines, tmp_path, capsys):
  output = tmp_path / 'out.jsonl'
  assert decode(workdir, '--input', lines, '--output', output) == 0
  records = [json.loads(line) for line in output.open()]
  assert [record['inputs'] for record in records] == LINES
  said = capsys.readouterr().err
  for word in ('Devices: ', 'Parameters: ', 'Tokenising', 'Decoding'):
    assert len(re.findall(f'^{word}', said, re.MULTILINE)) == 1
  assert [record['units'] > 0 for record in records] == [line != '' for line in LINES]
  assert decode(workdir, '--input', lines) == 0
  printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert printed == [{k: v for k, v in record.items() if k != 'checksum'} for record in records]


def test_a_decoding_that_was_cut_short_is_completed(workdir, lines, tmp_path, capsys):
  output = tmp_path / 'out.jsonl'
  assert decode(workdir, '--input', lines, '--output', output) == 0
  whole = output.read_bytes()
  half = whole[: len(whole) // 2]
  output.write_bytes(half)
  capsys.readouterr()
  assert decode(workdir, '--input', lines, '--output', output) == 0
  assert output.read_bytes() == whole
  kept = half.count(b'\n')
  assert f'8 inputs, {kept} of them earlier' in capsys.readouterr().err


def test_a_command_whose_output_nobody_reads_ends_quietly(workdir, lines, monkeypatch, capfd):
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, 'w') as closed, monkeypatch.context() as patch:
    patch.setattr(sys, 'stdout', closed)
    assert decode(workdir, '--input', lines) == 128 + signal.SIGPIPE
  assert not re.search('Error|Traceback|pipe', capfd.readouterr().err)


def test_standard_input_is_decoded(workdir, monkeypatch, capsys):
  text = io.TextIOWrapper(io.BytesIO(b'one\nsix\n'))
  monkeypatch.setattr(sys, 'stdin', text)
  assert decode(workdir, '--input=-') == 0
  records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [record['inputs'] for record in records] == ['one', 'six']


def test_an_export_says_in_transformers_what_it_says_here(workdir, lines, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  export, output = tmp_path / 'export', tmp_path / 'out.jsonl'
  assert main.main(['export', f'--workdir={workdir}', f'--output={export}']) == 0
  assert decode(workdir, '--input', lines, '--output', output) == 0
  assert (export / 'spiece.model').read_bytes() == (workdir / 'vocabulary.model').read_bytes()

  import seqio

  vocabulary = seqio.SentencePieceVocabulary(str(export / 'spiece.model'))
  model = transformers.T5ForConditionalGeneration.from_pretrained(export).eval()
  for record in map(json.loads, output.open()):
    if record['inputs']:
      tokens = torch.tensor([[*vocabulary.encode(record['inputs']), 1]])
      with torch.no_grad():
        (generated,) = model.generate(tokens, max_new_tokens=5, do_sample=False)
      generated = generated[1:].tolist()  # After the 0 that it begins with.
      assert len(generated) == record['units']
      assert vocabulary.decode(generated) == record['prediction']


@pytest.mark.parametrize(
  ('arguments', 'complaint'),
  [
    (['train'], 'Name a config with --gin_file'),
    (['evaluate', '--workdir=none'], 'No none/config.gin'),
    (['train', '--gin_file=nope.gin'], 'No config nope.gin in '),
    (['vocab', CONFIG], 'WORKDIR is not set: give --workdir=VALUE'),
    (['train', CONFIG, '--workdir=w', '--gin.STEPS=1'], '--gin.STEPS: no config reads'),
    (['train', *TINY, '--workdir=w'], 'No vocabulary w/vocabulary.model'),
    (['evaluate', *TINY, '--workdir=w'], 'No checkpoint in w/checkpoints'),
    (['export', *TINY, '--workdir=w'], 'No checkpoint in w/checkpoints'),
    (
      ['vocab', '--gin_file=configs/calm/multi30k_en_fr.gin', '--workdir=w', '--gin.TRAIN_FILE=no'],
      'no: no such file. Set TRAIN_FILE',
    ),
  ],
)
def test_an_error_is_one_line_that_names_the_thing(
  arguments, complaint, tmp_path, monkeypatch, capfd
):
  monkeypatch.chdir(tmp_path)
  assert main.main(arguments) == 1
  out, err = capfd.readouterr()
  assert out == ''
  first, *rest = err.replace(f'{tmp_path}/', '').splitlines()
  assert first.startswith(f'calm {arguments[0]}: {complaint}')
  # Only the list of what is shipped has lines of its own.
  shipped = configuration.shipped_configs('calm')
  assert rest == [f'  {name}' for name in shipped if 'Shipped:' in first]


def test_an_output_that_cannot_be_written_is_named(workdir, lines, capfd):
  output = lines / 'out.jsonl'  # Below a file, where not even root can write.
  assert decode(workdir, '--input', lines, '--output', output) == 1
  assert f'calm decode: {output} cannot be written' in capfd.readouterr().err


def test_a_traceback_is_shown_on_request(capfd):
  with pytest.raises(ValueError, match='Name a config with --gin_file'):
    main.main(['train', '--traceback'])


@pytest.mark.parametrize(
  'arguments', [['--help'], *([c.name, '--help'] for c in main.PROGRAM.commands)]
)
def test_help_lists_the_shipped_configs(arguments, capsys):
  with pytest.raises(SystemExit) as info:
    main.main(arguments)
  assert info.value.code == 0
  text = capsys.readouterr().out
  for config, header in configuration.shipped_configs('calm').items():
    assert f'  {config}\n      {header}' in text


@pytest.mark.parametrize(
  'arguments', [[], ['nothing'], ['train', '--gin.A'], ['train', '--output=x']]
)
def test_a_command_line_that_cannot_be_read_shows_the_usage(arguments, capsys):
  with pytest.raises(SystemExit) as info:
    main.main(arguments)
  assert info.value.code == 2
  assert capsys.readouterr().err.startswith('usage: calm')


@pytest.mark.parametrize(
  'statement', ['from calm import commands', 'from calm import main; main.main(["--help"])']
)
def test_neither_a_program_nor_its_help_loads_the_heavy_libraries(statement):
  heavy = 'import sys; print(*{"jax", "tensorflow", "torch", "flax", "seqio"} & {*sys.modules})'
  code = f'try:\n  {statement}\nexcept SystemExit: pass\nprint("---")\n{heavy}'
  said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert said.stdout.rpartition('---\n')[2] == '\n'
