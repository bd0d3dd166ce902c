"""The `elang` command: see `elang --help` for what it does.

This table and the gin files are the only places where all rooms meet.
"""

import sys

from calm import commands
from calm.commands import Command, Ignored, Option

GOES_ON = 'Interrupted, the same command goes on where it stopped.'
CERTIFICATE = Option('--certificate', 'CERTIFICATE', 'certificate whose threshold is to be used')
THRESHOLD = Option(
  '--threshold', 'THRESHOLD', 'score from which on the first model answers', 'NUMBER', literal=True
)
_THRESHOLD = 'routing.Router.threshold'
BY_CERTIFICATE = (
  Ignored(_THRESHOLD, 'the threshold is that of the certificate', beside='CERTIFICATE'),
)

PROGRAM = commands.Program(
  'elang',
  'A router over models: the cheapest that is sure of an input answers it.',
  (
    Command(
      'head',
      'elang.train:train_head',
      'train an energy head on the encoder of a run of `calm train`',
      'Writes checkpoints, metrics.jsonl and the head into the workdir. The same command again '
      'goes on from the newest checkpoint there.',
    ),
    Command(
      'subnetwork',
      'sweet.subnetworks:export',
      'take a smaller classifier out of one that `sweet train` made, as a run of its own',
      'Writes its checkpoint, sizes, tokenizer and configuration into the workdir. WIDTH is the '
      'share of heads and neurons, DEPTH that of layers.',
    ),
    Command(
      'thresholds',
      'elang.suggestions:suggest_thresholds',
      'show what thresholds give and cost on a split, and which are worth a look',
      f'Runs each model once on the split and writes a record into the workdir. {GOES_ON}',
      (Option('--split', 'THRESHOLDS_SPLIT', "split of the task, as in 'validation'", 'NAME'),),
    ),
    Command(
      'report',
      'elang.report:report',
      'write a page: quality by cost of every score, what each recovers, the tables of the paper',
      'Runs each model once on the split and writes report.html, tables.md, routing.json, PNG and'
      f' CSV files into the workdir. {GOES_ON}',
      (Option('--split', 'THRESHOLDS_SPLIT', "split of the task, as in 'validation'", 'NAME'),),
    ),
    Command(
      'evaluate',
      'calm.evaluation.evaluate:evaluate',
      "answer a split of the task and print the task's metrics",
      GOES_ON,
      (
        Option('--split', 'EVALUATION_SPLIT', "split of the task, as in 'test'", 'NAME'),
        THRESHOLD,
        CERTIFICATE,
      ),
      BY_CERTIFICATE,
    ),
    Command(
      'calibrate',
      'elang.thresholds:by_quality',
      'find the lowest threshold that keeps the router near its last model, and certify it',
      'Runs each model once on the split, looks up what the router says at one threshold after the '
      f'other, and writes a certificate for each tolerance (DELTAS). {GOES_ON}',
      (Option('--split', 'CALIBRATION_SPLIT', 'split of the task, not trained on', 'NAME'),),
      (Ignored(_THRESHOLD, 'a calibration tries the thresholds of GRID'),),
    ),
    Command(
      'predict',
      'calm.evaluation.predict:predict',
      'answer lines, JSON Lines or a split of the task to JSON Lines',
      'Interrupted, the same command with the same --output goes on where it stopped.',
      (
        Option('--input', 'PREDICT_INPUT', "file of lines or records; '-' is standard input"),
        Option('--output', 'PREDICT_OUTPUT', "file of JSON Lines to write; '-' is standard output"),
        THRESHOLD,
        CERTIFICATE,
      ),
      BY_CERTIFICATE,
    ),
    Command(
      'serve',
      'elang.serve:serve',
      'answer over HTTP: a page with a knob for the threshold, and JSON for scripts',
      'Needs the extra `serve` (starlette, uvicorn). Listens to this machine alone unless --host '
      'says otherwise, and prints its address. Scripts POST {"input": TEXT} or {"inputs": [TEXT, '
      '...]}, and "threshold" if another one is meant, to /api/answer, as application/json; the '
      'answer has model, score, threshold, prediction, flops and seconds. Ctrl-C or SIGTERM stops '
      'it when what was asked is answered.',
      (
        Option('--input', 'PREDICT_INPUT', 'file of lines or records to pick inputs from'),
        Option('--host', 'HOST', 'address to listen at, by default 127.0.0.1', 'ADDRESS'),
        Option('--port', 'PORT', 'port of it, by default 8080; 0 takes any', 'NUMBER', True),
        THRESHOLD,
        CERTIFICATE,
      ),
    ),
  ),
)


def main(argv: list[str] | None = None) -> int:
  """Entry point of the `elang` command; returns the exit code."""
  return commands.main(PROGRAM, argv)


if __name__ == '__main__':
  sys.exit(main())
