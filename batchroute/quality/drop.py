"""The quality drop of a night, estimated from a stratified sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.statistics import student_quantile

Floats = NDArray[np.float64]

_STRATA = 10
_PSEUDO_ROWS = 3
# Student's 97.5 % quantiles for 1 to 9 degrees of freedom, where the expansion of `student_quantile` is too far off.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class DrawnStratum:
    """The rows drawn from one stratum.

    Attributes:
        rows: size of the stratum.
        last: index of the stratum's row with the highest score.
        indices: of the drawn rows, ascending.
    """

    rows: int
    last: int
    indices: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Stratum:
    """The measured qualities of one stratum, shape [measured], and its size `rows`."""

    rows: int
    small: Floats
    large: Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimates from the measured rows; None where these are too few.

    Attributes:
        small, large: mean quality of each model over the rows that the small model answered alone.
        as_good: share of those rows whose small answer is at least as good.
        drop, low, high: the drop over all answered rows in percent, and its 95 % interval.
    """

    small: float | None = None
    large: float | None = None
    as_good: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None


def draw(scores: NDArray[np.float32], rows: int, rng: np.random.Generator) -> list[DrawnStratum]:
    """Draw rows evenly from strata of equal size by score: ten strata, or fewer so that each gives about two rows.

    Args:
        scores: shape [rows]; ties are ordered by index.
        rows: how many to draw, at most all.
    """
    count, strata = len(scores), max(1, min(_STRATA, rows // 2))
    if not count:
        return []
    order = np.argsort(scores, kind="stable")
    ends = [count * number // strata for number in range(strata + 1)]
    # Rounding the running total makes the sum exactly `rows`, and no stratum gives more rows than it has.
    taken = [end * rows // count for end in ends]
    return [
        DrawnStratum(
            rows=ends[i + 1] - ends[i],
            last=int(order[ends[i + 1] - 1]),
            indices=np.sort(rng.choice(order[ends[i] : ends[i + 1]], taken[i + 1] - taken[i], replace=False)),
        )
        for i in range(strata)
    ]


def estimate(strata: Sequence[Stratum], large: Floats, large_rows: int) -> Estimate:
    """The drop 100 · (share of rows on small) · mean(q(L) − q(S)) / |mean q(L) over all rows|, and its interval.

    The estimator is a ratio of a stratified mean to the mean over both models' rows. Its variance is that of its
    linearisation (Cochran, "Sampling Techniques", 1977, sections 5.6 and 6.11) with finite population corrections; the
    quantile is Student's.

    If losses are rare, a small sample without any loss proves little. So the variance is computed as if three more rows
    had been measured whose loss or gain is as large as that of rows that differ. For qualities 0 and 1 this is the
    adjusted interval for differences of paired proportions (Bonett and Price, J. Educ. Behav. Stat. 37(4), 2012), with
    three rows instead of their two, because rare losses of other qualities are skewed too. The squared loss of such a
    row is the mean square of the losses that are not 0 and of the range of all qualities. The price: where most rows
    differ, the interval is up to a tenth too wide with thirty rows, and hardly wider with a hundred.

    Args:
        strata: of the rows that the small model answered alone.
        large: qualities of a simple random sample of the large model's rows, shape [measured].
        large_rows: rows that the large model answered.
    """
    strata = _with_two_rows(strata)
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


def _with_two_rows(strata: Sequence[Stratum]) -> list[Stratum]:
    """Merge neighbours until each stratum has two measured rows; empty if there are not two in all."""
    merged: list[Stratum] = []
    for stratum in strata:
        if merged and len(merged[-1].small) < 2:
            stratum = _merge(merged.pop(), stratum)
        merged.append(stratum)
    if len(merged) > 1 and len(merged[-1].small) < 2:
        last = merged.pop()
        merged.append(_merge(merged.pop(), last))
    return merged if merged and len(merged[-1].small) >= 2 else []


def _merge(one: Stratum, other: Stratum) -> Stratum:
    small, large = np.concatenate([one.small, other.small]), np.concatenate([one.large, other.large])
    return Stratum(one.rows + other.rows, small, large)


def _variance(values: Floats, rows: int) -> float:
    """The variance of the mean of values drawn from `rows` rows."""
    return (1 - len(values) / rows) * float(values.var(ddof=1)) / len(values)


def _difference(loss: Floats, qualities: Floats) -> float:
    """The mean square of the losses that are not 0 and of the largest possible loss."""
    span = qualities.max() - qualities.min()
    most = span if span > 0 else abs(qualities[0])
    return float(((loss**2).sum() + most**2) / (np.count_nonzero(loss) + 1))


def _student(freedom: int) -> float:
    """Student's two-sided 95 % quantile."""
    return _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else student_quantile(0.975, freedom)
