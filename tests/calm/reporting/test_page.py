"""The page: what is written stays text, and everything can be read."""

import itertools
import re

import pytest

from calm.reporting import figures, page


@pytest.mark.parametrize(('scheme', 'paper'), [(0, '#ffffff'), (1, '#17181a')])
def test_lines_and_text_stand_out_from_light_and_dark_paper(scheme, paper):
  for name, pair in figures.COLOURS.items():
    needed = {'--grid': 1.2, '--ink': 7, '--quiet': 4.5}.get(name, 3)  # WCAG 2: 3 for graphics.
    assert page.contrast(pair[scheme], paper) >= needed, name


def test_contrast_is_wcags():
  assert page.contrast('#ffffff', '#000000') == pytest.approx(21)
  assert page.contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=0.01)


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


def test_rows_that_follow_each_other_stand_below_their_group():
  rows = [{'measure': name, 'of': name.upper()} for name in 'aab']
  text = page.table(rows, 'what', ['measure'], lambda row: row['of'])
  found = re.findall(r'scope="(row|rowgroup)"[^>]*>(\w)<', text)
  assert found == [*zip(('rowgroup', 'row', 'row', 'rowgroup', 'row'), 'AaaBb', strict=True)]


@pytest.mark.parametrize(
  ('value', 'shown'),
  [(0.0, '0.000'), (0.0123, '0.012'), (0.000123, '0.00012'), (2.5, '2.50'), (1234.5, '1,234')],
)
def test_a_number_is_not_rounded_to_nothing(value, shown):
  assert f'<td>{shown}</td>' in page.table([{'measure': 'a', 'seconds': value}], 'what')


def test_the_style_of_a_section_is_in_the_head():
  sections = [page.section('One', 'text'), page.section('Two', 'text', '<b>x</b>', style='b { c }')]
  head, body = page.page('t', [], sections).split('</head>')
  assert 'b { c }' in head
  assert body.index('<h2>One</h2>') < body.index('<h2>Two</h2>') < body.index('<b>x</b>')


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
