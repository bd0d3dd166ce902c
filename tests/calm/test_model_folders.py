"""Which folder of a directory holds the network."""

import json

import pytest

from calm.model_folders import transformer_folder


def modules(*pairs):
  return json.dumps([{'type': kind, 'path': path} for kind, path in pairs])


@pytest.fixture
def directory(tmp_path):
  (tmp_path / '0_Transformer').mkdir()
  return tmp_path


def test_a_directory_of_a_network_is_its_own(directory):
  assert transformer_folder(directory) == directory
  (directory / 'modules.json').write_text(modules(('models.Transformer', '0_Transformer')))
  assert transformer_folder(directory) == directory / '0_Transformer'
  (directory / 'config.json').touch()
  assert transformer_folder(directory) == directory


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (modules(('models.Pooling', '0_Transformer')), 'lists no transformer'),
    (modules(('models.Transformer', '1_Transformer')), "'1_Transformer', which is not beside it"),
    (modules(('models.Transformer', '..')), 'which is not beside it'),
    (modules(('models.Transformer', '/tmp')), 'which is not beside it'),
    ('{"0": 1}', 'is damaged'),
    ('[{"type": "models.Transformer"}]', 'is damaged'),
    ('[1', 'is damaged'),
  ],
)
def test_modules_that_name_no_folder_beside_them(directory, content, message):
  (directory / 'modules.json').write_text(content)
  with pytest.raises(ValueError, match=rf'modules\.json.*{message}'):
    transformer_folder(directory)
