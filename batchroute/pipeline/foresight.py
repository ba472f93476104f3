"""Foresight: what deciding after the small model is expected to do, before it has answered any row."""

from __future__ import annotations

import dataclasses

import numpy as np

from batchroute.pipeline.context import Context
from batchroute.pipeline.identity import known_calibration
from batchroute.pipeline.stages.decide import outlook_of
from batchroute.pipeline.stages.scores import Sample
from batchroute.pipeline.stored_confidence import by_confidence, stored_confidence
from batchroute.policy.outlook import Outlook

_SEED = 0


def foresee(context: Context, scored: Sample) -> tuple[Outlook, list[str]]:
    """The outlook of rows that the small model will answer first, and what it assumes.

    Their confidences are not known yet: they are drawn from those of the stored calibration's rows, and without one
    spread evenly, as ranks are.

    Args:
        scored: all rows of the job or a sample; its scores are left alone.
    """
    found, rng = stored_confidence(context.job), np.random.default_rng(_SEED)
    answered = None if found is None else found.answered
    rows = len(scored.scores)
    drawn = rng.random(rows) if answered is None else rng.choice(np.array(answered.confidence), rows)
    confidence = np.where(scored.routable, drawn, np.nan).astype(np.float32)
    router = known_calibration(context.job)
    figures = None if found is None else by_confidence(found, {} if router is None else router.lengths)
    view = outlook_of(context, dataclasses.replace(scored, scores=confidence), figures)
    view = dataclasses.replace(view, after=True, known=None, spent=view.spent + _for_calibration(context, view))
    return view, _assumptions(context, answered is not None)


def _for_calibration(context: Context, view: Outlook) -> int:
    """What both models' answers to the drawn rows will cost, in pico-dollars; 0 if that is not known."""
    spec, small, large = context.job.policy.calibrate, view.costs["small"], view.costs["large"]
    if spec is None or small is None or large is None or not view.routable.any():
        return 0
    return round(spec.rows * float((small.picos + large.picos)[view.routable].mean()))


def _assumptions(context: Context, known: bool) -> list[str]:
    policy = context.job.policy
    lines = []
    if known:
        lines.append("How sure the small model will be tonight is taken to be as on the calibration's rows.")
    limited = any(rule.max_quality_drop is not None for _, rule in policy.rules())
    if policy.calibrate is not None:
        rows = f"{policy.calibrate.rows:,} rows"
        lines.append(f"Both models will answer {rows} for tonight's calibration; the cost holds their answers.")
        if limited:
            lines.append(
                "How many answers the limit lets stay is not known before these rows are measured: the forecast is for "
                "none, and costs the most."
            )
    return lines
