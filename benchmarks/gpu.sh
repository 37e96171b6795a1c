#!/usr/bin/env bash
# Every measure that a GPU has a say in, recipes over three seeds included.   usage: benchmarks/gpu.sh [FOLDER]
set -euo pipefail
out="${1:-benchmarks/results}"
googlenet bench training inference memory --device cuda --output "$out/gpu.json"
googlenet bench accuracy --device cuda --recipes minute,fast,accurate --seeds 3 --output "$out/gpu-accuracy.json"
