"""Kills training, calibrating and decoding at random moments, and looks for what was lost.

  python scripts/check_kills.py --kills 10 --seed 0

Each command runs once undisturbed and once killed (SIGKILL) so many times, started again each time;
then what both left is compared: of training the metrics of every step but for the clock's, of
calibration the decodings and the certificate, of decoding the output, byte for byte. Prints a line
for each command, and exits with 1 if anything was lost, repeated or changed, or if a command was
done before it could be killed so often.
"""

import argparse
import contextlib
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = {
  'BATCH_SIZE': 8,
  'NUM_STEPS': 1000,
  'WARMUP_STEPS': 10,
  'MAX_DECODE_STEPS': 16,
  'DECODE_BATCH_SIZE': 4,
  'DELTAS': '(0.9,)',
  'loop.train.steps_per_report': 25,
  'loop.train.steps_per_checkpoint': 50,
  'loop.train.num_validation_batches': 1,
  'spelled_numbers.task.num_train': 2000,
}
CLOCK = ('seconds', 'tokens_per_second', 'seconds_per_step')
CERTIFICATE = 'certificates/softmax_margin_textual_0.9.json'


def command(name, workdir, *options):
  """The command line of a command on a run's folder."""
  begins = name in ('vocab', 'train')
  flags = ['--gin_file=configs/quickstart.gin'] if begins else []
  flags += [f'--gin.{key}={value}' for key, value in TINY.items()] if begins else []
  return [sys.executable, '-m', 'calm.main', name, *flags, f'--workdir={workdir}', *options]


def run(arguments):
  """Runs to the end."""
  done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(f'{" ".join(arguments)} failed:\n{done.stderr}')


def run_killed(arguments, kills, written, rng):
  """Runs and kills so many times, then once to the end; returns the kills that met it at work.

  A run is killed a moment after it has `written` something more: so it was at work, and the next
  begins further on.
  """
  met = 0
  while met < kills:
    before = written()
    process = subprocess.Popen(
      arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and written() == before:
      time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(rng.uniform(0, 0.3))
    if process.poll() is not None:
      break  # All is done.
    process.send_signal(signal.SIGKILL)
    process.wait()
    met += 1
  run(arguments)
  return met


def written_in(workdir, pattern):
  """The finished checkpoints that there are, or the files, each with its bytes."""
  return {(path, path.is_file() and path.stat().st_size) for path in workdir.rglob(pattern)}


def metrics_of(workdir):
  """What training reported, but for the clock."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def calibration_of(workdir):
  """All that was decoded, and what was certified but for the date."""
  rows = {path.parts[-4:]: path.read_bytes() for path in workdir.rglob('predictions.jsonl')}
  certificate = json.loads((workdir / CERTIFICATE).read_text())
  return rows, {k: v for k, v in certificate.items() if k not in ('created', 'checksum')}


def main():
  """Runs all three; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--kills', type=int, default=10, help='of each command')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  args = parser.parse_args()
  rng = random.Random(args.seed)
  with tempfile.TemporaryDirectory() as temporary:
    whole, killed = Path(temporary, 'whole'), Path(temporary, 'killed')
    run(command('vocab', whole))
    killed.mkdir()
    shutil.copy(whole / 'vocabulary.model', killed)
    lines = Path(temporary, 'lines.txt')
    lines.write_text(''.join(f'{word} thousand and {word}\n' for word in ['one', 'two'] * 4000))
    stages = {
      'train': ([], metrics_of, 'checkpoints/*[0-9]'),
      'calibrate': ([], calibration_of, 'predictions.jsonl'),
      'decode': (
        [f'--input={lines}'],
        lambda workdir: (workdir / 'out.jsonl').read_bytes(),
        'out.jsonl',
      ),
    }
    failed = False
    for name, (options, look, pattern) in stages.items():
      arguments = {
        folder: command(name, folder, *options)
        + ([f'--output={folder}/out.jsonl'] if name == 'decode' else [])
        for folder in (whole, killed)
      }
      run(arguments[whole])
      written = functools.partial(written_in, killed, pattern)
      met = run_killed(arguments[killed], args.kills, written, rng)
      same = look(whole) == look(killed)
      failed |= not same or met < args.kills
      print(f'{name}: {met} kills, {"nothing lost or repeated" if same else "DIFFERS"}', flush=True)
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
