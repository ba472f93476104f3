#!/usr/bin/env bash
# The whole of batchroute on a fresh machine, in one command: environment, embedded models, a trained router, a routed
# backlog on two real language models, and the report. Run it again: what is done stays done.
#
#     jobs/demo.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n[%s/4] %s\n' "$1" "$2"; }
batchroute() { .venv/bin/python -m batchroute "$@"; }

router=${XDG_CACHE_HOME:-$HOME/.cache}/batchroute/demo-router
table=sample_data/quality.parquet
fresh=()

step 1 "environment in .venv (the first time about 2 minutes)"
jobs/environment.sh demo

step 2 "embedded models (the first time about 2 minutes)"
batchroute models fetch all-minilm-l6-v2 smollm2-135m-instruct gemma-3-270m

step 3 "router, trained and calibrated on $table"
if .venv/bin/python - "$table" "$router/router.json" <<'PYTHON'
import hashlib, pathlib, sys
table, router = map(pathlib.Path, sys.argv[1:])
known = router.read_text() if router.exists() else ""
sys.exit(hashlib.sha256(table.read_bytes()).hexdigest() not in known)
PYTHON
then
    echo "already trained: $router"
else
    batchroute train --quality-table "$table" --base embedded:all-minilm-l6-v2 --output "$router" --overwrite
    # Another router is another run: the answers of the one before must go.
    fresh=(--fresh)
fi
if [ ! -f "$router/calibration.json" ] || [ ! -f "$router/reference.json" ]; then
    batchroute calibrate --quality-table "$table" --router "$router"
fi

step 4 "the job: jobs/demo.yaml"
batchroute run jobs/demo.yaml "${fresh[@]}"
