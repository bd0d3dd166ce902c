"""The page: what is written stays text, and everything can be read."""

import itertools

import pytest

from calm.reporting import figures, page
from calm.reporting.examples import Early, Shown


@pytest.mark.parametrize('num_layers', [1, 2, 8, 24])
def test_tokens_can_be_read_on_every_layers_colour(num_layers):
  colours = page.layer_colours(num_layers)
  assert len({background for background, _ in colours}) == num_layers
  assert all(page.contrast(*pair) >= 4.5 for pair in colours)


def test_more_layers_are_darker():
  white = [page.contrast(background, '#ffffff') for background, _ in page.layer_colours(8)]
  assert white == sorted(white)


@pytest.mark.parametrize(('scheme', 'paper'), [(0, '#ffffff'), (1, '#17181a')])
def test_lines_and_text_stand_out_from_light_and_dark_paper(scheme, paper):
  for name, pair in figures.COLOURS.items():
    needed = {'--grid': 1.2, '--ink': 7, '--quiet': 4.5}.get(name, 3)  # WCAG 2: 3 for graphics.
    assert page.contrast(pair[scheme], paper) >= needed, name


def test_contrast_is_wcags():
  assert page.contrast('#ffffff', '#000000') == pytest.approx(21)
  assert page.contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=0.01)


def test_what_a_model_says_is_no_markup():
  early = Early(0.5, (('<b>', 1), ('', 2), (' & co', 3)), 0.25, -0.5, 2.0)
  shown = Shown(7, 0.5, '<script>', ('a<b',), 'x & y', (early,))
  text = page.example(shown)
  assert '<script>' not in text
  assert '<dt>Input</dt><dd>&lt;script&gt;</dd>' in text
  assert '<span class="token layer-1" title="1 layer">&lt;b&gt;<sub>1</sub></span>' in text
  assert '>&middot;<sub>2</sub>' in text
  assert 'Threshold 0.5: 2.00 layers per token, D = 0.25, R early - R full = -0.50' in text


def test_a_table_names_its_rows_and_columns():
  rows = [
    {'measure': 'a', 'layers': 2.5, 'layers_std': 0.125, 'threshold': 0.5},
    {'measure': 'b', 'layers': 3.0, 'kind': 'calibrated', 'threshold': None},
  ]
  text = page.table(rows, 'what', ['measure', 'layers', 'layers_std', 'threshold'])
  assert '<caption>what</caption>' in text
  assert '<th scope="col" class="text">measure</th><th scope="col">layers</th>' in text
  assert '<th scope="row">a</th><td>2.50 ± 0.12</td><td>0.5</td>' in text
  assert '<th scope="row">b</th><td>3.00</td><td>never</td>' in text


def test_series_differ_by_marker_as_well_as_by_colour():
  rows = [
    {'kind': 'measure', 'series': str(i), 'threshold': 0.5, 'layers': 2.0, 'bleu': 30.0 + i}
    for i in range(4)
  ]
  (axes,) = figures.tradeoff(rows, 'bleu', {'layers': 'layers per token'}).axes
  styles = [(line.get_marker(), line.get_color()) for line in axes.lines if len(line.get_xdata())]
  for (marker, colour), (other, another) in itertools.combinations(styles, 2):
    assert marker != other
    assert colour != another
