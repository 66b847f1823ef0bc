#!/usr/bin/env bash
# Copies what a study found, without its checkpoints, to where it is kept:  bash benchmarks/keep_study.sh runs/cifar10_quick benchmarks/results/cifar10_quick
set -euo pipefail
mkdir -p "$2"
cp -r "$1"/{config.yaml,table.md,table.csv,labels,figures} "$2"/
mkdir -p "$2/cells" && cp "$1"/cells/*.json "$2/cells/"
grep -h "command:\|cells to train" "$1/log.txt" >"$2/log.txt"
{ echo "commit $(git rev-parse HEAD)"; python -c "from reid.runtime import environment; print(*(f'{k} {v}' for k, v in environment().items()), sep='\n')"; } >"$2/environment.txt"
