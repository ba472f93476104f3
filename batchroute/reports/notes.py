"""Notes below the table of models: escalated rows, copies, samples, special tokens, and where prices come from."""

from __future__ import annotations

from decimal import Decimal

from batchroute.costs.price_lists import GIVEN
from batchroute.costs.report import CostReport
from batchroute.costs.usage import ModelUsage, RouterUsage
from batchroute.words import money, plural


def notes(report: CostReport) -> list[str]:
    """A sentence for each thing that the table has no room for."""
    return [*_reasons(report), *_unsupported(report), *_tokens(report), *_prices(report), *_missing(report)]


def samples(report: CostReport) -> list[str]:
    """What the extra samples took; empty if there are none."""
    usages = list(report.usages.values())
    read, written = (sum(getattr(usage, f"sample_{kind}_tokens") for usage in usages) for kind in ("input", "output"))
    if not written:
        return []
    return [f"The tokens and the cost include extra samples: {read:,} tokens read and {written:,} written."]


def copies(report: CostReport) -> list[str]:
    """One sentence if rows shared an answer, else none."""
    copied = report.rows.get("copies", 0)
    return [f"{plural(copied, 'row')} shared the answer to an identical prompt."] if copied else []


def hits(report: CostReport) -> list[str]:
    """What came from the cache, and what it would have cost; empty without hits."""
    usages = [usage for usage in report.usages.values() if usage.hits]
    if not usages:
        return []
    read, written = (sum(getattr(usage, f"hit_{kind}_tokens") for usage in usages) for kind in ("input", "output"))
    known = [usage.hit_cost for usage in usages if usage.hit_cost is not None]
    cost = f" and {money(sum(known, Decimal(0)))}" if len(known) == len(usages) else ""
    return [
        f"{plural(sum(usage.hits for usage in usages), 'answer')} came from the cache and cost nothing; asked for "
        f"again, they would have taken {read:,} tokens read, {written:,} written{cost}."
    ]


def _reasons(report: CostReport) -> list[str]:
    if report.escalated is None or not report.escalated.rows:
        return []
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.escalated.reasons.items())
    return [f"Rows that went on to the large model: {reasons}."]


def _unsupported(report: CostReport) -> list[str]:
    count = report.rows.get("unsupported", 0)
    holds = "holds" if count == 1 else "hold"
    sentence = f"{plural(count, 'row')} {holds} images or the like and went to the large model, by input.unsupported."
    return [sentence] if count else []


def _tokens(report: CostReport) -> list[str]:
    usages = [*report.usages.values()]
    cached, reasoning, estimated = (
        sum(getattr(usage, name) for usage in usages) for name in ("cached_tokens", "reasoning_tokens", "estimated")
    )
    sentences = []
    if cached:
        read = sum(usage.input_tokens for usage in usages)
        sentences.append(
            f"{cached:,} of {plural(read, 'input token')} came from a cache of the provider or the engine."
        )
    if reasoning:
        sentences.append(f"{plural(reasoning, 'output token')} {'was' if reasoning == 1 else 'were'} reasoning.")
    if estimated:
        sentences.append(f"The endpoint reported no tokens for {plural(estimated, 'row')}: batchroute estimated them.")
    return sentences


def _prices(report: CostReport) -> list[str]:
    priced: dict[str, RouterUsage | ModelUsage] = {"router": report.router}
    priced |= {f"{side} model": usage for side, usage in report.models.items()}
    return [
        f"{'No price' if usage.cost is None else 'Price'} of the {name}: {usage.price}"
        for name, usage in priced.items()
        if usage.price not in ("", GIVEN)
    ]


def _missing(report: CostReport) -> list[str]:
    return [f"Cost not known: {', '.join(report.missing_prices)} missing."] if report.missing_prices else []
