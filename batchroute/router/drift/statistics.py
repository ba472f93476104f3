"""Two-sample statistics: how far apart two distributions are, and how likely that is by chance."""

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
# With fewer expected rows the chi-square distribution is inaccurate.
_LEAST_EXPECTED = 5.0
_LEAST_IN_BIN = 5
_PERMUTATIONS = 10_000
_MOST_TERMS = 100


def psi(sample: Counts, reference: Counts) -> float:
    """Population stability index of two counts by category, shape [categories]: Σ (p − q) ln(p / q).

    Half a row is added to each category, so that an empty one does not make it infinite.
    """
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (sample, reference))
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_chance(sample: Counts, reference: Counts) -> float:
    """The mean of `psi` if both samples come from one distribution, to first order."""
    used = int(((sample + reference) > 0).sum())
    return (used - 1) * (1 / int(sample.sum()) + 1 / int(reference.sum()))


def shares_p_value(sample: Counts, reference: Counts, seed: int = 0) -> float:
    """The chance that two samples of one distribution differ this much in their shares: Pearson's chi-square test.

    Args:
        sample, reference: shape [categories], counts of rows; neither sums to 0.
        seed: of the permutations that replace the chi-square distribution if a category has few rows; the smallest
            p-value they give is 1 in 10,000.
    """
    used = (sample + reference) > 0
    sample, reference = sample[used], reference[used]
    if len(sample) < 2:
        return 1.0
    together, n, m = sample + reference, int(sample.sum()), int(reference.sum())
    statistic = _chi_square(sample, together, n, m)
    if together.min() * min(n, m) / (n + m) >= _LEAST_EXPECTED:
        return chi_square_tail(float(statistic), len(sample) - 1)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(together, n, _PERMUTATIONS, method="marginals")
    as_far = int((_chi_square(drawn, together, n, m) >= statistic * (1 - 1e-9)).sum())
    return (1 + as_far) / (1 + _PERMUTATIONS)


def ks(ordered: Values, reference: Values) -> float:
    """Kolmogorov-Smirnov distance of two sorted samples, without an array of the first sample's length."""
    jumps = np.unique(reference)
    distances = []
    for side in ("left", "right"):
        ours = np.searchsorted(ordered, jumps, side=side) / len(ordered)
        theirs = np.searchsorted(reference, jumps, side=side) / len(reference)
        distances.append(float(np.abs(ours - theirs).max()))
    # The reference is constant between its jumps, so the distance is largest at one of them.
    return max(distances)


def ks_p_value(distance: float, n: int, m: int) -> float:
    """The chance that two samples of one continuous distribution are this far apart: asymptotic, with Stephens' term
    for small samples (J. R. Stat. Soc. B 32, 1970). With ties the true chance is smaller."""
    root = math.sqrt(n * m / (n + m))
    size = (root + 0.12 + 0.11 / root) * distance
    if size < 0.3:
        # The series converges slowly for small values, where the chance is 1 to five digits.
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2.0 * k * k * size * size) for k in range(1, _MOST_TERMS))
    return min(1.0, max(0.0, 2.0 * math.fsum(terms)))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """The chance of a larger value of the chi-square distribution, by finite sums that are exact for whole degrees of
    freedom (Abramowitz and Stegun 26.4.4 and 26.4.5)."""
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
    """Counts of two sorted samples in bins that each hold a tenth of the reference: shapes [bins].

    Fewer bins, at least two, if the samples are small or many values are equal.
    """
    parts = int(np.clip(min(len(ordered), len(reference)) // _LEAST_IN_BIN, 2, _MOST_BINS))
    ranks = np.arange(1, parts) * len(reference) // parts
    edges = np.unique(reference[ranks])

    def counted(values: Values) -> Counts:
        below = np.searchsorted(values, edges)
        return np.diff(np.concatenate([[0], below, [len(values)]])).astype(np.int64)

    return counted(ordered), counted(reference)


def _chi_square(sample: Counts, together: Counts, n: int, m: int) -> Floats:
    """Pearson's statistic: shape [...] for a `sample` of shape [..., categories]."""
    expected = together * (n / (n + m))
    # Both samples differ from their expectation by the same number of rows.
    statistic: Floats = ((sample - expected) ** 2 * (1 / expected + n / m / expected)).sum(axis=-1)
    return statistic
