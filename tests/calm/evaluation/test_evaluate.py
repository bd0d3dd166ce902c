"""`calm evaluate`: metrics as computed by hand, and predictions that belong to their parameters."""

import json

import jax
import pytest

from calm.decoding import corpus, decoder, evaluation, sampling, text_decoder

INPUTS = ['seven', 'a', 'of', 'the best', 'eleven', 'é', 'x y z']
SETTINGS = {'inputs_length': 24, 'batch_size': 4}


def exact_match(targets, predictions):
  """Percentage of predictions that are their target, or one of them."""
  accepted = [target if isinstance(target, list) else [target] for target in targets]
  hits = [prediction in each for each, prediction in zip(accepted, predictions, strict=True)]
  return {'exact_match': 100 * sum(hits) / len(hits)}


def bleu(targets, predictions):
  """Corpus BLEU of sacrebleu."""
  import sacrebleu

  return {'bleu': sacrebleu.corpus_bleu(predictions, [targets]).score}


@pytest.fixture(scope='module')
def vocabulary():
  """Bytes."""
  return pytest.importorskip('seqio').ByteVocabulary()


@pytest.fixture(scope='module')
def predictions(byte_model, vocabulary, tmp_path_factory):
  """What the model says to the inputs."""
  folder = tmp_path_factory.mktemp('predictions')
  (folder / 'in.txt').write_text('\n'.join(INPUTS), encoding='utf-8')
  model, params = byte_model
  corpus.decode(
    decoder=decoder.Decoder(model, 6),
    params=params,
    vocabulary=vocabulary,
    input_path=str(folder / 'in.txt'),
    output_path=str(folder / 'out.jsonl'),
    **SETTINGS,
  )
  lines = (folder / 'out.jsonl').read_text(encoding='utf-8').splitlines()
  return [json.loads(line)['prediction'] for line in lines]


@pytest.fixture
def targets(predictions):
  """The predictions themselves but for two."""
  return [*predictions[:5], 'wrong', predictions[6] + ' and more']


@pytest.fixture
def make_task(tmp_path, vocabulary):
  """Makes a task of given targets."""
  files = pytest.importorskip('calm.tasks.files')

  def make(targets, inputs=INPUTS, metrics=(exact_match, bleu), form=None):
    rows = [{'x': x, 'y': y} for x, y in zip(inputs, targets, strict=True)]
    path = tmp_path / 'test.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    form = form or {'targets': '{y}'}
    return files.task(inputs='{x}', **form, vocabulary=vocabulary, test=str(path), metrics=metrics)

  return make


@pytest.fixture
def evaluate(byte_model, tmp_path, make_task, targets):
  """Evaluates the test split, with options in place of the usual arguments."""
  model, params = byte_model

  def call(**options):
    usual = {'split': 'test', 'decoder': decoder.Decoder(model, 6), 'params': params}
    usual |= {'workdir': str(tmp_path / 'run'), **SETTINGS}
    if 'task' not in options:
      usual['task'] = make_task(targets)
    return evaluation.evaluate(**(usual | options))

  return call


@pytest.fixture
def decoded(monkeypatch):
  """Counts the items that are decoded."""
  counts = []
  original = text_decoder.TextDecoder.__call__

  def counted(self, items):
    counts.append(len(items))
    return original(self, items)

  monkeypatch.setattr(text_decoder.TextDecoder, '__call__', counted)
  return counts


def test_metrics_are_those_computed_by_hand(evaluate, predictions, targets, tmp_path, capsys):
  metrics = evaluate()
  assert metrics['exact_match'] == pytest.approx(100 * 5 / 7)
  assert metrics['bleu'] == pytest.approx(bleu(targets, predictions)['bleu'])
  assert metrics['num_examples'] == 7
  assert metrics['layers_per_token'] == 3
  assert metrics['seconds_per_example'] > 0
  assert json.loads(capsys.readouterr().out) == metrics
  folder = tmp_path / 'run' / 'evaluations' / 'test'
  assert json.loads((folder / 'metrics.json').read_text()) == metrics
  lines = (folder / 'predictions.jsonl').read_text(encoding='utf-8').splitlines()
  assert [json.loads(line)['prediction'] for line in lines] == predictions
  assert [json.loads(line)['targets'] for line in lines] == targets


def test_an_interrupted_evaluation_goes_on(evaluate, tmp_path, decoded):
  first = evaluate()
  path = tmp_path / 'run' / 'evaluations' / 'test' / 'predictions.jsonl'
  whole = path.read_bytes()
  path.write_bytes(whole[:-20])
  second = evaluate()
  assert decoded == [4, 3, 3]
  assert path.read_bytes() == whole
  del first['seconds_per_example'], second['seconds_per_example']
  assert first == second


def test_a_finished_evaluation_decodes_nothing(evaluate, decoded):
  first = evaluate()
  assert evaluate() == first
  assert decoded == [4, 3]


def test_other_parameters_are_decoded_anew(evaluate, byte_model, predictions, decoded, tmp_path):
  evaluate()
  metrics = evaluate(params=jax.tree.map(lambda array: array[..., ::-1], byte_model[1]))
  assert decoded == [4, 3, 4, 3]
  path = tmp_path / 'run' / 'evaluations' / 'test' / 'predictions.jsonl'
  lines = path.read_text(encoding='utf-8').splitlines()
  assert len(lines) == 7
  assert [json.loads(line)['prediction'] for line in lines] != predictions
  assert metrics['exact_match'] < 70


def test_other_examples_are_decoded_anew(evaluate, make_task, predictions, decoded):
  evaluate()
  metrics = evaluate(task=make_task(predictions))
  assert metrics['exact_match'] == 100
  metrics = evaluate(task=make_task(predictions[::-1], INPUTS[::-1]))
  assert metrics['exact_match'] == 100
  assert decoded == [4, 3, 4, 3, 4, 3]


def test_a_file_that_stands_in_the_way_is_replaced(evaluate, tmp_path):
  folder = tmp_path / 'run' / 'evaluations' / 'test'
  folder.mkdir(parents=True)
  (folder / 'predictions.jsonl').write_text('{"prediction": "left by another"}\n')
  assert evaluate()['num_examples'] == 7


def test_evaluations_have_folders_by_name(evaluate, tmp_path, decoded):
  evaluate()
  evaluate(name='again')
  assert decoded == [4, 3, 4, 3]
  assert (tmp_path / 'run' / 'evaluations' / 'again' / 'metrics.json').is_file()


def test_limit_takes_the_first_examples(evaluate):
  metrics = evaluate(limit=5)
  assert (metrics['num_examples'], metrics['exact_match']) == (5, 100)


def test_references_reach_the_metrics(evaluate, make_task, predictions):
  several = [['no', prediction] for prediction in predictions]
  form = {'targets': '{y[0]}', 'references': '{y}'}
  task = make_task(several, metrics=exact_match, form=form)
  metrics = evaluate(task=task)
  assert metrics['exact_match'] == 100
  assert 'bleu' not in metrics


def test_of_several_samples_the_likeliest_counts(evaluate, byte_model, make_task, tmp_path):
  rule = sampling.Sampling(3.0, num_samples=3)
  drawing = decoder.Decoder(byte_model[0], 6, rule)
  seen = []

  def remember(targets, predictions):
    seen.extend(predictions)
    return {}

  metrics = evaluate(decoder=drawing, task=make_task(INPUTS, metrics=remember))
  path = tmp_path / 'run' / 'evaluations' / 'test' / 'predictions.jsonl'
  lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
  for prediction, line in zip(seen, lines, strict=True):
    chances = dict(zip(line['log_prob'], line['predictions'], strict=True))
    assert prediction == chances[max(chances)]
  assert metrics['layers_per_token'] == 3


def test_an_input_that_is_too_long_is_named(evaluate, make_task):
  task = make_task(['x'] * 2, ['short', 'x' * 24])
  with pytest.raises(ValueError, match=r'INPUTS_LENGTH.*TRUNCATE'):
    evaluate(task=task)
  assert evaluate(task=task, truncate=True)['num_examples'] == 2


def test_a_split_without_examples_is_named(evaluate, make_task):
  with pytest.raises(ValueError, match=r"'test'.*no examples"):
    evaluate(task=make_task([], []))


def test_an_unknown_split_is_named(evaluate):
  with pytest.raises(ValueError, match='dev'):
    evaluate(split='dev')
