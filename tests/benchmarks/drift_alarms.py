"""How often drift raises an alarm: on nights like the calibration, and on nights of another mix of tasks.

    python tests/benchmarks/drift_alarms.py --quality-table FILE.parquet --router DIR [--nights 100] [--rows 118 200]

Scores the rows that the router never saw once, then draws nights from them, with replacement. Like the calibration:
`calibration`, from the rows of the reference itself, and `new rows`, from a random half of them by a reference of the
other half. Of another mix, drawn anew for each night: `tasks gone`, half of the tasks are not there, and `tasks rare`,
half of them have a tenth of their weight. Prints how many nights raise an alarm, which features do, and one line of
JSON. Exits with 1 when more than 5 % of the nights like the calibration do, or fewer than 95 % of those with tasks gone
at 200 rows or more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.router.drift import measure as drift
from batchroute.router.drift import reference
from batchroute.router.drift.languages import language
from batchroute.router.drift.measure import Drift, Night
from batchroute.router.drift.reference import Reference
from batchroute.router.model import Router
from batchroute.router.notes import Notes
from batchroute.router.scores import Scores
from batchroute.router.scoring import score
from batchroute.tables import quality_table

_LANGUAGES = 64
_NIGHTS_A_SPLIT = 10
_ALARMS, _CAUGHT = 0.05, 0.95


@dataclass(frozen=True)
class Pool:
    """Rows to draw nights from.

    Attributes:
        tasks: shape [rows].
    """

    prompts: list[str]
    tasks: NDArray[np.object_]
    scored: Scores
    languages: list[str]

    @classmethod
    def of(cls, router: Router, prompts: list[str], tasks: list[str | None]) -> Pool:
        scored = score(router, prompts, with_embeddings=True)
        return cls(prompts, np.array(tasks, object), scored, [language(prompt) for prompt in prompts])

    def reference(self, router: Router, rows: NDArray[np.intp], seed: int = 0) -> Reference:
        embeddings = None if self.scored.embeddings is None else self.scored.embeddings[rows]
        part = Scores(self.scored.scores[rows], self.scored.tokens[rows], self.scored.truncated[rows], embeddings)
        return reference.measure(router, [self.prompts[row] for row in rows], part, seed)

    def nights(self, known: Reference) -> Callable[[NDArray[np.intp]], Night]:
        """From rows to the night that they are, as scoring would put it down."""
        content, embeddings = known.content, self.scored.embeddings
        placed = None if content is None or embeddings is None else content.places(embeddings)

        def night(rows: NDArray[np.intp]) -> Night:
            return Night(
                scores=self.scored.scores[rows],
                tokens=self.scored.tokens[rows],
                languages=dict(Counter(self.languages[row] for row in rows[:_LANGUAGES])),
                places=None if placed is None else np.bincount(placed[0][rows]),
                distances=None if placed is None else placed[1][rows],
            )

        return night

    def other_mix(self, rng: np.random.Generator, size: int, left: float) -> NDArray[np.intp]:
        """Rows of a night in which half of the tasks have only a part of their weight left."""
        names = np.unique(self.tasks)
        weights = np.where(np.isin(self.tasks, rng.permutation(names)[: len(names) // 2]), left, 1.0)
        return rng.choice(len(self.tasks), size, p=weights / weights.sum())


def alarms(router: Router, pool: Pool, size: int, nights: int, seed: int = 0) -> dict[str, list[Drift]]:
    """What drift says of nights of `size` rows, by their kind."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(pool.prompts))
    whole = pool.reference(router, rows)
    night = pool.nights(whole)
    found: dict[str, list[Drift]] = {kind: [] for kind in ("calibration", "new rows", "tasks gone", "tasks rare")}
    for number in range(nights):
        if number % _NIGHTS_A_SPLIT == 0:
            known, new = np.array_split(rng.permutation(rows), 2)
            half = pool.reference(router, known, number)
            new_night = pool.nights(half)
        found["calibration"].append(drift.measure(whole, night(rng.choice(rows, size))))
        found["new rows"].append(drift.measure(half, new_night(rng.choice(new, size))))
        found["tasks gone"].append(drift.measure(whole, night(pool.other_mix(rng, size, 0.0))))
        found["tasks rare"].append(drift.measure(whole, night(pool.other_mix(rng, size, 0.1))))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality-table", required=True, help="with a column task")
    parser.add_argument("--router", required=True)
    parser.add_argument("--nights", type=int, default=100)
    parser.add_argument("--rows", type=int, nargs="+", default=[118, 200, 1_000], help="of a night")
    options = parser.parse_args()

    table = Notes.read(options.router).held_out(quality_table.read(options.quality_table))
    if table.tasks is None:
        parser.error("the table has no column task")
    router = Router.load(options.router, torch.device("cpu"))
    pool = Pool.of(router, table.prompts, table.tasks)
    size = len(pool.reference(router, np.arange(len(table))).model_dump_json())
    print(
        f"{len(table):,} rows that the router never saw, {len(set(table.tasks))} tasks; reference.json {size:,} bytes"
    )
    print(f"{'rows':>6}  {'nights':<13}{'alarms':>9}   by feature")
    figures, failed = [], False
    for rows in options.rows:
        for kind, found in alarms(router, pool, rows, options.nights).items():
            share = sum(one.drifted for one in found) / len(found)
            by_feature = Counter(feature.name for one in found for feature in one.features if feature.drifted)
            print(f"{rows:>6,}  {kind:<13}{share:>9.0%}   {', '.join(f'{k} {n}' for k, n in by_feature.items())}")
            figures.append({"rows": rows, "nights": kind, "alarms": share, "features": dict(by_feature)})
            failed |= kind in ("calibration", "new rows") and share > _ALARMS
            failed |= kind == "tasks gone" and rows >= 200 and share < _CAUGHT
    print(alarms(router, pool, max(options.rows), 1)["tasks gone"][0].sentence())
    print(json.dumps({"rows": len(table), "nights": options.nights, "found": figures}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
