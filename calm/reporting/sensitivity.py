"""CALM's Fig. 2a: what one wrong token does to the rest of the text, by where it stands.

Section 3.3.2 of https://arxiv.org/abs/2207.07061. At one position the token is the first layer's
prediction, or the tenth likeliest of the last layer's; all others are the last layer's, greedily,
and no state is copied.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from calm import settings
from calm.decoding.sampling import Choice, argmax, token_log_prob
from calm.decoding.shortlist import best_of
from calm.evaluation import calibrate
from calm.evaluation.outcomes import Results, predict_split
from calm.evaluation.split import Split
from calm.exits.rules import Evidence, NeverExit
from calm.reporting.study import Study

KINDS = ('first layer', 'ranked')


@flax.struct.dataclass
class FirstLayerAt:
  """An exit rule: at one position the first layer predicts, everywhere else the last."""

  position: jax.typing.ArrayLike
  needs = ()

  def may_exit(self, evidence: Evidence) -> jax.Array:
    """Rows at the position, after layer 1."""
    return (evidence.position == self.position) & (evidence.layer == 1)

  def __call__(self, evidence: Evidence) -> tuple[jax.Array, jax.Array]:
    """These rows stop."""
    return self.may_exit(evidence), jnp.ones_like(evidence.position, jnp.float32)


@flax.struct.dataclass
class RankedAt:
  """A choice rule: at one position the token of a rank (1 is the likeliest), else the likeliest."""

  position: jax.typing.ArrayLike
  rank: int = flax.struct.field(pytree_node=False, default=10)
  num_samples: int = flax.struct.field(pytree_node=False, default=1)

  def __call__(self, logits: jax.Array, keys: jax.Array | None, position: jax.Array) -> Choice:
    """Chooses for float32 logits[B, V] at the int32 position[B] within each row."""
    del keys
    here = position == self.position
    token = jax.lax.switch(
      here.any().astype(jnp.int32),
      [
        lambda: argmax(logits),
        lambda: jnp.where(here, best_of(logits, self.rank)[:, -1], argmax(logits)),
      ],
    )
    log_prob = token_log_prob(logits, token)
    return Choice(token, log_prob, jnp.zeros_like(log_prob))


def sensitivity(
  study: Study,
  positions: Sequence[settings.Natural],
  *,
  num_examples: settings.Count = 100,
  rank: settings.Count = 10,
) -> list[dict[str, Any]]:
  """Rows of 'kind' (of KINDS), 'position', 'similarity' and 'num_examples'.

  `similarity` is 1 less the mean dissimilarity to the full model's text, over those of the first
  `num_examples` examples whose text by the full model has a token at the position (from 0). Where
  there is none, the row is left out.

  Raises:
    ValueError: a position below 0, or a rank that the vocabulary does not have.
  """
  if min(positions, default=0) < 0 or not 1 <= rank <= study.config.vocab_size:
    raise ValueError(f'positions {positions} begin at 0, rank {rank} at 1, below the vocabulary.')
  few = Split(study.task, study.split.name, study.split.examples[:num_examples])
  full = study.full.results.rows[:num_examples]
  rows = []
  for kind in KINDS:
    for position in positions:
      reached = [i for i, row in enumerate(full) if row['units'] > position]
      if reached:
        results = _perturbed(study, few, kind, position, rank)
        values = [
          study.dissimilarity(_output(study, results.rows[i]), _output(study, full[i]))
          for i in reached
        ]
        rows.append(
          {
            'kind': kind,
            'position': position,
            'similarity': 1 - sum(values) / len(values),
            'num_examples': len(reached),
          }
        )
  return rows


def _output(study: Study, row: Mapping[str, Any]) -> Any:
  """What the dissimilarity compares: a text, or tokens."""
  return row['prediction'] if 'risk' in study.objectives else row['tokens']


def _perturbed(study: Study, few: Split, kind: str, position: int, rank: int) -> Results:
  """Decodes with one wrong token; kept like everything else."""
  if kind == 'ranked':
    changes: dict[str, Any] = {'rule': NeverExit(), 'sampling': RankedAt(position, rank)}
  else:
    changes = {'rule': FirstLayerAt(position), 'fill': 'true_states'}
  predictor = study.predictor.with_generator(**changes)
  folder = Path(study.workdir, calibrate.FOLDER, few.name, 'perturbed', kind.replace(' ', '_'))
  results = predict_split(few, predictor, folder / str(position))
  if results.num_predicted:
    print(f'{results.folder}: {results.seconds:.1f} s', file=sys.stderr)
  return results
