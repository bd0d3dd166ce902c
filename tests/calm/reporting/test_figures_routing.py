"""Figures of systems that choose between two models: a line each, and nothing that is hidden."""

import numpy as np

from calm.reporting import figures_routing

ROWS = [
  {'series': series, 'flops': x, 'quality': y + 10 * number}
  for number, series in enumerate(['energy', 'length', 'chance', 'oracle'])
  for x, y in ((1, 80), (11, 90))
]


def test_every_series_has_a_line_and_every_model_a_point():
  ends = {'swift': (1, 80), 'super': (10, 90)}
  figure = figures_routing.tradeoff(ROWS, 'flops', 'FLOPs', 'quality', ends)
  (axes,) = figure.axes
  lines = {line.get_label(): line for line in axes.lines}
  assert list(lines) == ['energy', 'length', 'chance', 'oracle', 'swift', 'super']
  np.testing.assert_array_equal(lines['length'].get_xydata(), [[1, 90], [11, 100]])
  np.testing.assert_array_equal(lines['super'].get_xydata(), [[10, 90]])
  assert lines['energy'].get_color() != lines['length'].get_color()
  assert axes.get_xlabel() == 'FLOPs'


def test_no_two_of_twenty_series_look_alike():
  styles = [tuple(figures_routing.style_of(number).items()) for number in range(20)]
  assert len(set(styles)) == 20


def test_distributions_show_shares_of_either_group_and_thresholds():
  scores = {'energy': np.array([0.0, 0.1, 1.0, -np.inf]), 'length': np.array([1.0, 2, 2, 3])}
  right = np.array([False, False, True, True])
  lines = {'energy': {'crossing': 0.5}}
  figure = figures_routing.distributions(scores, right, lines, ('right', 'wrong'))
  energy, length = figure.axes
  assert [line.get_xdata()[0] for line in energy.lines] == [0.5]
  assert not length.lines
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert sorted(texts) == ['crossing', 'right', 'wrong']
  # What has no number is in no bin, and the heights of a group sum to 1.
  tops = [patch.get_xy()[:, 1] for patch in energy.patches]
  assert max(max(one) for one in tops) <= 1
