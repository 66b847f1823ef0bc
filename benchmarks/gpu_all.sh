#!/usr/bin/env bash
# Everything that wants a GPU, in pieces of four minutes at most, the most telling first. Run it until it says "all done": finished pieces
# are not run again, a piece that ran out of time goes on where it stopped, and none needs another one's success.
#   bash benchmarks/gpu_all.sh [piece …]         all of them by default, in the order of WANTED
#   PY=python3 RESULTS=benchmarks/results DONE=runs/gpu_all LIMIT=240 CIFAR="key=value …"
# The cifar pieces read cifar-10-batches-py below REID_DATA, or ./data; CIFAR's settings go to their tool.
set -uo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python3} RESULTS=${RESULTS:-benchmarks/results} DONE=${DONE:-runs/gpu_all} LIMIT=${LIMIT:-240}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # where the project is not installed
export PY DONE SETTINGS="${CIFAR:-}"
read -ra CIFAR <<<"$SETTINGS"
WANTED="${*:-smoke table2_50 table2_20 training paper_settings cifar_step table2_80 table1 T tests demo_losses}"
mkdir -p "$RESULTS" "$DONE"
left=0

"$PY" -m reid env || true
for package in faiss pydantic simplejpeg timm pytest; do
  "$PY" -c "import $package" 2>/dev/null || echo "missing: $package; pieces that need it will fail, the others run"
done

piece() { # name, command: runs it unless it is done or not wanted
  local name=$1
  shift
  [[ " $WANTED " == *" $name "* ]] || return 0
  [ -e "$DONE/$name.done" ] && return 0
  echo "== $name"
  if timeout --signal=TERM "$LIMIT" "$@"; then touch "$DONE/$name.done"; else echo "$name: not finished (exit $?)"; left=1; fi
}

study() { # name, config, settings: what a study has found so far is kept beside the other results
  local name=$1 config=$2
  shift 2
  piece "$name" "$PY" -m reid cifar "$config" --resume auto --output-dir "$DONE/$name" "$@" ${CIFAR[@]+"${CIFAR[@]}"}
  if [ -e "$DONE/$name/table.md" ]; then bash benchmarks/keep_study.sh "$DONE/$name" "$RESULTS/cifar10_$name" || left=1; fi
}

table2() { # per cent of noise: ResNet20 and 32 at one rate of Table 2, so that each rate is there by itself
  study "table2_$1" cifar10_table2 "noise=[{name: symmetric, rate: 0.$1, seed: 0}]"
}

demo() { [ -e data/demo ] || "$PY" -m reid render --out data/demo; }

smoke() { # some steps of everything that differs on a GPU, in about a minute
  read -ra CIFAR <<<"$SETTINGS" # arrays do not reach another shell
  "$PY" -m pytest -x -m gpu tests/engine/test_cuda.py tests/cifar/test_cell.py &&
    "$PY" -m reid cifar cifar10_table2 --overwrite --output-dir "$DONE/smoke_cifar" train.iterations=300 train.points=1 \
      'train.schedule={name: milestones, at: [200]}' 'depth=[20]' 'noise=[{name: symmetric, rate: 0.5, seed: 0}]' ${CIFAR[@]+"${CIFAR[@]}"} &&
    demo && "$PY" -m reid train demo --overwrite --output-dir "$DONE/smoke_demo" train.iterations=40 train.log_freq=10 test.baselines=false
}
export -f smoke demo

piece smoke bash -c smoke
table2 50
table2 20
demo_wanted=0
for name in training paper_settings demo_losses; do [[ " $WANTED " == *" $name "* ]] && demo_wanted=1; done
[ "$demo_wanted" = 1 ] && demo
# End to end beside the plain loop, and beside the same step on data that is in place: the paper's batch and image size.
piece training "$PY" benchmarks/training.py --batch-size 180 --steps 10 --workers 12 --dtype auto --people 200 --tracklets 1000 --json "$RESULTS/training_gpu.json"
# The same through the command, on the demo's images: images per second stand in metrics.jsonl and log.txt.
piece paper_settings "$PY" -m reid train mars_imae --resume auto --output-dir "$DONE/paper_settings" \
  data.name=demo model.pretrained=false train.iterations=300 train.log_freq=20 machine.workers=12
piece cifar_step "$PY" benchmarks/cifar_step.py --steps 500 --json "$RESULTS/cifar_step_gpu.json"
table2 80
study table1 cifar10_table1
study T cifar10_T
piece tests "$PY" -m pytest -m gpu
piece demo_losses "$PY" benchmarks/demo_losses.py --seeds 0 1 2 --runs runs/demo_losses_gpu \
  --json "$RESULTS/demo_losses_gpu.json" machine.workers=8
[ "$left" = 0 ] && echo "all done"
