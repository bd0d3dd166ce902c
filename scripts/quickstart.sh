#!/usr/bin/env bash
# From nothing to a model that exits early with a guarantee: makes .venv, installs, trains a small
# T5 to turn English number words into French ones, evaluates it on numbers it has never seen,
# trains its exit classifier, calibrates an exit threshold, evaluates under it, writes a report.
#
#   bash scripts/quickstart.sh [WORKDIR]              WORKDIR defaults to runs/quickstart
#   bash scripts/quickstart.sh sweet [WORKDIR]        SWEET instead: an encoder that stops early
#   bash scripts/quickstart.sh elang [WORKDIR]        E-LANG instead: a router over two models
#
# A second run reuses what is there: the environment, the vocabulary, the weights, what is decoded.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
if [ "${1:-}" = sweet ] || [ "${1:-}" = elang ]; then
  method="$1"
  shift
  source "scripts/quickstart_$method.sh"
  exit
fi
workdir="${1:-runs/quickstart}"
exits="$workdir/exits"
calm() { echo "== calm $*"; .venv/bin/calm "$@"; }

ensure_environment ''
# Huge pages for what a training step allocates: up to a third faster with glibc, ignored elsewhere.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
start=$SECONDS
if [ ! -f "$workdir/vocabulary.model" ]; then
  calm vocab --gin_file=configs/quickstart.gin --workdir="$workdir"
fi
calm train --gin_file=configs/quickstart.gin --workdir="$workdir"
calm evaluate --workdir="$workdir"

echo "== Early exits"
calm train --gin_file="$workdir/config.gin" --gin_file=gin/runs/exit_classifier.gin \
  --gin.BASE_WORKDIR="$workdir" --workdir="$exits"
calm calibrate --workdir="$exits"
calm evaluate --workdir="$exits" \
  --certificate="$exits/certificates/softmax_margin_textual_0.1.json"
calm report --workdir="$exits"
echo "== Done in $((SECONDS - start)) s after installation. Look at $exits/report/report.html, and try:"
echo "   echo 'forty-two thousand and seven' | .venv/bin/calm decode --workdir=$workdir --input=-"
