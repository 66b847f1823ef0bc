#!/usr/bin/env bash
# Copies what a study found, without its checkpoints and without this machine's paths, to where it is kept:
#   bash benchmarks/keep_study.sh runs/cifar10_quick benchmarks/results/cifar10_quick
set -euo pipefail
mkdir -p "$2/cells"
cp "$1"/table.{md,csv} "$2"/
cp -r "$1"/figures "$1"/labels "$2"/
cp "$1"/cells/*.json "$2/cells/"
sed 's/root: [^,}]*/root: null/; s/human_labels: [^,}]*/human_labels: null/' "$1/config.yaml" >"$2/config.yaml"
echo "kept at $(git rev-parse HEAD)" >"$2/commit"
