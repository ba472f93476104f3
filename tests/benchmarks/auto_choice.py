"""How much `policy.decide: auto` loses to the better of deciding before and after, when few rows choose.

    python -m tests.benchmarks.auto_choice --quality-table TABLE.parquet [--score COLUMN] [--signal COLUMN ...]

Draws prompts of a quality table without replacement, chooses on them as a run does, and decides on all other prompts of
the table. For each cost advantage it prints the mean drop of each way at equal total cost, and how far that of `auto`
is above the lower of the two means, with the standard error over the draws.

Without --score the score is a TF-IDF ridge of the gap, out of fold. --made-signal W takes, for tables without answers,
W times the quality of the small model's answer plus noise of a standard deviation of 1.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from batchroute.confidence.answers import Answers
from batchroute.confidence.calibration import measure
from batchroute.confidence.choice import choose_at
from batchroute.confidence.evaluate import SHARES
from batchroute.confidence.plans import Plan, curve
from batchroute.tables import quality_table
from tests.benchmarks.tonights_calibration import Night

_FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality-table", required=True)
    parser.add_argument("--score", help="a column with a router's scores, in [0, 1]")
    parser.add_argument("--signal", action="append", default=[])
    parser.add_argument("--made-signal", type=float, help="how much a made signal knows of the answer")
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 500], help="to calibrate on")
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--small-cost", type=float, default=0.1, help="of an answer, as a share of the large model's")
    options = parser.parse_args()

    table = quality_table.read(options.quality_table, options.signal)
    if options.score is None:
        scores = out_of_fold(table.prompts, table.small_mean - table.large_mean)
    else:
        scored = quality_table.read(options.quality_table, [options.score])
        scores = np.array([values[0] for values in scored.recorded[options.score]], np.float32)
    answers = Answers.of(table, scores)
    if options.made_signal is not None:
        noise = np.random.default_rng(0).normal(size=len(answers))
        made = {"made": options.made_signal * answers.small + noise}
        answers = replace(answers, signals=replace(answers.signals, extra={**answers.signals.extra, **made}))
    night = Night(answers, options.small_cost)
    summary = []
    for rows in options.rows:
        for share, found in measured(night, rows, options.draws).items():
            means = {way: float(np.mean(drops)) for way, drops in found.items()}
            better = min(("before", "after"), key=means.__getitem__)
            each = np.array(found["auto"]) - np.array(found[better])
            lost, error = float(each.mean()), float(each.std(ddof=1)) / np.sqrt(len(each))
            words = ", ".join(f"{way} {mean:.2f}" for way, mean in means.items())
            print(f"{rows} rows, {share:.0%}: {words}; auto {lost:+.2f} ± {error:.2f}", flush=True)
            summary.append({"rows": rows, "share": share, **means, "lost": lost, "error": error})
    print(json.dumps({"prompts": night.prompts, "draws": options.draws, "figures": summary}))


def measured(night: Night, rows: int, draws: int) -> dict[float, dict[str, list[float]]]:
    """Drops on the rows that were not drawn: by cost advantage and way, an entry for each draw."""
    found: dict[float, dict[str, list[float]]] = {share: {} for share in SHARES}
    answers = night.answers
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(night.prompts)
        drawn, others = night.rows_of(order[:rows]), night.rows_of(order[rows:])
        prompts = [str(number) for number in answers.group[drawn]]
        fitted = measure(
            answers.signals.take(drawn), answers.small[drawn], answers.large[drawn], prompts, seed, resamples=1
        )
        sample = night.priced(drawn, fitted.confidence)
        rest = night.priced(others, fitted.model.apply(answers.signals.take(others)))
        for share, ways in found.items():
            cost = sample.cost_of_share(share)
            plans = {"before": Plan("before"), "after": Plan("after"), "auto": choose_at(sample, cost, seed).plan}
            for way, plan in plans.items():
                ways.setdefault(way, []).append(float(curve(rest, plan).drop_at(cost)[0]))
    return found


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
