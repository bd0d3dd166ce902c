# Sourced by quickstart.sh: trains a small and a larger encoder from nothing to say which of two
# numbers in words is larger; finds thresholds on the small one's energy by crossing, by budget and
# with a certificate; routes a split and a few pairs under it, writes a report.
workdir="${1:-runs/elang_quickstart}"
router="$workdir/router"
sweet() { echo "== sweet $*" >&2; .venv/bin/sweet "$@"; }
elang() { echo "== elang $*" >&2; .venv/bin/elang "$@"; }
model=(--gin_file=gin/elang/quickstart_model.gin)
swift=("${model[@]}" --workdir="$workdir/swift" --gin.EXITS='(1,)' --gin.EMB_DIM=8 --gin.NUM_EPOCHS=4)
routed=(--gin_file=configs/elang/quickstart.gin --workdir="$router"
  --gin.SWIFT_WORKDIR="$workdir/swift" --gin.SUPER_WORKDIR="$workdir/super")

ensure_environment ''
start=$SECONDS
sweet vocab "${swift[@]}"
sweet train "${swift[@]}"
sweet vocab "${model[@]}" --workdir="$workdir/super"
sweet train "${model[@]}" --workdir="$workdir/super"
elang thresholds "${routed[@]}" >/dev/null
echo "What thresholds give and cost: $router/thresholds/validation.json"
elang calibrate "${routed[@]}"
certificate="$router/certificates/swift-super_risk_0.02.json"
elang evaluate "${routed[@]}" --certificate="$certificate"
printf '%s\n' '{"first": "ninety", "second": "seven hundred and twelve"}' \
  '{"first": "seven hundred and twelve", "second": "seven hundred and forty"}' >"$workdir/pairs.jsonl"
elang predict "${routed[@]}" --certificate="$certificate" --input="$workdir/pairs.jsonl"
elang report "${routed[@]}"
echo "== Done in $((SECONDS - start)) s after installation. Look at $router/report/report.html."
