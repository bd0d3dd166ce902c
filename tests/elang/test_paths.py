"""One knob for scores of any range."""

import math

import numpy as np
import pytest

from elang.paths import QuantilePath, quantile_grid

SCORES = np.array([[5.0, -3.0, 1.0, math.inf], [100.0, 300.0, 200.0, 400.0]])


def test_a_share_lies_below_its_thresholds():
  path = QuantilePath.fit(SCORES, 5)
  assert path(0.5) == (1.0, 250.0)
  assert path(0.25) == (-1.0, 175.0)
  assert path.quantiles[0] == (-3.0, -1.0, 1.0, 3.0, 5.0)


def test_the_ends_keep_all_and_nothing():
  path = QuantilePath.fit(SCORES)
  assert path(0.0) == (-math.inf, -math.inf)
  assert path(1.0) == (math.inf, math.inf)


def test_more_is_passed_on_as_the_knob_rises():
  path = QuantilePath.fit(np.random.default_rng(0).standard_cauchy((3, 50)))
  found = np.array([path(share) for share in np.linspace(0.01, 0.99, 60)])
  assert (np.diff(found, axis=0) >= 0).all()


def test_a_grid_descends_over_the_scores_and_repeats_none():
  assert quantile_grid(SCORES[1], 4) == (400.0, 300.0, 200.0, 100.0)
  assert quantile_grid(np.array([1.0, 1.0, 2.0, math.nan])) == pytest.approx(
    sorted(set(np.quantile([1.0, 1.0, 2.0], np.linspace(0, 1, 20))), reverse=True)
  )


@pytest.mark.parametrize('quantiles', [[[1.0]], [[2.0, 1.0]], [[0.0, math.inf]]])
def test_what_is_no_path_is_refused(quantiles):
  with pytest.raises(ValueError, match='none falling'):
    QuantilePath(quantiles)


def test_scores_that_are_no_numbers_make_no_path():
  for make in (quantile_grid, QuantilePath.fit):
    with pytest.raises(ValueError, match='no finite scores'):
      make(np.array([math.nan, -math.inf]))
