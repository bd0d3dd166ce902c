"""The `sweet` command: `sweet train | evaluate | curve | search | calibrate | trials | ...`.

This table and the gin files are the only places where all rooms meet.
"""

import sys

from calm import commands
from calm.commands import Command, Ignored, Option

GOES_ON = 'Interrupted, the same command goes on where it stopped.'
CERTIFICATE = Option('--certificate', 'CERTIFICATE', 'certificate whose threshold is to be used')
_THRESHOLD = 'predictor.ExitsPredictor.threshold'
BY_CERTIFICATE = (
  Ignored(_THRESHOLD, 'the threshold is that of the certificate', beside='CERTIFICATE'),
)

PROGRAM = commands.Program(
  'sweet',
  'Encoders that stop early: train, evaluate, predict.',
  (
    Command(
      'train',
      'sweet.train:train',
      'train the classifiers of an encoder, or go on where a run stopped',
      'Writes checkpoints, metrics.jsonl, TensorBoard events, temperatures, the tokenizer and the '
      'configuration into the workdir. The same command again goes on from the newest checkpoint '
      'there.',
      shared=True,
      begins_run=True,
    ),
    Command(
      'vocab',
      'sweet.from_scratch:write_encoder',
      "train a WordPiece vocabulary from a task's texts, for an encoder without a checkpoint",
      'Writes it with the sizes of ENCODER into the workdir, where `sweet train` finds both.',
    ),
    Command(
      'evaluate',
      'calm.evaluation.evaluate:evaluate',
      "predict a split of the task and print the task's metrics",
      GOES_ON,
      (
        Option('--split', 'EVALUATION_SPLIT', "split of the task, as in 'validation'", 'NAME'),
        CERTIFICATE,
      ),
      BY_CERTIFICATE,
    ),
    Command(
      'curve',
      'sweet.speed_accuracy:measure_curve',
      'score every classifier alone, and the whole at every threshold against what that costs',
      f'Predicts a split once and writes a record into the workdir. {GOES_ON}',
      (Option('--split', 'EVALUATION_SPLIT', "split of the task, as in 'validation'", 'NAME'),),
    ),
    Command(
      'search',
      'sweet.search:search',
      'find the learning rate with the largest area under the speed-accuracy curve',
      'Trains at each of LEARNING_RATES on one seed and prints a table; the curve is that of '
      f'SEARCH_SPLIT, as in the paper the validation split. {GOES_ON}',
      (Option('--split', 'SEARCH_SPLIT', 'split of the task whose curve counts', 'NAME'),),
    ),
    Command(
      'gradients',
      'sweet.gradients:measure',
      'say whether the classifiers want to move the layers that they share the same way',
      'Measures the cosine of their gradients on held-out rows and writes a table and a picture '
      'into the workdir.',
    ),
    Command(
      'report',
      'sweet.report:report',
      "write a page of many runs: the paper's tables, curves and claims",
      'Reads what `sweet train` and `sweet curve` have left below --runs and writes report.html, '
      'tables.md, PNG and CSV files. It needs no workdir: give --gin_file=gin/sweet/report.gin.',
      (
        Option('--runs', 'RUNS', 'folder above the runs, or a pattern of such', 'DIR'),
        Option('--output', 'REPORT', 'folder to write', 'DIR'),
      ),
    ),
    Command(
      'calibrate',
      'calm.evaluation.calibrate:calibrate',
      'find the lowest threshold that keeps the labels within a tolerance, and certify it',
      'Predicts a split once, looks up what it says at one threshold after the other, and writes a '
      f'certificate for each tolerance (DELTAS). {GOES_ON}',
      (Option('--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'),),
      (Ignored(_THRESHOLD, 'a calibration tries the thresholds of GRID'),),
    ),
    Command(
      'trials',
      'calm.reporting.efficiency:trials',
      'say what early exits save at each tolerance, and how sure that is',
      'Predicts a split once, calibrates on many random parts of it, measures on the rest, and '
      'writes a table into the workdir, with each classifier alone and an oracle beside. '
      f'{GOES_ON}',
      (Option('--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'),),
      (Ignored(_THRESHOLD, 'a calibration tries the thresholds of GRID'),),
    ),
    Command(
      'predict',
      'calm.evaluation.predict:predict',
      'classify lines, JSON Lines or a split of the task to JSON Lines',
      'Interrupted, the same command with the same --output goes on where it stopped.',
      (
        Option('--input', 'PREDICT_INPUT', "file of lines or records; '-' is standard input"),
        Option('--output', 'PREDICT_OUTPUT', "file of JSON Lines to write; '-' is standard output"),
        CERTIFICATE,
      ),
      BY_CERTIFICATE,
    ),
    Command(
      'export',
      'sweet.export:export',
      'write a classifier with the layers below it as a directory that transformers loads',
      'The last one, unless --exit says another. Its logits are over its temperature.',
      (
        Option('--output', 'EXPORT_DIRECTORY', 'directory to write', 'DIR'),
        Option('--exit', 'EXIT', 'number of the classifier, from 1', 'K', literal=True),
      ),
    ),
  ),
)


def main(argv: list[str] | None = None) -> int:
  """Entry point of the `sweet` command; returns the exit code."""
  return commands.main(PROGRAM, argv)


if __name__ == '__main__':
  sys.exit(main())
