"""A run is loaded by its folder, and says in Python what the commands say of it."""

import json
import re
import subprocess
import sys
import warnings

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from calm import compilation_cache, configuration, main, runs
from calm.training import checkpoints

TINY = {
  'VOCABULARY': '@vocabularies.byte_vocabulary()',
  'VOCAB_SIZE': 259,
  'INPUTS_LENGTH': 89,
  'MAX_DECODE_STEPS': 7,
  'DECODE_BATCH_SIZE': 2,
  'spelled_numbers.task.num_train': 7,
  'spelled_numbers.task.num_validation': 5,
  'spelled_numbers.task.num_test': 3,
  't5.T5Config.num_decoder_layers': 3,
  'losses.EncoderDecoderObjective.exit_weights': '"linear"',
}
SENTENCES = ['one', 'seventy-one', '', 'two hundred and three']


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run with weights as they begin, and a certificate of a risk that any such model keeps."""
  workdir = tmp_path_factory.mktemp('runs') / 'tiny'
  bindings = [
    f'{name} = {value}' for name, value in {**TINY, 'WORKDIR': repr(str(workdir))}.items()
  ]
  configuration.parse(['configs/quickstart.gin'], bindings, [], {})
  configuration.save(workdir, configuration.to_save())
  params = jax.jit(configuration.value('MODEL').init_params)(jax.random.key(0))
  store = checkpoints.Checkpoints(workdir)
  store.save(1, {'params': params}, {})
  store.close()
  settings = ['--gin.OBJECTIVE=risk', '--gin.DELTAS=(0.9,)', '--gin.GRID=(0.0,)']
  assert main.main(['calibrate', f'--workdir={workdir}', *settings]) == 0
  return workdir


@pytest.fixture(scope='module')
def run(workdir):
  return runs.load(workdir)


def test_a_loaded_run_says_what_the_command_says(workdir, run, tmp_path, capsys):
  lines = tmp_path / 'lines.txt'
  lines.write_text('\n'.join(SENTENCES))
  assert main.main(['decode', f'--workdir={workdir}', f'--input={lines}']) == 0
  said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  rows = run.decode(SENTENCES)
  assert [row['inputs'] for row in rows] == SENTENCES
  for name in ('prediction', 'units', 'costs', 'log_prob'):
    assert [row[name] for row in rows] == [one[name] for one in said]


def test_each_token_has_the_layer_it_stopped_at(workdir, run):
  for some, layers in ((run, 3), (run.at(None), 3), (run.at(0.0), 1)):
    rows = some.decode(SENTENCES)
    assert [row['exit_layers'] for row in rows] == [[layers] * row['units'] for row in rows]
  (certificate,) = (workdir / 'certificates').iterdir()
  certified = runs.load(workdir, certificate=certificate)
  assert certified.decode(SENTENCES) == run.at(0.0).decode(SENTENCES)


def test_the_python_of_the_readme_runs(workdir, tmp_path, monkeypatch, capsys):
  readme = (configuration.shipped_root() / 'README.md').read_text(encoding='utf-8')
  (code,) = re.findall(r'```python\n(from calm import runs\n.*?)```', readme, re.DOTALL)
  assert len(code.splitlines()) <= 10
  assert 'gin' not in code
  (tmp_path / 'runs' / 'quickstart').mkdir(parents=True)
  (tmp_path / 'runs' / 'quickstart' / 'exits').symlink_to(workdir)
  monkeypatch.chdir(tmp_path)
  exec(code, {})
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 3
  assert all(re.search(r' \[[123](, [123])*\]$', line) for line in said)


def test_settings_are_values_of_macros_and_parameters(workdir):
  fixed = {'RULE': '@rules.FixedLayer()', 'rules.FixedLayer.layer': 2, 'MAX_DECODE_STEPS': 2}
  (row,) = runs.load(workdir, **fixed).decode(['one'])
  assert row['exit_layers'] == [2] * row['units']
  assert row['units'] <= 2
  with pytest.raises(ValueError, match='STEPS: no config reads STEPS'):
    runs.load(workdir, STEPS=2)


def test_records_fill_the_template(workdir):
  run = runs.load(workdir, DECODE_TEMPLATE='{tens}-{ones}')
  (row,) = run.decode([{'tens': 'seventy', 'ones': 'one'}])
  assert row['inputs'] == 'seventy-one'
  assert row['prediction'] == runs.load(workdir).decode(['seventy-one'])[0]['prediction']
  with pytest.raises(ValueError, match=r'input 1 is a text, .* give a dict with ones, tens'):
    run.decode([{'tens': 'seventy', 'ones': 'one'}, 'two'])
  with pytest.raises(ValueError, match="input 0: no field 'ones'"):
    run.decode([{'tens': 'seventy'}])


def test_a_run_stays_what_it_is_when_another_is_loaded(workdir, tmp_path, monkeypatch):
  (tmp_path / 'my_measures.py').write_text(
    'import jax.numpy as jnp\n\n\n'
    'def the_same(hidden, value=0.0):\n'
    '  return jnp.full(hidden.shape[:-1], value)\n'
  )
  config = tmp_path / 'mine.gin'
  config.write_text(
    'from __gin__ import dynamic_registration\n'
    'from calm.exits import rules\n'
    'import my_measures\n'
    'MEASURE = @my_measures.the_same\n'
    'RULE = @rules.confident()\n'
    'my_measures.the_same.value = 1.0\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  early = runs.load(workdir, gin_files=[str(config)])
  never = runs.load(workdir, gin_files=[str(config)], **{'my_measures.the_same.value': 0.25})
  # The measure is first called when both are loaded.
  for run, layers in ((early, 1), (never, 3), (early, 1)):
    (row,) = run.decode(['one'])
    assert row['exit_layers'] == [layers] * row['units']
  bound = [run.predictor.identity['rule']['measure']['bound'] for run in (early, never)]
  assert bound == [{'value': 1.0}, {'value': 0.25}]


def test_what_is_no_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'No .*nothing/config\.gin: name the workdir'):
    runs.load(tmp_path / 'nothing')


def test_runs_are_imported_without_the_heavy_libraries():
  heavy = 'import sys; print({"jax", "tensorflow", "flax", "seqio"} & {*sys.modules})'
  code = f'from calm import runs; {heavy}'
  said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert said.stdout == 'set()\n'


@pytest.fixture
def told():
  """JAX is told where programs are kept as before, afterwards."""
  names = ('jax_compilation_cache_dir', 'jax_enable_compilation_cache', *compilation_cache.SETTINGS)
  usual = {name: jax.config.values[name] for name in names}
  jax_cache.reset_cache()
  with warnings.catch_warnings():
    yield
  for name, value in usual.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


def test_programs_are_kept_where_it_is_said_as_by_the_commands(workdir, told, tmp_path):
  for _ in range(2):
    loaded = runs.load(workdir, compilation_cache=tmp_path / 'kept', MAX_DECODE_STEPS=6)
    loaded.decode(SENTENCES[:1])
  assert list((tmp_path / 'kept').glob('*-cache'))
  runs.load(workdir, compilation_cache='off')
  assert not jax.config.values['jax_enable_compilation_cache']
