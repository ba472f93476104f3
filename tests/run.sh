#!/usr/bin/env bash
# Everything that must hold before a change lands: environment, style, types, manifests, and all tests.
#
#     tests/run.sh            # all
#     tests/run.sh -k policy  # arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$1"; }

step "environment"
jobs/environment.sh dev
PATH=$PWD/.venv/bin:$PATH

step "style and types"
ruff check .
ruff format --check .
mypy batchroute

step "containers"
if [ -d jobs/kubernetes ]; then
    for overlay in jobs/kubernetes/overlays/*/; do
        # Of kinds that it does not know, such as RayJob, it says so; tests/kubernetes/ validates their pods.
        kubectl kustomize "$overlay" | kubernetes-validate --strict --quiet -
    done
fi
if [ -f Dockerfile ]; then
    hadolint Dockerfile
fi

step "embedded models"
batchroute models fetch demo

step "tests"
# No model hub, and no more threads than this machine has cores for.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# A file at a time in each process: the servers that a file starts serve all of its tests.
pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
