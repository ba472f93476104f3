"""What a report says in words beside its tables and pictures."""

from __future__ import annotations

from decimal import Decimal

from batchroute.reports import tables, words
from batchroute.reports.headline import audited, expected
from batchroute.reports.night import NightReport

_ON_DRIFT = {
    "warn": "The run went on as its policy says.",
    "large": "All rows were sent to the large model.",
    "stop": "The run was to stop.",
}


def notices(night: NightReport) -> list[str]:
    """What somebody should know before anything else."""
    found = []
    if night.drift is not None and night.drift.drifted:
        found.append(_drifted(night))
    if night.audit is not None and night.audit.drop is None:
        found.append("The audit could not tell the drop: too few rows have both qualities.")
    return found


def tiles(night: NightReport) -> list[tuple[str, str, str]]:
    """The key figures: what each is, the figure, and a line below it."""
    cost = night.cost
    routed, small = sum(usage.rows for usage in cost.models.values()), cost.models["small"].rows
    failed, total = cost.rows["failed"], cost.rows["total"]
    part = f"{words.of(failed, total)} " if failed else ""
    alone = "" if cost.baseline.cost is None else f"{words.usd_briefly(cost.baseline.cost)} on the large model alone"
    return [
        ("cost", words.usd_briefly(cost.total_cost), alone or "the large model alone: not known"),
        _saved(night),
        ("small model", words.of(small, routed), f"{small:,} of {words.plural(routed, 'row')}"),
        _drop(night),
        ("failed rows", words.count_briefly(failed), f"{part}of {words.plural(total, 'row')}"),
        _work(night),
    ]


def _saved(night: NightReport) -> tuple[str, str, str]:
    saved = night.cost.savings
    if saved is None:
        return "saved", words.NOT_KNOWN, "not known"
    if saved.share is None:
        return "saved", words.usd_briefly(saved.usd), "all of it is free"
    label = "saved" if saved.usd >= 0 else "more than large alone"
    return label, words.share(abs(saved.share)), words.usd_briefly(abs(saved.usd))


def _drop(night: NightReport) -> tuple[str, str, str]:
    measured, forecast = audited(night), expected(night)
    found = measured or forecast
    if found is None:
        return "quality drop", words.NOT_KNOWN, "no audit, no calibration"
    how = "audited" if measured is not None else "expected"
    return "quality drop", words.percent(found.value), f"{words.interval(found)}, {how}"


def _work(night: NightReport) -> tuple[str, str, str]:
    cost = night.cost
    more = [None if cost.escalated is None else cost.escalated.usage, cost.audited]
    usages = [*cost.models.values(), *(usage for usage in more if usage is not None)]
    tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages)
    seconds = sum(stage.seconds + stage.load_seconds for stage in night.stages)
    if not night.stages:
        seconds = cost.router.busy_seconds + cost.router.load_seconds
        seconds += sum(usage.busy_seconds + usage.load_seconds for usage in usages)
    return "work", words.duration(seconds), f"{words.count_briefly(tokens)} {'token' if tokens == 1 else 'tokens'}"


def policy(night: NightReport) -> str:
    found = f"Policy: {tables.policy_words(night)}."
    went_on = night.cost.rows.get("escalated", 0)
    if went_on:
        found += f" {words.plural(went_on, 'row')} that the small model did not manage went on to the large one."
    copies = night.cost.rows.get("copies", 0)
    if copies:
        found += f" {words.plural(copies, 'row')} shared the answer of an identical prompt."
    return found


def groups(night: NightReport, shown: int, all_: int) -> str:
    """Which groups are on show first, of all of them."""
    kind = "largest" if night.cost.total_cost is None else "most expensive"
    first = f"The {kind} first" if shown == all_ else f"The {shown:,} {kind} of {all_:,} groups"
    left_out = "the router's cost is" if night.cost.audited is None else "the costs of router and audit are"
    return f"{first}; {left_out} not among them."


def curve(night: NightReport) -> str:
    """What is drawn."""
    found = night.curve
    assert found is not None
    effects = [*(["cost"] if found.cost is not None else []), *(["lose in quality"] if found.drop is not None else [])]
    text = f"What each share of rows on the small model, the easiest first, would {' and '.join(effects)} tonight."
    return text if found.low is None else f"{text} The shaded band is the 95 % interval of the calibration."


def curve_missing(night: NightReport) -> str:
    """What is not drawn, and what would have to be there."""
    curve = night.curve
    if curve is not None and curve.drop is not None and curve.cost is not None:
        return ""
    if curve is not None and curve.drop is not None:
        return "What each share would cost is not known: a price is missing."
    lacking = "What each share of rows would lose in quality is not known"
    return f"{lacking}: the router carries no calibration that fits this job. batchroute calibrate makes one."


def scores(night: NightReport) -> list[str]:
    """What the histogram cannot show."""
    thresholds, router = tables.threshold(night), night.cost.router
    reached = [threshold for threshold in thresholds if threshold <= 1]
    found = []
    if thresholds and not reached:
        found.append("No row was sent to the small model: the policy set no threshold that a score could reach.")
    elif len(thresholds) == 1:
        found.append(f"The threshold is {reached[0]:.4g}: rows that scored higher went to the small model.")
    elif thresholds:
        found.append(f"Each group has a threshold of its own, from {reached[0]:.4g} to {reached[-1]:.4g}.")
    elif night.choices:
        found.append("There is no single threshold: the policy weighed score and cost row by row.")
    if night.scores.unscored:
        rows = words.plural(night.scores.unscored, "row")
        found.append(f"{rows} could not be scored and went to the large model.")
    if router.truncated:
        are = "prompt is" if router.truncated == 1 else "prompts are"
        found.append(f"{router.truncated:,} {are} longer than the router reads: it saw the beginning alone.")
    return found


def audit(night: NightReport) -> str:
    found = night.audit
    assert found is not None
    sample = f"{words.plural(found.rows, 'row')} of {found.of:,} that the small model answered alone"
    begin = f"The large model answered a sample of {sample} too."
    measured = audited(night)
    if measured is None:
        return f"{begin} The drop cannot be told from them."
    than = "that of the large model alone"
    change = words.quality(measured.value)
    against = f"unchanged against {than}" if change == "unchanged" else f"{change} than {than}"
    interval = words.quality_interval(measured)
    return f"{begin} Over all of the night's answered rows, quality is {against}: {interval}, with 95 % confidence."


def audit_facts(night: NightReport) -> list[tuple[str, str]]:
    found = night.audit
    assert found is not None
    facts = [
        ("metric", found.metric),
        ("sample", f"{words.share(found.share)}, seed {found.seed}"),
        ("measured", f"{found.measured:,} of {words.plural(found.rows, 'row')}"),
        ("measured rows of the large model", f"{found.large_rows:,}"),
    ]
    if found.as_good is not None:
        facts.append(("small model at least as good", words.share(found.as_good)))
    for side, quality in (("small", found.small_quality), ("large", found.large_quality)):
        if quality is not None:
            facts.append((f"mean quality of the {side} model", f"{quality:,.4g}".replace("-", "−")))
    facts.append(("cost of the audit", words.usd(found.cost)))
    facts += [(f"not measured: {kind}", words.plural(rows, "row")) for kind, rows in sorted(found.failures.items())]
    return facts


def drift(night: NightReport) -> str:
    """Both samples; what was found is in the notice above, and in the table."""
    found = night.drift
    assert found is not None
    if not found.drifted:
        return found.sentence()
    return f"{words.plural(found.rows, 'row')} of tonight against {found.reference_rows:,} of the calibration."


def _drifted(night: NightReport) -> str:
    assert night.drift is not None
    followed = "" if night.on_drift is None else f" {_ON_DRIFT.get(night.on_drift, night.on_drift)}"
    return f"{night.drift.sentence()}{followed}"


def failures(night: NightReport) -> str:
    failed, total = night.cost.rows["failed"], night.cost.rows["total"]
    share = f"{words.plural(failed, 'row')} of {total:,} ({words.of(failed, total)})"
    return f"{share}. They are in the output, each with its reason."


def assumptions(night: NightReport) -> list[str]:
    """The report's own, and that of the baseline."""
    baseline = night.cost.baseline
    found = list(night.assumptions)
    if not any(baseline.assumption in line for line in found):
        is_known = "is not known" if baseline.cost is None else "is an estimate"
        why = baseline.assumption.removeprefix("not known: ")
        found.append(f"The cost of all rows on the large model alone {is_known}: {why}.")
    return found


def all_costs(night: NightReport) -> list[Decimal | None]:
    """What the decimals of the models' table are chosen by."""
    return [night.cost.total_cost, *(row.cost for row in tables.models(night.cost))]
