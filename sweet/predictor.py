"""From texts to labels: examples in, JSON-ready rows out, by the first classifier that is sure.

A `calm.evaluation.predictor.Predictor` whose unit is the example. Its threshold is the measure's;
one run in which no row leaves tells what it would say at every threshold.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm import fingerprints, storage
from calm.exits import stopping
from calm.models import parameters
from calm.settings import Count, Positive, check_fields
from calm.tasks import wordpiece
from calm.tasks.classification import Classification, Form
from calm.tasks.examples import Example
from sweet import checkpoint
from sweet.inference import StagedRun
from sweet.objectives import Classifiers

# Whose code decides what is said of an example.
CODE = ('calm.models', 'calm.tasks', 'calm.exits', 'sweet')


@dataclasses.dataclass(frozen=True)
class ExitsPredictor:
  """Classifies examples; what a row says depends on its example alone.

  A row has `prediction` (a label's name, or a number in digits), `units` (1), `num_tokens` (of its
  texts, as they were read), `costs` ('layers' that were run for it), `exit` (the classifier that
  answered, from 1), `exit_layer`, `confidence` (None where it is no number) and, of a
  classification, `probability`, the prediction's. With `evidence` it has `logits`, too, what the
  classifier that answered says.

  Raises:
    ValueError: the labels are not as many as the classifiers' outputs, or temperatures not as many
      as the exits.
  """

  model: Classifiers
  params: Any
  tokenizer: Any  # a calm.tasks.wordpiece tokenizer
  labels: Form  # what outputs mean
  length: Count = 256  # tokens of a row at most
  truncate: bool = True  # Cut longer texts instead of raising an error.
  measure: stopping.ExampleMeasure = dataclasses.field(default_factory=stopping.Confidence)
  threshold: float | None = None  # None never exits early
  temperatures: Sequence[Positive] | None = None  # of each classifier; None is 1
  max_batch_size: Count = 32
  batch_size: Count = 1024  # examples whose rows are batched together
  recorded: bool = False  # Whether rows hold what every classifier says.
  evidence: bool = False  # Whether rows hold what other scores could be made of.

  unit = 'example'
  flags = {  # noqa: RUF012, never written
    'params': '--workdir',
    'model': '--workdir or --gin.CONFIG',
    'tokenizer': '--gin.CHECKPOINT',
    'labels': '--gin.LABELS',
    'length': '--gin.LENGTH',
    'truncate': '--gin.TRUNCATE',
    'measure': '--gin.MEASURE',
    'temperatures': '--gin.TEMPERATURES',
  }

  def __post_init__(self) -> None:
    check_fields(self)
    outputs, exits = self.model.config.num_outputs, self.model.exits
    if self.labels.num_outputs != outputs:
      raise ValueError(f'{self.labels.num_outputs} labels for classifiers of {outputs} outputs.')
    if self.temperatures is not None:
      by = tuple(float(one) for one in self.temperatures)
      if len(by) != len(exits) or not all(0 < one < float('inf') for one in by):
        raise ValueError(f'temperatures are {by}: {len(exits)} above 0 are needed.')
      object.__setattr__(self, 'temperatures', by)
    checkpoint.check_texts(self.model, self.tokenizer, self.length)
    self._check_threshold(self.threshold)
    # Once on the device, not with each batch.
    object.__setattr__(self, 'params', jax.tree.map(jnp.asarray, self.params))

  @property
  def name(self) -> str:
    """The measure's."""
    return self.measure.name

  @property
  def results(self) -> tuple[str, ...]:
    """All names that a row may have."""
    recorded = ('outputs', 'exit_scores') if self.recorded else ()
    evidence = ('logits',) if self.evidence else ()
    said = ('prediction', 'units', 'num_tokens', 'costs', 'exit', 'exit_layer')
    return (*said, 'confidence', 'probability', *recorded, *evidence)

  @property
  def identity(self) -> Mapping[str, Any]:
    """Model, parameters, tokenizer, labels, measure, threshold and code, by content.

    How rows are batched does not count: a row does not see the others.
    """
    if self.recorded:
      return {**self._system, 'recorded': True}
    return {**self.family, 'threshold': self.threshold}

  @property
  def family(self) -> Mapping[str, Any]:
    """The same, whatever the threshold."""
    return {**self._system, 'measure': fingerprints.identity(self.measure)}

  @property
  def recording(self) -> 'ExitsPredictor':
    """The same with rows that hold all that every classifier says."""
    return dataclasses.replace(self, threshold=None, recorded=True)

  @property
  def with_evidence(self) -> 'ExitsPredictor':
    """The same with rows that hold the logits of the classifier that answers."""
    return dataclasses.replace(self, evidence=True)

  def at(self, threshold: float | None) -> 'ExitsPredictor':
    """The same at a threshold; None never exits early."""
    return dataclasses.replace(self, threshold=threshold, recorded=False)

  def check(self, examples: Iterable[Example]) -> None:
    """Raises a ValueError that names the first example that it cannot read.

    Says on standard error how many are cut, or have tokens that the vocabulary lacks.
    """
    some = iter(example for example in examples if example.texts)
    parts = iter(lambda: list(itertools.islice(some, self.batch_size)), [])
    encoded = itertools.chain.from_iterable(map(self._encode, parts))
    for line in wordpiece.lost(encoded, self.length):
      storage.warn(f'{line}.', once=True)

  def tokenize(self, examples: Sequence[Example]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens and token types int32[n] of each example's texts.

    Raises:
      ValueError: some are too long and are not to be cut, or no texts that the tokenizer takes;
        names the example.
    """
    return [(one.tokens, one.token_types) for one in self._encode(examples)]

  def __call__(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The rows of examples, in their order; of one without a text an empty answer."""
    answered = iter(self._answers([example for example in examples if example.texts]))
    return [next(answered) if example.texts else _nothing() for example in examples]

  def _encode(self, examples: Sequence[Example]) -> Iterator[wordpiece.Encoded]:
    return self.tokenizer.encode(
      [tuple(example.texts.values()) for example in examples],
      self.length,
      truncate=self.truncate,
      where=[example.where for example in examples],
    )

  def _answers(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
    texts = self.tokenize(examples)
    lengths = [len(tokens) for tokens, _ in texts]
    if not self.recorded:
      answers = self._run(self.params, texts, self.threshold, self.temperatures)
      return self._rows(answers.exits, answers.outputs, answers.confidences, lengths)
    outputs, scores = self._run.everything(self.params, texts)
    exits, said, confidences = self._decide(outputs, scores, None)
    rows = self._rows(exits, said, confidences, lengths)
    for row, output in zip(rows, outputs.tolist(), strict=True):
      row['outputs'] = output
    if scores is not None:
      for row, score in zip(rows, scores.tolist(), strict=True):
        row['exit_scores'] = score
    return rows

  def replay(
    self, rows: Sequence[Mapping[str, Any]], threshold: float | None
  ) -> list[dict[str, Any]]:
    """The rows that `at(threshold)` gives, of those of `recording`."""
    self._check_threshold(threshold)
    outputs = np.array([row['outputs'] for row in rows], np.float32)
    scores = [row['exit_scores'] for row in rows if 'exit_scores' in row]
    exits, outputs, confidences = self._decide(
      outputs, np.array(scores, np.float32) if scores else None, threshold
    )
    return self._rows(exits, outputs, confidences, [row['num_tokens'] for row in rows])

  def _check_threshold(self, threshold: float | None) -> None:
    if threshold is not None:
      self.measure.check(self.model.config.num_outputs)

  @functools.cached_property
  def _run(self) -> StagedRun:
    return StagedRun(self.model, self.measure, self.max_batch_size, self.length)

  @property
  def _system(self) -> dict[str, Any]:
    return {
      'model': fingerprints.identity(self.model),
      'params': parameters.fingerprint(self.params),
      'tokenizer': fingerprints.identity(self.tokenizer),
      'labels': fingerprints.identity(self.labels),
      'length': self.length,
      'truncate': self.truncate,
      'temperatures': None if self.temperatures is None else list(self.temperatures),
      **({'evidence': True} if self.evidence else {}),
      'code': fingerprints.code(*CODE),
    }

  def _decide(
    self, outputs: np.ndarray, scores: np.ndarray | None, threshold: float | None
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `StagedRun` would say of outputs[n, M, C] and exit scores[n, M] or None."""
    if self.temperatures is not None:
      outputs = outputs / np.array(self.temperatures, np.float32)[:, None]
    value, ends = stopping.as_threshold(threshold), self.measure.ends(outputs.shape[-1])
    confidences = np.asarray(stopping.confidences(self.measure, outputs, scores))
    leaves = np.array(stopping.may_exit(confidences, value, ends))
    leaves[:, -1] = True
    exits = leaves.argmax(1)
    rows = np.arange(len(outputs))
    return exits + 1, outputs[rows, exits], confidences[rows, exits]

  def _rows(
    self,
    exits: np.ndarray,
    outputs: np.ndarray,
    confidences: np.ndarray,
    lengths: Sequence[int],
  ) -> list[dict[str, Any]]:
    costs = self.model.layers_run
    rows = []
    for exit, output, confidence, length in zip(
      exits.tolist(), outputs, confidences.tolist(), lengths, strict=True
    ):
      row = {
        'prediction': self.labels.answer(output),
        'units': 1,
        'num_tokens': length,
        'costs': {'layers': costs[exit - 1]},
        'exit': exit,
        'exit_layer': self.model.exits[exit - 1],
        'confidence': storage.number(confidence),
      }
      if isinstance(self.labels, Classification):
        shifted = np.exp(output - output.max())
        row['probability'] = round(float(shifted.max() / shifted.sum()), 6)
      if self.evidence:
        row['logits'] = [storage.number(value) for value in output.tolist()]
      rows.append(row)
    return rows


def _nothing() -> dict[str, Any]:
  """The row of an example without a text, such as a blank line."""
  return {'prediction': '', 'units': 0, 'num_tokens': 0, 'costs': {'layers': 0}}
