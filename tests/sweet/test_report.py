"""Tables, claims and the page, of records that are written down here."""

import math

import pytest

from calm import storage
from calm.reporting.markdown import markdown
from sweet import paper, records, report, tables

EXITS = [1, 2, 4]
# Of a seed, what each classifier scores, and the curve: ratios and scores.
SCORES = {
  'multi_model': ([70, 80, 90], [(0.25, 70), (0.75, 80), (1.75, 90)]),
  'early_exit': ([60, 79, 90], [(0.25, 60), (0.5, 79), (1.0, 90)]),
  'sweet': ([70, 78, 86], [(0.25, 70), (0.5, 78), (1.0, 86)]),
}


def write(folder, task='sst2', method='sweet', seed=0, *, more=0.0, rate=1e-4, **changes):
  """A run as training and `sweet curve` leave it; `more` is added to every score."""
  alone, points = SCORES[method]
  trained = {'task': task, 'method': method, 'pooling': 'cls', 'seed': seed}
  trained |= {'learning_rate': rate, 'num_examples': 6000} | changes
  curve = {
    'split': 'validation',
    'measure': 'largest_probability',
    'metric': 'accuracy',
    'exits': EXITS,
    'majority': {'accuracy': 51.0},
    'classifiers': [{'score': score + more, 'labels_given': 2} for score in alone],
    'points': [{'ratio': ratio, 'score': score + more} for ratio, score in points],
    'area': 80.0 + more,
  }
  place = folder / f'{task}_{method}_{seed}_{rate:g}_{trained["num_examples"]}'
  storage.write_record(place / 'training.json', trained)
  storage.write_record(place / 'curves' / 'validation_largest_probability.json', curve)
  return place


@pytest.fixture
def experiment(tmp_path):
  """Two tasks, three methods, three seeds: early exit is better by 1 a seed, the others by 2."""
  for task, base in (('sst2', 0.0), ('cola', -10.0)):
    for method in SCORES:
      for seed in range(3):
        step = 1 if method == 'early_exit' else 2
        write(tmp_path, task, method, seed, more=base + step * seed)
  return tmp_path


def groups_of(folder):
  (tasks,) = records.by_setting(records.at_best_rates(records.read(str(folder)).runs)).values()
  return {group.name: group for group in tables.groups(tasks)}


def test_a_table_has_mean_and_deviation_over_seeds_and_tasks_are_averaged_first(experiment):
  found = groups_of(experiment)
  assert list(found) == ['all tasks', 'cola', 'sst2']
  rows = {row['method']: row for row in tables.classifiers(found['sst2'])}
  assert list(rows) == ['multi_model', 'early_exit', 'sweet']
  assert rows['sweet'] == {
    'method': 'sweet',
    'seeds': 3,
    'layer 1': 72.0,
    'layer 1_std': 2.0,
    'layer 2': 80.0,
    'layer 2_std': 2.0,
    'layer 4': 88.0,
    'layer 4_std': 2.0,
    'not converged': '0 of 9',
  }
  together = {row['method']: row for row in tables.classifiers(found['all tasks'])}
  assert together['sweet']['layer 1'] == 67.0
  # The deviation is that over seeds, not that over tasks.
  assert together['sweet']['layer 1_std'] == 2.0
  assert '| sweet | 3 | 72.00 ± 2.00 | 80.00 ± 2.00 |' in markdown(list(rows.values()))


def test_tasks_of_fewer_seeds_are_not_averaged(experiment):
  write(experiment, 'mnli', 'sweet', 0)
  found = groups_of(experiment)
  assert set(found) == {'all tasks', 'sst2', 'cola', 'mnli'}
  assert {len(runs) for runs in found['all tasks'].methods['sweet'].values()} == {2}


def test_curves_are_interpolated_with_intervals_and_never_extended(experiment):
  points = tables.curve_points(groups_of(experiment)['sst2'], tables.ratios(EXITS))
  found = {(row['series'], row['ratio']): row for row in points}
  # Between (0.5, 78) and (1, 86), and 0, 2, 4 more by seed.
  middle = found['sweet', 0.75]
  assert middle['score'] == pytest.approx(82 + 2)
  assert middle['score_half'] == pytest.approx(4.303 * 2 / math.sqrt(3), abs=1e-3)
  assert math.isnan(found['sweet', 13 / 8]['score'])
  assert found['multi_model', 13 / 8]['score'] == pytest.approx(90 - 0.125 * 10 + 2)
  assert math.isnan(found['multi_model', 13 / 4]['score'])
  table = {row['method']: row for row in tables.curve_table(points)}
  assert table['sweet']['1.62'] is None
  assert all('3.25' not in row for row in table.values())  # None reaches it.


def test_seconds_stand_beside_ratios_where_all_runs_have_them(tmp_path):
  for seed in (0, 1):
    path = write(tmp_path, seed=seed) / 'curves' / 'validation_largest_probability.json'
    assert tables.seconds_table(groups_of(tmp_path)['sst2'], (0.25,)) == []
    record = storage.read_record(path)
    for point, seconds in zip(record['points'], (0.010, 0.020, 0.040), strict=True):
      point['seconds'] = {'1': seconds + 0.002 * seed, '32': seconds / 2}
    storage.write_record(path, record)
  rows = tables.seconds_table(groups_of(tmp_path)['sst2'], (0.25, 0.75, 13 / 8))
  assert [(row['method'], row['batch']) for row in rows] == [('sweet', '1'), ('sweet', '32')]
  # Halfway between 20 and 40 ms, and 1 ms for the second seed's 2.
  assert rows[0]['0.75'] == pytest.approx(31)
  assert rows[1]['0.25'] == pytest.approx(5)
  assert rows[0]['1.62'] is None


def test_claims_are_paired_over_seeds(experiment):
  rows = {row['claim']: row for row in tables.claims(groups_of(experiment)['sst2'])}
  above = rows['multi_model above early_exit at classifier 1']
  # 10, 11 and 12: of the same seed each.
  half = 4.303 / math.sqrt(3)
  assert above['difference'] == pytest.approx(11)
  assert (above['low'], above['high']) == pytest.approx((11 - half, 11 + half), abs=1e-3)
  assert (above['answer'], above['seeds']) == ('yes', 3)
  assert above['paper'] == pytest.approx(60.9 - 57.3)
  near = rows['sweet near multi_model at classifier 1']
  assert (near['difference'], near['low'], near['high'], near['answer']) == (0, 0, 0, 'yes')
  # At ratio 1: 90 + seed against 82.5 + 2 seed.
  slow = rows['early_exit above multi_model at ratio 1']
  assert slow['difference'] == pytest.approx(90 + 1 - 82.5 - 2)
  assert slow['answer'] == 'yes'


@pytest.mark.parametrize(
  ('low', 'high', 'above', 'near'),
  [
    (0.1, 0.9, 'yes', 'yes'),
    (-0.9, -0.1, 'no', 'yes'),
    (-0.5, 0.5, 'open', 'yes'),
    (-2, 2, 'open', 'open'),
    (1.5, 2, 'yes', 'no'),
    (-3, -1.5, 'no', 'no'),
    (math.nan, math.nan, 'open', 'open'),
  ],
)
def test_an_answer_is_of_the_whole_interval(low, high, above, near):
  assert (tables._above(low, high), tables._near(low, high)) == (above, near)


def test_one_seed_answers_nothing(tmp_path):
  for method in SCORES:
    write(tmp_path, method=method)
  rows = tables.claims(groups_of(tmp_path)['sst2'])
  assert {(row['answer'], row['low'], row['seeds']) for row in rows} == {('open', None, 1)}


def test_one_label_for_all_and_no_more_than_the_commonest_are_not_converged(
  tmp_path,
):
  place = write(tmp_path)
  path = place / 'curves' / 'validation_largest_probability.json'
  record = storage.read_record(path)
  record['classifiers'][0]['labels_given'] = 1
  record['classifiers'][1]['score'] = 51.0
  storage.write_record(path, record)
  (run,) = records.read(str(tmp_path)).runs
  assert run.converged == (False, False, True)
  (row,) = tables.classifiers(groups_of(tmp_path)['sst2'])
  assert row['not converged'] == '2 of 3'
  assert row['layer 2'] == 51.0  # Shown, not replaced.


def test_of_several_rates_the_one_of_the_largest_area_counts(tmp_path):
  write(tmp_path, seed=0, rate=1e-4)
  write(tmp_path, seed=0, rate=2e-4, more=1)
  write(tmp_path, seed=1, rate=2e-4)
  # Seed 1 of another rate is no reason: the search was on seed 0.
  write(tmp_path, seed=1, rate=1e-4, more=9)
  chosen = records.at_best_rates(records.read(str(tmp_path)).runs)
  assert [(run.learning_rate, run.seed) for run in chosen] == [(2e-4, 0), (2e-4, 1)]


def test_runs_without_a_curve_are_listed(tmp_path):
  write(tmp_path)
  storage.write_record(tmp_path / 'lost' / 'training.json', {'task': 'sst2'})
  found = records.read(str(tmp_path))
  assert (len(found.runs), found.without_curve) == (1, (tmp_path / 'lost',))


def test_folders_without_runs_are_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='sweet curve'):
    records.read(str(tmp_path))
  with pytest.raises(FileNotFoundError, match='leads to no folder'):
    records.read(str(tmp_path / 'nowhere'))


def test_a_record_of_another_kind_is_told(tmp_path):
  place = write(tmp_path)
  storage.write_record(place / 'training.json', {'task': 'sst2'})
  with pytest.raises(storage.DamagedError, match="do not say 'pooling'"):
    records.read(str(tmp_path))


def test_the_page_has_tables_pictures_claims_and_the_papers_numbers(experiment, capsys):
  write(experiment, 'sst2', 'sweet', 0, num_examples=1000)
  storage.write_record(experiment / 'lost' / 'training.json', {'task': 'sst2'})
  path = report.report(runs=[str(experiment)], output=str(experiment / 'report'))
  text = path.read_text(encoding='utf-8')
  for said in ('all tasks', 'not converged', 'multi model above early exit', 'Table 1, BERT base'):
    assert said in text, said
  assert '60.90 ± 0.60' in text
  assert 'losses that were not finite: 1.' in text
  assert 'Data sizes: sst2' in text
  assert (path.parent / 'curves_1.png').read_bytes().startswith(b'\x89PNG')
  assert (path.parent / 'curves_1.csv').is_file()
  written = (path.parent / 'tables.md').read_text(encoding='utf-8')
  assert written in capsys.readouterr().out
  assert '| multi model | 3 | 72.00 ± 2.00 |' in written


def test_the_papers_tables_are_whole():
  for table in (paper.BERT, paper.DEBERTA, paper.LEARNING_TO_EXIT):
    for size, methods in table.items():
      assert set(methods) == {'multi_model', 'early_exit', 'sweet'}
      assert {len(scores) for scores in methods.values()} == {len(paper.EXITS[size])}
  # As the text of the paper has it: BERT's gaps at the first classifier, 3.5 on average.
  gaps = [one['multi_model'][0][0] - one['early_exit'][0][0] for one in paper.BERT.values()]
  assert sum(gaps) / 2 == pytest.approx(3.5, abs=0.1)
