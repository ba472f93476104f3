"""How often tonight's calibration breaks its limit, and how much it allows beside the best that is known.

    python tests/benchmarks/tonights_calibration.py --quality-table TABLE.parquet [--signal COLUMN ...] [--score COLUMN]

Draws rows of a quality table without replacement, as a run draws them from its own; fits and measures the confidence on
them as a run does; and applies the threshold of the bounded rule to all rows of the table, which stand for the night.
For each limit it prints the share of draws whose drop over the whole night is above the limit, the mean share of rows
that stay on the small model, and the share that the best order by the same signals allows if all qualities are known.
With --score, also what deciding before by that column does, and what `auto` does.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.answers import Answers
from batchroute.confidence.calibration import measure
from batchroute.confidence.choice import bounds_among, choose_within
from batchroute.confidence.model import ConfidenceModel
from batchroute.confidence.plans import Plan, points_by
from batchroute.confidence.rows import PricedRows
from batchroute.router.calibration.points import within
from batchroute.tables import quality_table

Floats = NDArray[np.float64]
Kept = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality-table", required=True)
    parser.add_argument("--signal", action="append", default=[])
    parser.add_argument("--score", help="a column with a router's scores, in [0, 1]")
    parser.add_argument("--rows", type=int, default=500, help="to calibrate on")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--limits", type=float, nargs="+", default=[1.0, 2.0, 5.0], help="percent")
    parser.add_argument("--small-cost", type=float, default=0.1, help="of an answer, as a share of the large model's")
    parser.add_argument("--auto", action="store_true", help="also auto, which is slow")
    options = parser.parse_args()

    table, scores = quality_table.read(options.quality_table, options.signal), None
    if options.score:
        scored = quality_table.read(options.quality_table, [options.score])
        scores = np.array([values[0] for values in scored.recorded[options.score]], np.float32)
    night = Night(Answers.of(table, scores), options.small_cost)
    found: dict[tuple[float, str], list[tuple[bool, float, float]]] = {}
    rng = np.random.default_rng(0)
    for draw in range(options.draws):
        drawn = rng.choice(night.prompts, min(options.rows, night.prompts), replace=False)
        for limit, way, kept, cost in night.decide(drawn, options.limits, draw, options.auto):
            found.setdefault((limit, way), []).append((night.drop(kept) > limit, float(kept.mean()), cost))

    print(f"{night.prompts:,} prompts, {options.rows} to calibrate, {options.draws} draws")
    print(f"{'limit':>6}  {'way':<8}{'broken in':>10}{'share':>8}{'cost':>8}{'best known share':>18}")
    summary = []
    for (limit, way), outcomes in found.items():
        broken, share, cost = np.mean(outcomes, axis=0)
        best = night.best(limit, way)
        print(f"{limit:>5g}%  {way:<8}{broken:>9.1%}{share:>8.1%}{cost:>8.1%}{best:>18.1%}")
        summary.append(
            {"limit": limit, "way": way, "broken": broken, "share": share, "cost": cost, "best_known_share": best}
        )
    print(json.dumps({"prompts": night.prompts, "rows": options.rows, "draws": options.draws, "figures": summary}))


class Night:
    """All answers of a table, with all qualities known."""

    def __init__(self, answers: Answers, small_cost: float) -> None:
        self.answers, self.small_cost = answers, small_cost
        self.prompts = int(answers.group.max()) + 1
        self.score = answers.signals.score.astype(np.float32)
        self.scored = bool(np.isfinite(self.score).all())
        self._rows_of = np.split(np.argsort(answers.group, kind="stable"), np.cumsum(np.bincount(answers.group))[:-1])

    def decide(
        self, drawn: NDArray[np.int64], limits: list[float], seed: int, auto: bool
    ) -> list[tuple[float, str, Kept, float]]:
        """Limit, way, which answers of the night stay, and the total cost."""
        answers = self.answers
        rows = self.rows_of(drawn)
        prompts = [str(number) for number in answers.group[rows]]
        measured = measure(
            answers.signals.take(rows), answers.small[rows], answers.large[rows], prompts, seed, resamples=1
        )
        sample = self.priced(rows, measured.confidence)
        everything = self.priced(np.arange(len(answers)), measured.model.apply(answers.signals))
        ways = {"before": Plan("before"), "after": Plan("after")} if self.scored else {"after": Plan("after")}
        points = {plan: points_by(sample, plan, seed) for plan in ways.values()}
        decided = []
        for limit in limits:
            if auto:
                ways["auto"] = choose_within(sample, limit, "bounded", seed).plan
            for way, plan in ways.items():
                bounds = points_by(sample, plan, seed, confidence=bounds_among(3)) if way == "auto" else points[plan]
                point = within(bounds, limit, "bounded")
                order, (sent, stays) = plan.order(everything), plan.costs(everything)
                kept = np.zeros(len(order), np.bool_) if point is None else order >= np.float32(point.threshold)
                decided.append((limit, way, kept, float(np.where(kept, stays, sent).mean())))
        return decided

    def rows_of(self, prompts: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.concatenate([self._rows_of[prompt] for prompt in prompts])

    def drop(self, kept: Kept) -> float:
        """In percent."""
        lost = (self.answers.large - self.answers.small) * kept
        return 100.0 * float(lost.mean() / abs(self.answers.large.mean()))

    def best(self, limit: float, way: str) -> float:
        """The largest share within the limit if the order is fitted to all rows and all qualities are known."""
        answers = self.answers
        if way == "before":
            order = self.score
        else:
            order = ConfidenceModel.fit(answers.signals, answers.small - answers.large, groups=answers.group).apply(
                answers.signals
            )
        _, block = np.unique(-order, return_inverse=True)
        lost = np.cumsum(np.bincount(block, answers.large - answers.small)) / len(order)
        share = np.cumsum(np.bincount(block)) / len(order)
        within_limit = 100.0 * lost / abs(answers.large.mean()) <= limit
        return float(share[within_limit].max()) if within_limit.any() else 0.0

    def priced(self, rows: NDArray[np.intp], confidence: NDArray[np.float32]) -> PricedRows:
        answers, ones = self.answers, np.ones(len(rows))
        return PricedRows(
            small=answers.small[rows],
            large=answers.large[rows],
            confidence=confidence,
            score=self.score[rows] if self.scored else None,
            small_cost=self.small_cost * ones,
            signal_cost=0.0 * ones,
            large_cost=ones,
            group=np.unique(answers.group[rows], return_inverse=True)[1].astype(np.intp),
        )


if __name__ == "__main__":
    main()
