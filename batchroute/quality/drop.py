"""The quality drop of a night from a sample of its rows: how they are drawn, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STRATA = 10
_PSEUDO_ROWS = 3
# Student's two-sided 95 % quantiles of 1 to 9 degrees of freedom, where the expansion is not good enough.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Some rows of one stratum.

    Attributes:
        rows: of the stratum.
        last: index of its last row in the order of scores.
        indices: of the drawn ones, rising.
    """

    rows: int
    last: int
    indices: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Stratum:
    """What was measured of one stratum: qualities of shape [measured], of the `rows` that it has."""

    rows: int
    small: Floats
    large: Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the measured rows tell; None where they are too few.

    Attributes:
        small, large: mean qualities of the rows of the small model.
        as_good: their share whose small answer is at least as good.
        drop, low, high: percent, of all answered rows; with a 95 % interval.
    """

    small: float | None = None
    large: float | None = None
    as_good: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None


def draw(scores: NDArray[np.float32], rows: int, rng: np.random.Generator) -> list[Drawn]:
    """Draw rows from equal parts by score: ten of them, or fewer, so that each gives about two rows or more.

    Args:
        scores: shape [rows]; of equal ones the first is the lower.
        rows: how many to draw; at most all.
    """
    count, strata = len(scores), max(1, min(_STRATA, rows // 2))
    if not count:
        return []
    order = np.argsort(scores, kind="stable")
    ends = [count * number // strata for number in range(strata + 1)]
    # Rounded on the running total, so that no stratum gives more than it has and together they give `rows`.
    taken = [end * rows // count for end in ends]
    return [
        Drawn(
            rows=ends[i + 1] - ends[i],
            last=int(order[ends[i + 1] - 1]),
            indices=np.sort(rng.choice(order[ends[i] : ends[i + 1]], taken[i + 1] - taken[i], replace=False)),
        )
        for i in range(strata)
    ]


def estimate(strata: Sequence[Stratum], large: Floats, large_rows: int) -> Estimate:
    """The drop 100 · (share of rows on small) · mean(q(L) − q(S)) / |mean q(L) over all rows|, and its interval.

    A stratified mean over a mean of both models' rows; its variance is that of its linearisation (Cochran, "Sampling
    Techniques", 1977, sections 5.6 and 6.11), with finite population corrections, the quantile Student's.

    A few rows that all lost nothing prove little where losses are rare. So the variance is that of a sample in which
    three more rows were seen that lost or gained as much as rows that differ do. For 0 and 1 that is the adjusted
    interval for differences of paired proportions (Bonett and Price, J. Educ. Behav. Stat. 37(4), 2012), with three
    rows in place of their two, since rare losses of other qualities are skewed too. By how much rows differ is the mean
    square of the losses that are not 0 and of the range of all qualities. The price is an interval that with thirty
    rows is up to a tenth too wide where most rows differ, and with a hundred next to nothing.

    Args:
        strata: of the rows that the small model answered alone.
        large: qualities of some rows of the large model, drawn evenly: shape [measured].
        large_rows: how many it answered.
    """
    strata = _merged(strata)
    if not strata:
        return Estimate()
    of_small = sum(stratum.rows for stratum in strata)
    weights = np.concatenate([np.full(len(s.large), s.rows / of_small / len(s.large)) for s in strata])
    small_q, large_q = np.concatenate([s.small for s in strata]), np.concatenate([s.large for s in strata])
    loss = large_q - small_q
    known = Estimate(
        small=float(weights @ small_q), large=float(weights @ large_q), as_good=min(1.0, float(weights @ (loss <= 0)))
    )
    if len(large) < min(2, large_rows):
        return known
    routed = of_small / (of_small + large_rows)
    baseline = routed * (weights @ large_q) + (1 - routed) * (large.mean() if large_rows else 0.0)
    if baseline == 0:
        return known
    ratio = routed * (weights @ loss) / abs(baseline)
    residuals = [s.large - s.small - ratio * np.sign(baseline) * s.large for s in strata]
    unseen = 1 - len(loss) / of_small
    seen = len(loss) / (len(loss) + _PSEUDO_ROWS)
    pseudo = unseen * _PSEUDO_ROWS * _difference(loss, np.concatenate([small_q, large_q, large]))
    variance = routed**2 * (
        seen**2 * sum(_variance(r, s.rows) * (s.rows / of_small) ** 2 for r, s in zip(residuals, strata, strict=True))
        + pseudo / (len(loss) + _PSEUDO_ROWS) ** 2
    )
    if len(large) > 1:
        variance += (1 - routed) ** 2 * ratio**2 * _variance(large, large_rows)
    half = 100 * _student(len(loss) - len(strata)) * float(np.sqrt(variance)) / abs(baseline)
    drop = 100 * float(ratio)
    return Estimate(known.small, known.large, known.as_good, drop, drop - half, drop + half)


def _merged(strata: Sequence[Stratum]) -> list[Stratum]:
    """Neighbours together until each has two measured rows; none when there are no two at all."""
    merged: list[Stratum] = []
    for stratum in strata:
        if merged and len(merged[-1].small) < 2:
            stratum = _together(merged.pop(), stratum)
        merged.append(stratum)
    if len(merged) > 1 and len(merged[-1].small) < 2:
        last = merged.pop()
        merged.append(_together(merged.pop(), last))
    return merged if merged and len(merged[-1].small) >= 2 else []


def _together(one: Stratum, other: Stratum) -> Stratum:
    small, large = np.concatenate([one.small, other.small]), np.concatenate([one.large, other.large])
    return Stratum(one.rows + other.rows, small, large)


def _variance(values: Floats, rows: int) -> float:
    """Of the mean of values that were drawn from `rows`."""
    return (1 - len(values) / rows) * float(values.var(ddof=1)) / len(values)


def _difference(loss: Floats, qualities: Floats) -> float:
    """Mean square of the losses that are not 0, and of what one may be where none was seen."""
    span = qualities.max() - qualities.min()
    most = span if span > 0 else abs(qualities[0])
    return float(((loss**2).sum() + most**2) / (np.count_nonzero(loss) + 1))


def _student(freedom: int) -> float:
    """Student's two-sided 95 % quantile; above 9 degrees of freedom by its expansion in 1/freedom."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))
