"""From texts to predictions, a batch at a time: examples in, JSON-ready rows out."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm import fingerprints, notices, settings, storage
from calm.decoding import generator as generators
from calm.exits.families import Family
from calm.exits.rules import ExitRule, NeverExit
from calm.models import parameters
from calm.tasks import fidelity, tokenization
from calm.tasks import identity as identities
from calm.tasks.examples import Example
from calm.tasks.lines import HALF_A_PAIR

_SHORTEST = 32
# Whose code decides what is said of an example.
CODE = ('calm.models', 'calm.tasks', 'calm.exits', 'calm.decoding')


@dataclasses.dataclass(frozen=True)
class TextPredictor:
  """Decodes examples; what a row says depends on its example alone.

  A `calm.evaluation.predictor.Predictor` whose units are the tokens generated, EOS among them, and
  whose costs are 'layers', decoder layers run, and 'logits', those computed. A row also has
  `log_prob`, in nats, `sampling_log_prob` if tokens are drawn, and, if asked for, what is known of
  each token. Of several samples it is the likeliest one's; all stand in `samples`.

  Raises:
    ValueError: the model cannot read or end what the vocabulary makes of text.
  """

  generator: Any  # a calm.decoding.generator.Generator
  params: Any
  vocabulary: Any  # a seqio.Vocabulary
  inputs_length: settings.Count  # tokens of an input at most, EOS among them
  batch_size: settings.Count = 32
  truncate: bool = False  # Cut longer inputs instead of raising an error.
  add_eos: bool = True  # After an input, as in training.
  seed: settings.Seed = 0  # Of draws; an input's depend on it and the input's index.
  exits: Family | None = None  # What `at` gives; the generator's own rule need not be one of them.
  per_token: bool = False  # Say of each token, too, where it stopped and how many logits it took.
  token_scores: bool = False  # Say of each token how likely it was, and minus its free energy.

  unit = 'token'
  takes_prefix = True
  flags = {  # noqa: RUF012, never written
    'rule': '--gin.RULE',
    'rule.measure': '--gin.MEASURE',
    'rule.measure.gate_threshold': '--gin.GATE_THRESHOLD',
    'rule.threshold': '--gin.THRESHOLD',
    'rule.threshold.tau': '--gin.TAU',
    'rule.threshold.max_length': '--gin.MAX_DECODE_STEPS',
    'rule.min_exit': '--gin.MIN_EXIT',
    'params': '--workdir',
    'model': '--workdir or --gin.CONFIG',
    'vocabulary': '--gin.VOCABULARY',
    'inputs_length': '--gin.INPUTS_LENGTH',
    'max_decode_steps': '--gin.MAX_DECODE_STEPS',
    'truncate': '--gin.TRUNCATE',
    'seed': '--gin.SEED',
    'fill': '--gin.generator.Generator.fill',
    'sampling': '--gin.generator.Generator.sampling',
    'sampling.temperature': '--gin.TEMPERATURE',
    'sampling.top_k': '--gin.TOP_K',
    'sampling.top_p': '--gin.TOP_P',
    'sampling.num_samples': '--gin.NUM_SAMPLES',
  }

  def __post_init__(self) -> None:
    settings.check_fields(self)
    known, wanted = self.generator.model.config.vocab_size, self.vocabulary.vocab_size
    if wanted > known:
      raise ValueError(
        f'The vocabulary has {wanted} tokens, the model only {known}: set VOCABULARY to the one'
        ' that the model was trained with.'
      )
    if self.vocabulary.eos_id != self.generator.eos_id:
      raise ValueError(
        f'The vocabulary ends texts with {self.vocabulary.eos_id}, the generator'
        f' with {self.generator.eos_id}: give it eos_id = {self.vocabulary.eos_id}.'
      )
    notices.devices()
    # Once on the device, not with each batch.
    object.__setattr__(self, 'params', jax.tree.map(jnp.asarray, self.params))
    notices.parameters(self.params)

  @property
  def name(self) -> str:
    """That of the family of rules: its measure's, if it has one."""
    return self._family.name

  @property
  def results(self) -> tuple[str, ...]:
    """All names that a row may have."""
    per_token = ('input_tokens', 'tokens', 'exit_layers', 'num_logits') if self.per_token else ()
    scores = ('token_log_probs', 'negative_energies') if self.token_scores else ()
    drawn = ('sampling_log_prob',) if self.generator.draws else ()
    several = ('samples',) if self.generator.sampling.num_samples > 1 else ()
    return ('prediction', 'units', 'costs', 'log_prob', *drawn, *per_token, *scores, *several)

  @property
  def identity(self) -> Mapping[str, Any]:
    """Model, parameters, vocabulary, rule, lengths and code, by content.

    How many are decoded at once does not count: a row does not see its batch.
    """
    return self._identity(self.generator.rule)

  @property
  def family(self) -> Mapping[str, Any]:
    """The same, whatever the threshold. Raises ValueError if there is no rule with one."""
    return self._identity(self._family)

  @property
  def with_evidence(self) -> 'TextPredictor':
    """The same with rows that hold the scores of their tokens."""
    return dataclasses.replace(self, token_scores=True)

  def at(self, threshold: float | None) -> 'TextPredictor':
    """The same at a threshold of the family; None never exits."""
    return self.with_rule(NeverExit() if threshold is None else self._family(threshold))

  def with_rule(self, rule: ExitRule) -> 'TextPredictor':
    """The same by any rule."""
    return self.with_generator(rule=rule)

  def with_generator(self, **changes: Any) -> 'TextPredictor':
    """The same with other settings of the generator."""
    generator = dataclasses.replace(self.generator, **changes)
    return dataclasses.replace(self, generator=generator)

  def check(self, examples: Iterable[Example]) -> None:
    """Raises a ValueError that names the first example that is too long or cannot be encoded.

    Says on standard error how many are cut, hold characters that the vocabulary does not know, or
    have a target that no tokens stand for.
    """
    notices.once('tokenising', 'Tokenising the inputs, to see that all can be read.')
    losses = fidelity.Losses()
    for example in examples:
      self.tokenize(example, losses)
      self._prefix(example, losses)
      if example.target:
        (target,) = tokenization.encode(self.vocabulary, [example.target])
        losses.look(self.vocabulary, 'targets', [example.target], [target], [example.where])
    losses.say()

  def tokenize(self, example: Example, losses: fidelity.Losses | None = None) -> np.ndarray:
    """Tokens int32[n] of an example's text, its end included; none if it has no text.

    Raises:
      ValueError: there are more than inputs_length, and they are not to be cut; names the example.
    """
    if not example.texts:
      return np.zeros(0, np.int32)
    (text,) = example.texts.values()
    _check_utf8(text, example)
    (tokens,) = tokenization.encode(self.vocabulary, [text])
    end = [self.vocabulary.eos_id] if self.add_eos else []
    ended = np.array([*tokens, *end], np.int32)
    length, cut = self.inputs_length, self.truncate
    if losses is not None:
      losses.look(self.vocabulary, 'inputs', [text], [tokens], [example.where])
      if cut and len(ended) > length:
        losses.cut('inputs', example.where)
    return tokenization.checked(
      ended, length, cut, example.where, 'inputs', ends_in_eos=self.add_eos
    )

  def _prefix(self, example: Example, losses: fidelity.Losses | None = None) -> np.ndarray:
    """Tokens int32[n] that the prediction is to begin with, without an end."""
    _check_utf8(example.prefix, example)
    (tokens,) = tokenization.encode(self.vocabulary, [example.prefix])
    if losses is not None and example.prefix:
      losses.look(self.vocabulary, 'prefixes', [example.prefix], [tokens], [example.where])
    return np.array(tokens, np.int32)

  def __call__(
    self, examples: Sequence[Example], encoded: Sequence[np.ndarray] | None = None
  ) -> list[dict[str, Any]]:
    """The rows of at most batch_size examples, in their order.

    `encoded` are the encoder's states [n, D] of each example's n tokens, where they are known.
    """
    inputs = [self.tokenize(example) for example in examples]
    length = padded_length(max(map(len, inputs)), self.inputs_length)
    tokens = tokenization.pad_rows(inputs, length, self.batch_size)
    prefixes = [self._prefix(example) for example in examples]
    longest = max(map(len, prefixes))
    prompts = None
    if longest:
      prompts = tokenization.pad_rows(prefixes, 1 << (longest - 1).bit_length(), self.batch_size)
    given: dict[str, Any] = {'prompts': prompts, 'key': self._keys(examples)}
    if encoded is not None:
      given['encoded'] = _pad_states(encoded, length, self.batch_size)
    notices.once('decoding', 'Decoding; each new shape of a batch is compiled first.')
    decoded = jax.device_get(self.generator(self.params, tokens, **given))
    samples = decoded.tokens.shape[0] // self.batch_size
    rows = [
      self._row(decoded, row, len(prefixes[row // samples]))
      for row in range(len(examples) * samples)
    ]
    rows = [best_sample(rows[at : at + samples]) for at in range(0, len(rows), samples)]
    if self.per_token:
      rows = [{**row, 'input_tokens': len(own)} for row, own in zip(rows, inputs, strict=True)]
    return rows

  @property
  def _family(self) -> Family:
    if self.exits is None:
      raise ValueError('There is no rule with a threshold: give `exits`, as @families.family().')
    return self.exits

  def _identity(self, rule: ExitRule | Family) -> dict[str, Any]:
    config = self.generator.model.config
    drawn = {'seed': self.seed} if self.generator.draws else {}
    return {
      'model': fingerprints.identity(config),
      'params': parameters.fingerprint(self.params),
      'vocabulary': fingerprints.identity(identities.describe_vocabulary(self.vocabulary)),
      'rule': fingerprints.identity(rule),
      'fill': self.generator.fill,
      'sampling': fingerprints.identity(self.generator.sampling),
      'max_decode_steps': self.generator.max_decode_steps,
      'inputs_length': self.inputs_length,
      'truncate': self.truncate,
      'add_eos': self.add_eos,
      **drawn,
      'code': fingerprints.code(*CODE),
    }

  def _keys(self, examples: Sequence[Example]) -> jax.Array | None:
    if not self.generator.draws:
      return None
    indices = np.zeros(self.batch_size, np.int32)
    indices[: len(examples)] = [example.index for example in examples]
    return generators.row_keys(jax.random.key(self.seed), jnp.asarray(indices))

  def _row(self, decoded: Any, row: int, given: int) -> dict[str, Any]:
    """What is said of a row whose first `given` tokens are not its own.

    `decoded` is a `calm.decoding.loop.Decoded` of NumPy arrays.
    """
    exit_layer = decoded.exit_layer[row, given:]
    num_logits = decoded.num_logits[row, given:]
    num_tokens = int((exit_layer > 0).sum())
    end = given + num_tokens
    result = {
      'prediction': self.vocabulary.decode(decoded.tokens[row, :end].tolist()),
      'units': num_tokens,
      'costs': {'layers': int(exit_layer.sum()), 'logits': int(num_logits.sum())},
      'log_prob': storage.number(decoded.log_prob[row]),
    }
    if self.per_token:
      result['tokens'] = decoded.tokens[row, given:end].tolist()
      result['exit_layers'] = exit_layer[:num_tokens].tolist()
      result['num_logits'] = num_logits[:num_tokens].tolist()
    if self.token_scores:
      for name, values in (
        ('token_log_probs', decoded.token_log_prob),
        ('negative_energies', decoded.negative_energy),
      ):
        result[name] = [storage.number(value) for value in values[row, given:end]]
    if self.generator.draws:
      result['sampling_log_prob'] = storage.number(decoded.sampling_log_prob[row])
    return result


def _check_utf8(text: str, example: Example) -> None:
  try:
    text.encode('utf-8')
  except UnicodeEncodeError:  # JSON may escape half of a surrogate pair.
    raise ValueError(f'{example.where}: {HALF_A_PAIR}') from None


def _pad_states(states: Sequence[np.ndarray], length: int, num_rows: int) -> np.ndarray:
  """States [n, D] of each row as one array [num_rows, length, D], 0 where there are none."""
  padded = np.zeros((num_rows, length, states[0].shape[-1]), states[0].dtype)
  for row, own in zip(padded, states, strict=False):
    row[: len(own)] = own
  return padded


def padded_length(longest: int, inputs_length: int) -> int:
  """The length a batch is padded to: of few different ones, so that little is compiled."""
  return min(max(_SHORTEST, 1 << max(0, longest - 1).bit_length()), inputs_length)


def best_sample(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The row of the sample of largest log_prob; `samples` in it are all, if there are several."""
  log_probs = [-math.inf if row['log_prob'] is None else row['log_prob'] for row in samples]
  best = samples[log_probs.index(max(log_probs))]
  return best if len(samples) == 1 else {**best, 'samples': list(samples)}
