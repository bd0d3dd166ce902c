"""Text in, rows out: what is said of an example is the decoder's, and depends on it alone."""

import dataclasses

import jax
import numpy as np
import pytest
import sentencepiece

from calm import fingerprints
from calm.decoding import generator, sampling, text_predictor
from calm.exits import confidence, rules
from calm.exits.families import Family
from calm.tasks import tokenization, vocabularies
from calm.tasks.examples import Example

STEPS, BATCH_SIZE, INPUTS_LENGTH = 6, 4, 24
TEXTS = ['seven', 'a', 'of', 'the best', '', 'eleven', 'é', 'x y z', 'last but one', 'last']
EXAMPLES = [
  Example(i, f'in.txt:{i + 1}', {'inputs': text} if text else {}, '', {})
  for i, text in enumerate(TEXTS)
]
EXITS = Family(rules.Confident(confidence.softmax_margin, 0.9))


@pytest.fixture
def vocabulary():
  """Bytes."""
  return pytest.importorskip('seqio').ByteVocabulary()


@pytest.fixture
def predictor(byte_model, vocabulary):
  """A TextPredictor of bytes."""
  model, params = byte_model
  options = {'exits': EXITS, 'per_token': True}
  made = generator.Generator(model, STEPS)
  return text_predictor.TextPredictor(
    made, params, vocabulary, INPUTS_LENGTH, BATCH_SIZE, **options
  )


def predict(predictor, examples=EXAMPLES):
  """Rows of examples, a batch at a time."""
  size = predictor.batch_size
  return [
    row
    for first in range(0, len(examples), size)
    for row in predictor(examples[first : first + size])
  ]


def test_rows_are_the_decoders(predictor, byte_model, vocabulary):
  _model, params = byte_model
  tokens = np.zeros((BATCH_SIZE, INPUTS_LENGTH), np.int32)
  lengths = []
  for row, text in enumerate(TEXTS[:BATCH_SIZE]):
    encoded = [*vocabulary.encode(text), 1]
    tokens[row, : len(encoded)] = encoded
    lengths.append(len(encoded))
  decoded = jax.device_get(predictor.generator(params, tokens))
  for row, found in enumerate(predict(predictor)[:BATCH_SIZE]):
    count = int((decoded.exit_layer[row] > 0).sum())
    assert found == {
      'prediction': vocabulary.decode(decoded.tokens[row].tolist()),
      'units': count,
      'costs': {'layers': 3 * count, 'logits': 259 * count},
      'log_prob': float(decoded.log_prob[row]),
      'tokens': decoded.tokens[row, :count].tolist(),
      'exit_layers': [3] * count,
      'num_logits': [259] * count,
      'input_tokens': lengths[row],
    }
    assert set(found) == set(predictor.results)


def test_an_example_without_a_text_has_an_empty_prediction(predictor):
  row = predict(predictor)[TEXTS.index('')]
  assert (row['prediction'], row['units'], row['tokens'], row['log_prob']) == ('', 0, [], 0)


def test_predictions_vary_and_batches_do_not_change_them(predictor):
  rows = predict(predictor.at(0.3))
  assert len({row['prediction'] for row in rows}) > 3
  others = predict(dataclasses.replace(predictor.at(0.3), batch_size=7))
  exact = ('prediction', 'units', 'costs', 'tokens', 'exit_layers')
  assert [[row[key] for key in exact] for row in others] == [
    [row[key] for key in exact] for row in rows
  ]


def test_what_is_encoded_already_is_decoded_alike(predictor, byte_model):
  model, params = byte_model
  some = EXAMPLES[:3]
  inputs = [predictor.tokenize(example) for example in some]
  tokens = tokenization.pad_rows(inputs, INPUTS_LENGTH, 4)
  encoded = np.asarray(model.apply({'params': params}, tokens, method='encode'))
  states = [row[: len(own)] for row, own in zip(encoded, inputs, strict=False)]
  for row, other in zip(predictor(some, states), predictor(some), strict=True):
    assert row.pop('log_prob') == pytest.approx(other.pop('log_prob'), rel=1e-5)
    assert row == other
  # And it is these states that are read.
  assert predictor(some, [3 * own for own in states]) != predictor(some)


def test_token_by_token_it_is_said_how_likely_they_were_and_how_large_their_logits(predictor):
  scored = dataclasses.replace(predictor, token_scores=True)
  rows = predict(scored)
  assert set(rows[0]) == set(scored.results)
  for row, plain in zip(rows, predict(predictor), strict=True):
    likely, energies = row.pop('token_log_probs'), row.pop('negative_energies')
    assert row == plain
    assert len(likely) == len(energies) == row['units']
    assert sum(likely) == pytest.approx(row['log_prob'], abs=1e-5)


def test_at_a_threshold_is_the_familys_rule_and_none_never_exits(predictor):
  assert predictor.at(0.3).generator.rule == EXITS(0.3)
  assert predictor.at(None).generator.rule == rules.NeverExit()
  early, full = predict(predictor.at(0.0)), predict(predictor.at(None))
  assert all(row['costs']['layers'] == row['units'] for row in early)
  assert all(row['costs']['layers'] == 3 * row['units'] for row in full)


def test_without_a_family_there_is_nothing_to_calibrate(predictor):
  plain = dataclasses.replace(predictor, exits=None)
  assert plain.at(None)
  with pytest.raises(ValueError, match='no rule with a threshold'):
    plain.at(0.5)
  with pytest.raises(ValueError, match='no rule with a threshold'):
    _ = plain.family


def test_of_several_samples_the_likeliest_counts(predictor, byte_model):
  drawing = generator.Generator(byte_model[0], STEPS, sampling.Sampling(3.0, num_samples=3))
  rows = predict(dataclasses.replace(predictor, generator=drawing, per_token=False))
  for row in rows:
    assert len(row['samples']) == 3
    best = max(row['samples'], key=lambda sample: sample['log_prob'])
    assert {key: row[key] for key in best} == best
  assert any(len({sample['prediction'] for sample in row['samples']}) > 1 for row in rows)


def test_draws_depend_on_the_seed_and_the_index_alone(predictor, byte_model):
  drawing = generator.Generator(byte_model[0], STEPS, sampling.Sampling(2.0))
  drawn = dataclasses.replace(predictor, generator=drawing)
  rows = predict(drawn)
  assert predict(dataclasses.replace(drawn, batch_size=3))[7]['tokens'] == rows[7]['tokens']
  assert predict(dataclasses.replace(drawn, seed=1)) != rows


CHANGES = {
  'params': lambda p: {'params': jax.tree.map(lambda array: array * 1.5, p.params)},
  'max_decode_steps': lambda p: {'generator': dataclasses.replace(p.generator, max_decode_steps=5)},
  'sampling': lambda p: {
    'generator': dataclasses.replace(p.generator, sampling=sampling.Sampling())
  },
  'fill': lambda p: {'generator': dataclasses.replace(p.generator, fill='first_state')},
  'inputs_length': lambda p: {'inputs_length': 25},
  'truncate': lambda p: {'truncate': True},
  'rule.min_exit': lambda p: {
    'exits': Family(rules.Confident(confidence.softmax_margin, 0.9, 2)),
    'generator': dataclasses.replace(
      p.generator, rule=rules.Confident(confidence.softmax_margin, 0.9, 2)
    ),
  },
}


@pytest.mark.parametrize('change', CHANGES)
def test_what_decides_a_row_is_part_of_the_identity(predictor, change):
  begin = dataclasses.replace(
    predictor, generator=dataclasses.replace(predictor.generator, rule=EXITS(0.9))
  )
  other = dataclasses.replace(begin, **CHANGES[change](begin))
  for identity in ('identity', 'family'):
    found = fingerprints.differences(getattr(begin, identity), getattr(other, identity))
    assert change in {*found, *(path.partition('.')[0] for path in found)}


def test_how_it_is_run_is_no_part_of_the_identity(predictor, byte_model):
  model = byte_model[0]
  trained_otherwise = dataclasses.replace(model.config, dropout_rate=0.3, remat=True)
  others = [
    {'batch_size': 7},
    {'seed': 5},  # Of draws, and there are none.
    {'generator': dataclasses.replace(predictor.generator, model=type(model)(trained_otherwise))},
    {'params': jax.tree.map(np.array, predictor.params)},
  ]
  for other in others:
    assert dataclasses.replace(predictor, **other).identity == predictor.identity


def test_the_family_is_the_same_at_all_thresholds(predictor):
  assert predictor.at(0.3).family == predictor.at(None).family == predictor.family
  assert predictor.at(0.3).identity != predictor.at(0.4).identity
  assert predictor.name == 'softmax_margin'


def test_an_input_that_is_too_long_is_named_or_cut(predictor):
  long = [dataclasses.replace(EXAMPLES[1], texts={'inputs': 'abcdefgh' * 4})]
  with pytest.raises(
    ValueError, match=r'in\.txt:2: the inputs have 33 tokens, and INPUTS_LENGTH is 24'
  ):
    predictor.check(long)
  cutting = dataclasses.replace(predictor, truncate=True)
  cutting.check(long)
  same = [dataclasses.replace(EXAMPLES[1], texts={'inputs': ('abcdefgh' * 4)[:23]})]
  assert predict(cutting, long) == predict(cutting, same)


def test_a_prediction_begins_with_what_is_given(predictor, byte_model, vocabulary):
  begun = [dataclasses.replace(EXAMPLES[0], prefix='ab'), EXAMPLES[1]]
  rows = predict(predictor, begun)
  tokens = np.zeros((BATCH_SIZE, INPUTS_LENGTH), np.int32)
  prompts = np.zeros((BATCH_SIZE, 2), np.int32)
  for row, example in enumerate(begun):
    encoded = [*vocabulary.encode(example.texts['inputs']), 1]
    tokens[row, : len(encoded)] = encoded
  prompts[0] = vocabulary.encode('ab')
  decoded = jax.device_get(predictor.generator(byte_model[1], tokens, prompts=prompts))
  for row, given in zip((0, 1), (2, 0), strict=True):
    found, count = rows[row], rows[row]['units']
    assert 0 < count <= STEPS
    assert found['tokens'] == decoded.tokens[row, given : given + count].tolist()
    assert found['exit_layers'] == [3] * count
    assert found['costs']['layers'] == 3 * count
    everything = decoded.tokens[row, : given + count].tolist()
    assert found['prediction'] == vocabulary.decode(everything)
  assert rows[0]['prediction'].startswith('ab')
  # Who has none is answered as ever.
  assert rows[1]['tokens'] == predict(predictor, [EXAMPLES[1]])[0]['tokens']


def test_inputs_that_are_cut_or_unknown_are_counted(predictor, tmp_path, capsys):
  cutting = dataclasses.replace(predictor, truncate=True)
  long = dataclasses.replace(EXAMPLES[1], texts={'inputs': 'abcdefgh' * 4})
  cutting.check(iter([*EXAMPLES, long]))
  assert capsys.readouterr().err == (
    '1 of 10 inputs are cut to their length (TRUNCATE = True): in.txt:2 is the first.\n'
  )
  path = str(tmp_path / 'sp.model')
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS[:4]),
    model_prefix=path.removesuffix('.model'),
    **{'vocab_size': 14, 'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, 'minloglevel': 2},
  )
  words = dataclasses.replace(predictor, vocabulary=vocabularies.sentencepiece(path))
  target = dataclasses.replace(EXAMPLES[3], target='the\nbest')
  words.check([EXAMPLES[0], EXAMPLES[6], target])
  unknown, changed = capsys.readouterr().err.splitlines()
  assert (
    "1 of 3 inputs hold characters that the vocabulary does not know: in.txt:7 has 'é'" in unknown
  )
  assert '1 of 1 targets do not come back' in changed
  assert r"in.txt:4 has 'the\nbest' and would get 'the best'" in changed


def test_half_a_surrogate_pair_is_named(predictor):
  with pytest.raises(ValueError, match=r'in\.txt:2: a text cannot be written as UTF-8'):
    predictor.check([dataclasses.replace(EXAMPLES[1], texts={'inputs': '\ud800'})])


def test_a_vocabulary_that_does_not_fit_is_named(predictor, byte_model):
  seqio = pytest.importorskip('seqio')
  with pytest.raises(ValueError, match='has 359 tokens, the model only 259'):
    dataclasses.replace(predictor, vocabulary=seqio.ByteVocabulary(extra_ids=100))
  with pytest.raises(ValueError, match='ends texts with 1, the generator with 2'):
    dataclasses.replace(predictor, generator=generator.Generator(byte_model[0], STEPS, eos_id=2))


@pytest.mark.parametrize(
  ('longest', 'inputs_length', 'expected'),
  [(0, 512, 32), (1, 512, 32), (33, 512, 64), (64, 512, 64), (400, 500, 500), (5, 20, 20)],
)
def test_batches_are_padded_to_few_lengths(longest, inputs_length, expected):
  assert text_predictor.padded_length(longest, inputs_length) == expected
