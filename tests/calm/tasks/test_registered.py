"""Tasks and mixtures that are registered with seqio are found, checked and drawn from."""

import functools
import itertools
import sys

import pytest
import seqio
import tensorflow as tf

from calm.tasks import batches, examples, registered, text, vocabularies

FEATURE = seqio.Feature(vocabularies.byte_vocabulary())
PREPROCESSORS = (
  seqio.preprocessors.tokenize,
  seqio.CacheDatasetPlaceholder(),
  seqio.preprocessors.append_eos_after_trim,
)


@pytest.fixture
def register():
  """register(name, count, **options): a registered task whose inputs are '<name> <number>'."""
  names = []

  def register(name, count=3, splits=('train', 'validation'), **options):
    def read(split, shuffle_files, seed=None):
      numbers = [str(i) for i in range(count)]
      inputs = [f'{name} {number}' for number in numbers]
      return tf.data.Dataset.from_tensor_slices({'inputs': inputs, 'targets': numbers})

    sizes = dict.fromkeys(splits, count)
    source = seqio.FunctionDataSource(read, splits=splits, num_input_examples=sizes)
    form = {
      'output_features': {'inputs': FEATURE, 'targets': FEATURE},
      'preprocessors': PREPROCESSORS,
    }
    names.append(name)
    return seqio.TaskRegistry.add(name, source=source, **{**form, **options})

  def mix(name, tasks, **options):
    names.append(name)
    return seqio.MixtureRegistry.add(name, tasks, **options)

  register.mix = mix
  yield register
  for name in names:
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
      if name in registry.names():
        registry.remove(name)


def rates(name, split='train'):
  return [(one.name, rate) for one, rate in registered.rates_of(registered.task(name), split)]


def drawn(name, number):
  """The task's name at the start of each of so many inputs of the stream."""
  stream = batches.train_batches(
    registered.task(name),
    batch_size=4,
    inputs_length=19,
    targets_length=5,
    pack=False,
    shard_index=0,
    num_shards=1,
  )
  rows = [
    row for batch in itertools.islice(stream, number) for row in batch['encoder_input_tokens']
  ]
  texts = [bytes(token - 3 for token in row.tolist() if token > 2).decode() for row in rows]
  return [one.split()[0] for one in texts]


def test_a_registered_task_is_read_as_seqio_reads_it(register):
  task = register('own_a')
  assert registered.task('own_a') is task
  assert registered.vocabulary('own_a') == FEATURE.vocabulary
  found = examples.evaluation_examples(task, 'validation')
  expected = task.get_dataset({'inputs': 99, 'targets': 99}, 'validation', shuffle=False)
  for one, other in zip(found, expected.as_numpy_iterator(), strict=True):
    assert one.texts == {'inputs': other['inputs_pretokenized'].decode()}
    assert one.target == other['targets_pretokenized'].decode()


def test_a_mixture_is_its_tasks_each_at_its_rate(register):
  register('own_a'), register('own_b')
  register.mix('own_mix', [('own_b', 3.0), ('own_a', 1.0)])
  assert [one.name for one in registered.tasks_of(registered.task('own_mix'))] == ['own_a', 'own_b']
  assert rates('own_mix') == [('own_a', 1), ('own_b', 3)]
  assert sorted(drawn('own_mix', 10)) == ['own_a'] * 10 + ['own_b'] * 30
  assert rates('own_a') == [('own_a', 1)]


def test_a_mixture_in_a_mixture_shares_its_rate_among_its_tasks(register):
  register('own_a'), register('own_b'), register('own_c')
  register.mix('own_inner', [('own_a', 1.0), ('own_b', 3.0)])
  register.mix('own_outer', [('own_inner', 8.0), ('own_c', 1.0)])
  assert rates('own_outer') == [('own_a', 2), ('own_b', 6), ('own_c', 1)]


def test_rates_may_follow_the_number_of_examples(register):
  register('own_a', 3), register('own_b', 50)
  rate = functools.partial(seqio.mixing_rate_num_examples, maximum=7)
  register.mix('own_mix', ['own_a', 'own_b'], default_rate=rate)
  assert rates('own_mix') == [('own_a', 3), ('own_b', 7)]


def test_a_task_without_the_split_or_with_rate_0_is_not_drawn(register):
  register('own_a', splits=('train',)), register('own_b'), register('own_c')
  register.mix('own_mix', [('own_a', 1.0), ('own_b', 1.0), ('own_c', 0.0)])
  assert rates('own_mix') == [('own_a', 1), ('own_b', 1)]
  assert rates('own_mix', 'validation') == [('own_b', 1)]
  with pytest.raises(ValueError, match="No task of mixture 'own_mix' has a split 'test'"):
    rates('own_mix', 'test')


@pytest.mark.parametrize('rate', [-1.0, float('nan'), float('inf')])
def test_a_rate_that_is_none_is_an_error(register, rate):
  register('own_a')
  register.mix('own_mix', [('own_a', rate)])
  with pytest.raises(ValueError, match=r"'own_mix' draws task 'own_a' at rate .*: 0 at least"):
    rates('own_mix')
  register.mix('own_still', [('own_a', 0.0)])
  with pytest.raises(ValueError, match="'own_still' draws every task of split 'train' at rate 0"):
    rates('own_still')


def test_a_mixture_is_evaluated_task_by_task(register):
  register('own_a')
  mixture = register.mix('own_mix', [('own_a', 1.0)])
  with pytest.raises(ValueError, match="'own_mix' is a mixture, and one of its tasks is needed"):
    examples.evaluation_examples(mixture, 'validation')
  (task,) = registered.tasks_of(mixture)
  assert len(examples.evaluation_examples(task, 'validation')) == 3
  assert registered.tasks_of(task) == [task]


def test_an_unknown_name_is_an_error_that_tells_what_is_near_and_what_to_name(register):
  register('own_translation')
  with pytest.raises(ValueError, match=r"'own_translations'.*, but 'own_translation': .*TASK_MODU"):
    registered.task('own_translations')


def test_modules_are_imported_before(register, tmp_path, monkeypatch):
  (tmp_path / 'own_module_of_tasks.py').write_text(
    'import seqio\nseqio.MixtureRegistry.add("own_mix", [("own_a", 1.0)])\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  register('own_a')
  try:
    assert registered.task('own_mix', modules=('own_module_of_tasks',)).name == 'own_mix'
  finally:
    seqio.MixtureRegistry.remove('own_mix')
    sys.modules.pop('own_module_of_tasks')


def test_a_task_that_is_not_text_is_an_error_in_a_mixture_too(register):
  register('own_a'), register('own_b', preprocessors=[seqio.preprocessors.tokenize])
  register.mix('own_mix', [('own_a', 1.0), ('own_b', 1.0)])
  for name in ('own_b', 'own_mix'):
    with pytest.raises(ValueError, match="Task 'own_b' does not end in seqio"):
      registered.task(name)
  register('own_c', output_features={'targets': FEATURE})
  with pytest.raises(ValueError, match="Task 'own_c' has features targets, not inputs and targets"):
    registered.task('own_c')


def test_text_is_what_stands_before_tokenisation_wherever_the_cache_is(register):
  def upper(dataset):
    return dataset.map(lambda one: {**one, 'inputs': tf.strings.upper(one['inputs'])})

  task = register('own_a', preprocessors=[upper, *PREPROCESSORS])
  assert text.before_tokenization(task) == [upper]
  assert next(examples.read(task, 'train')).texts == {'inputs': 'OWN_A 0'}
