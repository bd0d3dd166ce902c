"""How much a classifier's probabilities are to be trusted: one temperature for each exit.

Guo et al., https://arxiv.org/abs/1706.04599. Fitted on training rows that were held out, never on
the split that is scored; labels stay as they are.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.optimize
import scipy.special

from calm import processes, storage
from calm.exits.stopping import Confidence
from calm.tasks.length_sorted import EncodedTexts
from calm.training import sharding
from sweet.inference import StagedRun
from sweet.objectives import Classifiers

FILE = 'temperatures.json'
LEAST = 50
BOUNDS = (0.05, 20.0)


def fit(outputs: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
  """The temperature of each classifier that makes the labels likeliest.

  Args:
    outputs: logits[n, M, C] of M classifiers.
    labels: int[n].

  Returns:
    M temperatures within BOUNDS: logits are to be divided by them.

  Raises:
    ValueError: there are no rows, or not as many labels.
  """
  if not len(labels) or len(labels) != len(outputs):
    raise ValueError(f'{len(outputs)} rows with {len(labels)} labels: a temperature needs some.')
  return tuple(_fit(outputs[:, k].astype(np.float64), labels) for k in range(outputs.shape[1]))


def fit_run(
  workdir: str, model: Classifiers, params: Any, held_out: EncodedTexts, step: int
) -> None:
  """Fits a run's temperatures on held-out rows and writes them into the workdir.

  With fewer than LEAST rows nothing is fitted: all are 1, and stderr says so. Of several processes,
  which call this together, each fits them, and the first one writes.
  """
  temperatures = (1.0,) * len(model.exits)
  first = jax.process_index() == 0
  if len(held_out) < LEAST:
    if first:
      storage.warn(
        f'{len(held_out)} held-out rows (NUM_HELD_OUT, a tenth of all at most) are too few to fit'
        f' temperatures ({LEAST}): all are 1.'
      )
  else:
    with processes.answering():
      params = sharding.gathered(params)
    texts = [(held_out.tokens[i], held_out.token_types[i]) for i in range(len(held_out))]
    longest = int(np.diff(held_out.tokens.offsets).max())
    outputs, _ = StagedRun(model, Confidence(), max_length=longest).everything(params, texts)
    temperatures = fit(outputs, held_out.labels)
  record = {'temperatures': list(temperatures), 'rows': len(held_out), 'step': step}
  if first:
    storage.write_record(Path(workdir, FILE), record)


def forget(workdir: str) -> None:
  """Removes what earlier parameters of a run were given: it trains on."""
  Path(workdir, FILE).unlink(missing_ok=True)


def of_run(workdir: str) -> tuple[float, ...] | None:
  """The temperatures that training left in a workdir; None if it left none (a regression).

  Raises:
    DamagedError: the file is damaged.
  """
  path = Path(workdir, FILE)
  if not path.exists():
    return None
  record = storage.read_record(path)
  try:
    return tuple(float(one) for one in record['temperatures'])
  except (KeyError, TypeError, ValueError):
    raise storage.DamagedError(
      f'{path} holds no temperatures: `sweet train` on the same workdir writes them again.'
    ) from None


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
  """The mean of -log softmax(logits[n, C] / temperature) at labels[n], in nats."""
  scaled = logits / temperature
  of_labels = np.take_along_axis(scaled, labels[:, None], axis=1)[:, 0]
  return float(np.mean(scipy.special.logsumexp(scaled, axis=1) - of_labels))


def _fit(logits: np.ndarray, labels: np.ndarray) -> float:
  # The loss is convex in 1 / T, so that of log T it has a single minimum.
  found = scipy.optimize.minimize_scalar(
    lambda log_t: negative_log_likelihood(logits, labels, np.exp(log_t)),
    bounds=np.log(BOUNDS),
    method='bounded',
    options={'xatol': 1e-4},
  )
  return float(np.exp(found.x))
