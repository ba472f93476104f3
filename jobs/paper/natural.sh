#!/usr/bin/env bash
# The large gap of `paper.sh` on prompts of any table with the columns id, prompt and reference: both models answer, a
# router learns from half of the rows, and the rest say what it is worth. What is done stays done.
#
#     jobs/paper/natural.sh TABLE.parquet [ROWS] [CHARACTERS] [FOLDER]
#
# ROWS prompts (2,000) of at most CHARACTERS characters (400) are drawn by a fixed seed. SMALL_MODEL, LARGE_MODEL, METRIC
# and SAMPLES in the environment change the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

[ $# -ge 1 ] || { echo "error: name a table: see the first lines of $0" >&2 && exit 2; }
table=$1 rows=${2:-2000} characters=${3:-400} output=${4:-build/natural}
metric=${METRIC:-contains}
encoder=${ENCODER:-embedded:all-minilm-l6-v2}
mkdir -p "$output"

batchroute() { .venv/bin/python -m batchroute "$@"; }
once() {
    local file=$1
    shift
    if [ -e "$file" ]; then echo "already there: $file"; else "$@"; fi
}

once "$output/prompts.parquet" .venv/bin/python jobs/paper/tables.py natural \
    "$table" "$output/prompts.parquet" "$rows" "$characters"
batchroute label "$output/prompts.parquet" --job jobs/paper/pair.yaml --metric "$metric" --samples "${SAMPLES:-5}" \
    --id id --keep-responses --output "$output/$metric.parquet"
once "$output/router/router.json" batchroute train --quality-table "$output/$metric.parquet" --base "$encoder" \
    --output "$output/router"
once "$output/router/calibration.json" batchroute calibrate --quality-table "$output/$metric.parquet" \
    --router "$output/router"
once "$output/evaluation/evaluation.json" batchroute evaluate --quality-table "$output/$metric.parquet" \
    --router "$output/router" --output "$output/evaluation"
