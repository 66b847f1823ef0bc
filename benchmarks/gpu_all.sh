#!/usr/bin/env bash
# Everything that wants a GPU, in pieces of at most ten minutes. Run it until it says "all done": finished pieces are not run again,
# a piece that ran out of time goes on where it stopped.
#   PY=python OUT=benchmarks/results bash benchmarks/gpu_all.sh
set -uo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python} OUT=${OUT:-benchmarks/results} DONE=${DONE:-runs/gpu_all}
mkdir -p "$OUT" "$DONE"
left=0

piece() {
  local name=$1
  shift
  [ -e "$DONE/$name" ] && return
  echo "== $name"
  if timeout --signal=TERM 590 "$@"; then touch "$DONE/$name"; else echo "$name: not finished (exit $?)"; left=1; fi
}

[ -e data/demo ] || "$PY" tools/make_demo.py --out data/demo || exit
piece tests "$PY" -m pytest -m gpu
piece demo_losses "$PY" benchmarks/demo_losses.py --seeds 0 1 2 --runs runs/demo_losses_gpu \
  --json "$OUT/demo_losses_gpu.json" machine.workers=8
# The paper's batch and image size, on the demo's images: images per second stand in metrics.jsonl and log.txt.
piece paper_settings "$PY" tools/train.py configs/mars_imae.yaml --resume auto --output-dir "$DONE/paper_settings" \
  data.name=demo model.pretrained=false train.iterations=300 train.log_freq=20 machine.workers=12
[ "$left" = 0 ] && echo "all done"
