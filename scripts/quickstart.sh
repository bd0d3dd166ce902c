#!/usr/bin/env bash
# From nothing to a trained and scored model: makes .venv, installs, trains a small T5 to turn
# English number words into French ones, and evaluates it on numbers it has never seen.
#
#   bash scripts/quickstart.sh [WORKDIR]              WORKDIR defaults to runs/quickstart
#
# A second run reuses what is there: the environment, the vocabulary, the trained weights.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
workdir="${1:-runs/quickstart}"
calm() { echo "== calm $*"; .venv/bin/calm "$@"; }

ensure_environment ''
start=$SECONDS
if [ ! -f "$workdir/vocabulary.model" ]; then
  calm vocab --gin_file=configs/quickstart.gin --workdir="$workdir"
fi
calm train --gin_file=configs/quickstart.gin --workdir="$workdir"
calm evaluate --workdir="$workdir"
echo "== Done in $((SECONDS - start)) s after installation. Try it yourself:"
echo "   echo 'forty-two thousand and seven' | .venv/bin/calm decode --workdir=$workdir --input=-"
