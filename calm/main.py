"""The `calm` command: `calm train | evaluate | calibrate | trials | decode | ...`.

This table and the gin files are the only places where all rooms meet.
"""

import sys

from calm import commands
from calm.commands import Command, Ignored, Option

GOES_ON = 'Interrupted, the same command goes on where it stopped.'
CALIBRATION_SPLIT = Option(
  '--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'
)

_THRESHOLD = 'rules.confident.value'
BY_CERTIFICATE = (
  Ignored(_THRESHOLD, 'the threshold is that of the certificate', beside='CERTIFICATE'),
  Ignored(
    'text_predictor.TextPredictor.exits',
    'without --certificate RULE says which tokens exit; @rules.confident() does by MEASURE',
    without='CERTIFICATE',
  ),
)

PROGRAM = commands.Program(
  'calm',
  'Early-exit T5: train, evaluate, decode.',
  (
    Command(
      'train',
      'calm.training.loop:train',
      'train a model, or go on where a run stopped',
      'Writes checkpoints, metrics.jsonl, TensorBoard events and the configuration into the '
      'workdir. The same command again goes on from the newest checkpoint there.',
      shared=True,
      begins_run=True,
    ),
    Command(
      'vocab',
      'calm.tasks.vocabularies:write_vocabulary',
      "train a SentencePiece vocabulary from a task's text",
      'Reads the inputs and targets of the configured task and writes the vocabulary where the '
      'configuration looks for it.',
    ),
    Command(
      'evaluate',
      'calm.evaluation.evaluate:evaluate',
      "decode a split of the task and print the task's metrics",
      GOES_ON,
      (
        Option('--split', 'EVALUATION_SPLIT', "split of the task, as in 'test'", 'NAME'),
        Option('--certificate', 'CERTIFICATE', 'certificate whose threshold is to be used'),
      ),
      BY_CERTIFICATE,
    ),
    Command(
      'calibrate',
      'calm.evaluation.calibrate:calibrate',
      'find the lowest exit threshold that keeps the text within a tolerance, and certify it',
      'Decodes a split with the full model and at one threshold after the other, and writes a '
      f'certificate for each tolerance (DELTAS). {GOES_ON}',
      (CALIBRATION_SPLIT,),
      (Ignored(_THRESHOLD, 'a calibration tries the thresholds of GRID'),),
    ),
    Command(
      'trials',
      'calm.reporting.efficiency:trials',
      'say what each confidence measure saves at each tolerance, and how sure that is',
      'Decodes a split with each of MEASURES at all thresholds, at fixed depths and with an '
      'oracle, calibrates on many random parts of it, and writes a table into the workdir. '
      f'{GOES_ON}',
      (CALIBRATION_SPLIT,),
    ),
    Command(
      'report',
      'calm.reporting.report:report',
      'write a page of figures, tables and examples: what early exits cost and give',
      'Decodes what `calm calibrate` and `calm trials` have not decoded yet and writes '
      f'report.html, PNG and CSV files into the workdir. {GOES_ON}',
      (CALIBRATION_SPLIT,),
    ),
    Command(
      'decode',
      'calm.evaluation.predict:predict',
      'decode lines, JSON Lines or a split of the task to JSON Lines',
      'Interrupted, the same command with the same --output goes on where it stopped.',
      (
        Option('--input', 'DECODE_INPUT', "file of lines or JSON Lines; '-' is standard input"),
        Option('--output', 'DECODE_OUTPUT', "file of JSON Lines to write; '-' is standard output"),
        Option('--certificate', 'CERTIFICATE', 'certificate whose threshold is to be used'),
        Option('--format', 'DECODE_FORMAT', "'lines', 'jsonl', 'tsv' or 'csv'", 'NAME'),
        Option('--template', 'DECODE_TEMPLATE', "what is read, as in 'summarize: {text}'", 'TEXT'),
        Option('--prefix', 'DECODE_PREFIX', 'what each prediction begins with', 'TEXT'),
        Option('--temperature', 'TEMPERATURE', 'draw tokens; 0 takes the likeliest', 'T', True),
        Option('--top_k', 'TOP_K', 'draw from the K likeliest tokens', 'K', True),
        Option('--top_p', 'TOP_P', 'draw from the likeliest tokens of probability P', 'P', True),
        Option('--num_samples', 'NUM_SAMPLES', 'texts to draw for each input', 'N', True),
        Option('--seed', 'SEED', 'of what is drawn', 'N', True),
      ),
      BY_CERTIFICATE,
    ),
    Command(
      'export',
      'calm.models.pretrained:save_huggingface',
      'write the weights as a directory that Hugging Face transformers loads',
      options=(Option('--output', 'EXPORT_DIRECTORY', 'directory to write', 'DIR'),),
    ),
  ),
)


def main(argv: list[str] | None = None) -> int:
  """Entry point of the `calm` command; returns the exit code."""
  return commands.main(PROGRAM, argv)


if __name__ == '__main__':
  sys.exit(main())
