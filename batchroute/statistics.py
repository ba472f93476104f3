"""Statistics that more than one folder needs."""

from __future__ import annotations

from statistics import NormalDist


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's distribution, by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5).

    For probabilities up to 0.975 it is right to 0.1 % from 10 degrees of freedom on.
    """
    z = NormalDist().inv_cdf(probability)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / float(freedom**power) for power, term in enumerate(terms, 1))
