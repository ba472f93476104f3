"""What a report says in words next to its tables and pictures."""

from __future__ import annotations

from batchroute import words
from batchroute.reports import drops, headline, tables
from batchroute.reports.headline import audited, expected
from batchroute.reports.night import NightReport
from batchroute.reports.notes import copies, hits, samples

LIKENESS = "The large model's answer was taken for the truth: drops are of the likeness to it, not of correctness."
_ON_DRIFT = {
    "warn": "The run continued under its policy.",
    "large": "All rows went to the large model.",
    "stop": "The policy says to stop the run.",
}


def notices(night: NightReport) -> list[str]:
    """Warnings, for the top of the report."""
    warnings = []
    if night.drift is not None and night.drift.drifted:
        warnings.append(_drifted(night))
    if night.audit is not None and night.audit.drop is None:
        warnings.append("The audit could not measure the drop: too few rows have a quality for both models.")
    return warnings


def tiles(night: NightReport) -> list[tuple[str, str, str]]:
    """The key figures: a label, the figure, and a line below it."""
    cost = night.cost
    routed, small = cost.routed, cost.kept
    failed, total = cost.rows["failed"], cost.rows["total"]
    part = f"{words.of(failed, total)} " if failed else ""
    alone = "not known" if cost.baseline.cost is None else words.money_briefly(cost.baseline.cost)
    return [
        ("cost", words.money_briefly(cost.total_cost), f"large model alone: {alone}"),
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
        from_cache = any(usage.hits for usage in night.cost.usages.values())
        why = "all answers came from the cache" if from_cache else "the large model is free"
        return "saved", words.money_briefly(saved.usd), why
    label = "saved" if saved.usd >= 0 else "more than large alone"
    return label, words.share(abs(saved.share)), words.money_briefly(abs(saved.usd))


def _drop(night: NightReport) -> tuple[str, str, str]:
    measured = audited(night)
    drop = measured or expected(night)
    if drop is None:
        return "quality drop", words.NOT_KNOWN, "no audit, no calibration"
    how = "audited" if measured is not None else headline.expected_how(night)
    if measured is not None and night.audit is not None and night.audit.likeness:
        how = "of the likeness to the large model, audited"
    return "quality drop", words.percent(drop.value), f"{drops.interval(drop)}, {how}"


def _work(night: NightReport) -> tuple[str, str, str]:
    cost = night.cost
    usages = list(cost.usages.values())
    tokens = sum(usage.tokens_read + usage.tokens_written for usage in usages)
    seconds = sum(stage.seconds + stage.load_seconds for stage in night.stages)
    if not night.stages:
        seconds = sum(usage.busy_seconds + usage.load_seconds for usage in cost.encoders.values())
        seconds += sum(usage.busy_seconds + usage.load_seconds for usage in usages)
    return "work", words.duration(seconds), f"{words.count_briefly(tokens)} {'token' if tokens == 1 else 'tokens'}"


def policy(night: NightReport) -> str:
    sentences = [f"Policy: {tables.policy_words(night)}."]
    escalated = night.cost.rows.get("escalated", 0)
    if escalated:
        sentences.append(f"{words.plural(escalated, 'row')} went on from the small model to the large model.")
    return " ".join([*sentences, *deciding(night), *copies(night.cost), *hits(night.cost), *samples(night.cost)])


def deciding(night: NightReport) -> list[str]:
    """How the night was decided, where its policy could look at answers or was calibrated on its own rows."""
    how, cost = night.deciding, night.cost
    if how is None:
        return []
    sentences = []
    deferred = cost.deferred
    if deferred is not None:
        paid = (
            "" if deferred.small_cost is None else f"; their small answers had cost {words.money(deferred.small_cost)}"
        )
        again = "" if deferred.usage.cost is None else f", which cost {words.money(deferred.usage.cost)} more"
        rows = words.plural(deferred.rows, "row")
        sentences.append(f"{rows} of low confidence were deferred to the large model{again}{paid}.")
    if deferred is not None and deferred.no_answer:
        sentences.append(f"Of these the small model had not answered {words.plural(deferred.no_answer, 'row')}.")
    if how.skip is not None:
        rows = words.plural(how.skipped, "row")
        sentences.append(
            f"{rows} with a score below {how.skip:.4g} went to the large model without asking the small one."
        )
    if how.why is not None:
        sentences.append(f"Why: {how.why}.")
    if how.drawn is not None:
        drawn = words.plural(how.drawn, "row")
        sentences.append(
            f"Decided on {drawn} of the night itself, which both models answered ({how.measured:,} measured by "
            f"{how.metric}); they keep the large model's answer."
        )
    return sentences


def groups(night: NightReport, shown: int, count: int) -> str:
    """The order of the groups, how many of `count` groups are shown, and which costs no group has."""
    kind = "largest" if night.cost.total_cost is None else "most expensive"
    first = f"The {kind} first" if shown == count else f"The {shown:,} {kind} of {count:,} groups"
    left_out = "the router's cost" if night.cost.audited is None else "the costs of router and audit"
    return f"{first}; no group includes {left_out}."


def curve(night: NightReport) -> str:
    """The caption of the pictures."""
    curve = night.curve
    assert curve is not None
    effects = [name for name, values in (("the cost", curve.cost), ("the quality drop", curve.drop)) if values]
    first = "the rows of the highest confidence first" if night.after else "the easiest rows first"
    text = f"{' and '.join(effects)} for each share of rows on the small model, {first}.".capitalize()
    if night.deciding is not None and night.deciding.by_likeness:
        text = f"{text} {LIKENESS}"
    return text if curve.low is None else f"{text} The shaded band is the 95 % interval of the calibration."


def curve_missing(night: NightReport) -> str:
    """Which picture is missing, and why; empty if none is."""
    curve = night.curve
    if curve is not None and curve.drop is not None and curve.cost is not None:
        return ""
    if curve is not None and curve.drop is not None:
        return "The cost for each share of rows is not known: a price is missing."
    return (
        "The quality drop for each share of rows is not known: the router has no calibration that fits this job. "
        "batchroute calibrate makes one."
    )


def scores(night: NightReport) -> list[str]:
    """What the histogram does not show."""
    thresholds, router = tables.threshold(night), night.cost.router
    reached = [threshold for threshold in thresholds if threshold <= 1]
    sentences = []
    if thresholds and not reached:
        sentences.append("No row went to the small model: no score can reach the policy's threshold.")
    elif len(thresholds) == 1 and night.after:
        sentences.append(
            f"The threshold is {reached[0]:.4g}: rows of a higher confidence keep the small model's answer."
        )
    elif len(thresholds) == 1:
        sentences.append(f"The threshold is {reached[0]:.4g}: rows with a higher score went to the small model.")
    elif thresholds:
        sentences.append(f"Each group has its own threshold, from {reached[0]:.4g} to {reached[-1]:.4g}.")
    elif night.choices:
        sentences.append("There is no single threshold: the policy weighed score and cost row by row.")
    if night.scores.unscored:
        rows = words.plural(night.scores.unscored, "row")
        sentences.append(
            f"{rows} have no confidence of their own: drawn for the calibration, escalated, or not answered by the "
            "small model."
            if night.after
            else f"{rows} could not be scored and went to the large model."
        )
    if router.truncated:
        sentences.append(f"The router cut off {words.plural(router.truncated, 'prompt')} at its token limit.")
    if night.spread is not None:
        sentences.append(spread(night))
    return sentences


def spread(night: NightReport) -> str:
    """How far the router's heads disagree, and for how many rows that matters."""
    found = night.spread
    assert found is not None
    text = (
        f"The router's heads disagree about a row's score by {found.median:.2g} (median); "
        f"by {found.ninetieth:.2g} or more for one row in ten."
    )
    if found.near is None:
        return text
    near, share = words.plural(found.near, "row"), words.of(found.near, found.rows)
    return (
        f"{text} {near} ({share}) are no further from the threshold than their own disagreement, {found.near_small:,} "
        "of them above it: on which side they belong the heads do not agree."
    )


def audit(night: NightReport) -> str:
    audit, measured = night.audit, audited(night)
    assert audit is not None
    begin = f"The large model also answered a sample of {audit.rows:,} of the small model's {audit.of:,} rows."
    if measured is None:
        return f"{begin} The drop cannot be measured from them."
    change, alone = drops.quality(measured.value), "the quality of the large model alone"
    against = f"the same as {alone}" if change == "unchanged" else f"{change} than {alone}"
    interval = drops.quality_interval(measured)
    if audit.likeness:
        begin += " Quality here is likeness to the large model's answers, not truth."
    return f"{begin} Over all answered rows of the night, quality is {against}: {interval}, with 95 % confidence."


def audit_facts(night: NightReport) -> list[tuple[str, str]]:
    audit = night.audit
    assert audit is not None
    facts = [
        ("metric", audit.metric),
        ("sample", f"{words.share(audit.share)}, seed {audit.seed}"),
        ("measured", f"{audit.measured:,} of {words.plural(audit.rows, 'row')}"),
        ("measured rows of the large model", f"{audit.large_rows:,}"),
    ]
    if audit.as_good is not None:
        facts.append(("small model at least as good", words.share(audit.as_good)))
    for side, quality in (("small", audit.small_quality), ("large", audit.large_quality)):
        if quality is not None:
            facts.append((f"mean quality of the {side} model", f"{quality:,.4g}".replace("-", "−")))
    facts.append(("cost of the audit", words.money(audit.cost)))
    facts += [(f"not measured: {kind}", words.plural(rows, "row")) for kind, rows in sorted(audit.failures.items())]
    return facts


def drift(night: NightReport) -> str:
    """The sizes of both samples; without drift, that there is none. The notice and the table have the rest."""
    drift = night.drift
    assert drift is not None
    if not drift.drifted:
        return drift.sentence()
    return f"Compared: {words.plural(drift.rows, 'row')} of tonight with {drift.reference_rows:,} of the calibration."


def _drifted(night: NightReport) -> str:
    assert night.drift is not None
    action = "" if night.on_drift is None else f" {_ON_DRIFT.get(night.on_drift, night.on_drift)}"
    return f"{night.drift.sentence()}{action}"


def failures(night: NightReport) -> str:
    failed, total = night.cost.rows["failed"], night.cost.rows["total"]
    return f"{failed:,} of {words.plural(total, 'row')} ({words.of(failed, total)}). The output says why for each."


def assumptions(night: NightReport) -> list[str]:
    """The forecasts' assumptions and the baseline's, a sentence each."""
    baseline = night.cost.baseline
    sentences = list(night.assumptions)
    if night.deciding is not None and night.deciding.by_likeness:
        sentences.append(LIKENESS)
    if not any(baseline.assumption in sentence for sentence in sentences):
        is_known = "is not known" if baseline.cost is None else "is an estimate"
        why = baseline.assumption.removeprefix("not known: ")
        sentences.append(f"The cost of all rows on the large model alone {is_known}: {why}.")
    return sentences
