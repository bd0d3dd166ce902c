"""Tasks and mixtures that a module of the user's own registers with seqio.

They are text to text as all tasks here (`calm.tasks.text`), and bring their own vocabulary. A
mixture is trained on as a whole, each task at its rate, and evaluated task by task.
"""

import difflib
import importlib
from collections.abc import Sequence
from typing import TypeAlias

import seqio

from calm.tasks import text

TaskOrMixture: TypeAlias = 'seqio.Task | seqio.Mixture'


def task(name: str, *, modules: Sequence[str] = ()) -> TaskOrMixture:
  """The task or mixture that is registered under a name.

  Args:
    name: as in seqio.TaskRegistry or seqio.MixtureRegistry.
    modules: what to import before, such as ('my_package.my_tasks',).

  Raises:
    ValueError: there is none of this name, or one of its tasks is not text that is tokenised and
      ended by EOS; the message names it.
    ImportError: there is no such module.
  """
  for module in modules:
    importlib.import_module(module)
  names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
  if name not in names:
    close = difflib.get_close_matches(name, names, 3)
    raise ValueError(
      f'No task or mixture {name!r} is registered with seqio'
      f'{", but " + ", ".join(map(repr, close)) if close else ""}: name the module that registers'
      ' it, as in --gin.TASK_MODULES="(\'my_tasks\',)".'
    )
  found = seqio.get_mixture_or_task(name)
  for one in tasks_of(found):
    text.check_form(one)
  return found


def vocabulary(name: str, *, modules: Sequence[str] = ()) -> seqio.Vocabulary:
  """The vocabulary of the targets of a registered task, or of a mixture's first one."""
  return tasks_of(task(name, modules=modules))[0].output_features['targets'].vocabulary


def adds_eos(name: str, *, modules: Sequence[str] = ()) -> bool:
  """Whether the inputs of a registered task, or of a mixture's first one, end in EOS."""
  return tasks_of(task(name, modules=modules))[0].output_features['inputs'].add_eos


def tasks_of(task: TaskOrMixture) -> list[seqio.Task]:
  """The tasks of a mixture, and of the mixtures in it, in the order of their names; or the task."""
  return list(task.tasks) if isinstance(task, seqio.Mixture) else [task]


def rates_of(task: TaskOrMixture, split: str) -> list[tuple[seqio.Task, float]]:
  """The tasks that have a split, in the order of their names, and how often each is drawn from.

  Rates are relative to each other; a task with rate 0 is left out.

  Raises:
    ValueError: no task has the split, or a rate is negative, not a number, or 0 for all.
  """
  if not isinstance(task, seqio.Mixture):
    text.check_split(task, split)
    return [(task, 1.0)]
  rates = [(one, task.get_rate(one)) for one in tasks_of(task) if split in one.splits]
  if not rates:
    raise ValueError(f'No task of mixture {task.name!r} has a split {split!r}.')
  for one, rate in rates:
    if not 0 <= rate < float('inf'):
      raise ValueError(f'Mixture {task.name!r} draws task {one.name!r} at rate {rate}: 0 at least.')
  drawn = [(one, rate) for one, rate in rates if rate > 0]
  if not drawn:
    raise ValueError(f'Mixture {task.name!r} draws every task of split {split!r} at rate 0.')
  return drawn
