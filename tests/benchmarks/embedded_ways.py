"""Before, after and both at equal total cost, on the three pairs of a table of answers of three models.

    python -m tests.benchmarks.embedded_ways
    python -m tests.benchmarks.embedded_ways --agree 3 --small-cost 0.02

Prompts are scored by heads on a frozen encoder, out of fold. The signals are the log-probabilities and the tokens; with
`--agree K` also the agreement of each answer with the next K samples, by the text alone, whose tokens are paid for.
Costs are those of the paper's job, at its own prices (a row of one model reads and writes as many tokens as the table
says) and with both models at the large one's; with `--small-cost` those of a ratio.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from batchroute import models
from batchroute.confidence.answers import Answers
from batchroute.confidence.calibrate import answered_rows
from batchroute.confidence.calibration import AnsweredRows, measure
from batchroute.confidence.evaluate import figures
from batchroute.confidence.pricing import by_price, by_ratio
from batchroute.confidence.rows import PricedRows
from batchroute.costs.prices import Price
from batchroute.generators.agreement import same_text
from batchroute.router.evaluation.scorecard import Estimate
from batchroute.router.heads.members import combined
from batchroute.router.reading import Reads
from batchroute.router.training.answers import texts_of
from batchroute.router.training.encoders import frozen_encoder
from batchroute.router.training.heads.cache import states_of
from batchroute.router.training.heads.crossing import cross_fitted, folds_of
from batchroute.router.training.heads.fitting import Inputs, Lesson, numbered
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable

Floats = NDArray[np.float64]
PAIRS = (("small", "large"), ("small", "middle"), ("middle", "large"))
# Of jobs/paper/pair.yaml.
_SMALL, _LARGE = Price(input="0.05", output="0.10"), Price(input="0.50", output="1.50")
_ROUTER_PER_TOKEN = 0.02e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", default="sample_data/answers.parquet")
    parser.add_argument("--quality-table", help="with signals, of one pair, in place of the answers")
    parser.add_argument("--base", default="embedded:all-minilm-l6-v2")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--agree", type=int, default=0, help="samples that each answer is compared with")
    parser.add_argument("--small-cost", type=float, help="of an answer, as a share of the large model's")
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    if options.quality_table:
        show(quality_table.read(options.quality_table), options)
        return
    answers = pl.read_parquet(options.answers)
    with tempfile.TemporaryDirectory() as folder:
        # The pairs have the same prompts, so the encoder reads them once for all.
        path = Path(folder) / "t.parquet"
        for weak, strong in PAIRS:
            pair(answers, weak, strong, options.agree).write_parquet(path)
            print(f"{weak} or {strong}:", end=" ")
            show(quality_table.read(str(path)), options)


def show(table: QualityTable, options: argparse.Namespace) -> None:
    gaps = table.small_mean - table.large_mean
    low, high = np.percentile(gaps, [1, 99])
    targets = np.clip((gaps - low) / (high - low), 0.0, 1.0)
    predicted = out_of_fold(table, targets, options.base, options.max_length)
    scores = np.clip(predicted, 0.0, 1.0).astype(np.float32)
    rows = Answers.of(table, scores)
    fitted = measure(rows.signals, rows.small, rows.large, rows.prompts, 0, resamples=1)
    answered = answered_rows(rows, scores, fitted.confidence)
    print(f"{len(rows):,} answers to {len(table):,} prompts", flush=True)
    for name, priced in costs(answered, options.small_cost):
        ratio = priced.small_cost.mean() / priced.large_cost.mean()
        print(f" {name}: a small answer costs {ratio:.0%} of a large one")
        found, total = figures(priced, options.resamples, 0)
        print(f"  total cost: {', '.join(f'{share} % {cost:.0f} %' for share, cost in total.items())}")
        for way, one in found.items():
            line(way, one.drop)
            if one.drop_at_share:
                line(f"{way}, with as many rows kept", one.drop_at_share)


def line(name: str, drops: Mapping[str, Estimate]) -> None:
    print(f"  {name}: {', '.join(f'{share} % {drop.text()}' for share, drop in drops.items())}", flush=True)


def costs(answered: AnsweredRows, ratio: float | None) -> Iterator[tuple[str, PricedRows]]:
    if ratio is not None:
        yield "by a ratio", by_ratio(answered, ratio)
        return
    assert answered.small_tokens is not None
    router = float(np.mean(answered.small_tokens[0])) * _ROUTER_PER_TOKEN
    yield "at the job's prices", by_price(answered, {"small": _SMALL, "large": _LARGE}, {}, router)
    yield "at equal prices", by_price(answered, {"small": _LARGE, "large": _LARGE}, {}, router)


def pair(answers: pl.DataFrame, weak: str, strong: str, agree: int) -> pl.DataFrame:
    """A quality table with signals."""
    table = answers.select(
        "prompt",
        *(["task"] if "task" in answers.columns else []),
        small_quality=f"{weak}_quality",
        large_quality=f"{strong}_quality",
        small_logprob=f"{weak}_logprob",
        small_logprob_low=f"{weak}_logprob_low",
        small_input_tokens=f"{weak}_input_tokens",
        small_output_tokens=f"{weak}_output_tokens",
        large_input_tokens=f"{strong}_input_tokens",
        large_output_tokens=f"{strong}_output_tokens",
    )
    if not agree:
        return table
    others = range(1, agree + 1)
    responses, written = answers[f"{weak}_responses"].to_list(), answers[f"{weak}_output_tokens"].to_list()
    return table.with_columns(
        small_agreement=pl.Series(
            [
                [float(np.mean([same_text(one[(i + j) % len(one)], one[i]) for j in others])) for i in range(len(one))]
                for one in responses
            ]
        ),
        # A prompt is read once for all of its samples.
        small_sample_input_tokens=pl.lit(0, pl.Int32),
        small_sample_output_tokens=pl.Series([round(agree * float(np.mean(some))) for some in written], dtype=pl.Int32),
    )


def out_of_fold(
    table: QualityTable,
    targets: Floats,
    base: str,
    max_length: int,
    reads: Reads = "prompt",
    beside: str | None = None,
) -> Floats:
    """What heads that were fitted to the other folds predict of each row; rows of a prompt are in one fold.

    Args:
        targets: what they learn: shape [rows].
        beside: the file that the encoder's states are kept beside; the table's unless set.
    """
    router = frozen_encoder(base, max_length, torch.device("cpu"), reads=reads)
    texts = texts_of(table, reads)
    place = table.path if beside is None else beside
    states = states_of(router, models.identity(base), place, texts, lambda done, whole: None, print)
    router.close()
    inputs = Inputs.of(texts, states)
    weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
    lesson = Lesson(inputs.features, inputs.features @ inputs.rotation, targets, weights, numbered(table.tasks))
    members = cross_fitted(lesson, folds_of(table.prompts, 0), 0, lambda done: None)
    predicted: Floats = combined(torch.from_numpy(members))[0].numpy()
    return predicted


if __name__ == "__main__":
    main()
