#!/bin/sh
# All that needs a card, in under six minutes, without a network: the tests marked gpu, then the speed.
#
#     tests/gpu/pack.sh                        # before, where there is a network
#     tests/gpu/run.sh                         # on the machine with the card
#     KVLIB_TEST_DEVICE=cpu tests/gpu/run.sh   # the same on the CPU, with a toy for the speed
#
# Needs a Python with torch, numpy, pandas, pyarrow, scipy, psutil and pytest; PYTHON says which. Writes
# tests.txt and speed.json to $OUT where it is set. Nothing is installed into that Python.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
device=${KVLIB_TEST_DEVICE:-cuda}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -c 'import torch, numpy, pandas, pyarrow, scipy, psutil, pytest' || {
    echo "error: expected torch, numpy, pandas, pyarrow, scipy, psutil and pytest in $python" >&2
    exit 2
}
ls tests/gpu/wheels/*.whl >/dev/null 2>&1 || {
    echo "error: expected wheels in tests/gpu/wheels, got none: tests/gpu/pack.sh fetches them" >&2
    exit 2
}
"$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --no-cache-dir --find-links tests/gpu/wheels --target "$site" tests/gpu/wheels/*.whl
export PYTHONPATH="$site:$PWD:$PWD/tests" KVLIB_TEST_DEVICE="$device" KVLIB_STATIC=1
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
log=${OUT:-$site}/tests.txt
code=0
timeout "${KVLIB_TEST_SECONDS:-200}" "$python" -m pytest -q -rA -W default -p no:cacheprovider tests/gpu >"$log" 2>&1 || code=$?
grep -E '^(PASSED|FAILED|ERROR|SKIPPED|E  )|KL .*nats|passed|failed' "$log" || tail -n 40 "$log"
shape=qwen2-7b
seconds=15
case $device in cpu) shape=toy seconds=1 ;; esac
timeout 140 "$python" tests/gpu/speed.py --shape $shape --device "$device" --seconds $seconds || code=$?
exit "$code"
