"""Records of public data sets become the texts of T5's paper, appendix D.

The paper's own examples (https://arxiv.org/abs/1910.10683), long ones cut short.
"""

import numpy as np
import pytest
import tensorflow as tf

from calm.tasks import prompts
from calm.tasks.public import TASKS


def fill(prompt, record):
  """What a prompt makes of a record, as a tf.data pipeline calls it, as Python values."""
  prompt = TASKS[prompt].prompt if isinstance(prompt, str) else prompt
  tensors = {key: np.array(v, object) if isinstance(v, list) else v for key, v in record.items()}
  tensors = tf.nest.map_structure(tf.convert_to_tensor, tensors)
  (example,) = tf.data.Dataset.from_tensors(tensors).map(prompt).as_numpy_iterator()
  return {key: _python(value) for key, value in example.items()}


def _python(value):
  if isinstance(value, bytes):
    return value.decode()
  return [_python(one) for one in value] if np.ndim(value) else value.item()


PAPER = [
  (
    'glue_cola',
    {'sentence': 'John made Bill master of himself.', 'label': 1},
    'cola sentence: John made Bill master of himself.',
    'acceptable',
  ),
  (
    'glue_rte',
    {
      'sentence1': "A smaller proportion of Yugoslavia's Italians were settled in Slovenia.",
      'sentence2': 'Slovenia has 3,000 inhabitants.',
      'label': 1,
    },
    "rte sentence1: A smaller proportion of Yugoslavia's Italians were settled in Slovenia."
    ' sentence2: Slovenia has 3,000 inhabitants.',
    'not_entailment',
  ),
  (
    'glue_mnli',
    {
      'hypothesis': 'The St. Louis Cardinals have always won.',
      'premise': 'yeah well losing is i mean',
      'label': 2,
    },
    'mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is i mean',
    'contradiction',
  ),
  (
    'glue_sst2',
    {'sentence': "it confirms fincher 's status as a film maker ", 'label': 1},
    "sst2 sentence: it confirms fincher 's status as a film maker ",
    'positive',
  ),
  (
    'glue_stsb',
    {
      'sentence1': 'Representatives for Puretunes could not immediately be reached.',
      'sentence2': 'Puretunes representatives could not be located.',
      'label': np.float32(3.25),
    },
    'stsb sentence1: Representatives for Puretunes could not immediately be reached. sentence2:'
    ' Puretunes representatives could not be located.',
    '3.2',
  ),
  (
    'super_glue_cb',
    {
      'hypothesis': 'Valence was helping',
      'premise': 'Did he think he was helping?',
      'label': 1,
    },
    'cb hypothesis: Valence was helping premise: Did he think he was helping?',
    'contradiction',
  ),
  (
    'super_glue_copa',
    {
      'choice1': 'Many citizens relocated to the capitol.',
      'choice2': 'Many citizens took refuge in other territories.',
      'premise': 'Political violence broke out in the nation.',
      'question': 'effect',
      'label': 1,
    },
    'copa choice1: Many citizens relocated to the capitol. choice2: Many citizens took refuge in'
    ' other territories. premise: Political violence broke out in the nation. question: effect',
    'choice2',  # 'True' in the paper; its code names the choice.
  ),
  (
    'super_glue_multirc',
    {
      'paragraph': '<b>Sent 1: </b>There was a squirrel named Joey.<br><b>Sent 2: </b>He ran.<br>',
      'question': 'Why was Joey surprised the morning he woke up for breakfast?',
      'answer': 'There was only pie to eat',
      'label': 1,
      'idx': {'paragraph': 5, 'question': 61, 'answer': 7},
    },
    'multirc question: Why was Joey surprised the morning he woke up for breakfast? answer: There'
    ' was only pie to eat paragraph: Sent 1: There was a squirrel named Joey. Sent 2: He ran. ',
    'True',
  ),
  (
    'super_glue_wic',  # The paper's has 'pos: N ', too.
    {
      'sentence1': 'It was the deliberation of his act that was insulting .',
      'sentence2': 'The deliberations of the jury .',
      'word': 'deliberation',
      'label': 0,
    },
    'wic sentence1: It was the deliberation of his act that was insulting . sentence2: The'
    ' deliberations of the jury . word: deliberation',
    'False',
  ),
  (
    'super_glue_wsc',
    {
      'text': 'The stable was very roomy, with four good stalls; a large swinging window opened'
      ' into the yard , which made it pleasant and airy.',
      'span1_text': 'stable',
      'span1_index': 1,
      'span2_text': 'it',
      'span2_index': 20,
      'label': 1,
    },
    'wsc: The stable was very roomy, with four good stalls; a large swinging window opened into'
    ' the yard , which made *it* pleasant and airy.',
    'stable',
  ),
  (
    'cnn_dailymail',
    {'article': 'marouane fellaini and adnan januzaj continue', 'highlights': 'the duo'},
    'summarize: marouane fellaini and adnan januzaj continue',
    'the duo',
  ),
  (
    'squad',
    {
      'question': "What does increased oxygen concentrations in the patient's lungs displace?",
      'context': 'Increased O 2 concentration in the lungs helps to displace carbon monoxide.',
      'answers': {'text': ['carbon monoxide', 'carbon'], 'answer_start': [61, 61]},
    },
    "question: What does increased oxygen concentrations in the patient's lungs displace?"
    ' context: Increased O 2 concentration in the lungs helps to displace carbon monoxide.',
    'carbon monoxide',
  ),
  (
    'wmt15_en_fr',
    {'en': 'a "family portrait" of stars', 'fr': 'un "portrait de famille" d\'étoiles'},
    'translate English to French: a "family portrait" of stars',
    'un "portrait de famille" d\'étoiles',
  ),
]


@pytest.mark.parametrize(
  ('name', 'record', 'inputs', 'targets'), PAPER, ids=[row[0] for row in PAPER]
)
def test_the_examples_of_the_paper(name, record, inputs, targets):
  example = fill(name, record)
  assert (example['inputs'], example['targets']) == (inputs, targets)


@pytest.mark.parametrize(
  ('label', 'written'),
  [(0, '0.0'), (0.09, '0.0'), (0.5, '0.4'), (2.5, '2.4'), (2.57, '2.6'), (3.25, '3.2'), (5, '5.0')],
)
def test_similarities_are_written_in_steps_of_a_fifth_and_scored_as_they_are(label, written):
  record = {'sentence1': 'x', 'sentence2': 'y', 'label': np.float32(label)}
  example = fill('glue_stsb', record)
  assert example['targets'] == written
  assert example['references'] == [f'{label:.3f}']


def test_answers_to_one_question_share_its_id():
  def question_id(paragraph, question, answer):
    idx = {'paragraph': paragraph, 'question': question, 'answer': answer}
    record = {'paragraph': 'p', 'question': 'q', 'answer': 'a', 'label': 0, 'idx': idx}
    return fill('super_glue_multirc', record)['question_id']

  assert question_id(5, 61, 0) == question_id(5, 61, 1)
  assert len({question_id(5, 61, 0), question_id(5, 6, 1), question_id(56, 1, 0)}) == 3


def test_a_multirc_target_is_the_question_and_the_label():
  example = {'question_id': '5-61'}
  assert prompts.with_question('True', example, is_target=True) == ('5-61', 'True')
  assert prompts.with_question('True', example) == 'True'


def record_of_news(passage):
  return {
    'passage': passage,
    'query': '@placeholder won',
    'entities': ['Ann', 'Bob'],
    'answers': ['Bob', 'Robert'],
  }


@pytest.mark.parametrize(
  ('passage', 'cleaned'),
  [
    ('Ann met Bob', 'Ann met Bob'),
    ('They ran\n@highlight\nAnn fell\n@highlight\nBob did not', 'They ran. Ann fell. Bob did not'),
    ('They ran.\n@highlight\nDid Ann?\n@highlight\nNo', 'They ran. Did Ann? No'),
    ('"Ran"\n@highlight\n\'No\'\n@highlight\nYes!\n@highlight\nOh', '"Ran" \'No\' Yes! Oh'),
  ],
)
def test_highlights_of_news_become_sentences(passage, cleaned):
  example = fill('super_glue_record', record_of_news(passage))
  start = 'record query: @placeholder won entities: Ann, Bob passage: '
  assert example == {
    'inputs': start + cleaned,
    'targets': 'Bob',
    'references': ['Bob', 'Robert'],
  }


def test_each_answer_is_a_record_of_its_own():
  records = [record_of_news('x'), {**record_of_news('y'), 'answers': ['Ann']}]
  signature = {
    'passage': tf.TensorSpec([], tf.string),
    'query': tf.TensorSpec([], tf.string),
    'entities': tf.TensorSpec([None], tf.string),
    'answers': tf.TensorSpec([None], tf.string),
  }
  dataset = tf.data.Dataset.from_generator(lambda: iter(records), output_signature=signature)
  single = [
    (one['passage'].decode(), _python(one['answers']))
    for one in prompts.each_answer(dataset).as_numpy_iterator()
  ]
  assert single == [('x', ['Bob']), ('x', ['Robert']), ('y', ['Ann'])]


@pytest.mark.parametrize(
  ('text', 'pronoun', 'index', 'marked'),
  [
    ('It was it and it .', 'it', 2, 'It was *it* and it .'),
    ('It was Ann', 'It', 0, '*It* was Ann'),
    ('This is his', 'his', 2, 'This is *his*'),  # Not within another word.
    ('He said "Good for him," twice', 'him', 4, 'He said "Good for *him*," twice'),
    (
      'Some day they might want to use it , but',
      'it',
      6,
      'Some day they might want to use *it* , but',
    ),
    ('two  spaces and he .', 'he', 4, 'two  spaces and *he* .'),
    ('a. she', 'she', 1, 'a. *she*'),
  ],
)
def test_the_pronoun_is_marked_where_it_stands(text, pronoun, index, marked):
  record = {'text': text, 'span2_text': pronoun, 'span2_index': index, 'span1_text': 'Ann'}
  example = fill('super_glue_wsc', {**record, 'label': 0})
  assert example == {
    'inputs': f'wsc: {marked}',
    'targets': 'Ann',
    'candidate': 'Ann',
    'label': 0,
  }


@pytest.mark.parametrize(
  ('predicted', 'candidate', 'alike'),
  [
    ('stable', 'stable', True),
    ('The Stable', 'stable', True),
    ('the grey cat', 'Cat', True),
    ('cat', 'my grey cat', True),
    ('dog', 'cat', False),
    ('grey dog', 'grey cat', False),
    ("Bob's hat", 'hat', False),
    ("Bob's", "Bob's hat", True),
    ('', 'cat', False),
    ('the', 'cat', False),
  ],
)
def test_a_noun_is_the_candidate_if_one_is_part_of_the_other(predicted, candidate, alike):
  example = {'candidate': candidate, 'label': 0}
  assert prompts.is_candidate(predicted, example) == str(alike)


@pytest.mark.parametrize(('label', 'word'), [(1, 'True'), (0, 'False'), (np.int64(1), 'True')])
def test_a_wsc_target_is_whether_the_candidate_is_meant(label, word):
  assert prompts.is_candidate('x', {'candidate': 'x', 'label': label}, is_target=True) == word


@pytest.mark.parametrize(
  ('name', 'record'),
  [
    ('glue_sst2', {'sentence': 'x', 'label': -1}),
    ('glue_stsb', {'sentence1': 'x', 'sentence2': 'y', 'label': np.float32(-1)}),
    ('super_glue_record', {**record_of_news('x'), 'answers': np.zeros(0, object)}),
    (
      'super_glue_multirc',
      {
        'paragraph': 'p',
        'question': 'q',
        'answer': 'a',
        'label': -1,
        'idx': {'paragraph': 0, 'question': 0, 'answer': 0},
      },
    ),
  ],
)
def test_a_record_without_label_has_an_empty_target(name, record):
  assert fill(name, record)['targets'] == ''
