#!/usr/bin/env bash
# Makes or reuses .venv, installs the test extra, runs the tests. Arguments go to pytest:
#
#   bash scripts/test.sh                              all tests, on all cores
#   bash scripts/test.sh tests/calm/models -k relative      these, in one process
#   bash scripts/test.sh tests/calm/models -n 4       in four
#   EXTRAS=test,parity bash scripts/test.sh           also those that compare with transformers
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

ensure_environment "${EXTRAS:-test}"
if [ $# -eq 0 ]; then
  # Whole files, so that what a file sets up is set up once; each worker takes 2 to 5 GB.
  set -- --numprocesses=logical --maxprocesses=8 --dist=loadscope
fi
echo "== Running the tests"
# They compare numbers on the CPU, also where an accelerator is present.
JAX_PLATFORMS=cpu exec .venv/bin/python -m pytest "$@"
