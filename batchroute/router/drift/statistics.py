"""Two samples side by side: how far apart their distributions are, and how likely chance alone makes that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Values = NDArray[Any]
"""Numbers of any kind."""

_MOST_BINS = 10
# Below it the chi-square distribution promises too much.
_LEAST_EXPECTED = 5.0
_LEAST_IN_BIN = 5
_PERMUTATIONS = 10_000
_MOST_TERMS = 100


def psi(found: Counts, reference: Counts) -> float:
    """Population stability index of two counts by category, shape [categories]: Σ (p − q) ln(p / q).

    Half a row is added to each category, so that an empty one does not make it infinite.
    """
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (found, reference))
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_chance(found: Counts, reference: Counts) -> float:
    """What `psi` is on average when both samples are of one distribution, by its expansion to first order."""
    used = int(((found + reference) > 0).sum())
    return (used - 1) * (1 / int(found.sum()) + 1 / int(reference.sum()))


def shares_p_value(found: Counts, reference: Counts, seed: int = 0) -> float:
    """The chance that two samples of one distribution differ by so much in their shares: Pearson's chi-square.

    Args:
        found, reference: shape [categories], counts of rows; neither sums to 0.
        seed: of the permutations that take the place of the chi-square distribution where a category has few rows;
            they tell nothing below 1 in 10,000.
    """
    used = (found + reference) > 0
    found, reference = found[used], reference[used]
    if len(found) < 2:
        return 1.0
    together, n, m = found + reference, int(found.sum()), int(reference.sum())
    statistic = _chi_square(found, together, n, m)
    if together.min() * min(n, m) / (n + m) >= _LEAST_EXPECTED:
        return chi_square_tail(float(statistic), len(found) - 1)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(together, n, _PERMUTATIONS, method="marginals")
    as_far = int((_chi_square(drawn, together, n, m) >= statistic * (1 - 1e-9)).sum())
    return (1 + as_far) / (1 + _PERMUTATIONS)


def ks(ordered: Values, reference: Values) -> float:
    """Kolmogorov and Smirnov's distance of two samples, both sorted; costs no array of the first one's length."""
    jumps = np.unique(reference)
    distances = []
    for side in ("left", "right"):
        ours = np.searchsorted(ordered, jumps, side=side) / len(ordered)
        theirs = np.searchsorted(reference, jumps, side=side) / len(reference)
        distances.append(float(np.abs(ours - theirs).max()))
    # The reference does not change between its jumps, so that the other sample is farthest from it at one of them.
    return max(distances)


def ks_p_value(distance: float, n: int, m: int) -> float:
    """The chance that two samples of one continuous distribution are so far apart: asymptotic, with Stephens' term for
    small samples (J. R. Stat. Soc. B 32, 1970). For one with ties the true chance is smaller."""
    root = math.sqrt(n * m / (n + m))
    size = (root + 0.12 + 0.11 / root) * distance
    if size < 0.3:
        # The series converges slowly here, and the chance is 1 to five digits.
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2.0 * k * k * size * size) for k in range(1, _MOST_TERMS))
    return min(1.0, max(0.0, 2.0 * math.fsum(terms)))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """The chance of a larger value of the chi-square distribution: its finite sums, exact for whole degrees of freedom
    (Abramowitz and Stegun 26.4.4 and 26.4.5)."""
    half = statistic / 2.0
    if half > 700.0:
        return 0.0
    if freedom % 2 == 0:
        term = total = 1.0
        for i in range(1, freedom // 2):
            term *= half / i
            total += term
        return min(1.0, math.exp(-half) * total)
    total = math.fsum(half ** (i + 0.5) / math.gamma(i + 1.5) for i in range((freedom - 1) // 2))
    return min(1.0, math.erfc(math.sqrt(half)) + math.exp(-half) * total)


def bins(ordered: Values, reference: Values) -> tuple[Counts, Counts]:
    """Rows of two sorted samples between the tenth parts of the second one: shapes [bins], two to ten of them.

    Fewer where the samples are small, or where many values are equal.
    """
    parts = int(np.clip(min(len(ordered), len(reference)) // _LEAST_IN_BIN, 2, _MOST_BINS))
    ranks = np.arange(1, parts) * len(reference) // parts
    edges = np.unique(reference[ranks])

    def counted(values: Values) -> Counts:
        below = np.searchsorted(values, edges)
        return np.diff(np.concatenate([[0], below, [len(values)]])).astype(np.int64)

    return counted(ordered), counted(reference)


def _chi_square(found: Counts, together: Counts, n: int, m: int) -> Floats:
    """Of one row of counts or several: shape [...] for `found` of shape [..., categories]."""
    expected = together * (n / (n + m))
    # Both samples miss their expectation by the same number of rows.
    statistic: Floats = ((found - expected) ** 2 * (1 / expected + n / m / expected)).sum(axis=-1)
    return statistic
