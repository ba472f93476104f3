#!/usr/bin/env bash
# Everything that must hold before a change lands: environment, style, types, manifests, and all tests.
#
#     tests/run.sh            # all
#     tests/run.sh --quick    # style, types, and the unit tests without servers, processes or models
#     tests/run.sh -k policy  # further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$1"; }

quick=
[ "${1-}" != --quick ] || quick=1

step "environment"
jobs/environment.sh dev
PATH=$PWD/.venv/bin:$PATH

step "style and types"
ruff check .
ruff format --check .
mypy batchroute

if [ -z "$quick" ]; then
    step "containers"
    for overlay in jobs/kubernetes/overlays/*/; do
        # It names kinds that it does not know, such as RayJob; tests/kubernetes/ validates their pods.
        kubectl kustomize "$overlay" | kubernetes-validate --strict --quiet -
    done
    hadolint Dockerfile

    step "embedded models"
    batchroute models fetch demo
fi

step "tests"
# No model hub, and no more threads than this machine has cores for.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# One file at a time in each process: the servers that a file starts serve all of its tests.
pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
