"""Damages to directories of Hugging Face are named, or do nothing: a few of those that
scripts/check_directory_damages.py tries."""

import runpy
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).parents[3] / 'scripts/check_directory_damages.py'))


def test_no_damage_goes_unnoticed(tmp_path):
  kinds = CHECK['KINDS']
  tallies, faults = CHECK['check'](10 * len(kinds), 'test', tmp_path)
  assert not faults
  assert tallies.keys() == {kind.__name__ for kind in kinds}
  assert max(tally.seconds for tally in tallies.values()) < CHECK['SECONDS']
  assert tallies['value_not_finite'].refused == 10
  assert tallies['setting_removed'].passed > 0  # What is absent is the default, and may be it.


@pytest.mark.parametrize(
  ('error', 'fault'),
  [
    (None, 'is not what the files hold'),
    (KeyError('d_model'), 'KeyError'),
    (ValueError("{directory}: 'NoneType' object is not iterable"), "Python's words"),
    (ValueError('config.json: d_model is x'), 'no directory is named'),
    (ValueError('{directory}/config.json: something is wrong'), 'none of d_model is named'),
    (ValueError('{directory}/config.json: d_model ' + 10_000 * 'x'), 'characters'),
  ],
)
def test_the_check_itself_finds_what_is_wrong(tmp_path, monkeypatch, error, fault):
  directory, *_ = CHECK['originals'](tmp_path)
  config, params = CHECK['pretrained'].load(directory)
  params['decoder']['decoder_norm']['scale'][0] += 1

  def load(where):
    if error is None:
      return config, params
    raise type(error)(str(error.args[0]).replace('{directory}', str(where)))

  monkeypatch.setattr(CHECK['pretrained'], 'load', load)
  _, wrong = CHECK['fault'](directory, CHECK['Damage']('config.json', ('d_model',)))
  assert fault in wrong
