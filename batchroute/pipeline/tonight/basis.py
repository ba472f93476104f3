"""The basis of a decision: which calibration it rests on, and what tonight's own calibration has taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchroute.confidence.choice import bounds_among
from batchroute.confidence.model import ConfidenceModel
from batchroute.config.job import Job
from batchroute.fields import SIDES
from batchroute.pipeline.context import Context
from batchroute.pipeline.identity import known_calibration
from batchroute.pipeline.shards.tally import cost_of
from batchroute.pipeline.stored_confidence import by_confidence, points_of, stored_confidence
from batchroute.pipeline.tonight.draw import drawn_positions
from batchroute.pipeline.tonight.drawn import SHARDS
from batchroute.pipeline.tonight.figures import ALL, read_tonight
from batchroute.pipeline.tonight.way import Way, choose, priced, put_way, read_way, ways_of
from batchroute.router.calibration.points import Calibration

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Basis:
    """The figures that a decision rests on.

    Attributes:
        whole: over all rows; None without a calibration.
        by_group: the calibration of each group of the policy.
    """

    whole: Calibration | None
    by_group: Mapping[str | None, Calibration]

    @classmethod
    def before(cls, context: Context) -> Basis:
        """Figures by the router's score: tonight's, or those in the router's folder."""
        tonight = read_tonight(context.work)
        if tonight is not None:
            return cls.tonights(tonight.before, context.job)
        known = _chosen(context, known_calibration(context.job))
        return cls(known, {} if known is None else {group: known for group, _ in context.job.policy.rules()})

    @classmethod
    def after(cls, context: Context) -> tuple[Basis, ConfidenceModel | None]:
        """Figures by confidence, and the model that makes confidences: tonight's, or those of a stored calibration."""
        tonight = read_tonight(context.work)
        if tonight is not None:
            return cls.tonights(tonight.after, context.job), tonight.model
        found = stored_confidence(context.job)
        if found is None:
            return cls(None, {}), None
        router = known_calibration(context.job)
        figures = _chosen(context, by_confidence(found, {} if router is None else router.lengths))
        assert figures is not None
        return cls(figures, {group: figures for group, _ in context.job.policy.rules()}), found.model

    @classmethod
    def tonights(cls, calibrations: Mapping[str, Calibration], job: Job) -> Basis:
        """A group of which too few rows are measured has a calibration that allows nothing."""
        whole = calibrations.get(ALL)
        groups = {group: calibrations.get(ALL if group is None else group) for group, _ in job.policy.rules()}
        nothing = None if whole is None else whole.model_copy(update={"points": []})
        return cls(whole, {group: found for group, one in groups.items() if (found := one or nothing) is not None})


def _chosen(context: Context, figures: Calibration | None) -> Calibration | None:
    """The figures with the points of the way that was chosen by a stored calibration."""
    found, way = stored_confidence(context.job), read_way(context.work)
    if figures is None or found is None or way is None:
        return figures
    among = len(ways_of(context.job.policy))
    points = points_of(found, way.plan, among)
    return (
        figures if points is None else figures.model_copy(update={"points": points, "confidence": bounds_among(among)})
    )


def way_of(context: Context, rows: int) -> Way:
    """The way of a policy that may look at answers, chosen once.

    Args:
        rows: how many go to a model.
    """
    earlier = read_way(context.work)
    if earlier is not None:
        return earlier
    found, router = stored_confidence(context.job), known_calibration(context.job)
    answered = None if found is None else found.answered
    comparable = None
    # Without a calibration of the router a limit cannot be kept before.
    if answered is not None and router is not None:
        prices = {side: context.snapshot.price(side) for side in SIDES}
        comparable = priced(answered, prices, router.lengths)
    way = choose(context.job, comparable, rows)
    put_way(context, way)
    return way


def taken_rows(context: Context) -> Mask:
    """Rows of tonight's calibration: shape [rows]."""
    taken = np.zeros(context.snapshot.rows, np.bool_)
    taken[drawn_positions(context.work)] = True
    return taken


def spent_on_calibration(context: Context) -> int:
    """Pico-dollars of both models' answers to the drawn rows, the loading of models included."""
    return sum(
        cost_of(receipt, context.snapshot.price(side))
        for side in SIDES
        for receipt in context.work.stage(SHARDS[side]).receipts().values()
    )
