"""Families of classifiers in one set of weights: their loss, their training, and parts as runs."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.special

import gin
from calm import configuration, runs
from calm.models import parameters
from calm.models import subnetworks as parts
from calm.tasks import labelled
from calm.tasks.classification import Classification
from calm.tasks.examples import Example
from calm.training import checkpoints
from calm.training.distillation import SoftTargets, Teacher
from elang import main as elang
from sweet import data, main, objectives, subnetworks
from sweet.distilled import Distilled
from sweet.model import EarlyExitClassifier
from sweet.objectives import ExitsObjective
from sweet.subnetworks import Family

LABELS = Classification(('text',), ('a', 'b', 'c'))
WIDTHS, DEPTHS = (1.0, 0.5), (1.0, 0.5)


@pytest.fixture(scope='module')
def student(config):
  """A classifier after the last of two layers."""
  encoder = dataclasses.replace(config.encoder, num_layers=2)
  whole = dataclasses.replace(config, encoder=encoder, exits=(2,))
  return ExitsObjective(objectives.classifiers(whole, 'early_exit'), 'early_exit')


@pytest.fixture(scope='module')
def teacher(student, made_up):
  return Teacher(student.model, made_up(student.model, 11))


def by_hand(model, params, batch):
  """The states before each layer and after the last of an ordinary classifier, and what it says."""
  mask = np.arange(8) < batch['lengths'][:, None]

  def run(module):
    states = [module.embed(batch['tokens'], mask, batch['token_types'])]
    for layer in range(model.exits[0]):
      states.append(module.encoder.layer(layer, states[-1], mask))
    return states

  _, outputs, _ = model.stage(params, 1, batch, None)
  return np.float64(model.apply({'params': params}, method=run)), np.float64(outputs)


def test_the_loss_is_the_sum_over_sub_networks_that_numpy_says(student, teacher, made_up, batch):
  params = made_up(student.model)
  family = Family(student, teacher, WIDTHS, DEPTHS, SoftTargets(0.75, 2.0), states_weight=0.1)
  total, sums = jax.jit(family)(params, batch)
  taught, theirs = by_hand(teacher.model, teacher.params, batch)
  p, weights, lengths = scipy.special.softmax(theirs / 2, -1), batch['weights'], batch['lengths']
  expected = 0.0
  for depth, kept in ((1.0, (0, 1)), (0.5, (0,))):
    for width in WIDTHS:
      model, part = subnetworks.take(student.model, params, width, depth)
      states, said = by_hand(model, part, batch)
      hard = -scipy.special.log_softmax(said, -1)[np.arange(5), batch['labels']]
      soft = 4 * (p * (np.log(p) - scipy.special.log_softmax(said / 2, -1))).sum(-1)
      far = np.square(states - taught[[*kept, -1]]).mean(-1).sum(0)
      of_states = np.array([far[i, :n].mean() if n else 0 for i, n in enumerate(lengths)])
      name = f'{width:g}_{depth:g}'
      for key, value in (('loss', hard), ('soft_loss', soft), ('states_loss', of_states)):
        np.testing.assert_allclose(sums[f'{key}_{name}'], (value * weights).sum(), rtol=1e-4)
      expected += ((0.25 * hard + 0.75 * soft + 0.1 * of_states) * weights).sum()
  np.testing.assert_allclose(total, expected, rtol=1e-4)
  assert float(sums['weight']) == 4


def test_the_teacher_itself_in_full_has_nothing_to_learn(student, teacher, batch):
  total, _ = jax.jit(Family(student, teacher, (1.0,)))(teacher.params, batch)
  assert float(total) == pytest.approx(0, abs=1e-5)


def test_a_step_moves_what_some_sub_network_has_and_nothing_else(student, teacher, made_up, batch):
  params = made_up(student.model)

  family = Family(student, teacher, (0.5,), (0.5,))

  @jax.jit
  @jax.grad
  def gradient(both):
    return family.holding(both[1])(both[0], batch)[0]

  of_student, of_teacher = gradient((params, teacher.params))
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(of_teacher))
  moved = {name: np.abs(value) > 0 for name, value in parameters.flatten(of_student).items()}
  for layer in range(2):
    there, name = layer == 0, f'encoder/layers_{layer}'
    assert moved[f'{name}/mlp/wo/kernel'].any(1).tolist() == [there] * 6 + [False] * 6
    assert moved[f'{name}/mlp/wi/bias'].tolist() == [there] * 6 + [False] * 6
    for part in ('query', 'value'):
      found = moved[f'{name}/attention/{part}/kernel']
      assert found.any(0).tolist() == [there] * 4 + [False] * 4
    assert moved[f'{name}/attention/out/kernel'].any(1).tolist() == [there] * 4 + [False] * 4
  assert moved['classifier_1/kernel'].all()


def test_what_cannot_be_a_family_is_refused(student, teacher, config):
  with pytest.raises(ValueError, match='WIDTHS'):
    Family(student, teacher, ())
  with pytest.raises(ValueError, match='DEPTH'):
    Family(student, teacher, depths=(1.5,))
  with pytest.raises(ValueError, match='STATES_WEIGHT'):
    Family(student, teacher, targets=SoftTargets(cosine_weight=1.0))
  two = ExitsObjective(objectives.classifiers(config))
  with pytest.raises(ValueError, match=r'EXITS = \(3,\)'):
    Family(two, teacher)
  small = objectives.classifiers(dataclasses.replace(config, exits=(3,)), 'early_exit')
  with pytest.raises(ValueError, match=r'The teacher \(TEACHER_WORKDIR\) does not fit'):
    Family(student, Teacher(small, None))


def test_a_family_begins_with_its_teacher_in_another_order(
  student, teacher, tokenizer, tmp_path, batch
):
  path = tmp_path / 'train.jsonl'
  records = [{'text': 'a b c d'[: 1 + 2 * (i % 4)], 'label': i % 3} for i in range(40)]
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  rows = data.Rows(labelled.from_files(LABELS, train=str(path)), tokenizer, length=16)
  begun = subnetworks.begin(teacher=teacher, rows=rows)
  held = rows.encoded('train').rows(data.draw(40).held_out)
  indices = np.arange(4)
  assert len(held) == 4
  gradient = jax.grad(lambda params: student(params, held.batch(indices, 4, 16))[0])
  encoder = student.model.config.encoder
  found = parts.importance(begun, jax.jit(gradient)(begun), encoder)
  for value in (found.heads, found.neurons):
    assert (np.diff(value) <= 1e-4 * value.max()).all()
  np.testing.assert_allclose(
    student.model.stage(begun, 1, batch, None)[1],
    student.model.stage(teacher.params, 1, batch, None)[1],
    atol=1e-4,
  )
  assert subnetworks.begin(teacher=teacher, rows=rows, reorder=False) is teacher.params
  with pytest.raises(ValueError, match='NUM_HELD_OUT'):
    subnetworks.begin(teacher=teacher, rows=rows, num_held_out=0)


SETTINGS = {
  'FIELDS': "('text',)",
  'LABEL_NAMES': "('no', 'yes')",
  'EXITS': '(2,)',
  'LENGTH': '16',
  'NUM_EPOCHS': '1',
  'BATCH_SIZE': '16',
  'PREDICT_BATCH_SIZE': '8',
}


def run(program, command, *arguments):
  assert program.main([command, *map(str, arguments)]) == 0


def test_from_a_classifier_to_a_family_and_a_router_of_two_parts(
  checkpoint, config, tmp_path, capsys
):
  made = checkpoint(dataclasses.replace(config.encoder, num_layers=2, pooler=True))
  rows = [f'{"abcdefghij"[i % 10]}\t{"no" if i % 2 else "yes"}' for i in range(40)]
  (tmp_path / 'rows.tsv').write_text('\n'.join(['text\tlabel', *rows]) + '\n')
  given = [f'--gin.{name}={value}' for name, value in SETTINGS.items()]
  files = [f'--gin.{name}_FILE={tmp_path / "rows.tsv"}' for name in ('TRAIN', 'VALIDATION')]
  whole, family = tmp_path / 'whole', tmp_path / 'family'
  config_file = '--gin_file=configs/sweet/classify.gin'
  run(
    *(main, 'train', config_file, f'--workdir={whole}', f'--gin.CHECKPOINT={made}', *given, *files)
  )
  before = {path: path.read_bytes() for path in whole.rglob('*') if path.is_file()}
  train = [f'--gin_file={whole / "config.gin"}', '--gin_file=gin/elang/family.gin']
  train += [f'--gin.TEACHER_WORKDIR={whole}', '--gin.WIDTHS=(0.5,)', f'--workdir={family}']
  run(main, 'train', *train)
  assert {path: path.read_bytes() for path in whole.rglob('*') if path.is_file()} == before
  metrics = json.loads((family / 'metrics.jsonl').read_text().splitlines()[-1])
  assert metrics.keys() >= {'soft_loss_0.5_1', 'states_loss_0.5_1', 'accuracy_0.5_1'}

  with configuration.apart():  # The whole teaches others in the same way, by their configuration.
    files = [str(whole / 'config.gin'), 'gin/elang/distil_classifier.gin']
    configuration.parse(files, [f'TEACHER_WORKDIR = {str(whole)!r}'], [], {})
    student = ExitsObjective(configuration.value('MODEL'), 'early_exit')
    taught = gin.get_configurable(Distilled)(student)
  assert taught.targets == SoftTargets(0.5, 2.0)
  kept = checkpoints.restore_params(str(whole))
  jax.tree.map(np.testing.assert_array_equal, taught.frozen, kept)

  take = ['--gin_file=gin/elang/subnetwork.gin', f'--gin.FAMILY_WORKDIR={family}']
  swift, large = tmp_path / 'swift', tmp_path / 'super'
  run(elang, 'subnetwork', *take, f'--workdir={swift}', '--gin.WIDTH=0.5', '--gin.DEPTH=0.5')
  assert '1 layers of 1 heads and 6 neurons' in capsys.readouterr().out
  run(elang, 'subnetwork', *take, f'--workdir={large}')
  assert elang.main(['subnetwork', *take, f'--workdir={large}']) == 1
  assert 'holds a run already' in capsys.readouterr().err

  found, of_family = runs.predictor(str(swift)), runs.predictor(str(family))
  model, params = subnetworks.take(of_family.model, of_family.params, 0.5, 0.5)
  assert found.model == model
  assert isinstance(model, EarlyExitClassifier)
  jax.tree.map(np.testing.assert_array_equal, found.params, params)
  assert Path(swift, 'encoder', 'vocab.txt').is_file()
  assert set(checkpoints.restore_params(str(swift))) == {'encoder', 'pooler_1', 'classifier_1'}
  (tmp_path / 'new.tsv').write_text('text\na\nb\n')
  routed = ['--gin_file=configs/elang/classifiers.gin', f'--workdir={tmp_path / "router"}']
  routed += [f'--gin.SWIFT_WORKDIR={swift}', f'--gin.SUPER_WORKDIR={large}', *given[:2]]
  run(elang, 'predict', *routed, f'--input={tmp_path / "new.tsv"}', '--threshold=0.0')
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  examples = [Example(i, str(i), {'text': text}, '', {}) for i, text in enumerate('ab')]
  assert [line['prediction'] for line in lines] == [row['prediction'] for row in found(examples)]
  taken = dataclasses.replace(of_family, model=model, params=params, temperatures=None)
  assert taken(examples) == found(examples)
  assert [line['model'] for line in lines] == ['swift', 'swift']
