#!/bin/sh
# Fetches what tests/gpu/run.sh needs on a machine without a network, as wheels, into tests/gpu/wheels.
#
#     tests/gpu/pack.sh            # for Python 3.12 on x86-64 Linux
#     PYTHON_VERSION=3.11 tests/gpu/pack.sh
#
# What such a machine has with torch (numpy, pandas, pyarrow, scipy, psutil, pytest) stays behind.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
wheels=tests/gpu/wheels
pinned=$(grep -E '^(transformers|gguf|safetensors|jaxtyping|platformdirs|pyppmd|filelock|typer|rich|beartype)==' \
    requirements.txt | sed 's/ *#.*//')
loose=$(grep -E '^accelerate==' requirements.txt | sed 's/ *#.*//') # with torch, it would ask for
platforms=
for n in 39 35 34 31 28 27 24 17; do platforms="$platforms --platform manylinux_2_${n}_x86_64"; done
how="--quiet --disable-pip-version-check --only-binary=:all: --implementation cp
    --python-version ${PYTHON_VERSION:-3.12} $platforms --platform manylinux2014_x86_64
    --platform manylinux1_x86_64 --dest $wheels"
rm -rf "$wheels"
# shellcheck disable=SC2086 # lists of words
"$python" -m pip download $how $pinned
# shellcheck disable=SC2086
"$python" -m pip download $how --no-deps $loose
rm -f "$wheels"/numpy-*
echo "$(ls "$wheels" | wc -l) wheels, $(du -sh "$wheels" | cut -f1), in $wheels"
