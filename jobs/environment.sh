#!/usr/bin/env bash
# Makes or brings up to date the virtual environment .venv with batchroute and the named extras:
#
#     jobs/environment.sh demo
#
# Does nothing when pyproject.toml and constraints.txt have not changed since it last did.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=$1
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: batchroute needs Python 3.11 or newer; install it, or name one: PYTHON=/path/to/python3 $0" >&2
    exit 2
fi
wanted=$(cat pyproject.toml constraints.txt | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
stamp=.venv/installed-$extras
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
# Python compiles what it imports, a few of the 25,000 files; to compile all of them takes more than a minute.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[$extras]"
echo "$wanted" >"$stamp"
