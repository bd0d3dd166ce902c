"""Speed against accuracy by hand: Eq. 1, lines between points, areas, intervals."""

import math

import numpy as np
import pytest

from sweet import curves
from sweet.model import EarlyExitClassifier
from sweet.multi_model import MultiModel


def test_equation_1_is_the_layers_run_over_those_of_the_full_model():
  # S = (2, 1, 0, 1) rows at L = (1, 4, 6, 12): (2 * 1 + 4 + 12) / (12 * 4).
  assert curves.speedup_ratio(np.array([1, 1, 4, 12]), 12) == 18 / 48


def test_a_multi_models_models_add_up_as_in_the_papers_example():
  # "six layers + one layer" for each of "five early-exit layers": 6/12 of the full model when the
  # early-exit model stops after layer 6, 11/12 when models of 1, 4 and 6 layers are asked.
  exits, run = (1, 4, 6, 12), np.cumsum((1, 4, 6, 12))
  assert curves.speedup_ratio(np.full(7, exits[2]), 12) == 6 / 12
  assert curves.speedup_ratio(np.full(7, run[2]), 12) == pytest.approx(11 / 12)
  assert curves.speedup_ratio(np.full(7, run[3]), 12) == pytest.approx(23 / 12)


def test_networks_say_how_many_layers_a_row_costs(config):
  for make, ratio in ((EarlyExitClassifier, 5 / 9), (MultiModel, 8 / 9)):
    layers = np.array(make(config).layers_run)
    # Two rows leave at the first of three classifiers, one at the last.
    assert curves.speedup_ratio(layers[[0, 0, 2]], 3) == pytest.approx(ratio)


def test_eleven_thresholds_run_from_one_over_the_labels_to_one():
  found = curves.thresholds(2)
  assert len(found) == 11
  assert (found[0], found[-1]) == (0.5, 1.0)
  np.testing.assert_allclose(np.diff(curves.thresholds(3)), (1 - 1 / 3) / 10)


def test_a_curve_is_the_line_between_its_points_and_nothing_beyond_them():
  curve = curves.curve([0.5, 0.25, 1.0], [80, 70, 84])
  assert curve.at(0.25) == 70
  assert curve.at(0.375) == 75
  assert curve.at(0.75) == 82
  assert math.isnan(curve.at(0.2))
  assert math.isnan(curve.at(13 / 12))
  # An end is met though thirds do not add up in binary.
  assert curves.curve([0.1 + 0.2, 1.0], [1, 2]).at(0.3) == pytest.approx(1)


def test_points_of_one_ratio_are_their_mean():
  curve = curves.curve([1.0, 0.5, 0.5], [90, 60, 70])
  assert curve.ratios.tolist() == [0.5, 1.0]
  assert curve.scores.tolist() == [65, 90]


def test_an_area_is_the_mean_height_and_of_no_part_that_is_not_reached():
  curve = curves.curve([0.2, 0.6, 1.0], [50, 70, 80])
  assert curve.area(0.2) == pytest.approx((60 * 0.4 + 75 * 0.4) / 0.8)
  assert curve.area(0.6) == pytest.approx(75)
  assert curve.area(0.4, 0.6) == pytest.approx(65)
  assert math.isnan(curve.area(0.1))
  flat = curves.curve([0.1, 2.0], [7, 7])
  assert flat.area(0.3) == pytest.approx(7)


def test_a_curve_of_outcomes_has_a_point_for_each_threshold():
  layers = {0.5: [1, 1], 0.8: [1, 3], 1.0: [3, 3]}
  curve = curves.of_outcomes(lambda t: (np.array(layers[t]), 100 * t), [1.0, 0.5, 0.8], 3)
  np.testing.assert_allclose(curve.ratios, [1 / 3, 2 / 3, 1])
  np.testing.assert_allclose(curve.scores, [50, 80, 100])


def test_no_points_make_no_curve():
  for ratios, scores in (([], []), ([1.0], [])):
    with pytest.raises(ValueError, match='make no curve'):
      curves.curve(ratios, scores)


def test_an_interval_is_students():
  # Of three seeds: the 97.5 % quantile of t with two degrees of freedom is 4.3027.
  mean, half = curves.interval([1.0, 2.0, 3.0])
  assert mean == 2
  assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
  assert curves.interval([1.0, 2.0, float('nan'), 3.0]) == (mean, half)
  assert curves.interval([5.0])[0] == 5
  assert math.isnan(curves.interval([5.0])[1])
  assert all(map(math.isnan, curves.interval([float('nan')])))
