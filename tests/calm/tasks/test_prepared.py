"""A public data set is prepared for real, from files on this machine in place of downloads."""

import tensorflow_datasets as tfds

from calm.tasks import examples, public, vocabularies

LINES = {
  'train.tsv': 'x\t1\t\tThe cat sat.\nx\t0\t*\tCat the sat.\n',
  'dev.tsv': 'x\t0\t*\tSat cat.\n',
  'test.tsv': 'index\tsentence\n0\tA dog sat.\n',
}


def test_an_installation_prepares_and_reads_a_public_task(tmp_path, monkeypatch):
  source = tmp_path / 'source'
  (source / 'CoLA').mkdir(parents=True)
  for name, content in LINES.items():
    (source / 'CoLA' / name).write_text(content)
  monkeypatch.setattr(
    tfds.download.DownloadManager, 'download_and_extract', lambda self, urls: source
  )
  task = public.task(
    'glue_cola', vocabularies.byte_vocabulary(), tfds_data_dir=str(tmp_path / 'data')
  )
  task.source.tfds_dataset.builder.download_and_prepare()
  found = {
    split: [(one.texts['inputs'], one.target) for one in examples.read(task, split)]
    for split in ('train', 'validation')
  }
  assert sorted(found['train']) == [
    ('cola sentence: Cat the sat.', 'unacceptable'),
    ('cola sentence: The cat sat.', 'acceptable'),
  ]
  assert found['validation'] == [('cola sentence: Sat cat.', 'unacceptable')]
