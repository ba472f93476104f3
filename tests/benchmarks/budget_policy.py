"""What a budget buys: rows sent to the large model by expected gain per dollar, against by score alone.

    python tests/benchmarks/budget_policy.py --quality-table TABLE.parquet --router DIR

Scores the rows that the router never saw once, then splits them again and again: half to calibrate, half for a night.
The prices are by token, 0.05 and 0.10 USD a million for the small model, 0.50 and 1.50 for the large one, and both
write `--written` tokens a row, so that a row's cost differs by the length of its prompt. For budgets between all rows
on the small model (0 %) and all on the large one (100 %) it prints the mean quality that the night then really has, by
both ways of spending the money, and how sure the difference is.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from batchroute.policy.budget import Priced, by_score, spend
from batchroute.router.calibration.gain import Gain
from batchroute.router.model import Router
from batchroute.router.notes import Notes
from batchroute.router.scoring import score
from batchroute.tables import quality_table

SMALL, LARGE = (50_000, 100_000), (500_000, 1_500_000)
"""Pico-dollars for a token read and one written."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality-table", required=True)
    parser.add_argument("--router", required=True)
    parser.add_argument("--written", type=int, default=64, help="tokens of a response")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--budgets", type=float, nargs="+", default=[10, 25, 50, 75, 90], help="percent")
    options = parser.parse_args()

    table = Notes.read(options.router).held_out(quality_table.read(options.quality_table))
    found = score(Router.load(options.router, torch.device("cpu")), table.prompts)
    small_quality, large_quality = table.small_mean, table.large_mean
    small, large = (
        found.tokens.astype(np.int64) * read + options.written * written for read, written in (SMALL, LARGE)
    )
    rng = np.random.default_rng(0)
    differences: dict[float, list[tuple[float, float, float]]] = {budget: [] for budget in options.budgets}
    for _ in range(options.splits):
        order = rng.permutation(len(table))
        known, night = order[: len(order) // 2], order[len(order) // 2 :]
        losses = (large_quality - small_quality)[known]
        gain = Gain.fit(found.scores[known], found.tokens[known], losses, float(large_quality[known].mean()))
        others, rows = (
            Priced(found.scores[part], gain.of(found.scores[part], found.tokens[part]), small[part], large[part])
            for part in (known, night)
        )
        for percent in options.budgets:
            money = rows.least + int((rows.most - rows.least) * percent / 100)
            per_dollar = spend(rows, money, (others, losses))
            assert per_dollar is not None
            alone = by_score(rows, money)
            qualities = [
                float(np.where(chosen, small_quality[night], large_quality[night]).mean())
                for chosen in (per_dollar, alone)
            ]
            differences[percent].append((*qualities, float(per_dollar.mean() - alone.mean())))
    print(f"{len(table):,} rows that the router never saw, {options.splits} splits; quality all on small "
          f"{small_quality.mean():.4f}, all on large {large_quality.mean():.4f}")  # fmt: skip
    print("budget  per dollar  by score  difference (2.5 to 97.5 % of the splits)  more rows on small")
    for percent, values in differences.items():
        mine, other, rows = np.array(values).T
        low, high = np.quantile(mine - other, [0.025, 0.975])
        difference = f"{(mine - other).mean():+.4f} ({low:+.4f} to {high:+.4f})"
        print(f"{percent:5.0f} % {mine.mean():11.4f} {other.mean():9.4f}  {difference:>42} {rows.mean():+18.1%}")


if __name__ == "__main__":
    main()
