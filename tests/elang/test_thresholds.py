"""Thresholds by crossings, budgets and certificates, each from one run of each model."""

import math

import numpy as np
import pytest
from scipy import stats

from calm.calibration import certificate as certificates
from calm.evaluation import certified
from calm.evaluation.outcomes import Replay
from calm.evaluation.split import read_split
from elang.paths import QuantilePath
from elang.recorded import recorded
from elang.routing import Router
from elang.thresholds import by_budget, by_crossing, by_quality

INPUTS = [f'number {i}' for i in range(60)]


def normal(mean, stddev=1.0, count=400):
  """A sample without chance."""
  return stats.norm.ppf((np.arange(count) + 0.5) / count, mean, stddev)


def crossing(good, bad, **options):
  """Of scores that are right and wrong."""
  right = np.arange(len(good) + len(bad)) < len(good)
  return by_crossing(np.concatenate([good, bad]), right, **options)


@pytest.fixture
def found(make_task, models, tmp_path):
  """Small and large on sixty inputs, large always right."""
  split = read_split(make_task(INPUTS, ['large n'] * 60), 'test')
  return recorded(Replay(split, Router((models[0], models[2])), tmp_path))


def test_two_densities_of_one_width_cross_halfway():
  one = crossing(normal(3.0), normal(-1.0))
  assert one.threshold == pytest.approx(1.0, abs=0.02)
  assert one.crossings == (one.threshold,)


@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e6])
def test_a_crossing_moves_with_the_scores(scale):
  good, bad = normal(3.0), normal(-1.0, 2.0)
  moved = crossing(good * scale + 7, bad * scale + 7).threshold
  assert moved == pytest.approx(crossing(good, bad).threshold * scale + 7, rel=1e-6)


def test_weights_move_the_crossing_to_where_right_and_wrong_are_as_likely():
  # Densities of width 1 about 2 and 0, three right for one wrong: at 1 - log(3) / 2.
  one = crossing(normal(2.0, count=900), normal(0.0, count=300), weighted=True)
  assert one.threshold == pytest.approx(1 - math.log(3) / 2, abs=0.06)


def test_of_several_crossings_the_one_that_separates_best_is_taken():
  good = np.concatenate([normal(0.0, count=100), normal(8.0, count=300)])
  bad = np.concatenate([normal(-3.0, count=100), normal(4.0, count=300)])
  one = crossing(good, bad)
  assert len(one.crossings) == 2
  assert one.threshold == max(one.crossings)


@pytest.mark.parametrize(
  ('good', 'bad', 'weighted', 'threshold', 'reason'),
  [
    (normal(0.0), [], False, -math.inf, 'nothing is wrong'),
    ([], normal(0.0), False, None, 'nothing is right'),
    (normal(0.0), normal(3.0), False, None, 'scores as high'),
    (normal(0.0), normal(0.0), False, None, 'scores as high'),
    (normal(0.0), normal(0.0, count=40), True, -math.inf, 'right is more frequent'),
    (normal(0.0, count=40), normal(0.0), True, None, 'wrong is more frequent'),
    ([2.0, 3.0, 4.0], [1.0], False, 2.0, 'too few'),
    ([1.0, 1.0], [1.0, 1.0], False, None, 'scores as high'),
  ],
)
def test_where_densities_do_not_cross_it_is_said_what_is_done(
  good, bad, weighted, threshold, reason
):
  one = crossing(np.array(good), np.array(bad), weighted=weighted)
  assert one.threshold == threshold
  assert reason in one.reason


def test_scores_that_are_no_numbers_take_no_part_in_a_crossing():
  good, bad = normal(3.0), normal(-1.0)
  with_others = crossing(np.append(good, math.nan), np.append(bad, -math.inf))
  assert with_others == crossing(good, bad)
  with pytest.raises(ValueError, match='needed'):
    by_crossing(np.array([math.nan]), np.array([True]))


@pytest.mark.parametrize('cost', ['passed_on', 'flops'])
def test_a_budget_gives_the_highest_threshold_within_it(found, cost):
  different = np.unique(found.scores).tolist()
  by_threshold = {t: found.costs_at(cost, t).mean() for t in different}
  for budget in np.linspace(
    min(by_threshold.values()), 0.99 * found.costs_at(cost, None).mean(), 9
  ):
    threshold = by_budget(found, cost, float(budget))
    assert found.costs_at(cost, threshold).mean() <= budget
    assert all(by_threshold[t] > budget for t in different if t > threshold)


def test_a_budget_for_the_last_model_alone_needs_no_other(found):
  assert by_budget(found, 'flops', 100) is None
  assert by_budget(found, 'passed_on', 1) is None


def test_what_no_threshold_can_do_is_refused(found):
  assert by_budget(found, 'passed_on', 0) == pytest.approx(found.scores.min())
  with pytest.raises(ValueError, match=r'No threshold keeps flops at 0\.5: the least is 1'):
    by_budget(found, 'flops', 0.5)


def test_a_certified_threshold_keeps_the_router_near_its_last_model(
  make_task, models, counted, tmp_path
):
  # Small is right of all but those it scores lowest.
  scores = np.array([counted[0].score(text) for text in INPUTS])
  targets = ['small n' if score >= 0 else 'large n' for score in scores]
  task = make_task(INPUTS, targets)
  router = Router((models[0], models[2]))
  (made,) = by_quality(
    task=task,
    split='test',
    router=router,
    workdir=str(tmp_path),
    deltas=(0.1,),
    grid=range(5, -8, -1),
  )
  assert made.threshold == 0
  assert [len(one.seen) for one in counted] == [60, 0, 60]
  (path,) = tmp_path.glob('certificates/*.json')
  served = certified.at_certificate(router, str(path), task)
  assert served.thresholds == made.threshold
  newer = Router((models[0], type(models[2])(name='large', version='2', function=counted[2])))
  with pytest.raises(ValueError, match=r'models.large.version.*1.*2'):
    certified.at_certificate(newer, str(path), task)
  assert certificates.load(path).system['models']['small']['version'] == '1'


def test_several_tiers_are_certified_along_one_path(make_task, models, counted, tmp_path):
  scores = np.array([[one.score(text) for text in INPUTS] for one in counted[:2]])
  task = make_task(INPUTS, ['large n'] * 60)
  router = Router(models, path=QuantilePath.fit(scores))
  settings = {'task': task, 'split': 'test', 'workdir': str(tmp_path), 'deltas': (0.3,)}
  (made,) = by_quality(router=router, **settings)
  # Both models pass on as much: a loss wherever the last one does not answer.
  assert 0.5 < made.threshold < 1
  found = recorded(Replay(read_split(task, 'test'), router, tmp_path / 'replay'))
  assert found.risks_at(made.threshold).mean() < 0.3
  assert [len(one.seen) for one in counted] == [120, 120, 120]
  with pytest.raises(ValueError, match='give a grid of thresholds'):
    by_quality(router=Router(models), **settings)
