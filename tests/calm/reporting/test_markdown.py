from pathlib import Path

from calm.reporting.markdown import markdown


def test_means_stand_with_their_deviation_and_what_is_not_there_is_empty():
  rows = [{'method': 'early_exit', 'score': 1.5, 'score_std': 0.25}, {'method': 'sweet'}]
  assert markdown(rows).splitlines() == [
    '| method | score |',
    '| --- | ---: |',
    '| early exit | 1.50 ± 0.25 |',
    '| sweet |  |',
  ]


def test_paths_are_as_they_are_and_no_text_makes_a_column():
  (*_, line) = markdown([{'run': Path('my_runs/seed_0'), 'task': 'a|b'}]).splitlines()
  assert line == r'| `my_runs/seed_0` | a\|b |'
