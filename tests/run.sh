#!/usr/bin/env bash
# Everything that must hold before a change lands: environment, style, types, manifests, and all tests.
#
#     tests/run.sh            # all
#     tests/run.sh --quick    # style, types, and the unit tests without servers, processes or models
#     tests/run.sh --vllm     # vLLM alone, with every kill and `vllm serve`
#     tests/run.sh -k policy  # further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$1"; }

# A step that others need not wait for: `begin NAME COMMAND` starts it, `finish NAME` shows what it printed, and ends the
# script if it failed.
background=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$background"' EXIT
begin() {
    local name=$1
    shift
    "$@" >"$background/$name" 2>&1 &
    echo $! >"$background/$name.pid"
}
finish() {
    local ended=0
    step "$1"
    wait "$(cat "$background/$1.pid")" || ended=$?
    cat "$background/$1"
    [ "$ended" = 0 ] || exit "$ended"
}

quick=
[ "${1-}" != --quick ] || quick=1
# Where it is set, every process of the tests would compile batchroute and the tests for itself.
unset PYTHONDONTWRITEBYTECODE

step "environment"
if [ -n "$quick" ]; then jobs/environment.sh dev; else jobs/environment.sh dev vllm; fi
PATH=$PWD/.venv/bin:$PATH

if [ "${1-}" = --vllm ]; then
    shift
    batchroute models fetch smollm2-135m-instruct
    export HF_HUB_OFFLINE=1 TEST_ALL_OF_VLLM=1
    pytest -q tests/generators/vllm "$@"
    exit
fi

[ -n "$quick" ] || begin models batchroute models fetch smollm2-135m-instruct all-minilm-l6-v2
begin types mypy batchroute

step "style"
ruff check .
ruff format --check .

if [ -z "$quick" ]; then
    step "containers"
    for overlay in jobs/kubernetes/overlays/*/; do
        # It names kinds that it does not know, such as RayJob; tests/kubernetes/ validates their pods.
        kubectl kustomize "$overlay" | kubernetes-validate --strict --quiet -
    done
    hadolint Dockerfile

    step "servers"
    python -m tests.support.servers

    finish models
fi

finish types

step "tests"
# No model hub, and no more threads than this machine has cores for.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# The tests' files lie in memory where there is room: a small job waits for some 50 calls of fsync.
files=$(mktemp -d)
if [ "$(df --output=avail -m /dev/shm 2>/dev/null | tail -n 1)" -gt 8192 ] 2>/dev/null; then
    rmdir "$files"
    files=$(mktemp -d /dev/shm/tests.XXXX)
fi
trap 'rm -rf "$files" "$background"' EXIT
# One file at a time in each process: the servers that a file starts serve all of its tests. Tests wait for servers and
# other processes a third of their time, so there is one process more than cores.
processes=$(($(python -c 'import psutil; print(psutil.cpu_count())') + 1))
pytest -q -n "$((processes < 4 ? processes : 4))" --dist loadfile --no-loadscope-reorder --basetemp "$files/t" "$@"
