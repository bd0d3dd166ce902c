"""When, of what and on what: the code's own commit, the newest checkpoint, the configuration."""

import subprocess

import calm
from calm.reporting import provenance


def test_the_newest_checkpoint_and_the_configuration_are_those_of_the_folder(tmp_path):
  for step in (9, 10):
    (tmp_path / 'checkpoints' / str(step)).mkdir(parents=True)
  assert provenance.configuration(tmp_path) == ''
  (tmp_path / 'config.gin').write_text('A = 1\n')
  assert provenance.configuration(tmp_path) == 'A = 1\n'
  assert provenance.provenance(tmp_path)['checkpoint'] == 'step 10'


def test_a_commit_is_that_of_the_code_and_says_what_has_changed(tmp_path, monkeypatch):
  (tmp_path / 'calm').mkdir()
  code = tmp_path / 'calm' / '__init__.py'
  code.write_text('')
  monkeypatch.setattr(calm, '__file__', str(code))
  assert not provenance.provenance(tmp_path)['code'].startswith('commit')
  git = ['git', '-C', tmp_path, '-c', 'user.name=a', '-c', 'user.email=a@b']
  for command in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'first']):
    subprocess.run([*git, *command], check=True)
  commit = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=True)
  said = f'commit {commit.stdout[:12]}'
  assert provenance.provenance(tmp_path)['code'] == said
  code.write_text('a = 1')
  assert provenance.provenance(tmp_path)['code'] == f'{said}, with changes'
