#!/usr/bin/env bash
# Builds the wheel and tries it in an empty environment, far from the checkout.
# usage: wheel_test.sh PYTHON WHEELS; packages come from the folder WHEELS, and from the index what it lacks.
set -euo pipefail
python=$1 wheels=$2 root=$(cd "$(dirname "$0")/.." && pwd) folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
bin=$folder/venv/bin
install=("$bin/python" -m pip install -q --find-links "$wheels" -c "$root/constraints.txt")
"${install[@]}" hatchling
"$bin/python" -m pip wheel -q --no-deps --no-build-isolation -w "$folder/dist" "$root"
"${install[@]}" "$folder"/dist/googlenet-*.whl
cd "$folder"
export XDG_CACHE_HOME=$folder/cache PATH=$bin:$PATH
googlenet --version
googlenet doctor
googlenet train --data-dir bundled --max-steps 3 --batch-size 16 --image-size 28 --stem-stride 2 --max-test-images 50 --output run
googlenet summary run > /dev/null
googlenet data show --data-dir bundled --count 4 -o sheet.png > /dev/null
googlenet predict run sheet.png
googlenet report run > /dev/null
echo "the wheel works: $(basename "$folder"/dist/*.whl)"
