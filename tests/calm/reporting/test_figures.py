"""Figures of several plots: every row is drawn, in its plot and its series' colour."""

import math

import numpy as np
import pytest

from calm.reporting import figures


def rows_of(panel, series, points):
  return [
    {'panel': panel, 'series': series, 'ratio': x, 'score': y, 'score_half': half}
    for x, y, half in points
  ]


@pytest.fixture
def curves():
  """Two plots; one series is in both, with intervals, one in the second only, without."""
  return [
    *rows_of('one', 'a', [(0.25, 60.0, 1.0), (1.0, 80.0, 2.0)]),
    *rows_of('two', 'a', [(0.25, 50.0, 1.0), (1.0, 70.0, 2.0)]),
    *rows_of('two', 'b', [(0.5, 55.0, math.nan), (1.0, 90.0, math.nan)]),
  ]


def test_each_panel_has_its_lines_and_a_series_its_colour(curves):
  figure = figures.panels(curves, 'ratio', 'score', ('share', 'accuracy'))
  one, two = figure.axes
  assert [axes.get_title() for axes in (one, two)] == ['one', 'two']
  assert (one.get_xlabel(), one.get_ylabel()) == ('share', 'accuracy')
  drawn = [
    {line.get_label(): line for line in axes.lines if len(line.get_xdata())} for axes in (one, two)
  ]
  assert [set(lines) for lines in drawn] == [{'a'}, {'a', 'b'}]
  assert list(drawn[0]['a'].get_ydata()) == [60, 80]
  assert drawn[0]['a'].get_color() == drawn[1]['a'].get_color() != drawn[1]['b'].get_color()
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ['a', 'b']


def test_intervals_are_shaded_where_there_are_any(curves):
  one, two = figures.panels(curves, 'ratio', 'score', ('share', 'accuracy')).axes
  low, high = one.collections[0].get_datalim(one.transData).intervaly
  assert (low, high) == (59, 82)
  shaded = [each for each in two.collections if np.isfinite(each.get_datalim(two.transData)).any()]
  assert len(shaded) == 1


@pytest.mark.parametrize(('count', 'grid'), [(1, (1, 1)), (3, (1, 3)), (4, (2, 3))])
def test_many_panels_stand_in_lines_of_three(count, grid):
  rows = [row for i in range(count) for row in rows_of(f'{i}', 'a', [(0.0, 1.0, 0.1)])]
  figure = figures.panels(rows, 'ratio', 'score', ('share', 'accuracy'))
  assert len(figure.axes) == count
  shape = figure.axes[0].get_subplotspec().get_gridspec()
  assert (shape.nrows, shape.ncols) == grid


def test_bars_stand_at_their_places_beside_the_level_of_chance():
  rows = [
    {'panel': 'layer 1', 'place': place, 'series': series, 'cosine': value, 'random': 0.05}
    for series, values in (('first', (0.1, -0.2)), ('second', (0.3, 0.4)))
    for place, value in zip(('C1, C2', 'C1, C3'), values, strict=True)
  ]
  (axes,) = figures.bars(rows, 'cosine', 'random', 'cosine').axes
  assert [bar.get_height() for bar in axes.patches] == [0.1, -0.2, 0.3, 0.4]
  assert [label.get_text() for label in axes.get_xticklabels()] == ['C1, C2', 'C1, C3']
  centres = [round(bar.get_x() + bar.get_width() / 2, 6) for bar in axes.patches]
  assert centres == [-0.2, 0.8, 0.2, 1.2]
  assert sorted(line.get_ydata()[0] for line in axes.lines) == [-0.05, 0, 0.05]
