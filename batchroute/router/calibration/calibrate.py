"""Calibration: which threshold keeps the quality drop within a limit, measured on rows that the router never saw."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute import models
from batchroute.errors import InputError
from batchroute.router.calibration.gain import Gain
from batchroute.router.calibration.lengths import Lengths
from batchroute.router.drift import reference as references
from batchroute.router.notes import CALIBRATION_FILE, REFERENCE_FILE, Notes, read_noted
from batchroute.tables.quality_table import QualityTable
from batchroute.tables.quality_table import read as read_table

if TYPE_CHECKING:
    import torch

CalibrationRule = Literal["bounded", "empirical"]
Floats = NDArray[np.float64]

MIN_ROWS = 50
ENOUGH_ROWS = 500
"""From here on the bound leaves room for routing; below, it is mostly noise."""

_COMMON_LIMITS = (0.5, 1.0, 2.0, 5.0)
_CONFIDENCE = 0.95
_STEPS = 100
_PRIOR_PROMPTS = 3
_RESAMPLES = 2_000
_RESAMPLES_AT_A_TIME = 200


class Point(BaseModel):
    """One threshold. All drops in percent; the interval is pointwise, at 95 %.

    Attributes:
        bound: upper confidence bound of the drop, one-sided, at the calibration's confidence.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    cost_advantage: float
    drop: float
    drop_low: float
    drop_high: float
    bound: float


class Calibration(BaseModel):
    """`calibration.json`: the points from the safest threshold, the highest, to the one that sends all rows to small.

    Attributes:
        models: names of the pair, by side; None where the quality table did not name them.
        max_length: tokens that the router read of a prompt; scores of another length are other scores.
        confidence: of the bounds.
        gain: what a row gains on the large model.
        lengths: tokens that each model reads and writes, by side; empty where the table has none.
    """

    model_config = ConfigDict(frozen=True)

    table_sha256: str
    rows: int
    prompts: int
    models: dict[str, str | None]
    metric: str | None
    max_length: int
    confidence: float
    points: list[Point]
    gain: Gain | None = None
    lengths: dict[str, Lengths] = {}

    @classmethod
    def of(cls, router: str) -> Self:
        """The calibration in the folder of this router.

        Raises:
            InputError: there is none, or it is damaged.
        """
        found = cls.known(router)
        if found is None:
            raise InputError(
                f"the router '{router}' is not calibrated: run 'batchroute calibrate --quality-table TABLE --router "
                f"{router}', or route by policy.threshold or policy.small_share"
            )
        return found

    @classmethod
    def known(cls, router: str) -> Self | None:
        """As `of`; None where there is none."""
        return read_noted(router, CALIBRATION_FILE, cls)

    def within(self, limit: float, rule: CalibrationRule) -> Point | None:
        """The point of the largest cost advantage that keeps the drop within `limit` percent; None when none does.

        `empirical` is the rule of "Hybrid LLM" (ICLR 2024, arXiv 2404.14618, section 4.5): the drop on the calibration
        rows is within the limit. It picks the luckiest of many thresholds, so that on other rows the drop is above the
        limit about every second time. `bounded` tests the thresholds in their fixed order, from the highest down, and
        stops at the first whose bound is above the limit. So the chance that the chosen one breaks the limit is at
        most 1 − confidence although many were looked at (fixed-sequence testing; "Learn then Test", arXiv 2110.01052).
        """
        best = None
        for point in self.points:
            if (point.bound if rule == "bounded" else point.drop) <= limit:
                best = point
            elif rule == "bounded":
                break
        return best

    def summary(self) -> list[str]:
        """What the two rules make of common limits, a line each; and a warning where the rows are few."""
        lines = [f"{self.rows:,} rows that the router never saw; share of the rows on the small model, by limit:"]
        for limit in _COMMON_LIMITS:
            found = {rule: self.within(limit, rule) for rule in get_args(CalibrationRule)}
            shares = [
                f"{rule} {'none' if point is None else f'{point.cost_advantage:.0%} (threshold {point.threshold:.4f})'}"
                for rule, point in found.items()
            ]
            lines.append(f"  max_quality_drop {limit:g} %: {', '.join(shares)}")
        if self.rows < ENOUGH_ROWS:
            lines.append(f"  fewer than {ENOUGH_ROWS} rows: the bounded rule has little room, label more prompts")
        return lines


def calibrate(quality_table: str, router: str, device: torch.device, seed: int = 0) -> Calibration:
    """Measure a router on the rows of a quality table that it never saw, and put `calibration.json` into its folder,
    and beside it `reference.json`: what these rows look like.

    An earlier calibration there is replaced.

    Raises:
        InputError: too few such rows, a table of another pair of models, a router that cannot be loaded or written to.
    """
    from batchroute.router.model import Router
    from batchroute.router.scoring import score

    folder = Path(models.resolve(router))
    if not folder.is_dir():
        raise InputError(f"the router '{router}' is on a model hub: download it to a directory to calibrate it there")
    whole = read_table(quality_table)
    notes = Notes.read(router)
    notes.check_pair(whole, router)
    table = notes.held_out(whole)
    if len(table) < MIN_ROWS:
        seen = f"{len(whole) - len(table):,} of {len(whole):,} rows of the quality table '{quality_table}'"
        raise InputError(
            f"the router '{router}' was trained on {seen}, which leaves {len(table):,}: calibrate on at least "
            f"{MIN_ROWS}, better {ENOUGH_ROWS}, that it never saw, or train it with a larger --test share"
        )
    loaded = Router.load(router, device)
    found = score(loaded, table.prompts, with_embeddings=True)
    loaded.close()
    small, large = table.small_mean, table.large_mean
    calibration = Calibration(
        table_sha256=table.sha256,
        rows=len(table),
        prompts=len(set(table.prompts)),
        models={side: table.metadata.get(f"{side}_model") or model for side, model in notes.models.items()},
        metric=table.metadata.get("metric"),
        max_length=loaded.max_length,
        confidence=_CONFIDENCE,
        points=points_of(found.scores, small, large, table.prompts, seed),
        gain=Gain.fit(found.scores, found.tokens, large - small, float(large.mean())),
        lengths=_lengths(table, found.tokens),
    )
    looks = references.measure(loaded, table.prompts, found, seed)
    # The calibration last: with it the folder is complete.
    _put(folder / REFERENCE_FILE, looks.model_dump_json().encode() + b"\n")
    _put(folder / CALIBRATION_FILE, calibration.model_dump_json(indent=1).encode() + b"\n")
    return calibration


def points_of(
    scores: NDArray[np.float32], small: Floats, large: Floats, prompts: Sequence[str], seed: int
) -> list[Point]:
    """The points of some rows, at steps of 1 % of them; rows of equal scores and of one prompt stay together.

    The drop at a threshold is a ratio of two means over prompts: of the losses of the rows at or above it, and of the
    large model's quality. Its bound is Student's, by the delta method; its interval is a percentile bootstrap. Prompts,
    not rows, are what is drawn: copies of one prompt tell nothing new.

    Args:
        scores, small, large: shape [rows]; scores and mean qualities.
        seed: of the bootstrap.

    Raises:
        InputError: the large model's mean quality is 0.
    """
    thresholds = _thresholds(scores)
    _, group = np.unique(np.array(prompts, dtype=object), return_inverse=True)
    groups = int(group.max()) + 1

    def by_prompt(values: Floats) -> Floats:
        sums: Floats = np.bincount(group, values, groups).astype(np.float64)
        return sums

    baseline = by_prompt(large)
    if baseline.sum() == 0.0:
        raise InputError("the large model's mean quality is 0, so a drop in percent means nothing: shift the metric")
    losses = np.stack([by_prompt((large - small) * (scores >= cut)) for cut in thresholds], axis=1)
    routed = np.array([len(np.unique(group[scores >= cut])) for cut in thresholds])
    scale = 100.0 / abs(baseline.sum())
    drops: Floats = losses.sum(axis=0) * scale
    bounds = drops + _student(groups - 1) * _standard_errors(losses, baseline, routed)
    low, high = _intervals(losses, baseline, seed)
    return [
        Point(
            threshold=float(cut),
            cost_advantage=float((scores >= cut).mean()),
            drop=float(drops[i]),
            drop_low=float(low[i]),
            drop_high=float(high[i]),
            bound=float(bounds[i]),
        )
        for i, cut in enumerate(thresholds)
    ]


def _lengths(table: QualityTable, router_tokens: NDArray[np.int32]) -> dict[str, Lengths]:
    """By side, of the models that the table has token counts of."""
    found = {}
    for side, tokens in table.tokens.items():
        seconds = table.metadata.get(f"{side}_seconds_per_token")
        fitted = Lengths.fit(router_tokens, tokens.read, tokens.written, None if seconds is None else float(seconds))
        if fitted is not None:
            found[side] = fitted
    return found


def _put(file: Path, data: bytes) -> None:
    """Whole or not at all; an earlier file is replaced."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(data)
        fresh.replace(file)
    except OSError as error:
        raise InputError(f"cannot write '{file}': {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _thresholds(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the highest: the scores of every hundredth part of the rows. The qualities have no say in them."""
    ordered = np.sort(scores)[::-1]
    ranks = np.ceil(np.arange(1, _STEPS + 1) * len(scores) / _STEPS).astype(int) - 1
    return np.unique(ordered[ranks])[::-1]


def _standard_errors(losses: Floats, baseline: Floats, routed: NDArray[np.int64]) -> Floats:
    """Of the drops, in percent, by the delta method.

    A handful of rows on the small model may all have lost nothing, which proves little: as if `_PRIOR_PROMPTS` more
    had been seen, the mean square of their losses is drawn towards that of all rows.

    Args:
        losses: shape [prompts, thresholds].
        baseline: shape [prompts].
        routed: shape [thresholds], prompts on the small model.
    """
    count, total = len(baseline), baseline.sum()
    residuals = losses - baseline[:, None] * (losses.sum(axis=0) / total)
    squares = (losses**2).sum(axis=0)
    expected = (squares + _PRIOR_PROMPTS * squares[-1] / count) * routed / (routed + _PRIOR_PROMPTS)
    spread = (residuals**2).sum(axis=0) + np.maximum(expected - squares, 0.0)
    errors: Floats = np.sqrt(count / (count - 1) * spread) * 100.0 / abs(total)
    return errors


def _intervals(losses: Floats, baseline: Floats, seed: int) -> tuple[Floats, Floats]:
    """95 % percentile intervals of the drops, in percent: shapes [thresholds]."""
    rng = np.random.default_rng(seed)
    count = len(baseline)
    drops = []
    for _ in range(0, _RESAMPLES, _RESAMPLES_AT_A_TIME):
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=_RESAMPLES_AT_A_TIME).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            drops.append(100.0 * (drawn @ losses) / np.abs(drawn @ baseline)[:, None])
    low, high = np.nanpercentile(np.concatenate(drops), [2.5, 97.5], axis=0)
    return low, high


def _student(freedom: int) -> float:
    """The quantile of Student's distribution at the confidence, by its expansion in 1/freedom (to 0.1 % from 10 on)."""
    z = NormalDist().inv_cdf(_CONFIDENCE)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
