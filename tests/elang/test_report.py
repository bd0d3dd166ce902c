"""The page of a router: its comparison by hand, its files, and the tables of several tasks."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
import seqio

from calm.calibration import consistency
from calm.evaluation.outcomes import Replay
from calm.evaluation.split import read_split
from calm.reporting import comparison, efficiency
from calm.tasks import files, metrics
from elang import report, tables
from elang.black_box import BlackBox, ScoredFirst
from elang.recorded import recorded
from elang.routing import Router
from elang.study import RouterStudy

INPUTS = [f'number {i}' for i in range(120)]
SETTINGS = efficiency.TrialSettings(
  deltas={'textual': (0.3,), 'risk': (0.2,)}, num_trials=3, num_timed=4, repeats=1
)


def small(texts):
  """Right on even numbers, and surer of the small ones among them."""
  numbers = [int(text.split()[1]) for text in texts]
  return ['even'] * len(texts), [-(n % 2) * 200.0 - n for n in numbers]


def large(texts):
  """Right on all but the multiples of ten."""
  numbers = [int(text.split()[1]) for text in texts]
  return ['odd' if n % 2 or n % 10 == 0 else 'even' for n in numbers]


@pytest.fixture(scope='module')
def task(tmp_path_factory):
  path = tmp_path_factory.mktemp('data') / 'test.jsonl'
  rows = [{'x': x, 'y': 'odd' if i % 2 else 'even'} for i, x in enumerate(INPUTS)]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  form = {'inputs': '{x}', 'targets': '{y}', 'vocabulary': seqio.ByteVocabulary()}
  return files.task(**form, test=str(path), metrics=(metrics.accuracy,))


@pytest.fixture(scope='module')
def make_study(task, tmp_path_factory):
  """Makes a study of both models; of one folder what they say is kept."""
  top = tmp_path_factory.mktemp('runs')

  def make(folder='run', **changes):
    models = [
      BlackBox(name='swift', version='1', function=small, prices={'flops': 1}),
      BlackBox(name='super', version='1', function=large, prices={'flops': 10}),
    ]
    given = {'task': task, 'split_name': 'test', 'path_split': 'test', 'router': Router(models)}
    return RouterStudy(**{**given, 'workdir': str(top / folder), **changes})

  return make


def accepted(study: comparison.Comparison) -> comparison.Comparison:
  """A study is a comparison, says mypy."""
  return study


def test_thresholds_are_shares_that_are_passed_on(make_study):
  study = accepted(make_study())
  assert study.families == ['score', 'length']
  for share in (0.0, 0.25, 0.5, 0.75):
    way = study.at('score', share)
    assert way.cost('passed_on') == pytest.approx(share, abs=0.01)
    # Who passes on pays for both.
    assert way.cost('flops') == pytest.approx(1 + 10 * way.cost('passed_on'))
  # Half of them are odd, and of those the large model knows all.
  assert study.scores(study.at('score', 0.5)) == {'accuracy': 100}
  assert study.full.cost('flops') == 10
  assert [way.cost('flops') for way in study.static] == [1]
  assert study.scores(study.full) == {'accuracy': pytest.approx(90)}
  assert study.scores(study.static[0]) == {'accuracy': 50}


def test_a_way_costs_and_says_what_the_router_does_at_its_threshold(make_study, task, tmp_path):
  study = make_study()
  found = recorded(Replay(read_split(task, 'test'), study.router, tmp_path / 'other'))
  for share in (0.0, 0.3, 0.95):
    (threshold,) = study.paths['score'](share)
    way = study.at('score', share)
    np.testing.assert_array_equal(way.costs['flops'], found.costs_at('flops', threshold))
    rows = study.router.replay(found.rows, threshold)
    assert way.results.predictions == [row['prediction'] for row in rows]


def test_a_model_that_is_asked_first_is_paid_for_what_was_asked(make_study):
  study = make_study()
  swift, other = study.router.models
  priced = dataclasses.replace(swift, prices={'flops': 3})
  scored = ScoredFirst(
    name='swift',
    model=priced,
    score=lambda examples: small([one.texts['inputs'] for one in examples])[1],
    prices_of_asking={'flops': 1},
  )
  joint = make_study('first', router=Router([scored, other]))
  assert [way.cost('flops') for way in joint.static] == [4]
  half = joint.at('score', 0.5)
  assert half.cost('flops') == pytest.approx(0.5 * 4 + 0.5 * (1 + 10))


def test_the_swift_is_right_where_no_risk_is_or_where_the_super_is_no_better(make_study):
  study = make_study()
  assert study.found.right.mean() == 0.5
  graded = make_study(dissimilarity=consistency.chrf)
  risks = graded.found.risks
  np.testing.assert_array_equal(graded.found.right, risks[0] <= risks[1])


@pytest.fixture(scope='module')
def made(make_study):
  """A page, and what lies beside it."""
  return report.report(make_study(), SETTINGS)


def test_a_page_has_the_chapters_of_all_and_those_of_a_router(made):
  text = made.read_text(encoding='utf-8')
  headings = re.findall(r'<h2>(.*?)</h2>', text)
  assert headings == [
    'Quality against cost',
    'Efficiency by tolerance',
    'What each score recovers',
    'Scores of right and wrong',
    'The paper&#x27;s tables',
    'How this was made',
  ]
  assert text.count('<svg ') == 6
  # Of 120 inputs the Super model wins the 60 odd ones and loses the 12 multiples of ten.
  assert 'better than the Swift by 40.0 ± ' in text
  for name in ('passed_on', 'flops', 'milliseconds'):
    rows = list(csv.DictReader((made.parent / f'routing_{name}.csv').open()))
    assert {row['series'] for row in rows} >= {'score', 'chance', 'oracle'}
    assert (made.parent / f'routing_{name}.png').is_file()


def test_markdown_and_json_say_what_the_page_says(made):
  text = (made.parent / report.MARKDOWN).read_text(encoding='utf-8')
  assert '| oracle | 1.00 |' in text
  assert '| chance | 0.00 |' in text
  assert 'Table 4 of the paper' in text
  record = json.loads((made.parent / report.RECORD).read_text())
  systems = record['systems']
  assert (systems['swift']['score'], systems['swift']['kept']) == (50, 1)
  assert (systems['super']['flops'], systems['super']['kept']) == (10, 0)
  # Right and wrong cross between the scores of even and of odd numbers.
  assert -321 < systems['score']['threshold'] < 0
  assert systems['score']['kept'] == pytest.approx(0.5, abs=0.1)
  share = 1 - systems['score']['kept']
  assert systems['chance']['score'] == pytest.approx(50 + 40 * share)


def test_tables_have_the_tasks_of_other_routers_and_their_average(made, make_study):
  record = json.loads((made.parent / report.RECORD).read_text())
  other = {**record, 'task': 'other', 'systems': {**record['systems']}}
  other['systems']['super'] = {**other['systems']['super'], 'score': 70.0, 'flops': 30.0}
  first = {row['']: row for row in tables.table_1([record, other])}
  assert first['Super: score'] == {
    '': 'Super: score',
    record['task']: 90,
    'other': 70,
    'average': 80,
  }
  assert first['Super: FLOPs']['average'] == '20'
  second = {row['routed by']: row for row in tables.table_2([record, other])}
  assert second['super']['average'] == '20 / 80.0'
  assert second['swift'][record['task']] == '1 / 50.0'
  fourth = {row['system']: row for row in tables.table_4([record, other])}
  assert fourth['Super']['average'] == 80
  assert fourth['Swift']['kept by the Swift, %'] == 100
  again = report.report(
    make_study('second'),
    dataclasses.replace(SETTINGS, timed_batch_sizes=()),
    beside=[str(made.parent.parent)],
  )
  text = again.read_text(encoding='utf-8')
  assert 'average' in text
  assert not (again.parent / 'routing_milliseconds.csv').exists()


def test_the_papers_tables_are_whole():
  one, two, four = tables.of_the_paper().values()
  assert {len(row) for row in one} == {15}
  assert {len(row) for row in two} == {8}
  assert {len(row) for row in four} == {12}
  # The paper's averages are those of its columns.
  for row in two:
    cells = [[float(x) for x in cell.split(' / ')] for cell in list(row.values())[1:]]
    np.testing.assert_allclose(np.mean(cells[:-1], axis=0), cells[-1], atol=0.16)


def test_more_than_two_models_have_no_report(make_study):
  study = make_study()
  third = dataclasses.replace(study.router.models[1], name='third')
  with pytest.raises(ValueError, match='two models, not 3'):
    make_study(router=Router([*study.router.models, third]))
