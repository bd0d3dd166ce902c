"""Classifiers that learn from others: what their loss is, and what becomes of the teacher."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.special

import gin
from calm import configuration
from calm.evaluation.predictor import FunctionPredictor
from calm.models import bert, parameters, pretrained
from calm.tasks import labelled, wordpiece
from calm.tasks.classification import Classification
from calm.training import checkpoints
from calm.training.distillation import SoftTargets, Teacher
from sweet import checkpoint as begin
from sweet import data, distilled, objectives, predictor, train
from sweet.checkpoint import exits_config
from sweet.distilled import Distilled
from sweet.objectives import ExitsObjective

LABELS = Classification(('text',), ('a', 'b', 'c'))


@pytest.fixture(scope='module')
def student(config):
  """Two exits of an encoder of two layers."""
  encoder = dataclasses.replace(config.encoder, num_layers=2)
  return ExitsObjective(
    objectives.classifiers(dataclasses.replace(config, encoder=encoder, exits=(1, 2)))
  )


@pytest.fixture(scope='module')
def teacher(config, made_up):
  """Three layers with a classifier after the last."""
  model = objectives.classifiers(dataclasses.replace(config, exits=(3,)), 'early_exit')
  return Teacher(model, made_up(model, 11))


def outputs(model, params, batch):
  """What every classifier says, and the state at the last exit."""
  state, found = None, []
  for k in range(1, 1 + len(model.exits)):
    state, said, _ = model.stage(params, k, batch, state)
    found.append(np.float64(said))
  return found, np.float64(state)


def test_the_loss_is_what_numpy_says(student, teacher, made_up, batch):
  params, targets = made_up(student.model), SoftTargets(0.25, 3.0, cosine_weight=2.0)
  total, sums = jax.jit(Distilled(student, teacher, targets))(params, batch)
  ours, state = outputs(student.model, params, batch)
  (theirs,), taught = outputs(teacher.model, teacher.params, batch)
  p, labels, weights = scipy.special.softmax(theirs / 3, -1), batch['labels'], batch['weights']
  expected = 0.0
  for k, said in enumerate(ours, 1):
    hard = -scipy.special.log_softmax(said, -1)[np.arange(5), labels]
    soft = 9 * (p * (np.log(p) - scipy.special.log_softmax(said / 3, -1))).sum(-1)
    np.testing.assert_allclose(sums[f'loss_{k}'], (hard * weights).sum(), rtol=1e-4)
    np.testing.assert_allclose(sums[f'soft_loss_{k}'], (soft * weights).sum(), rtol=1e-4)
    expected += ((0.75 * hard + 0.25 * soft) * weights).sum()
  norms = np.linalg.norm(state, axis=-1) * np.linalg.norm(taught, axis=-1)
  distances = 1 - (state * taught).sum(-1) / norms
  lengths = batch['lengths']
  of_rows = [distances[i, :n].mean() for i, n in enumerate(lengths) if weights[i]]
  np.testing.assert_allclose(sums['cosine_distance'], sum(of_rows), rtol=1e-4)
  np.testing.assert_allclose(total, expected + 2 * sum(of_rows), rtol=1e-4)


def test_without_weight_it_is_the_plain_loss_bit_for_bit(student, teacher, made_up, batch, key):
  objective = Distilled(student, teacher, SoftTargets(0.0))
  assert objective.frozen is None
  params = made_up(student.model)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.jit(objective)(params, batch, key),
    jax.jit(student)(params, batch, key),
  )


def test_with_all_the_weight_labels_count_for_nothing_and_the_teacher_has_no_gradient(
  student, teacher, made_up, batch
):
  objective, params = Distilled(student, teacher, SoftTargets(1.0)), made_up(student.model)

  @jax.jit
  def loss(labels):
    def of(params, frozen):
      return objective.holding(frozen)(params, {**batch, 'labels': labels})[0]

    return jax.value_and_grad(of, (0, 1))(params, teacher.params)

  found, (of_student, of_teacher) = loss(batch['labels'])
  assert found == loss((batch['labels'] + 1) % 3)[0]
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(of_teacher))
  flat = parameters.flatten(of_student)
  assert all(np.abs(value).max() > 0 for name, value in flat.items() if 'key/bias' not in name)


def test_a_regression_learns_from_the_teachers_numbers(config, made_up, batch):
  one = dataclasses.replace(config, exits=(1,), num_outputs=1)
  student = ExitsObjective(objectives.classifiers(one), regression=True)
  other = objectives.classifiers(
    dataclasses.replace(config, exits=(2,), num_outputs=1), 'multi_model'
  )
  teacher = Teacher(other, made_up(other, 3))
  params, numbers = made_up(student.model), {**batch, 'labels': np.float32(batch['labels'])}
  total, _ = jax.jit(Distilled(student, teacher, SoftTargets(1.0)))(params, numbers)
  (ours,), _ = outputs(student.model, params, batch)
  said = np.float64(other.stage(teacher.params, 1, batch, None)[1])
  np.testing.assert_allclose(
    total, (np.square(ours - said)[:, 0] * batch['weights']).sum(), rtol=1e-4
  )
  with pytest.raises(ValueError, match='COSINE_WEIGHT'):
    Distilled(student, teacher, SoftTargets(cosine_weight=1.0))


def test_what_does_not_fit_is_refused(student, config):
  def teach(**changes):
    encoder = {name: changes.pop(name) for name in ('vocab_size', 'emb_dim') if name in changes}
    other = dataclasses.replace(config.encoder, **encoder)
    model = objectives.classifiers(dataclasses.replace(config, encoder=other, **changes))
    return Distilled(student, Teacher(model, None), SoftTargets(cosine_weight=1.0))

  with pytest.raises(ValueError, match='gives 4 outputs, and the model 3'):
    teach(num_outputs=4)
  with pytest.raises(ValueError, match='knows 32 tokens, and the model 31'):
    teach(vocab_size=32)
  with pytest.raises(ValueError, match='states are 8 wide, and the teacher has 10'):
    teach(emb_dim=10)


def test_a_runs_predictor_teaches_if_its_tokens_and_labels_are_the_tasks(
  teacher, tokenizer, tmp_path
):
  answers = predictor.ExitsPredictor(teacher.model, teacher.params, tokenizer, LABELS, length=16)
  found = distilled.teacher(answers, tokenizer=tokenizer, labels=LABELS)
  assert found.model == teacher.model
  with pytest.raises(ValueError, match=r"labels are \(a, b, c\), and the task's \(b, a, c\)"):
    distilled.teacher(answers, tokenizer=tokenizer, labels=Classification(('x',), ('b', 'a', 'c')))
  (tmp_path / 'vocab.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nz\n')
  with pytest.raises(ValueError, match=r'tokenizer is another: .*vocab_size was 31 and is 6'):
    distilled.teacher(answers, tokenizer=wordpiece.load(tmp_path), labels=LABELS)
  other = FunctionPredictor(lambda examples, threshold: [], 'f', '1')
  with pytest.raises(ValueError, match='run of a FunctionPredictor'):
    distilled.teacher(other, tokenizer=tokenizer, labels=LABELS)


def test_a_bert_with_a_classifier_from_elsewhere_teaches_what_it_says(
  checkpoint, tokenizer, config, batch
):
  encoder = dataclasses.replace(config.encoder, num_layers=2, pooler=True, num_labels=3)
  folder = str(checkpoint(encoder))
  found = distilled.teacher_of_checkpoint(folder, tokenizer=tokenizer, labels=LABELS)
  config, params = pretrained.load(folder)
  mask = np.arange(8) < batch['lengths'][:, None]

  def logits(module):
    return module.classify(module.pool(module(batch['tokens'], mask, batch['token_types'])[-1]))

  expected = bert.Bert(config).apply({'params': params}, method=logits)
  said = distilled.answers(found, batch)[1]
  np.testing.assert_allclose(said[:4], expected[:4], rtol=1e-5)
  settings = {'CHECKPOINT': folder, 'TEACHER_CHECKPOINT': folder, 'WORKDIR': 'run'}
  settings |= {
    'FIELDS': ('text',),
    'LABEL_NAMES': LABELS.labels,
    'SOFT_WEIGHT': 0.25,
    'EXITS': (1,),
  }
  with configuration.apart():
    files = ['configs/sweet/classify.gin', 'gin/elang/distil_from_checkpoint.gin']
    bindings = [f'{name} = {value!r}' for name, value in settings.items()]
    configuration.parse(files, bindings, [], {})
    made = gin.get_configurable(Distilled)(ExitsObjective(configuration.value('MODEL')))
  assert made.targets == SoftTargets(0.25)
  jax.tree.map(np.testing.assert_array_equal, made.frozen, found.params)
  two = Classification(('text',), ('no', 'yes'))
  with pytest.raises(ValueError, match='classifier of 3 labels, and the task needs 2'):
    distilled.teacher_of_checkpoint(folder, tokenizer=tokenizer, labels=two)


def test_a_run_leaves_its_teacher_as_it_is_and_goes_on_with_it_alone(
  teacher, checkpoint, tokenizer, config, made_up, tmp_path
):
  path = tmp_path / 'train.jsonl'
  records = [{'text': 'abc'[i % 3], 'label': i % 3} for i in range(30)]
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  folder = str(checkpoint(dataclasses.replace(config.encoder, num_layers=1, pooler=True)))
  model = objectives.classifiers(exits_config(checkpoint=folder, labels=LABELS, exits=(1,)))
  rows = data.Rows(labelled.from_files(LABELS, train=str(path)), tokenizer, length=16)
  before = jax.tree.map(np.array, teacher.params)

  def start(name, teacher, num_epochs):
    return train.train(
      model=model,
      rows=rows,
      workdir=str(tmp_path / name),
      checkpoint=folder,
      num_epochs=num_epochs,
      learning_rate={'sweet': 1e-2},
      learns_from=lambda student: Distilled(student, teacher, SoftTargets(1.0)),
    )

  start('run', teacher, 1)
  params = checkpoints.restore_params(str(tmp_path / 'run'), model)
  assert set(params) == {'encoder', 'pooler_1', 'classifier_1'}
  jax.tree.map(np.testing.assert_array_equal, teacher.params, before)
  with pytest.raises(ValueError, match='TEACHER_WORKDIR'):
    start('run', Teacher(teacher.model, made_up(teacher.model, 12)), 2)
  begun = begin.initial_params(str(tmp_path / 'run'), model)  # What others may begin with.
  jax.tree.map(np.testing.assert_array_equal, begun, params)
  assert exits_config(checkpoint=str(tmp_path / 'run'), labels=LABELS, exits=(1,)) == model.config
  start('run', Teacher(teacher.model, before), 2)
  assert checkpoints.steps(str(tmp_path / 'run'))[-1] == 4
