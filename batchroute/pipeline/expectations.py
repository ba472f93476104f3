"""Expectations of a job's rows: their costs and gains, by its prices and the router's calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from batchroute.config.job import Job, JobModel
from batchroute.costs.prices import Price
from batchroute.fields import SIDES, Side
from batchroute.policy.budget import Priced
from batchroute.policy.expected_costs import ModelCosts, model_costs
from batchroute.policy.outlook import Floats, Mask, Outlook, gains_of
from batchroute.policy.settings import Scores
from batchroute.router.calibration.lengths import Lengths
from batchroute.router.calibration.points import Calibration
from batchroute.words import plural


def outlook(
    job: Job,
    prices: Mapping[str, Price | None],
    calibration: Calibration | None,
    scores: Scores,
    routable: Mask,
    tokens: NDArray[np.int32],
    spent: int,
    whole: int,
    taken: Mask | None = None,
    paid: NDArray[np.int64] | None = None,
) -> Outlook:
    """The outlook of a job's rows, or of a sample of them.

    Args:
        prices: by side.
        scores, routable, tokens: shape [rows]; scores are NaN where there is none; tokens by the router's tokenizer.
        spent, whole, taken: see `Outlook`.
        paid: pico-dollars; what the small model's answers to the rows have cost, where they are there already.
    """
    costs = _costs(job, prices, calibration, tokens)
    gains, known = gains_of(scores, tokens, calibration), _known(job, prices, calibration, after=paid is not None)
    if paid is not None and costs["small"] is not None:
        costs["small"] = ModelCosts(paid, 0.0, 0.0, True, paid)
    return Outlook(scores, routable, gains, costs, calibration, spent, whole, known, paid is not None, taken)


def _costs(
    job: Job, prices: Mapping[str, Price | None], calibration: Calibration | None, tokens: NDArray[np.int32]
) -> dict[Side, ModelCosts | None]:
    costs: dict[Side, ModelCosts | None] = {}
    for side in SIDES:
        model = job.models.of(side)
        lengths = lengths_of(model, side, calibration)
        costs[side] = model_costs(prices[side], lengths, tokens, model.generation.max_new_tokens, model.samples)
    return _with_audit(costs, job)


def _known(
    job: Job, prices: Mapping[str, Price | None], calibration: Calibration | None, after: bool
) -> tuple[Priced, Floats] | None:
    if calibration is None or calibration.gain is None or not calibration.gain.losses:
        return None
    gain = calibration.gain
    scores, tokens = np.array(gain.scores, np.float32), np.array(gain.tokens, np.int32)
    small, large = (_costs(job, prices, calibration, tokens)[side] for side in SIDES)
    if small is None or large is None:
        return None
    answered = np.zeros_like(small.picos) if after else small.picos
    return Priced(scores, gain.of(scores, tokens), answered, large.picos), np.array(gain.losses)


def _with_audit(costs: dict[Side, ModelCosts | None], job: Job) -> dict[Side, ModelCosts | None]:
    """Add to each row of the small model the chance that it is audited times its cost on the large model."""
    small, large = costs["small"], costs["large"]
    if job.report.audit is None or small is None or large is None:
        return costs
    share = float(job.report.audit.share)
    picos, least = (
        own + np.rint(share * audited).astype(np.int64)
        for own, audited in ((small.picos, large.picos), (small.least, large.least))
    )
    return {"small": dataclasses.replace(small, picos=picos, least=least), "large": large}


def lengths_of(model: JobModel, side: Side, calibration: Calibration | None) -> Lengths:
    """The calibrated lengths of a model's prompts and responses; without calibration, the longest allowed."""
    if calibration is not None and side in calibration.lengths:
        return calibration.lengths[side]
    around = f"{model.system or ''}{(model.template or '').replace('{prompt}', '')}"
    return Lengths.at_most(model.generation.max_new_tokens, around)


def assumptions(job: Job, calibration: Calibration | None, tonight: bool = False) -> list[str]:
    """The assumptions behind a forecast, a sentence each.

    Args:
        tonight: the calibration's rows are the night's own.
    """
    lines = []
    for side in SIDES:
        if calibration is None or side not in calibration.lengths:
            tokens = job.models.of(side).generation.max_new_tokens
            lines.append(
                f"Lengths of the {side} model's responses were not measured: each is taken to be the longest allowed, "
                f"{tokens:,} tokens."
            )
    samples = job.models.small.samples
    if samples:
        lines.append(
            f"Each answer of the small model is compared with {plural(samples, 'extra sample')}, and the cost holds "
            "them: they are as long as the answer, and together read the prompt once more."
        )
    if job.models.small.escalates:
        lines.append("A forecast leaves out what rows cost that the small model does not manage.")
    if any(job.models.of(side).generation.greedy for side in SIDES):
        lines.append("A forecast reckons with an answer to every row, also to those that repeat a prompt.")
    if calibration is None or calibration.gain is None:
        lines.append(
            "No calibration rows show yet what the large model gains: no quality drop can be expected, and a budget "
            "takes what a row gains on the large model to be 1 − its confidence."
            if job.policy.looks_after
            else "The router is not calibrated for gains: no quality drop can be expected, and a budget takes what a "
            "row gains on the large model to be 1 − its score."
        )
    elif tonight:
        lines.append(f"Expected drops are those of {calibration.rows:,} rows of the night itself, drawn evenly.")
    else:
        lines.append(
            f"Expected drops are those of {calibration.rows:,} calibration rows with such scores; tonight's rows are "
            "taken to be of the same kind."
        )
    return lines
