"""How often each rule of `max_quality_drop` breaks its limit on rows that it was not calibrated on.

    python tests/benchmarks/calibration_rules.py --quality-table TABLE.parquet --router DIR

Scores the rows that the router never saw once, then splits them again and again: some rows to calibrate, all others to
test the chosen threshold on. For each limit and rule it prints the share of splits whose test drop is above the limit,
and the mean cost advantage; the bounded rule should break the limit in about 5 % of the splits or fewer.
"""

from __future__ import annotations

import argparse
import json
from typing import get_args

import numpy as np
import torch

from batchroute.router.calibration.drops import points_of
from batchroute.router.calibration.points import Calibration, CalibrationRule
from batchroute.router.model import Router
from batchroute.router.notes import Notes
from batchroute.router.scoring import score
from batchroute.tables import quality_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality-table", required=True)
    parser.add_argument("--router", required=True)
    parser.add_argument("--rows", type=int, help="to calibrate on; default: 500, and at most half")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--limits", type=float, nargs="+", default=[1.0, 2.0, 5.0], help="percent")
    options = parser.parse_args()

    table = Notes.read(options.router).held_out(quality_table.read(options.quality_table))
    router = Router.load(options.router, torch.device("cpu"))
    scores = score(router, table.prompts).scores
    small, large = table.small_mean, table.large_mean
    calibrated_on = options.rows or min(500, len(table) // 2)

    found: dict[tuple[float, CalibrationRule], list[tuple[bool, float]]] = {}
    rng = np.random.default_rng(0)
    for _ in range(options.splits):
        order = rng.permutation(len(table))
        rows, test = order[:calibrated_on], order[calibrated_on:]
        prompts = [table.prompts[i] for i in rows]
        # One resample: no rule reads the intervals, which take most of the time.
        points = points_of(scores[rows], small[rows], large[rows], prompts, seed=0, resamples=1)
        calibrated = Calibration(
            table_sha256=table.sha256,
            rows=len(rows),
            prompts=len(rows),
            models={},
            metric=None,
            max_length=router.max_length,
            confidence=0.95,
            points=points,
        )
        for limit in options.limits:
            for rule in get_args(CalibrationRule):
                point = calibrated.within(limit, rule)
                routed = scores[test] >= np.float32(2.0 if point is None else point.threshold)
                drop = 100 * ((large - small)[test] * routed).sum() / len(test) / abs(large[test].mean())
                found.setdefault((limit, rule), []).append((bool(drop > limit), float(routed.mean())))

    print(f"{len(table):,} rows, {calibrated_on} to calibrate, {options.splits} splits")
    print(f"{'limit':>6}  {'rule':<10}{'broken in':>10}{'cost advantage':>16}")
    summary = []
    for (limit, rule), outcomes in found.items():
        broken, share = np.mean(outcomes, axis=0)
        print(f"{limit:>5g}%  {rule:<10}{broken:>9.1%}{share:>16.1%}")
        summary.append({"limit": limit, "rule": rule, "broken": float(broken), "cost_advantage": float(share)})
    print(
        json.dumps({"rows": len(table), "calibration_rows": calibrated_on, "splits": options.splits, "rules": summary})
    )


if __name__ == "__main__":
    main()
