"""Tables and curves read the contract alone: systems that are no T5, counted by the example."""

import re
from pathlib import Path

import numpy as np
import pytest

from calm import storage
from calm.calibration import consistency
from calm.evaluation.outcomes import Results
from calm.reporting import curves, efficiency, figures, page, report
from calm.reporting.comparison import Way

COSTS = {'calls': 'calls per example', 'cents': 'cents per example'}
TASK = type('Task', (), {'name': 'questions'})
LABELS = ['yes', 'no'] * 20


def way(label, predictions, calls):
  """A way that costs so many calls, of two cents each, for every example."""
  rows = [{'prediction': one, 'units': 1, 'costs': {'calls': calls}} for one in predictions]
  each = np.full(len(rows), float(calls))
  return Way(label, Results(rows, Path(), 0, 0.0), {'calls': each, 'cents': 2 * each}, label)


class Router:
  """Two models: the small one is wrong about the last four; at 0.5 it answers all, at 0.9 none."""

  dissimilarity = staticmethod(consistency.exact_match)
  objectives = ('textual',)
  grid = (0.9, 0.5)
  unit = 'example'
  costs = COSTS
  families = ('energy',)
  about = 'a small and a large model'
  oracle = None
  identity = {'made': 'up'}  # noqa: RUF012
  split = type('Split', (), {'examples': LABELS, 'name': 'test', 'task': TASK})
  full = way('large', LABELS, 10)
  static = (way('small', LABELS[:-4] + ['maybe'] * 4, 1),)

  def __init__(self, folder):
    self.folder = str(folder)

  def at(self, family, threshold):
    return way(family, *((LABELS, 10) if threshold == 0.9 else (LABELS[:-4] + ['?'] * 4, 3)))

  def losses(self, one, objective):
    return consistency.textual_consistency(
      one.results.predictions, self.full.results.predictions, self.dissimilarity
    )

  def scores(self, one):
    return {'accuracy': 100 * np.mean(np.array(one.results.predictions) == LABELS)}

  def seconds(self, ways, **_):
    return {name: one.cost('calls') for name, one in ways.items()}


SETTINGS = efficiency.TrialSettings(
  deltas={'textual': (0.2, 0.5)}, num_trials=3, timed_batch_sizes=(1,)
)


@pytest.fixture
def router(tmp_path):
  """A Router."""
  return Router(tmp_path)


def test_a_router_has_a_table(router):
  rows = {(row['kind'], row['delta']): row for row in efficiency.trials(router, SETTINGS)}
  strict, loose = rows['calibrated', 0.2], rows['calibrated', 0.5]
  assert (strict['threshold'], strict['calls'], strict['cents_reduction']) == (0.9, 10, 1)
  assert (loose['threshold'], loose['calls'], loose['accuracy']) == (0.5, 3, 90)
  assert loose['cents_reduction'] == pytest.approx(10 / 3)
  assert loose['speedup_batch_1'] == pytest.approx(10 / 3)
  assert rows['static', None]['textual'] == pytest.approx(0.1)
  assert 'layers' not in loose


def test_a_router_has_a_curve(router):
  rows = curves.tradeoff(router)
  assert [(row['series'], row['calls'], row['accuracy']) for row in rows] == [
    ('energy', 10, 100),
    ('energy', 3, 90),
    ('static', 1, 90),
    ('static', 10, 100),
  ]
  (axes,) = figures.tradeoff(rows, 'accuracy', COSTS).axes
  assert axes.get_xlabel() == 'calls per example'
  calibrated = [row for row in efficiency.trials(router, SETTINGS) if row['kind'] == 'calibrated']
  assert figures.efficiency(calibrated, COSTS).axes[0].get_ylabel() == 'calls per example'


def test_a_router_has_a_page(router):
  def chapter(study, show, table):
    return [page.section('Calls', f'{study.about}: {len(table)} rows in {show.folder.name}')]

  path = report.report(router, SETTINGS, chapters=(chapter,))
  text = path.read_text(encoding='utf-8')
  assert '<h1>Quality and cost: questions, test</h1>' in text
  assert 'accuracy 100.00 with 10.00 calls per example' in text
  assert '<p>a small and a large model: 4 rows in report</p>' in text
  assert text.count('<svg') == 2
  assert not re.search('layer|token|decoder|FLOP|oracle', text, re.IGNORECASE)
  assert {one.name for one in path.parent.glob('*.*')} >= {'tradeoff.png', 'efficiency.csv'}


def test_costs_may_be_as_small_as_seconds():
  rows = [
    {'kind': 'static', 'series': 'static', 'seconds': seconds, 'accuracy': 90.0}
    for seconds in (0.0012, 0.0046)
  ]
  (axes,) = figures.tradeoff(rows, 'accuracy', {'seconds': 'seconds per example'}).axes
  low, high = axes.get_xlim()
  assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3
  row = {'kind': 'static', 'measure': 'small', 'seconds': 0.0012}
  assert efficiency.as_text([row]).splitlines()[1].split() == ['small', '0.0012']


def test_what_was_made_with_other_settings_stays_and_is_told(router, capsys):
  efficiency.trials(router, SETTINGS)
  other = efficiency.TrialSettings(deltas={'textual': (0.5,)}, num_trials=3, timed_batch_sizes=())
  assert efficiency.read(router, other) is None
  efficiency.trials(router, other)
  assert 'made anew, since trials.deltas' in capsys.readouterr().err
  earlier = list(Path(router.folder, 'report').glob('earlier-*/efficiency.json'))
  assert len(earlier) == 1
  assert len(storage.read_record(earlier[0])['rows']) == 4
  assert efficiency.read(router, other)


def test_a_damaged_table_is_made_again(router, capsys):
  rows = efficiency.trials(router, SETTINGS)
  path = Path(router.folder, 'report', 'efficiency.json')
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b'"calls": 3.0', b'"calls": 2.0'))
  assert efficiency.read(router, SETTINGS) is None
  assert 'It is made again' in capsys.readouterr().err
  path.write_bytes(whole)
  assert efficiency.read(router, SETTINGS) == rows


def test_one_process_writes_at_a_time(router):
  with (
    efficiency.lock(router),
    pytest.raises(storage.BusyError, match=r'report is in use .*pid'),
  ):
    efficiency.trials(router, SETTINGS)
