#!/usr/bin/env bash
# Makes or reuses .venv, installs the test extra, runs the tests. Arguments go to pytest:
#
#   bash scripts/test.sh                              all tests
#   bash scripts/test.sh tests/calm/models -k relative
#   EXTRAS=test,parity bash scripts/test.sh           also those that compare with transformers
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

ensure_environment "${EXTRAS:-test}"
echo "== Running the tests"
# They compare numbers on the CPU, also where an accelerator is present.
JAX_PLATFORMS=cpu exec .venv/bin/python -m pytest "$@"
