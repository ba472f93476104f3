#!/usr/bin/env bash
# What matters on a GPU, in under 8 minutes: the router in the shape of DeBERTa-v3-large, generation in the shapes of
# Llama 1B and 7B, with random weights, and what share of the measured matrix peak they reach. Needs this checkout and a
# Python with its packages; the checkout's own environment is taken where there is one.
#
#     tests/benchmarks/gpu.sh [--quick] [--tiny] [--json FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec timeout --signal=INT 480 "$python" -m tests.benchmarks.gpu "$@"
