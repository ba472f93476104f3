"""The stored calibration of a confidence: `confidence.json`, in the router's folder or in one that the job names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from batchroute import models
from batchroute.confidence.calibration import ConfidenceCalibration
from batchroute.confidence.choice import bounds_among
from batchroute.confidence.plans import Plan, points_by
from batchroute.confidence.pricing import by_ratio
from batchroute.confidence.reader import READING
from batchroute.confidence.signals import NAMES
from batchroute.config.job import Job
from batchroute.errors import InputError, at_key
from batchroute.fields import SIDES
from batchroute.pipeline.shards.answers import model_of
from batchroute.router.calibration.gain import Gain
from batchroute.router.calibration.lengths import Lengths
from batchroute.router.calibration.points import Calibration, Point
from batchroute.router.reading import identity_of


def stored_confidence(job: Job) -> ConfidenceCalibration | None:
    """The calibration that a job decides by once the small model has answered; None if it has none, or its own tonight.

    Raises:
        InputError: the folder that the job names has none, the file is damaged, or it is of other models.
    """
    policy = job.policy
    if not policy.looks_after or policy.calibrate is not None:
        return None
    if policy.calibration is not None:
        where = f"policy.calibration '{policy.calibration}'"
        with at_key("policy.calibration"):
            found = ConfidenceCalibration.of(policy.calibration)
    elif job.router is not None:
        known = ConfidenceCalibration.known(Path(models.resolve(job.router.model)))
        if known is None:
            return None
        found, where = known, f"the confidence of the router '{job.router.model}'"
    else:
        return None
    for side in SIDES:
        name, measured = job.models.of(side).model, found.models[side]
        if measured is not None and measured != name:
            raise InputError(
                f"{where} was calibrated with {measured} as the {side} model, but models.{side}.model is {name}: "
                "calibrate on a quality table of this pair"
            )
    _check_signals(job, found, where)
    return found


def _check_signals(job: Job, found: ConfidenceCalibration, where: str) -> None:
    """Raises:
    InputError: the confidence was fitted to signals that the job does not have, or without those that it names.
    """
    small, own, named = model_of(job, "small"), set(NAMES), job.policy.signals or ()
    missing = {
        "logprob": None if small.logprobs else "models.small.confidence.logprobs",
        "logprob_low": None if small.logprobs else "models.small.confidence.logprobs",
        "agreement": None if small.samples else "models.small.confidence.samples",
        "score": None if job.router is not None else "router",
        READING: None if small.reader is not None else "models.small.confidence.reader",
    }
    for name in found.model.columns:
        column = name.removeprefix("recorded:")
        key = missing.get(name) if name in own else None if column in named else f"policy.signals: [{column}]"
        if key is not None:
            raise InputError(f"{where} reads the signal '{column}', which this job does not have: set {key}")
    if READING in found.model.columns and small.reader is not None and found.reader != identity_of(small.reader):
        raise InputError(
            f"{where} was calibrated with another reader than models.small.confidence.reader '{small.reader}': "
            f"calibrate with --reader {small.reader}"
        )
    for column in named:
        if not {column, f"recorded:{column}"} & (found.model.columns.keys() - own):
            raise InputError(
                f"policy.signals: {where} was fitted without '{column}': calibrate with --signal {column}, or leave it "
                "out"
            )


def check_limits(job: Job) -> None:
    """Raises:
    InputError: the policy looks at the small model's answers, and nothing says what their confidences are worth.
    """
    if not job.policy.looks_after or job.policy.calibrate is not None or stored_confidence(job) is not None:
        return
    if job.policy.signals is not None:
        raise InputError(
            "policy.signals needs rows that show what they are worth: set policy.calibrate to measure some of "
            "tonight's, or name a folder of 'batchroute calibrate --signal COLUMN' as policy.calibration"
        )
    limited = any(rule.max_quality_drop is not None for _, rule in job.policy.rules())
    if limited or (job.policy.decide == "auto" and job.router is not None):
        what = "policy.max_quality_drop" if limited else "policy.decide: auto"
        raise InputError(
            f"{what} needs rows that both models answered: set policy.calibrate to measure some of tonight's, or run "
            "'batchroute calibrate' on a quality table with signals and name its folder as policy.calibration"
        )


def points_of(found: ConfidenceCalibration, plan: Plan, among: int) -> list[Point] | None:
    """The points of a plan that was chosen among several: its bounds share the chance to break the limit.

    None where the stored points hold as they are: there was nothing to choose, or the rows have no scores.
    """
    if among < 2 or found.answered is None or found.answered.score is None:
        return None
    return points_by(by_ratio(found.answered, 1.0), plan, confidence=bounds_among(among))


def by_confidence(found: ConfidenceCalibration, lengths: dict[str, Lengths]) -> Calibration:
    """The same figures in the form of a router's calibration, whose scores are confidences.

    Args:
        lengths: of the router's calibration; empty without one. Then tokens are those that the small model read.
    """
    answered, model = found.answered, found.model
    gain = None
    if answered is not None:
        losses = np.array(answered.large) - np.array(answered.small)
        read = [0.0] * len(losses) if answered.small_tokens is None else answered.small_tokens[0]
        error = float(np.std(losses, ddof=min(1, len(losses) - 1))) / np.sqrt(len(losses))
        gain = Gain(
            base=-model.gap_low,
            by_score=min(0.0, model.gap_low - model.gap_high),
            by_length=0.0,
            large_mean=found.large_mean,
            large_is_better=bool(losses.mean() > 2 * error),
            scores=answered.confidence,
            tokens=[round(tokens) for tokens in read],
            losses=losses.tolist(),
        )
        lengths = lengths or _lengths(found)
    return Calibration(
        table_sha256=found.table_sha256,
        rows=found.rows,
        prompts=found.prompts,
        models=found.models,
        metric=found.metric,
        max_length=0,
        confidence=found.confidence,
        points=found.points,
        gain=gain,
        lengths=lengths,
    )


def _lengths(found: ConfidenceCalibration) -> dict[str, Lengths]:
    assert found.answered is not None
    tokens = {"small": found.answered.small_tokens, "large": found.answered.large_tokens}
    if tokens["small"] is None:
        return {}
    router_tokens = np.rint(tokens["small"][0]).astype(np.int32)
    lengths: dict[str, Lengths] = {}
    for side, known in tokens.items():
        if known is not None:
            fitted = Lengths.fit(router_tokens, np.array(known[0]), np.array(known[1]))
            if fitted is not None:
                lengths[side] = fitted
    return lengths
