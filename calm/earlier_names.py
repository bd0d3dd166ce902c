"""Configurations that earlier versions saved with a run: read with the names of today.

What a run is, its model, task and training, is taken as it was saved. How it is evaluated,
calibrated and decoded comes from today's files, with the macros that were saved over them.
"""

import re

# What marks a configuration of an earlier version.
_EARLIER = re.compile(
  r'^from calm\.decoding import (?:calibrating|corpus|evaluation)$', re.MULTILINE
)
# What marks one of a T5; those from before tokens could be drawn know no such macro.
_SAVED = re.compile(r'^# Macros:$', re.MULTILINE)
_DECODES = re.compile(r'^from calm\.decoding import generator$', re.MULTILINE)
_DRAWS = re.compile(r'^TEMPERATURE =', re.MULTILINE)
# Modules and configurables that are wired anew.
_GONE = r'calibrating|corpus|evaluation|decoder|study|efficiency|report'
_IMPORT = re.compile(rf'^from calm\.\w+ import (?:{_GONE})\n', re.MULTILINE)
# A binding, and the lines that go on with it.
_BINDING = re.compile(rf'^(?:{_GONE})\.\w+\.\w+ =.*\n(?:[ \t].*\n)*', re.MULTILINE)
_IMPORT_LINE = re.compile(r'^(?:from|import) .*\n', re.MULTILINE)
_KEPT = re.compile(r'^decoder\.Decoder\.(?=(?:fill|sampling|eos_id) =)', re.MULTILINE)
_RENAMED = (
  (r'\blikely_margin\b', 'shortlist_margin'),
  (r'\bopens_at\b', 'gate_threshold'),
  (r'\bGATE_OPENS_AT\b', 'GATE_THRESHOLD'),
  (r'\bconfidence\.certainty\b', 'confidence.entropy_confidence'),
  (r'\boptimizers\.only\b', 'optimizers.train_only'),
  (r'\bexit_classifier\.initial_params\.directory\b', 'checkpoints.initial_params.directory'),
  (
    r'^exit_classifier\.initial_params\.model =',
    "checkpoints.initial_params.fresh = 'exit_classifier/'\ncheckpoints.initial_params.model =",
  ),
  (r'@exit_classifier\.initial_params\b', '@checkpoints.initial_params'),
  (r'^(pretrained\.initial_params\.)config = %CONFIG$', r'\1model = @t5.T5()'),
)
_FILES = (
  'models/t5',
  *(f'runs/{name}' for name in ('common', 'exits', 'evaluate', 'calibrate', 'study', 'decode')),
)


def translate(source: str) -> str:
  """Gin source in today's names, if it is a configuration that an earlier version saved."""
  if _EARLIER.search(source):
    source = _KEPT.sub('generator.Generator.', source)
    source = _BINDING.sub('', _IMPORT.sub('from calm.decoding import generator\n', source))
    for earlier, now in _RENAMED:
      source = re.sub(earlier, now, source, flags=re.MULTILINE)
  elif not _DECODES.search(source) or not _SAVED.search(source) or _DRAWS.search(source):
    return source
  includes = ''.join(f"include 'gin/{name}.gin'\n" for name in _FILES)
  # After the imports, before what was saved.
  imports = [*_IMPORT_LINE.finditer(source)]
  end = imports[-1].end()
  return f'{source[:end]}{includes}{source[end:]}'
