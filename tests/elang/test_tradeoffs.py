"""Quality by cost: chance is a line, nothing lies above the oracle, and what is recovered."""

import numpy as np
import pytest

from elang import curves, tradeoffs


def drawn(seed, graded=False):
  """Scores, risks and costs of two hundred inputs."""
  rng = np.random.default_rng(seed)
  risks = rng.random((2, 200)) if graded else (rng.random((2, 200)) < [[0.4], [0.2]]).astype(float)
  sizes = rng.uniform(1, 3, 200)
  costs = tradeoffs.Costs(kept=sizes, asking=sizes / 2, large=10 * sizes)
  good = -risks[0] + risks[1] + rng.normal(size=200)
  return {'good': good, 'none': rng.random(200), 'bad': -good}, risks, costs


def line(rows, series, name='flops'):
  """A curve as a function of the cost, flat beyond its ends."""
  points = [(row[name], row['quality']) for row in rows if row['series'] == series]
  xs, ys = map(np.array, zip(*points, strict=True))
  return lambda x: np.interp(x, xs, ys)


@pytest.mark.parametrize('graded', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_the_oracles_curve_lies_above_all_others_by_share_and_by_cost(seed, graded):
  scores, risks, costs = drawn(seed, graded)
  # By share where the oracle stops where it helps no more, and so it does by any cost.
  share = tradeoffs.Costs(np.zeros(200), np.zeros(200), np.ones(200))
  for given in (costs, share):
    # At every place where the oracle's curve bends.
    rows = tradeoffs.points(scores, risks, given, 'flops', np.linspace(0, 1, 201))
    best = line(rows, tradeoffs.ORACLE)
    xs = np.linspace(given.kept.mean(), (given.asking + given.large).mean(), 300)
    for series in (*scores, tradeoffs.CHANCE):
      assert (line(rows, series)(xs) <= best(xs) + 1e-9).all(), series


def test_chance_is_the_line_between_the_models():
  scores, risks, costs = drawn(0)
  rows = tradeoffs.points(scores, risks, costs, 'flops')
  chance = [row for row in rows if row['series'] == tradeoffs.CHANCE]
  ends = [(row['share'], row['flops'], row['quality']) for row in chance]
  quality = 100 * (1 - risks.mean(1))
  expected = [(0, costs.kept.mean(), quality[0]), (1, costs.large.mean(), quality[1])]
  np.testing.assert_allclose(ends, expected)
  # It is the expectation: the mean over orders of chance, asked of nobody.
  free = tradeoffs.Costs(costs.kept, 0 * costs.asking, costs.large)
  orders = {str(seed): np.random.default_rng(seed).random(200) for seed in range(300)}
  rows = tradeoffs.points(orders, risks, free, 'flops', (0.3,))
  found = [row for row in rows if row['series'] in orders]
  expected = line(rows, tradeoffs.CHANCE)
  cost = np.mean([row['flops'] for row in found])
  assert np.mean([row['quality'] for row in found]) == pytest.approx(expected(cost), abs=0.4)


def test_who_passes_on_pays_for_being_asked():
  scores, risks, costs = drawn(1)
  rows = tradeoffs.points(scores, risks, costs, 'flops', (0.0, 1.0))
  first, last = (row['flops'] for row in rows if row['series'] == 'good')
  assert first == pytest.approx(costs.kept.mean())
  assert last == pytest.approx((costs.asking + costs.large).mean())
  assert costs.times(1000).ends == pytest.approx([1000 * one for one in costs.ends])


def test_all_is_recovered_by_the_oracle_and_nothing_by_chance():
  gains = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
  rows, _ = tradeoffs.recovered({'best': -gains, 'worst': gains}, gains, num_resamples=1)
  found = {row['series']: row['recovered'] for row in rows}
  assert found['best'] == found[tradeoffs.ORACLE] == 1
  assert found[tradeoffs.CHANCE] == 0
  orders = np.random.default_rng(0).random((400, 8))
  shares = [curves.recovered_share(order, gains) for order in orders]
  assert np.mean(shares) == pytest.approx(0, abs=0.05)
  shares = {row['series']: row['APGR'] for row in rows}
  assert shares['best'] == pytest.approx(shares[tradeoffs.ORACLE])
  assert rows[1]['series'] == 'best'


def test_a_sentence_says_who_recovers_most_and_from_whom_it_is_told_apart():
  scores, risks, _ = drawn(2)
  scores['same'] = 2 * scores['good'] + 1
  rows, found = tradeoffs.recovered(scores, risks[0] - risks[1], num_resamples=200)
  said = tradeoffs.verdict(rows, found)
  assert said.startswith('most is recovered by good, ')
  assert 'clearly less by none and bad; ' in said
  assert said.endswith('not told apart from same.')
  rows, found = tradeoffs.recovered({'none': scores['none']}, risks[0] - risks[1])
  assert 'chance alone' in tradeoffs.verdict(rows, found)
  equal = np.zeros(200)
  rows, found = tradeoffs.recovered({'none': scores['none']}, equal, num_resamples=2)
  assert tradeoffs.verdict(rows, found) == 'no order of them is better than another.'
  assert np.isnan(curves.recovered_share(scores['none'], equal))
