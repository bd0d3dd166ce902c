# Sourced by quickstart.sh: trains a small encoder from nothing to say which of two numbers in words
# is larger, with a classifier after each layer; measures what each gives, calibrates when examples
# may leave, evaluates under that, classifies a few pairs, writes a report.
workdir="${1:-runs/sweet_quickstart}"
sweet() { echo "== sweet $*" >&2; .venv/bin/sweet "$@"; }

ensure_environment ''
start=$SECONDS
sweet vocab --gin_file=configs/sweet/quickstart.gin --workdir="$workdir"
sweet train --gin_file=configs/sweet/quickstart.gin --workdir="$workdir"
sweet curve --workdir="$workdir" --split=validation >/dev/null
sweet calibrate --workdir="$workdir"
certificate="$workdir/certificates/largest_probability_textual_0.005.json"
sweet evaluate --workdir="$workdir" --certificate="$certificate"
printf '%s\n' '{"first": "ninety", "second": "seven hundred and twelve"}' \
  '{"first": "seven hundred and twelve", "second": "seven hundred and forty"}' >"$workdir/pairs.jsonl"
sweet predict --workdir="$workdir" --certificate="$certificate" --input="$workdir/pairs.jsonl"
sweet report --gin_file=gin/sweet/report.gin --runs="$workdir" --output="$workdir/report"
echo "== Done in $((SECONDS - start)) s after installation. Look at $workdir/report/report.html."
