"""Fig. 4: tokens as text, which examples are shown, and how."""

import pytest

from calm.reporting import examples, page
from calm.reporting.examples import Early, Shown


def test_pieces_are_what_each_token_adds(vocabulary):
  tokens = [*vocabulary.encode('a é'), 1]
  # 'é' is two bytes: the first says nothing yet.
  assert examples.pieces(vocabulary, tokens) == ['a', ' ', '', 'é', '</s>']


def test_examples_are_at_quantiles_of_the_distance(made_up):
  # At 0.5 all ten are equally far: the order is theirs.
  shown = examples.examples(made_up(), 'softmax_margin', (0.9, 0.5))
  assert [(each.index, each.quantile) for each in shown] == [
    (4, 0.5),
    (7, 0.75),
    (8, 0.9),
    (9, 1.0),
  ]


def test_an_example_says_what_its_early_texts_cost_and_lose(made_up):
  shown = examples.examples(made_up(), 'softmax_margin', (0.9, 0.5))
  right, wrong = shown[0], shown[-1]
  assert (right.inputs, right.references, right.full) == ('ab', ('a b',), 'a b')
  safe, low = right.early
  assert (safe.distance, safe.risk_increase, safe.layers_per_token) == (0, 0, 2)
  assert (low.distance, low.risk_increase, low.layers_per_token) == (1, 1, 1)
  # For the last example 'c' is right: the early text is better than the full model's.
  assert wrong.early[1].risk_increase == -1
  assert safe.pieces == (('a', 1), ('</s>', 3))


def test_one_example_is_shown_once(made_up, make_task, tmp_path):
  folder = tmp_path / 'two'
  folder.mkdir()
  study = made_up(task=make_task(folder, ['ab'] * 2, ['c'] * 2))
  shown = examples.examples(study, 'softmax_margin', (0.9,))
  assert [each.index for each in shown] == [0, 1]


@pytest.mark.parametrize('num_layers', [1, 2, 8, 24])
def test_tokens_can_be_read_on_every_layers_colour(num_layers):
  colours = examples.layer_colours(num_layers)
  assert len({background for background, _ in colours}) == num_layers
  assert all(page.contrast(*pair) >= 4.5 for pair in colours)


def test_more_layers_are_darker():
  white = [page.contrast(background, '#ffffff') for background, _ in examples.layer_colours(8)]
  assert white == sorted(white)


def test_every_text_runs_in_the_direction_of_its_script():
  early = Early(0.5, (('שלום', 1), ('עולם', 2)), 0.0, None, 1.5)
  shown = Shown(7, 0.5, 'مرحبا', ('שלום עולם',), 'שלום', (early,))
  lines = examples.as_html(shown).splitlines()
  texts = [line for line in lines if '<dd' in line]
  assert len(texts) == 4
  assert all('<dd dir="auto">' in line for line in texts)


def test_what_a_model_says_is_no_markup():
  early = Early(0.5, (('<b>', 1), ('', 2), (' & co', 3)), 0.25, -0.5, 2.0)
  shown = Shown(7, 0.5, '<script>', ('a<b',), 'x & y', (early,))
  text = examples.as_html(shown)
  assert '<script>' not in text
  assert '<dt>Input</dt><dd dir="auto">&lt;script&gt;</dd>' in text
  assert '<span class="token layer-1" title="1 layer">&lt;b&gt;<sub>1</sub></span>' in text
  assert '>&middot;<sub>2</sub>' in text
  assert 'Threshold 0.5: 2.00 layers per token, D = 0.25, R early - R full = -0.50' in text
