"""A run in Python: load it by its workdir and decode texts. No gin is needed, nor seen.

As with the commands, the libraries are loaded with the configuration that needs them.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calm import arguments, configuration
from calm import compilation_cache as compiled_programs

if TYPE_CHECKING:
  import seqio

  from calm.evaluation.predictor import Predictor, Row
  from calm.tasks.examples import Example
  from calm.tasks.templates import Template
  from calm.training.distillation import Teacher


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained run that answers texts; several may be loaded beside each other."""

  workdir: Path
  predictor: 'Predictor'
  template: 'Template'  # what is made of an input, as in 'translate English to French: {en}'

  def at(self, threshold: float | None) -> 'Run':
    """The same run at a threshold of its rule; None is the full model.

    Raises:
      ValueError: the rule has no threshold.
    """
    return dataclasses.replace(self, predictor=self.predictor.at(threshold))

  def decode(self, inputs: Sequence[str | Mapping[str, Any]]) -> 'list[Row]':
    """Answers inputs, in their order.

    Args:
      inputs: texts, or records that have the fields of the template.

    Returns:
      For each a dict of `inputs`, the text as the model reads it, `prediction`, `units` (tokens
      generated, EOS among them), `costs` (in total: decoder `layers` run, `logits` made),
      `log_prob` in nats, and, a number for each token, `tokens`, `exit_layers` (from 1) and
      `num_logits`.

    Raises:
      ValueError: the template does not take an input, or it is too long; names it.
    """
    examples = [self._example(index, given) for index, given in enumerate(inputs)]
    self.predictor.check(examples)
    size = self.predictor.batch_size
    rows: list[Row] = []
    for start in range(0, len(examples), size):
      rows += self.predictor(examples[start : start + size])
    return [{**example.raw, **row} for example, row in zip(examples, rows, strict=True)]

  def _example(self, index: int, given: str | Mapping[str, Any]) -> 'Example':
    from calm.tasks.examples import Example

    where, fields = f'input {index}', set(self.template.fields)
    record = dict.fromkeys(fields, given) if isinstance(given, str) else given
    if isinstance(given, str) and len(fields) != 1:
      raise ValueError(
        f'{where} is a text, and {self.template.template!r} takes records: give a dict with '
        f'{", ".join(sorted(fields))}.'
      )
    try:
      text = self.template.fill(record, {})
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from None
    if isinstance(given, str) and not given.strip():  # Nothing is asked, nothing answered.
      return Example(index, where, {}, '', {'inputs': given})
    return Example(index, where, {'inputs': text}, '', {'inputs': text})


def load(
  workdir: str | os.PathLike,
  *,
  certificate: str | os.PathLike | None = None,
  gin_files: Sequence[str] = (),
  compilation_cache: str | os.PathLike | None = None,
  **settings: Any,
) -> Run:
  """Loads the run that `calm train` keeps in a workdir, with the newest checkpoint's weights.

  Args:
    workdir: the folder, wherever it is now.
    certificate: path of what `calm calibrate` wrote there: answers have its threshold. Without one
      they are the full model's, unless RULE says otherwise.
    gin_files: configs over the run's own, for a rule of one's own, say.
    compilation_cache: where compiled programs are kept, 'off' for nowhere; by default in the user's
      cache, as by the commands. It holds for all that this process compiles from then on.
    settings: values of macros, as MAX_DECODE_STEPS=20, or, in a dict behind two stars, of
      parameters. A text that begins with @ or % is a reference, as RULE='@rules.Oracle()'.

  Raises:
    FileNotFoundError: there is no run, checkpoint, config or certificate.
    ValueError: a setting that nothing reads, or a certificate for another system.
  """
  compiled_programs.use(compilation_cache)
  found = _predictor(workdir, certificate, gin_files, settings)

  from calm.tasks.templates import Template

  return Run(Path(workdir), found, Template(configuration.value('DECODE_TEMPLATE')))


def predictor(
  workdir: str | os.PathLike,
  certificate: str | os.PathLike | None = None,
  settings: Mapping[str, Any] | None = None,
) -> 'Predictor':
  """What answers in a run of any program, for a config of another: a model of a router, say.

  Arguments are those of `load`; the configuration in use stays as it is.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  with configuration.apart():
    return _predictor(workdir, certificate, (), settings or {})


@dataclasses.dataclass(frozen=True)
class Stage:
  """What a further stage of training takes from a run."""

  model: Any  # a calm.models.t5.T5
  params: Any
  vocabulary: Any  # a seqio.Vocabulary
  batches: Any  # an endless stream of its training examples, not packed


def stage(workdir: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> Stage:
  """Reads a run of `calm train`; the configuration in use stays as it is.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  with configuration.apart():
    _read(workdir, (), {'PACK': False, **(settings or {})})

    from calm.tasks import batches

    return Stage(
      configuration.value('MODEL'),
      configuration.value('PARAMS'),
      configuration.value('VOCABULARY'),
      configuration.called(batches.train_batches),
    )


def teacher(
  workdir: str | os.PathLike,
  vocabulary: 'seqio.Vocabulary',
  settings: Mapping[str, Any] | None = None,
) -> 'Teacher':
  """The T5 of a run of `calm train`, for another to learn from while that is trained.

  Args:
    workdir: the teacher's; the configuration in use stays as it is.
    vocabulary: of the model that learns.
    settings: as `load` takes them.

  Raises:
    FileNotFoundError, ValueError: as `load`; or the run is none of a T5, or its vocabulary another.
  """
  with configuration.apart():
    _read(workdir, (), settings or {})

    from calm import fingerprints
    from calm.tasks.identity import describe_vocabulary
    from calm.training.distillation import Teacher

    if configuration.macro('VOCABULARY') is None:
      raise ValueError(f'{workdir} is no run of `calm train`: a T5 learns from another T5.')
    theirs, ours = (
      fingerprints.identity(describe_vocabulary(one))
      for one in (configuration.value('VOCABULARY'), vocabulary)
    )
    if different := fingerprints.differences(theirs, ours):
      raise ValueError(
        f'The teacher in {workdir} has another vocabulary: {fingerprints.in_words(different)}. Soft'
        " targets need one: train the model on the teacher's."
      )
    return Teacher(configuration.value('MODEL'), configuration.value('PARAMS'))


def _predictor(
  workdir: str | os.PathLike,
  certificate: str | os.PathLike | None,
  gin_files: Sequence[str],
  settings: Mapping[str, Any],
) -> 'Predictor':
  """Reads a run's configuration and takes from it what answers."""
  _read(workdir, gin_files, settings)

  from calm.evaluation import certified

  found = configuration.value('PREDICTOR')
  if certificate is None:
    return found
  rest = {name: configuration.value(name.upper()) for name in ('task', 'p_value', 'procedure')}
  return certified.at_certificate(found, os.fspath(certificate), **rest)


def _read(
  workdir: str | os.PathLike, gin_files: Sequence[str], settings: Mapping[str, Any]
) -> None:
  """Reads a run's configuration."""
  saved = Path(workdir, 'config.gin')
  if not saved.is_file():
    raise FileNotFoundError(f'No {saved}: name the workdir of a run, as `calm train` makes it.')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  given = {'WORKDIR': os.fspath(workdir), **settings}
  bindings = [f'{name} = {_gin(value)}' for name, value in given.items()]
  configuration.parse([str(saved), *gin_files], bindings, [], {})


def _gin(value: Any) -> str:
  return arguments.as_gin_value(value) if isinstance(value, str) else repr(value)
