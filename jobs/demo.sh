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

step 2 "embedded models (the first time 1.3 GB and some minutes)"
# The packages are other people's and may go, and a machine may be small: then the next model takes the large one's place.
larges=(qwen2.5-coder-1.5b-instruct qwen2.5-coder-0.5b-instruct gemma-3-270m)
if ! .venv/bin/python - <<'PYTHON'
import os, sys
from batchroute.hardware.container import limits
memory = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), limits().memory or sys.maxsize)
sys.exit(memory < 9 << 30)  # in float32 the 1.5B model takes 8 GB
PYTHON
then
    echo "demo: too little memory for ${larges[0]} (9 GiB), so ${larges[1]} takes its place: the figures will not be the README's"
    larges=("${larges[@]:1}")
fi
for large in "${larges[@]}"; do
    status=0
    batchroute models fetch all-minilm-l6-v2 smollm2-135m-instruct "$large" || status=$?
    if [ "$status" -ne 2 ] || [ "$large" = gemma-3-270m ]; then break; fi
    echo "demo: no $large here, so the next model is tried: the figures will not be the README's"
done
[ "$status" -eq 0 ] || exit "$status"
pair=(--set "models.large.model=embedded:$large")
if [ "$large" = gemma-3-270m ]; then
    # A base model: it learns from examples what an answer looks like.
    pair+=(--set 'models.large.template="Question: What is the opposite of sweet?\nAnswer: sour\nQuestion: {prompt}\nAnswer:"')
fi

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
    batchroute train --quality-table "$table" --base embedded:all-minilm-l6-v2 --output "$router" \
        --test 0.4 --overwrite
    # Another router is another run: the answers of the one before must go.
    fresh=(--fresh)
fi
if [ ! -f "$router/calibration.json" ] || [ ! -f "$router/reference.json" ]; then
    batchroute calibrate --quality-table "$table" --router "$router"
fi

step 4 "the job: jobs/demo.yaml"
batchroute run jobs/demo.yaml "${pair[@]}" "${fresh[@]}"
