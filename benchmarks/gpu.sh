#!/usr/bin/env bash
# All measures that depend on a GPU, three recipes with three seeds included.   usage: benchmarks/gpu.sh [FOLDER]
set -euo pipefail
out="${1:-benchmarks/results}"
python -m benchmarks training inference memory --device cuda --output "$out/gpu.json"
python -m benchmarks accuracy --device cuda --recipes minute,fast,accurate --seeds 3 --output "$out/gpu-accuracy.json"
