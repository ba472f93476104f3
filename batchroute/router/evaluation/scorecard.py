"""The scorecard: what `evaluation.json` holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.router.evaluation.curves import COST_ADVANTAGES, SHARES, Curves, Draws, interval, pearson, ranks

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
        """From the value on the rows as they are (entry 0) and on each resample: shape [1 + resamples]."""
        low, high = interval(values[1:])
        return cls(value=_number(values[0]), low=_number(low), high=_number(high))

    def text(self, digits: int = 1, unit: str = "", missing: str = "n/a") -> str:
        """`1.2 % (0.8 to 1.6 %)`; without an interval `1.2 %`."""
        if self.value is None:
            return missing
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}{unit}"
        return f"{self.value:.{digits}f}{unit} ({self.low:.{digits}f} to {self.high:.{digits}f}{unit})"


def drops(routed: Curves, shares: Sequence[float] = COST_ADVANTAGES) -> dict[str, Estimate]:
    """Quality drop in percent, by cost advantage in percent."""
    return {key(share): Estimate.of(routed.drop_at(share)) for share in shares}


def key(share: float) -> str:
    """A cost advantage as the keys of `evaluation.json` write it: 0.1 is "10"."""
    return f"{100 * share:g}"


class Correlations(BaseModel):
    """Two columns of figures, prompt by prompt.

    The ranks of Spearman's coefficient are those among all rows; a resample keeps them.
    """

    model_config = ConfigDict(frozen=True)

    pearson: Estimate
    spearman: Estimate

    @classmethod
    def of(cls, first: Floats, second: Floats, draws: Draws) -> Correlations:
        return cls(
            pearson=Estimate.of(pearson(first, second, draws)),
            spearman=Estimate.of(pearson(ranks(first), ranks(second), draws)),
        )


class DropCurve(BaseModel):
    """A cost-quality curve at every hundredth of the rows: drops in percent, with their 95 % band."""

    model_config = ConfigDict(frozen=True)

    cost_advantage: list[float]
    drop: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, routed: Curves) -> DropCurve:
        drop = routed.drop[:, ::_CURVE_EVERY]
        low, high = np.quantile(drop[1:], [0.025, 0.975], axis=0)
        return cls(
            cost_advantage=SHARES[::_CURVE_EVERY].tolist(), drop=drop[0].tolist(), low=low.tolist(), high=high.tolist()
        )


class Reliability(BaseModel):
    """Scores against the label that the router was trained to predict, in ten bins of equally many rows.

    Attributes:
        error: expected calibration error: mean distance of score and label over the bins, weighted by rows.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    rows: list[int]
    mean_score: list[float]
    mean_label: list[float]
    error: float


class Latency(BaseModel):
    """Scoring speed on this machine: all prompts together, and one prompt at a time (median)."""

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
    curve: DropCurve

    @property
    def name(self) -> str:
        """`demo (r_gap)`: the router's folder, and the label in the paper's notation."""
        return Path(self.router).name + (f" (r_{self.label})" if self.label else "")


class Comparison(BaseModel):
    """A router against the first one, on the same resamples: differences of drops in percentage points; below 0 the
    router is better than the first.

    Attributes:
        better_in: share of the resamples in which its drop is lower.
    """

    model_config = ConfigDict(frozen=True)

    router: str
    difference: dict[str, Estimate]
    better_in: dict[str, float]


class Agreement(BaseModel):
    """How far two metrics agree on which model is better: correlations of their mean gaps on shared prompts."""

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
    oracle_curve: DropCurve
    routers: list[RouterFigures]
    comparisons: list[Comparison]
    agreement: Agreement | None
    versions: dict[str, str]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
