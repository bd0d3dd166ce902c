"""Serving under a certificate: its threshold, if it was made for this system and task."""

import seqio

from calm import fingerprints
from calm.calibration import bounds, testing
from calm.calibration import certificate as certificates
from calm.evaluation.predictor import Predictor
from calm.tasks import identity as identities

FLAGS = {
  'task': '--gin.TASK and what it is made of',
  'task.name': '--gin.TASK_NAME',
  'task.inputs': '--gin.INPUTS',
  'task.targets': '--gin.TARGETS',
  'task.references': '--gin.REFERENCES',
  'task.labels': '--gin.LABELS',
}


def at_certificate(
  predictor: Predictor,
  path: str,
  task: seqio.Task | None = None,
  *,
  p_value: testing.PValue = bounds.hoeffding_bentkus,
  procedure: testing.Procedure = testing.fixed_sequence,
) -> Predictor:
  """The predictor at the certificate's threshold; the full system if it certifies none.

  Args:
    predictor: its own threshold does not count.
    path: of the certificate.
    task: the `seqio.Task` whose examples are answered; None if there is none.
    p_value: the bound of the certificate, if it is one of the user's.
    procedure: likewise.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not valid, or was made for another system or task; says what differs, and the
      flag that mends it.
  """
  certificate = certificates.load(path, (p_value, procedure))
  described = None if task is None else fingerprints.identity(identities.describe_task(task))
  certificate.check(predictor.family, described, {**FLAGS, **predictor.flags})
  return predictor.at(certificate.threshold)
