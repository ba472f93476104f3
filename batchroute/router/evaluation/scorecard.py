"""The scorecard: what `evaluation.json` holds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.router.evaluation.curves import SHARES, Curves, interval

Floats = NDArray[np.float64]

_CURVE_EVERY = 10


class Estimate(BaseModel):
    """A figure with its 95 % interval; null where it is not defined."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Floats) -> Estimate:
        """Of the rows as they are (entry 0) and of the resamples."""
        return cls(
            value=_number(values[0]), **dict(zip(("low", "high"), map(_number, interval(values[1:])), strict=True))
        )


class Line(BaseModel):
    """A cost-quality curve at every hundredth of the rows: drops in percent, with their 95 % band."""

    model_config = ConfigDict(frozen=True)

    cost_advantage: list[float]
    drop: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, found: Curves) -> Line:
        drop = found.drop[:, ::_CURVE_EVERY]
        low, high = np.quantile(drop[1:], [0.025, 0.975], axis=0)
        return cls(
            cost_advantage=SHARES[::_CURVE_EVERY].tolist(), drop=drop[0].tolist(), low=low.tolist(), high=high.tolist()
        )


class Reliability(BaseModel):
    """Scores against what the router was trained to predict, in ten bins of equally many rows.

    Attributes:
        error: expected calibration error: mean distance of score and label over the bins, by rows.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    rows: list[int]
    mean_score: list[float]
    mean_label: list[float]
    error: float


class Latency(BaseModel):
    """Scoring on this machine: many prompts together, and one at a time (median)."""

    model_config = ConfigDict(frozen=True)

    device: str
    prompts_per_second: float
    single_prompt_ms: float


class RouterFigures(BaseModel):
    """One router. Keys of `drop` and `gap_difference` are cost advantages in percent.

    Attributes:
        cost_advantage_at_1: largest cost advantage with a drop of at most 1 %, on these very rows.
        apgr, cpt_50, cpt_80: RouteLLM's measures; null when the large model is not better on average.
        pearson, spearman: of score and mean gap.
    """

    model_config = ConfigDict(frozen=True)

    router: str
    label: str | None
    drop: dict[str, Estimate]
    gap_difference: dict[str, Estimate]
    cost_advantage_at_1: Estimate
    apgr: Estimate
    cpt_50: Estimate
    cpt_80: Estimate
    pearson: Estimate
    spearman: Estimate
    reliability: Reliability
    latency: Latency
    curve: Line


class Comparison(BaseModel):
    """A router against the first one, on the same resamples: differences of drops in percent points, below 0 = better.

    Attributes:
        better_in: share of the resamples in which its drop is lower.
    """

    model_config = ConfigDict(frozen=True)

    router: str
    difference: dict[str, Estimate]
    better_in: dict[str, float]


class Agreement(BaseModel):
    """How far two metrics agree on which model is better: correlations of their mean gaps on the prompts of both."""

    model_config = ConfigDict(frozen=True)

    table: str
    metric: str | None
    prompts: int
    pearson: Estimate
    spearman: Estimate


class Evaluation(BaseModel):
    """`evaluation.json`."""

    model_config = ConfigDict(frozen=True)

    table: str
    table_sha256: str
    models: dict[str, str | None]
    metric: str | None
    rows: int
    left_out: int
    seen_rows_included: bool
    small_mean: float
    large_mean: float
    resamples: int
    seed: int
    random: dict[str, Estimate]
    oracle: dict[str, Estimate]
    oracle_curve: Line
    routers: list[RouterFigures]
    comparisons: list[Comparison]
    agreement: Agreement | None
    versions: dict[str, str]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
