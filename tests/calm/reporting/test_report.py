"""`calm report`: a page and its files, whose numbers are those of the outputs."""

import csv
import html
import json
import re
import types

import pytest

from calm.decoding import text_predictor
from calm.reporting import chapters_calm

FIGURES = ('tradeoff', 'efficiency', 'decay', 'sensitivity')


@pytest.fixture(scope='module')
def document(reported):
  """The page."""
  return reported.read_text(encoding='utf-8')


def lines_of(reported, name):
  """The lines of a CSV file beside the page."""
  with open(reported.with_name(f'{name}.csv'), encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def test_every_figure_has_a_picture_and_its_numbers(reported, document):
  assert document.count('<svg') == len(FIGURES)
  for name in FIGURES:
    assert reported.with_name(f'{name}.png').read_bytes()[:4] == b'\x89PNG'
    assert lines_of(reported, name)
    assert f'aria-labelledby="{name}-title {name}-text"' in document
    assert re.search(rf'<title id="{name}-title">[^<]+</title>', document)


def test_the_curve_is_that_of_the_outputs(reported, speaking):
  lines = lines_of(reported, 'tradeoff')
  assert [(line['kind'], line['threshold']) for line in lines] == [
    ('measure', '0.9'),
    ('measure', '0.5'),
    ('measure', '0.1'),
    ('static', ''),
    ('static', ''),
    ('oracle', ''),
  ]
  layers = [float(line['layers']) for line in lines]
  at = speaking.at('softmax_margin', 0.5).results
  exits = [layer for row in at.rows for layer in row['exit_layers']]
  assert layers[1] == pytest.approx(sum(exits) / len(exits), abs=1e-6)
  assert layers[3:5] == [1, 2]
  same = [a == b for a, b in zip(at.predictions, speaking.full.results.predictions, strict=True)]
  assert float(lines[1]['similarity']) >= sum(same) / len(same)
  assert float(lines[4]['similarity']) == 1
  targets = speaking.split.references()
  hits = [a == b for a, b in zip(speaking.full.results.predictions, targets, strict=True)]
  assert float(lines[4]['exact_match']) == pytest.approx(100 * sum(hits) / len(hits))


def test_a_decaying_threshold_stands_beside_the_constant_one(reported):
  lines = lines_of(reported, 'decay')
  assert [line['series'] for line in lines] == ['constant'] * 3 + ['tau = 4'] * 3
  constant = [line for line in lines_of(reported, 'tradeoff') if line['kind'] == 'measure']
  assert [line['layers'] for line in lines[:3]] == [line['layers'] for line in constant]


def test_examples_say_of_each_token_after_which_layer_it_stopped(document, speaking):
  rows = {
    (row['prediction'], tuple(row['exit_layers']))
    for threshold in speaking.grid
    for row in speaking.at('softmax_margin', threshold).results.rows
  }
  texts = re.findall(r'<span class="tokens">(.*?)</span></dd>', document)
  assert len(texts) >= 2
  for text in texts:
    tokens = re.findall(
      r'<span class="token layer-(\d)" title="[^"]*">(.*?)<sub>(\d)</sub></span>', text
    )
    layers = tuple(int(layer) for layer, _, _ in tokens)
    assert layers == tuple(int(number) for _, _, number in tokens)
    said = ''.join(html.unescape(piece) for _, piece, _ in tokens if piece != '&middot;')
    assert (said.removesuffix('</s>'), layers) in rows


def test_a_threshold_above_a_certified_one_is_called_certified():
  study = types.SimpleNamespace(grid=(0.9, 0.7, 0.5, 0.3))
  rows = [
    {'objective': 'textual', 'measure': 'a', 'delta': 0.25, 'threshold': 0.5},
    {'objective': 'textual', 'measure': 'a', 'delta': 0.1, 'threshold': None, 'certified': []},
  ]
  rows[0]['certified'] = [0.9, 0.7, 0.5]
  thresholds, said = chapters_calm._thresholds(study, rows, 'a')
  assert thresholds == [0.7, 0.5]
  assert said == ('Threshold 0.7 is certified for delta = 0.25, 0.5 is certified for delta = 0.25.')


def test_the_columns_that_matter_stand_first_and_each_is_explained(document):
  (table,) = re.findall(r'<table>(?:(?!<table>).)*rowgroup.*?</table>', document, flags=re.DOTALL)
  names = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
  assert names[:5] == ['measure', 'layers', 'exact match', 'speedup, batch 2', 'threshold']
  for name in names[1:]:
    assert f'<li><b>{name}</b>: ' in document


def test_the_page_says_when_of_what_and_on_what_it_was_made(document, speaking):
  terms = dict(re.findall(r'<li><b>(.*?)</b>: (.*?)</li>', document))
  assert re.fullmatch(r'20\d\d-\d\d-\d\d \d\d:\d\d UTC', terms['date'])
  assert re.match(r'(commit [0-9a-f]{12}|version \d|unknown)', terms['code'])
  assert terms['checkpoint'] == 'none in the workdir'
  assert re.search(r'\d+ cores of \w', terms['hardware'])
  assert 'JAX ' in terms['software']
  (settings,) = re.findall(r'<pre tabindex="0">(.*?)</pre>', document, flags=re.DOTALL)
  assert json.loads(html.unescape(settings))['grid'] == list(speaking.grid)


def test_the_page_needs_nothing_from_elsewhere(document):
  assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in document
  assert not re.search(r'https?:|//|<script|<link|<img|@import|url\((?!#)', document)


def test_ids_are_given_once_and_all_references_lead_to_one(document):
  ids = re.findall(r'\bid="([^"]*)"', document)
  assert len(set(ids)) == len(ids)
  references = re.findall(r'(?:url\(#|href="#)([^)"]*)', document)
  assert references
  assert set(references) <= set(ids)


def test_tables_have_headers_and_captions(document):
  tables = re.findall(r'<table>(.*?)</table>', document, flags=re.DOTALL)
  assert len(tables) == len(FIGURES)
  for table in tables:
    assert '<caption>' in table
    width = table.count('scope="col"')
    assert len(re.findall(r'<td', table)) == (width - 1) * table.count('scope="row"')


def test_a_second_report_decodes_nothing_and_is_the_same(
  reported, document, make_report, monkeypatch
):
  monkeypatch.delattr(text_predictor.TextPredictor, '__call__')
  assert make_report().read_text(encoding='utf-8') == document


def test_an_interrupted_report_goes_on(reported, document, make_report, speaking):
  folder = reported.parent.parent / 'calibration' / 'validation'
  for name in ('perturbed/ranked/2', 'softmax_margin_tau_4/0.5'):
    (path,) = (folder / name).glob('*/predictions.jsonl')
    path.write_bytes(path.read_bytes()[:-20])
  assert make_report().read_text(encoding='utf-8') == document
