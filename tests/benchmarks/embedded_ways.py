"""Before, after and both at equal total cost, on the three pairs of a table of answers of three models.

    python -m tests.benchmarks.embedded_ways --answers sample_data/answers.parquet --small-cost 0.1

The score is a TF-IDF ridge of the gap, out of fold. Signals are the log-probabilities, the tokens, and the agreement
with the next three samples, whose cost is not counted. The agreement is by the text alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from batchroute.confidence.answers import Answers
from batchroute.confidence.calibrate import answered_rows
from batchroute.confidence.calibration import measure
from batchroute.confidence.evaluate import figures
from batchroute.confidence.pricing import by_ratio
from batchroute.generators.agreement import same_text
from batchroute.tables import quality_table

PAIRS = (("small", "large"), ("small", "middle"), ("middle", "large"))
_FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", default="sample_data/answers.parquet")
    parser.add_argument("--small-cost", type=float, default=0.1, help="of an answer, as a share of the large model's")
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    answers = pl.read_parquet(options.answers)
    for weak, strong in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.parquet"
            pair(answers, weak, strong).write_parquet(path)
            table = quality_table.read(str(path))
        scores = out_of_fold(table.prompts, table.small_mean - table.large_mean)
        rows = Answers.of(table, scores)
        fitted = measure(rows.signals, rows.small, rows.large, rows.prompts, 0, resamples=1)
        priced = by_ratio(answered_rows(rows, scores, fitted.confidence), options.small_cost)
        print(f"{weak} or {strong}: {len(rows):,} answers to {len(table):,} prompts", flush=True)
        for way, found in figures(priced, options.resamples, 0)[0].items():
            print(f"  {way}: {', '.join(f'{share} % {drop.text()}' for share, drop in found.drop.items())}", flush=True)


def pair(answers: pl.DataFrame, weak: str, strong: str) -> pl.DataFrame:
    """A quality table with signals."""
    agreement = [
        [float(np.mean([same_text(one[(i + j) % len(one)], one[i]) for j in (1, 2, 3)])) for i in range(len(one))]
        for one in answers[f"{weak}_responses"].to_list()
    ]
    return answers.select(
        "prompt",
        small_quality=f"{weak}_quality",
        large_quality=f"{strong}_quality",
        small_logprob=f"{weak}_logprob",
        small_logprob_low=f"{weak}_logprob_low",
        small_output_tokens=f"{weak}_output_tokens",
        small_agreement=pl.Series(agreement),
    )


def out_of_fold(prompts: list[str], gaps: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scores in [0, 1]."""
    fold, found = np.random.default_rng(0).permutation(len(prompts)) % _FOLDS, np.zeros(len(prompts))
    for number in range(_FOLDS):
        held = np.flatnonzero(fold == number)
        others = np.flatnonzero(fold != number)
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        known = words.fit_transform([prompts[row] for row in others])
        found[held] = Ridge(3.0).fit(known, gaps[others]).predict(words.transform([prompts[row] for row in held]))
    scores: NDArray[np.float32] = (1 / (1 + np.exp(-(found - found.mean()) / found.std()))).astype(np.float32)
    return scores


if __name__ == "__main__":
    main()
