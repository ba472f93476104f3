"""Drift: whether tonight's prompts still look like those that the router was calibrated on."""

from __future__ import annotations

from batchroute.errors import StoppedError
from batchroute.pipeline.context import Context
from batchroute.pipeline.stages.scores import tables
from batchroute.policy.settings import OnDrift
from batchroute.router.drift.measure import Drift, Night, measure
from batchroute.router.drift.reference import Reference

_CONSEQUENCES = {
    "warn": "The router may be less accurate than its calibration says.",
    "large": "All rows go to the large model, since policy.on_drift is large.",
    "stop": "",
}


def drift_of(context: Context) -> tuple[Drift | None, OnDrift | None]:
    """The drift of tonight's prompts, and what follows from it. Nobody asks where tonight's own rows are measured."""
    policy = context.job.policy
    drift = None if policy.calibrate is not None else _drift(context)
    return drift, (policy.on_drift or "warn") if drift is not None and drift.drifted else None


def heed_drift(context: Context) -> OnDrift | None:
    """Say whether the prompts drift; what follows from it.

    Raises:
        StoppedError: `policy.on_drift` is stop, and they drift.
    """
    drift, on_drift = drift_of(context)
    if drift is None or on_drift is None:
        return None
    context.engine.progress.note("drift", f"{drift.sentence()} {_CONSEQUENCES[on_drift]}")
    if on_drift == "stop":
        raise StoppedError(
            f"{drift.sentence()} Stopped, since policy.on_drift is stop: look at the input, then run again with "
            "--set policy.on_drift=warn to go on, or calibrate the router again"
        )
    return on_drift


def _drift(context: Context) -> Drift | None:
    router = context.job.router
    reference = None if router is None else Reference.of(router.model)
    return None if reference is None else measure(reference, Night.gather(tables(context)))
