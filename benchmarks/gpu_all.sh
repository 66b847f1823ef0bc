#!/usr/bin/env bash
# Everything that wants a GPU, in pieces of at most ten minutes. Run it until it says "all done": finished pieces are not run again,
# a piece that ran out of time goes on where it stopped.
#   bash benchmarks/gpu_all.sh [piece …]         all of them by default
#   PY=python3 RESULTS=benchmarks/results DONE=runs/gpu_all LIMIT=540 CIFAR="key=value …"
# The cifar_* pieces read cifar-10-batches-py below REID_DATA, or ./data; CIFAR's settings go to their tool.
set -uo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python3} RESULTS=${RESULTS:-benchmarks/results} DONE=${DONE:-runs/gpu_all} LIMIT=${LIMIT:-540}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # where the project is not installed
read -ra CIFAR <<<"${CIFAR:-}"
WANTED="${*:-tests training paper_settings cifar_step demo_losses cifar_table1 cifar_table2 cifar_T}"
mkdir -p "$RESULTS" "$DONE"
left=0

piece() {
  local name=$1
  shift
  [[ " $WANTED " == *" $name "* ]] || return
  [ -e "$DONE/$name.done" ] && return
  echo "== $name"
  if timeout --signal=TERM "$LIMIT" "$@"; then touch "$DONE/$name.done"; else echo "$name: not finished (exit $?)"; left=1; fi
}

study() { # what a study has found so far is kept beside the other results
  piece "cifar_$1" "$PY" tools/cifar.py "configs/cifar10_$1.yaml" --resume auto --output-dir "$DONE/cifar_$1" ${CIFAR[@]+"${CIFAR[@]}"}
  [ -e "$DONE/cifar_$1/table.md" ] && { bash benchmarks/keep_study.sh "$DONE/cifar_$1" "$RESULTS/cifar10_$1" || left=1; }
}

[[ " $WANTED " == *" demo_losses "* || " $WANTED " == *" paper_settings "* ]] && { [ -e data/demo ] || "$PY" tools/make_demo.py --out data/demo || exit; }
piece tests "$PY" -m pytest -m gpu tests/cifar/test_cell.py tests/engine/test_cuda.py tests/evaluation/test_ranking.py tests/evaluation/test_verification.py
# End to end beside the plain loop, and beside the same step on data that is in place: the paper's batch and image size.
piece training "$PY" benchmarks/training.py --batch-size 180 --steps 10 --workers 12 --dtype auto --people 200 --tracklets 1000 --json "$RESULTS/training_gpu.json"
# The same through the tool, on the demo's images: images per second stand in metrics.jsonl and log.txt.
piece paper_settings "$PY" tools/train.py configs/mars_imae.yaml --resume auto --output-dir "$DONE/paper_settings" \
  data.name=demo model.pretrained=false train.iterations=300 train.log_freq=20 machine.workers=12
piece cifar_step "$PY" benchmarks/cifar_step.py --steps 500 --json "$RESULTS/cifar_step_gpu.json"
piece demo_losses "$PY" benchmarks/demo_losses.py --seeds 0 1 2 --runs runs/demo_losses_gpu \
  --json "$RESULTS/demo_losses_gpu.json" machine.workers=8
study table1
study table2
study T
[ "$left" = 0 ] && echo "all done"
