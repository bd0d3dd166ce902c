"""From texts to predictions, a batch at a time: tokens in, JSON-ready results out."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm.calibration.fingerprints import describe, fingerprint
from calm.decoding import decoder as decoders
from calm.decoding.items import Item

# What is said of a prediction; `predictions` stands for `prediction` if there are several.
RESULTS = (
  'prediction',
  'predictions',
  'num_tokens',
  'layers_per_token',
  'log_prob',
  'sampling_log_prob',
  'tokens',
  'exit_layers',
  'num_logits',
)
_SHORTEST = 32


@dataclasses.dataclass(frozen=True)
class TextDecoder:
  """Decodes batches of items; what a row gives depends on its item alone.

  Raises:
    ValueError: the model cannot read or end what the vocabulary makes of text.
  """

  decoder: Any  # a calm.decoding.decoder.Decoder
  params: Any
  vocabulary: Any  # a seqio.Vocabulary
  inputs_length: int  # tokens of an input at most, EOS among them
  batch_size: int = 32
  truncate: bool = False  # Cut longer inputs instead of raising an error.
  seed: int = 0  # Of draws; an input's depend on it and the input's index.
  per_token: bool = False  # Say of each token, too, where it stopped and how many logits it took.

  def __post_init__(self):
    for field in ('inputs_length', 'batch_size'):
      if getattr(self, field) < 1:
        raise ValueError(f'{field} must be at least 1, not {getattr(self, field)}.')
    known, wanted = self.decoder.model.config.vocab_size, self.vocabulary.vocab_size
    if wanted > known:
      raise ValueError(
        f'The vocabulary has {wanted} tokens, the model only {known}: set VOCABULARY to the one'
        ' that the model was trained with.'
      )
    if self.vocabulary.eos_id != self.decoder.eos_id:
      raise ValueError(
        f'The vocabulary ends texts with {self.vocabulary.eos_id}, the decoder with'
        f' {self.decoder.eos_id}: give the decoder eos_id = {self.vocabulary.eos_id}.'
      )
    # Once on the device, not with each batch.
    object.__setattr__(self, 'params', jax.tree.map(jnp.asarray, self.params))

  @property
  def settings(self) -> dict[str, Any]:
    """All that results depend on beside their inputs, as JSON."""
    return {
      'decoder': describe(self.decoder),
      'params': fingerprint(self.params),
      'vocabulary': describe(self.vocabulary),
      'inputs_length': self.inputs_length,
      'batch_size': self.batch_size,
      'truncate': self.truncate,
      'seed': self.seed,
      'results': RESULTS if self.per_token else [],
    }

  def tokenize(self, text: str, where: str = 'the text') -> np.ndarray:
    """Tokens int32[n] of a text, EOS at their end; `where` names it in errors.

    Raises:
      ValueError: there are more than inputs_length, and they are not to be cut.
    """
    from calm.tasks import batches

    try:
      text.encode('utf-8')
    except UnicodeEncodeError as error:  # JSON may escape half of a surrogate pair.
      raise ValueError(f'{where}: a text cannot be written as UTF-8: {error}.') from None
    (tokens,) = batches.encode(self.vocabulary, [text])
    ended = np.array([*tokens, self.vocabulary.eos_id], np.int32)
    return batches.fit(ended, self.inputs_length, self.truncate, where, 'inputs')

  def __call__(self, items: Sequence[Item]) -> list[dict[str, Any]]:
    """The results of at most batch_size items, in their order, named as in `RESULTS`."""
    from calm.tasks import batches

    length = padded_length(max(len(item.tokens) for item in items), self.inputs_length)
    tokens = batches.pad_rows([item.tokens for item in items], length, self.batch_size)
    decoded = jax.device_get(self.decoder(self.params, tokens, key=self._keys(items)))
    samples = decoded.tokens.shape[0] // self.batch_size
    rows = [self._result(decoded, row) for row in range(len(items) * samples)]
    if samples == 1:
      return rows
    return [_side_by_side(rows[at : at + samples]) for at in range(0, len(rows), samples)]

  def _keys(self, items):
    if not self.decoder.draws:
      return None
    indices = np.zeros(self.batch_size, np.int32)
    indices[: len(items)] = [item.index for item in items]
    return decoders.row_keys(jax.random.key(self.seed), jnp.asarray(indices))

  def _result(self, decoded, row):
    exit_layer = decoded.exit_layer[row]
    num_tokens = int((exit_layer > 0).sum())
    result = {
      'prediction': self.vocabulary.decode(decoded.tokens[row, :num_tokens].tolist()),
      'num_tokens': num_tokens,
      'layers_per_token': round(int(exit_layer.sum()) / max(1, num_tokens), 6),
      'log_prob': _number(decoded.log_prob[row]),
    }
    if self.per_token:
      result['tokens'] = decoded.tokens[row, :num_tokens].tolist()
      result['exit_layers'] = exit_layer[:num_tokens].tolist()
      result['num_logits'] = decoded.num_logits[row, :num_tokens].tolist()
    if self.decoder.draws:
      result['sampling_log_prob'] = _number(decoded.sampling_log_prob[row])
    return result


def padded_length(longest: int, inputs_length: int) -> int:
  """The length a batch is padded to: of few different ones, so that little is compiled."""
  return min(max(_SHORTEST, 1 << max(0, longest - 1).bit_length()), inputs_length)


def likeliest(result: dict[str, Any]) -> dict[str, Any]:
  """The result of the sample of largest log_prob, or the only one."""
  if 'predictions' not in result:
    return result
  log_probs = [-math.inf if value is None else value for value in result['log_prob']]
  best = log_probs.index(max(log_probs))
  each = {key: value[best] for key, value in result.items() if key in RESULTS}
  return {**each, 'prediction': each.pop('predictions')}


def _number(value):
  """A float, or None where JSON has no number."""
  return float(value) if math.isfinite(value) else None


def _side_by_side(rows):
  names = {'prediction': 'predictions'}
  return {names.get(key, key): [row[key] for row in rows] for key in rows[0]}
