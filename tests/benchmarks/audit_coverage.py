"""How often the interval of an audit holds the true quality drop, and how wide it is, in simulated nights.

    python -m tests.benchmarks.audit_coverage [--repetitions 4000]

A night has rows with scores and qualities; its true drop is known. Each repetition draws audited rows as a job does,
and as many of the large model's, and makes the interval of them. Prints the coverage and half the median width of each
night and size of the audit, and ends with an error when a coverage is below 93 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.quality import drop

WANTED = 0.93
ROWS, SIZES, SHARES = (1_000, 10_000, 100_000), (30, 100, 300), (0.6, 0.3, 0.95)
Floats = NDArray[np.float64]
Losses = Callable[[Floats, Floats, np.random.Generator], Floats]
"""From scores and the large model's qualities of the rows on small to their losses."""


@dataclass(frozen=True)
class Night:
    """Rows on small: scores, both qualities; rows on large: their quality. All of shape [rows]."""

    scores: NDArray[np.float32]
    small: Floats
    large: Floats
    others: Floats

    @property
    def drop(self) -> float:
        return float(100 * (self.large - self.small).sum() / abs(self.large.sum() + self.others.sum()))


def _right(share: float) -> Callable[[int, np.random.Generator], Floats]:
    return lambda rows, rng: (rng.random(rows) < share).astype(np.float64)


def _normal(mean: float, deviation: float) -> Callable[[int, np.random.Generator], Floats]:
    return lambda rows, rng: rng.normal(mean, deviation, rows)


def _unit(rows: int, rng: np.random.Generator) -> Floats:
    return rng.beta(3, 2, rows)


def _lost(chance: float) -> Losses:
    """Right answers get wrong."""
    return lambda scores, large, rng: large * (rng.random(len(large)) < chance)


def _lost_by_score(most: float) -> Losses:
    """The more often the lower the score."""
    return lambda scores, large, rng: large * (rng.random(len(large)) < most * (1 - scores) ** 2)


def _both_ways(lost: float, gained: float) -> Losses:
    def losses(scores: Floats, large: Floats, rng: np.random.Generator) -> Floats:
        return np.where(large == 1, rng.random(len(large)) < lost, -1.0 * (rng.random(len(large)) < gained))

    return losses


def _shifted(mean: float, deviation: float) -> Losses:
    return lambda scores, large, rng: rng.normal(mean, deviation, len(large))


def _shifted_by_score(most: float, deviation: float) -> Losses:
    return lambda scores, large, rng: rng.normal(most * (1 - scores), deviation)


def _seldom(chance: float, mean: float) -> Losses:
    """Most answers are the same."""
    return lambda scores, large, rng: (rng.random(len(large)) < chance) * rng.exponential(mean, len(large))


def _heavy(mean: float, scale: float) -> Losses:
    return lambda scores, large, rng: mean + scale * rng.standard_t(3, len(large))


KINDS: dict[str, tuple[Callable[[int, np.random.Generator], Floats], Losses]] = {
    "0/1, nothing is lost": (_right(0.9), _lost(0)),
    "0/1, 1 % lost": (_right(0.9), _lost(0.01)),
    "0/1, 2 % lost": (_right(0.9), _lost(0.02)),
    "0/1, 2 % lost, large mostly wrong": (_right(0.4), _lost(0.02)),
    "0/1, lost by score": (_right(0.9), _lost_by_score(0.1)),
    "0/1, lost and gained": (_right(0.6), _both_ways(0.1, 0.2)),
    "0/1, gained": (_right(0.7), _both_ways(0, 0.05)),
    "[0, 1], lost": (_unit, _shifted(0.03, 0.15)),
    "[0, 1], gained": (_unit, _shifted(-0.03, 0.15)),
    "[0, 1], lost by score": (_unit, _shifted_by_score(0.2, 0.1)),
    "[0, 1], 2 % lost": (_unit, _seldom(0.02, 0.3)),
    "below 0, lost": (_normal(-3, 0.8), _shifted(0.1, 0.5)),
    "below 0, gained": (_normal(-3, 0.8), _shifted(-0.1, 0.5)),
    "below 0, lost by score": (_normal(-3, 0.8), _shifted_by_score(0.8, 0.4)),
    "below 0, 2 % lost": (_normal(-3, 0.8), _seldom(0.02, 1.5)),
    "below 0, heavy tails": (_normal(-3, 0.8), _heavy(0.1, 0.3)),
}


def night(kind: str, rows: int, share: float, rng: np.random.Generator) -> Night:
    """A night of so many rows, of which a share is on small."""
    qualities, losses = KINDS[kind]
    on_small = round(rows * share)
    scores, large = rng.random(on_small), qualities(on_small, rng)
    small = large - losses(scores, large, rng)
    return Night(scores.astype(np.float32), small, large, qualities(rows - on_small, rng))


def interval(of: Night, order: NDArray[np.intp], size: int, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of one audit of so many rows.

    Args:
        order: of the rows by their scores, which does not change from one audit to another.
    """
    ranks = np.arange(len(order), dtype=np.float32)
    strata = [
        drop.Stratum(drawn.rows, of.small[order[drawn.indices]], of.large[order[drawn.indices]])
        for drawn in drop.draw(ranks, size, rng)
    ]
    others = rng.choice(of.others, min(size, len(of.others)), replace=False)
    found = drop.estimate(strata, others, len(of.others))
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def coverage(of: Night, size: int, repetitions: int, rng: np.random.Generator) -> tuple[float, float]:
    """The share of audits whose interval holds the true drop, and the median width in percent."""
    order = np.argsort(of.scores, kind="stable")
    bounds = np.array([interval(of, order, size, rng) for _ in range(repetitions)])
    inside = (bounds[:, 0] <= of.drop + 1e-9) & (of.drop - 1e-9 <= bounds[:, 1])
    return float(inside.mean()), float(np.median(bounds[:, 1] - bounds[:, 0]))


def nights() -> Iterator[tuple[str, int, float]]:
    return ((kind, rows, share) for kind in KINDS for rows, share in zip(ROWS, SHARES, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    started, found = time.perf_counter(), []
    print(f"{'night':<36}{'rows':>8}{'small':>7}{'drop %':>8}" + "".join(f"{f'{size} audited':>18}" for size in SIZES))
    for number, (kind, rows, share) in enumerate(nights()):
        rng = np.random.default_rng([options.seed, number])
        of = night(kind, rows, share, rng)
        cells = [(size, *coverage(of, size, options.repetitions, rng)) for size in SIZES if size <= len(of.scores)]
        shown = "".join(f"{covered:>10.1%} ±{width / 2:>5.2f}" for _, covered, width in cells)
        print(f"{kind:<36}{rows:>8,}{share:>7.0%}{of.drop:>8.2f}{shown}", flush=True)
        found += [(kind, rows, size, covered) for size, covered, _ in cells]
    worst = min(found, key=lambda one: one[-1])
    mean = float(np.mean([covered for *_, covered in found]))
    print(json.dumps({"repetitions": options.repetitions, "lowest": worst[-1], "of": worst[:-1], "mean": mean}))
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(worst[-1] < WANTED)


if __name__ == "__main__":
    main()
