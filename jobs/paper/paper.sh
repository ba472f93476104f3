#!/usr/bin/env bash
# The experiment of "Hybrid LLM" (ICLR 2024) in miniature: three models, three pairs, ten answers of each model to each
# prompt; labels, routers, thresholds, figures on test rows, and a routed backlog. What is done stays done.
#
#     jobs/paper/paper.sh                        # from the answers kept in sample_data
#     jobs/paper/paper.sh --ask --rows 500       # first asks the three models 500 prompts that have no answers yet
#     jobs/paper/paper.sh --ask --prompts FILE.parquet --models SMALL MIDDLE LARGE --samples 5 --output DIR
#
# FILE has the columns id, prompt, reference and split (train, validation, test). A model is a directory, a hub id or
# embedded:NAME. METHOD=finetune LABELS="det prob trans" METRIC=bartscore in the environment change the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

prompts=build/prompts.parquet ask= rows= samples=10 output=build/paper
models=(embedded:smollm2-135m-instruct embedded:qwen2.5-coder-0.5b-instruct embedded:qwen2.5-coder-1.5b-instruct)
kept=${models[*]}
while [ $# -gt 0 ]; do
    case $1 in
        --ask) ask=1 && shift ;;
        --prompts) prompts=$2 && shift 2 ;;
        --models) models=("$2" "$3" "$4") && shift 4 ;;
        --rows) rows=$2 && shift 2 ;;
        --samples) samples=$2 && shift 2 ;;
        --output) output=$2 && shift 2 ;;
        *) echo "error: unknown argument $1: see the first lines of $0" >&2 && exit 2 ;;
    esac
done
metric=${METRIC:-chrf} second=${SECOND_METRIC:-contains} method=${METHOD:-heads} labels=${LABELS:-det prob trans gap}
encoder=${ENCODER:-embedded:all-minilm-l6-v2}
export PAPER=$output
mkdir -p "$output"

step() { printf '\n== %s\n' "$*"; }
batchroute() { .venv/bin/python -m batchroute "$@"; }
# Runs a command unless the file that it leaves is there.
once() {
    local file=$1
    shift
    if [ -e "$file" ]; then echo "already there: $file"; else "$@"; fi
}

step "environment and models"
jobs/environment.sh demo
[ "$encoder" != embedded:all-minilm-l6-v2 ] || batchroute models fetch all-minilm-l6-v2

answers=sample_data/answers.parquet
if [ -n "$ask" ]; then
    known=$answers answers=$output/answers.parquet
    [ "${models[*]}" = "$kept" ] || known=$output/none.parquet
    step "answers: ${models[*]}, $samples each"
    for model in "${models[@]}"; do
        [[ $model != embedded:* ]] || batchroute models fetch "${model#embedded:}"
    done
    [ -e "$prompts" ] || .venv/bin/python sample_data/make_prompts.py --output "$prompts"
    once "$output/asked.parquet" .venv/bin/python jobs/paper/tables.py missing \
        "$prompts" "$known" "$output/asked.parquet" ${rows:+"$rows"}
    # Each model is asked once: the second table takes the large one's answers from the first.
    ask() { batchroute label "$@" --job jobs/paper/pair.yaml --metric "$second" --samples "$samples" --id id --keep-responses; }
    SMALL_MODEL=${models[0]} LARGE_MODEL=${models[2]} ask "$output/asked.parquet" --output "$output/first.parquet"
    SMALL_MODEL=${models[1]} LARGE_MODEL=${models[2]} ask "$output/first.responses.parquet" \
        --recorded large=large --output "$output/second.parquet"
    once "$answers" .venv/bin/python jobs/paper/tables.py answers \
        "$output/first.parquet" "$output/second.parquet" "$known" "$answers"
fi
# What the page says holds for one table of answers.
if [ -e "$output/labelled.parquet" ] && [ "$(sha256sum <"$answers")" != "$(cat "$output/answers.sha256")" ]; then
    echo "error: $output was made from other answers than $answers: choose another --output, or remove it" >&2
    exit 2
fi
sha256sum <"$answers" >"$output/answers.sha256"
once "$output/labelled.parquet" .venv/bin/python jobs/paper/tables.py parts "$answers" "$output"

# The names that the models of the answers have, by small, middle and large: a router is for the pair that it names.
declare -A name_of
while read -r side model; do name_of[$side]=$model; done < <(.venv/bin/python jobs/paper/tables.py names "$answers")

# label_pair ROWS WEAK STRONG METRIC TABLE
label_pair() {
    batchroute label "$1" --recorded "small=$2" --recorded "large=$3" --metric "$4" --small-model "${name_of[$2]}" \
        --large-model "${name_of[$3]}" --id id --output "$5"
}
# The pairs have the same prompts, so the encoder reads them once for all.
mkdir -p "$output/states"
first=${labels%% *} best=${labels##* }

for pair in small-gap:small:middle medium-gap:middle:large large-gap:small:large; do
    IFS=: read -r name weak strong <<<"$pair"
    place=$output/$name
    mkdir -p "$place"
    step "$name: quality tables by $metric and $second"
    ln -sfn ../states "$place/$metric.parquet.states"
    for by in "$metric" "$second"; do
        once "$place/$by.parquet" label_pair "$output/plain.parquet" "$weak" "$strong" "$by" "$place/$by.parquet"
    done
    step "$name: routers ($method: $labels)"
    compared=()
    for label in $labels; do
        once "$place/$label/router.json" batchroute train --quality-table "$place/$metric.parquet" --base "$encoder" \
            --method "$method" --label "$label" --output "$place/$label"
        compared+=(--compare "$place/$label")
    done
    once "$place/$best/calibration.json" batchroute calibrate --quality-table "$place/$metric.parquet" \
        --router "$place/$best"
    step "$name: figures on test rows"
    # The first router stands before the others, not among them.
    once "$place/by-$metric/evaluation.json" batchroute evaluate --quality-table "$place/$metric.parquet" \
        --router "$place/$first" "${compared[@]:2}" --second-table "$place/$second.parquet" --output "$place/by-$metric"
    once "$place/by-$second/evaluation.json" batchroute evaluate --quality-table "$place/$second.parquet" \
        --router "$place/$best" --output "$place/by-$second"
    once "$place/rules.txt" sh -c '.venv/bin/python -m tests.benchmarks.calibration_rules --limits 1 2 5 10 \
        --quality-table "$1" --router "$2" >"$3.part" && mv "$3.part" "$3"' - \
        "$place/$metric.parquet" "$place/$best" "$place/rules.txt"
done

step "the router of the large gap on the other pairs"
for name in small-gap medium-gap; do
    once "$output/$name/transfer.txt" sh -c '.venv/bin/python -m batchroute check-transfer --router "$1" \
        --quality-table "$2" --trained-on "$3" >"$4.part" && mv "$4.part" "$4"' - "$output/large-gap/$best" \
        "$output/$name/$metric.parquet" "$output/large-gap/$metric.parquet" "$output/$name/transfer.txt"
done

step "the large gap once more: deciding after the small model has answered"
place=$output/large-gap
once "$place/signals.parquet" label_pair "$output/labelled.parquet" small large "$metric" "$place/signals.parquet"
once "$place/$best/confidence.json" batchroute calibrate --quality-table "$place/signals.parquet" --router "$place/$best"
once "$place/after/ways.json" batchroute evaluate --quality-table "$place/signals.parquet" --router "$place/$best" \
    --output "$place/after"

here=1
for model in "${name_of[small]}" "${name_of[large]}"; do
    [[ $model != embedded:* || -d ${XDG_CACHE_HOME:-$HOME/.cache}/batchroute/models/${model#embedded:} ]] || here=
done
if [ -n "$here" ]; then
    step "a backlog: ${name_of[small]} and ${name_of[large]}, at most 10 % worse"
    PAPER_ROUTER=$output/large-gap/$best SMALL_MODEL=${name_of[small]} LARGE_MODEL=${name_of[large]} \
        batchroute run jobs/paper/pair.yaml
else
    echo "no backlog is routed: 'batchroute models fetch pair' fetches the models"
fi

step "the page"
.venv/bin/python jobs/paper/page.py "$output" --metric "$metric" --second "$second"
