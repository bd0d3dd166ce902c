"""Runs that begin with another's weights: exits are added, then a classifier, by configs alone."""

import dataclasses
import json
import linecache
import math
import os
import re
import shutil
import sys
import traceback

import jax
import numpy as np
import pytest

import gin
from calm import configuration, main, storage
from calm.models import layers, parameters, pretrained, t5
from calm.training import checkpoints

# A model and data so small that every stage takes seconds.
TINY = [
  '--gin_file=configs/quickstart.gin',
  *(
    f'--gin.{binding}'
    for binding in (
      'VOCAB_SIZE=64',
      'BATCH_SIZE=4',
      'NUM_STEPS=2',
      'WARMUP_STEPS=1',
      'MAX_DECODE_STEPS=5',
      'loop.train.num_validation_batches=1',
      'spelled_numbers.task.num_train=67',
      'spelled_numbers.task.num_validation=11',
      'spelled_numbers.task.num_test=7',
      't5.T5Config.emb_dim=16',
      't5.T5Config.num_heads=2',
      't5.T5Config.head_dim=8',
      't5.T5Config.mlp_dim=16',
      't5.T5Config.num_encoder_layers=1',
      't5.T5Config.num_decoder_layers=3',
      'losses.EncoderDecoderObjective.exit_weights="linear"',
    )
  ),
]
CLASSIFIER = {
  'decoder/exit_classifier/kernel': (16, 1),
  'decoder/exit_classifier/bias': (1,),
}


def next_stage(base, workdir, name, *arguments):
  """Trains a stage of gin/runs on the run in `base`; returns the exit code."""
  files = [f'--gin_file={base}/config.gin', f'--gin_file=gin/runs/{name}.gin']
  where = [f'--gin.BASE_WORKDIR={base}', f'--workdir={workdir}']
  return main.main(['train', *files, *where, *arguments])


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A folder with three runs, each on the one before: plain, exits, classifier."""
  folder = tmp_path_factory.mktemp('runs')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert main.main(['vocab', *TINY, '--workdir=plain']) == 0
    plain = '--gin.losses.EncoderDecoderObjective.exit_weights="last"'
    assert main.main(['train', *TINY, '--workdir=plain', plain]) == 0
    assert next_stage('plain', 'exits', 'add_exits', '--gin.NUM_STEPS=4') == 0
    steps = ('--gin.NUM_STEPS=3', '--gin.WARMUP_STEPS=1')
    assert next_stage('exits', 'classifier', 'exit_classifier', *steps) == 0
  return folder


def flat_params(workdir):
  return parameters.flatten(checkpoints.restore_params(workdir))


def reports(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').open()]


def test_adding_exits_trains_on_with_the_loss_of_all_layers(runs):
  plain, exits = reports(runs / 'plain')[-1], reports(runs / 'exits')[-1]
  assert plain['step'] == 2
  assert exits['step'] == 4
  z_loss = 1e-2  # Enough for what T5's loss adds.
  assert math.isclose(plain['validation_loss'], plain['validation_loss_last_layer'], abs_tol=z_loss)
  assert abs(exits['validation_loss'] - exits['validation_loss_last_layer']) > z_loss
  before, after = flat_params(runs / 'plain'), flat_params(runs / 'exits')
  assert before.keys() == after.keys()
  # A few small steps from where the plain run ended, and not from somewhere else.
  for name, value in before.items():
    np.testing.assert_allclose(after[name], value, atol=0.05)
  assert any(np.any(after[name] != value) for name, value in before.items())


def test_the_second_stage_trains_the_classifier_alone(runs):
  before, after = flat_params(runs / 'exits'), flat_params(runs / 'classifier')
  assert {name: after[name].shape for name in after.keys() - before.keys()} == CLASSIFIER
  for name, value in before.items():
    assert after[name].tobytes() == value.tobytes()
  assert all(np.any(after[name]) for name in CLASSIFIER)
  last = reports(runs / 'classifier')[-1]
  assert last['step'] == 3
  assert {'accuracy', 'agreement', 'false_exits', 'validation_agreement'} <= last.keys()


def test_every_run_keeps_the_vocabulary_and_needs_no_other(runs, capsys):
  content = {(runs / name / 'vocabulary.model').read_bytes() for name in ('plain', 'exits')}
  assert content == {(runs / 'classifier' / 'vocabulary.model').read_bytes()}
  for name in ('plain', 'exits'):
    (runs / name).rename(runs / f'{name}_gone')
  try:
    assert main.main(['evaluate', f'--workdir={runs}/classifier']) == 0
    full = json.loads(capsys.readouterr().out)
    assert (full['num_examples'], full['layers_per_token']) == (7, 3)
    rule = ('RULE=@rules.confident()', 'MEASURE=@confidence.classifier', 'LAMBDA=0.0')
    exits = [f'--gin.{binding}' for binding in rule]
    assert main.main(['evaluate', f'--workdir={runs}/classifier', *exits]) == 0
    assert json.loads(capsys.readouterr().out)['layers_per_token'] == 1
  finally:
    for name in ('plain', 'exits'):
      (runs / f'{name}_gone').rename(runs / name)


@pytest.mark.parametrize('stage', ['exits', 'classifier'])
def test_a_stage_that_goes_on_does_not_read_what_it_began_with(runs, tmp_path, capfd, stage):
  workdir = shutil.copytree(runs / stage, tmp_path / stage)
  again = ['train', f'--gin_file={workdir}/config.gin', f'--workdir={workdir}']
  again += ['--gin.NUM_STEPS=6', f'--gin.BASE_WORKDIR={tmp_path}/gone']
  assert main.main(again) == 0
  assert checkpoints.steps(workdir)[-1] == 6
  before = flat_params(runs / stage)
  assert any(np.any(after != before[name]) for name, after in flat_params(workdir).items())
  (workdir / 'checkpoints').rename(tmp_path / 'aside')
  assert main.main(again) == 1
  assert f'{tmp_path}/gone' in capfd.readouterr().err


def test_weights_are_given_as_arrays_by_parentheses(runs, tmp_path):
  arrays = '--gin.INITIAL_PARAMS=@base/checkpoints.initial_params()'
  assert next_stage(runs / 'plain', tmp_path / 'next', 'from_workdir', arrays) == 0
  before, after = flat_params(runs / 'plain'), flat_params(tmp_path / 'next')
  for name, value in before.items():
    np.testing.assert_allclose(after[name], value, atol=0.05)
  assert any(np.any(after[name] != value) for name, value in before.items())


def test_an_export_of_the_second_stage_is_that_of_the_first(runs, tmp_path, capsys):
  for name in ('exits', 'classifier'):
    output = f'--output={tmp_path / name}'
    assert main.main(['export', f'--workdir={runs / name}', output]) == 0
  assert 'written without the exit classifier' in capsys.readouterr().err
  for file in ('model.safetensors', 'config.json', 'spiece.model'):
    assert (tmp_path / 'exits' / file).read_bytes() == (tmp_path / 'classifier' / file).read_bytes()


def test_a_checkpoint_of_transformers_gets_exits_with_its_own_sizes_and_vocabulary(runs, tmp_path):
  exported, workdir = tmp_path / 'exported', tmp_path / 'run'
  assert main.main(['export', f'--workdir={runs / "plain"}', f'--output={exported}']) == 0
  other_sizes = ('t5.T5Config.emb_dim=9', 't5.T5Config.num_decoder_layers=5', 'VOCAB_SIZE=23')
  arguments = [*TINY, *(f'--gin.{binding}' for binding in other_sizes)]
  arguments += ['--gin_file=gin/runs/add_exits.gin', f'--gin.BASE_WORKDIR={exported}']
  assert main.main(['train', *arguments, f'--workdir={workdir}']) == 0
  shutil.rmtree(exported)
  vocabulary = (runs / 'plain' / 'vocabulary.model').read_bytes()
  assert (workdir / 'vocabulary.model').read_bytes() == vocabulary
  before, after = flat_params(runs / 'plain'), flat_params(workdir)
  for name, value in before.items():
    np.testing.assert_allclose(after[name], value, atol=0.05)

  configuration.parse([f'{workdir}/config.gin'], [f'WORKDIR = {str(workdir)!r}'], [], {})
  config = gin.get_configurable(t5.T5)().config
  assert (config.emb_dim, config.num_decoder_layers, config.vocab_size) == (16, 3, 64)
  base = [f'BASE_WORKDIR = {str(workdir)!r}', f'WORKDIR = {str(tmp_path / "next")!r}']
  configuration.parse([f'{workdir}/config.gin', 'gin/runs/exit_classifier.gin'], base, [], {})
  config_of_next = gin.get_configurable(t5.T5)().config
  assert config_of_next == dataclasses.replace(config, exit_classifier=True)


def test_the_second_stage_takes_a_published_size_and_a_checkpoint_from_elsewhere(tmp_path):
  config = t5.published('tiny', vocab_size=259)
  params = jax.jit(t5.T5(config).init_params)(jax.random.key(0))
  base = pretrained.save_huggingface(tmp_path / 'tiny', config, params)
  (base / 'config.gin').write_text(
    '\n'.join([
      'from __gin__ import dynamic_registration',
      'from calm.models import t5',
      'from calm.tasks import spelled_numbers',
      *(f"include 'gin/{name}.gin'" for name in ('runs/t5', 'tasks/bytes', 'optimizers/adafactor')),
      'CONFIG = @t5.published()',
      't5.published:',
      "  name = 'tiny'",
      '  vocab_size = 259',
      'TASK = @spelled_numbers.task()',
      'spelled_numbers.task.vocabulary = %VOCABULARY',
      'INPUTS_LENGTH = 128',
      'TARGETS_LENGTH = 128',
      'BATCH_SIZE = 4',
    ])
  )  # fmt: skip
  counts = [f'--gin.spelled_numbers.task.num_{split}=31' for split in ('train', 'validation')]
  steps = ('--gin.NUM_STEPS=2', '--gin.WARMUP_STEPS=0', '--gin.CLASSIFIER_LOSS=geometric')
  assert next_stage(base, tmp_path / 'run', 'exit_classifier', *steps, *counts) == 0
  trained = checkpoints.restore_params(tmp_path / 'run')
  assert np.any(trained['decoder'].pop('exit_classifier')['kernel'])
  jax.tree.map(np.testing.assert_array_equal, trained, params)


@pytest.mark.parametrize(
  ('config', 'arguments', 'complaint'),
  [
    ('exits', ['BASE_WORKDIR=exits'], 'WORKDIR is not set: give --workdir=VALUE'),
    ('plain', ['WORKDIR="new"'], 'BASE_WORKDIR is not set: give --gin.BASE_WORKDIR=VALUE'),
    ('exits', ['BASE_WORKDIR=exits', 'WORKDIR="plain/../exits"'], 'a --workdir of its own'),
    ('exits', ['BASE_WORKDIR=nowhere', 'WORKDIR="new"'], 'There is no directory nowhere.'),
  ],
)
def test_a_stage_without_two_folders_is_refused_and_changes_none(
  runs, monkeypatch, capfd, config, arguments, complaint
):
  monkeypatch.chdir(runs)
  before = (runs / config / 'config.gin').read_bytes()
  files = [f'--gin_file={config}/config.gin', '--gin_file=gin/runs/exit_classifier.gin']
  assert main.main(['train', *files, *(f'--gin.{argument}' for argument in arguments)]) == 1
  assert complaint in capfd.readouterr().err.replace(f'{runs}/', '')
  assert (runs / config / 'config.gin').read_bytes() == before


@pytest.fixture
def own(runs, tmp_path, monkeypatch):
  """The flags of a measure and a rule of one's own, those of docs/rules.md."""
  page = (configuration.shipped_root() / 'docs' / 'rules.md').read_text(encoding='utf-8')
  (module,) = re.findall(r'```python\n(# my_exits\.py\n.*?)```', page, re.DOTALL)
  (config,) = re.findall(r'```\n(# mine\.gin.*?)```', page, re.DOTALL)
  (tmp_path / 'my_exits.py').write_text(module)
  (tmp_path / 'mine.gin').write_text(config)
  monkeypatch.syspath_prepend(tmp_path)
  return [f'--gin_file={file}' for file in (runs / 'exits/config.gin', tmp_path / 'mine.gin')]


def newest_rows(folder):
  """The rows that were predicted last below a folder of `evaluations`."""
  paths = sorted(folder.glob('*/predictions.jsonl'), key=lambda path: path.stat().st_mtime_ns)
  return [json.loads(line) for line in paths[-1].read_text().splitlines()]


def starts_late(layers):
  """Whether a text's first three tokens took all three layers, and all others one."""
  return layers == ([3] * 3 + [1] * len(layers))[: len(layers)]


def test_a_measure_and_a_rule_of_ones_own_need_no_other_code(runs, own):
  assert main.main(['evaluate', *own, '--gin.LAMBDA=0.0']) == 0
  layers = [row['exit_layers'] for row in newest_rows(runs / 'exits/evaluations/test')]
  # Nothing is compared after layer 1 with a state before it: a confidence of 0, which is enough.
  assert all(map(starts_late, layers))
  assert max(map(len, layers)) > 3


def test_a_rule_of_ones_own_is_what_is_calibrated_certified_and_run(runs, own, capfd):
  grid = ['--gin.DELTAS=(0.97,)', '--gin.GRID=(0.5, 0.0)']
  grid.append('--gin.DISSIMILARITY=@consistency.token_disagreement')
  assert main.main(['calibrate', *own, *grid]) == 0
  path = runs / 'exits/certificates/LateStart_agreement_textual_0.97.json'
  rule = json.loads(path.read_text())['system']['rule']
  assert rule['class'] == 'my_exits.LateStart'
  assert rule['rule']['measure']['function'] == 'my_exits.agreement'
  assert main.main(['evaluate', *own, f'--certificate={path}', '--gin.LAMBDA=0.7']) == 0
  rows = newest_rows(runs / 'exits/evaluations/test_LateStart_agreement_textual_0.97')
  layers = [row['exit_layers'] for row in rows]
  assert all(starts_late(row) for row in layers)
  capfd.readouterr()
  assert main.main(['evaluate', own[0], f'--certificate={path}']) == 1
  refused = capfd.readouterr().err
  assert 'rule: certified for my_exits.LateStart, here Confident (set --gin.RULE)' in refused
  assert main.main(['evaluate', *own, f'--certificate={path}', '--gin.my_exits.LateStart.start=2'])
  assert 'rule.start: certified for 3, here 2' in capfd.readouterr().err


def test_a_rule_of_ones_own_is_what_is_compared_and_reported(runs, own):
  settings = [
    '--gin.MEASURES=(@my_exits.agreement, @confidence.state_saturation)',
    "--gin.TRIAL_DELTAS={'textual': (0.97,)}",
    '--gin.GRID=(0.5, 0.0)',
    '--gin.NUM_TRIALS=2',
    '--gin.TIMED_BATCH_SIZES=()',
    '--gin.DISSIMILARITY=@consistency.token_disagreement',
    '--gin.chapters_calm.decaying.taus=(4.0,)',
    '--gin.chapters_calm.wrong_tokens.positions=(1,)',
  ]
  names = ['LateStart_agreement', 'LateStart_state_saturation']
  assert main.main(['trials', *own, *settings]) == 0
  table = storage.read_record(runs / 'exits/report/efficiency.json')['rows']
  assert [row['measure'] for row in table if row['kind'] == 'calibrated'] == names
  assert main.main(['report', *own, *settings]) == 0
  for name in (*names, 'LateStart_agreement_tau_4'):
    rows = newest_rows(runs / 'exits/calibration/validation' / name / '0')
    assert all(row['exit_layers'][:3] == [3, 3, 3][: row['units']] for row in rows)
  page = (runs / 'exits/report/report.html').read_text(encoding='utf-8')
  assert 'by LateStart agreement' in page
  assert page.count('<svg') == 4
  assert storage.read_record(runs / 'exits/report/efficiency.json')['rows'] == table


def test_an_edited_rule_is_decoded_anew_and_refused_its_certificate(runs, own, tmp_path, capfd):
  assert main.main(['evaluate', *own, '--gin.LAMBDA=0.0']) == 0
  before = newest_rows(runs / 'exits/evaluations/test')
  module = tmp_path / 'my_exits.py'
  module.write_text(module.read_text().replace('evidence.position >= self.start', 'True'))
  edited = sys.modules.pop('my_exits')
  linecache.clearcache()
  capfd.readouterr()
  gin.enter_interactive_mode()  # The same names again in the same process.
  try:
    assert main.main(['evaluate', *own, '--gin.LAMBDA=0.0']) == 0
    assert 'predicting anew, since rule.source differs' in capfd.readouterr().err
    after = newest_rows(runs / 'exits/evaluations/test')
    assert [row['exit_layers'] for row in after] != [row['exit_layers'] for row in before]
    path = runs / 'exits/certificates/LateStart_agreement_textual_0.97.json'
    assert main.main(['evaluate', *own, f'--certificate={path}']) == 1
    assert 'rule.source: is another (set --gin.RULE)' in capfd.readouterr().err
  finally:
    gin.exit_interactive_mode()
    sys.modules['my_exits'] = edited


def test_a_rule_without_a_threshold_is_refused_before_anything_is_decoded(runs, capfd):
  rule = ['--gin.RULE=@rules.FixedLayer()', '--gin.rules.FixedLayer.layer=1']
  assert main.main(['calibrate', f'--workdir={runs}/exits', *rule, '--gin.DELTAS=(0.9,)']) == 1
  assert 'FixedLayer has no threshold to calibrate: give RULE one' in capfd.readouterr().err


def test_a_moved_run_keeps_its_certificate_and_its_predictions(runs, tmp_path, capfd):
  moved = shutil.copytree(runs / 'plain', tmp_path / 'tr[1] moved')
  grid = ['--gin.DELTAS=(0.97,)', '--gin.GRID=(0.5, 0.0)']
  assert main.main(['calibrate', f'--workdir={runs}/plain', *grid]) == 0
  path = runs / 'plain/certificates/softmax_margin_textual_0.97.json'
  for place in (runs / 'plain' / '..' / 'plain', moved):
    capfd.readouterr()
    assert main.main(['evaluate', f'--workdir={place}', f'--certificate={path}']) == 0
  shutil.copytree(runs / 'plain/calibration', moved / 'calibration')
  assert main.main(['calibrate', f'--workdir={moved}', *grid]) == 0
  assert 'layers/token' not in capfd.readouterr().err  # Nothing was decoded.
  lines = tmp_path / 'lines.txt'
  lines.write_text('one\ntwo\n')
  options = [f'--input={lines}', f'--certificate={path}']
  assert main.main(['decode', f'--workdir={moved}', *options]) == 0
  said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
  assert [row['inputs'] for row in said] == ['one', 'two']
  assert main.main(['decode', f'--workdir={moved}', *options, '--gin.MIN_EXIT=2']) == 1
  assert 'rule.min_exit: certified for 1, here 2 (set --gin.MIN_EXIT)' in capfd.readouterr().err


def test_from_evaluate_to_attention_are_at_most_14_calls(runs, monkeypatch, capsys):
  attend, depths = layers.Attention.attend, []

  def watched(self, *args, **kwargs):
    calls = [frame for frame in traceback.extract_stack() if f'{os.sep}calm{os.sep}' in frame[0]]
    names = [frame.name for frame in calls]
    if 'evaluate' in names:  # Not where parameters are described.
      depths.append(len(names) - names.index('evaluate') - 1)
    return attend(self, *args, **kwargs)

  monkeypatch.setattr(layers.Attention, 'attend', watched)
  for rule in ('@rules.NeverExit()', '@rules.confident()'):
    options = [f'--gin.RULE={rule}', '--gin.MAX_DECODE_STEPS=7']  # Not traced before.
    assert main.main(['evaluate', f'--workdir={runs}/plain', *options]) == 0
  assert 10 <= max(depths) <= 14
