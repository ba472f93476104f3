"""The paper's findings, each beside the same figure of a run of `paper.sh`, and whether they agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from figures import MODELS, PAIRS, Figures, cell, number, table

YES, NO, OPEN = "yes", "no", "cannot tell"


def findings(figures: Figures) -> str:
    rows = [
        _routers_beat_random(figures),
        _wider_gaps_cost_more(figures),
        _trans_is_best(figures),
        _plain_rule_breaks(figures),
        _bounded_rule_holds(figures),
        _router_is_fast(figures),
        *_metrics_agree(figures),
        *_transfer_follows_gaps(figures),
    ]
    words = "Yes and no need a whole 95 % interval on one side; otherwise the rows cannot tell.\n"
    return "## What agrees with the paper\n\n" + words + table(["the paper", "here", "agrees"], rows)


def _routers_beat_random(figures: Figures) -> list[str]:
    routers = [(pair, router) for pair in PAIRS for router in figures.evaluation(pair)["routers"]]
    differences = [router["gap_difference"]["40"] for _, router in routers]
    above = sum(_side(difference) > 0 for difference in differences)
    below = sum(_side(difference) < 0 for difference in differences)
    here = f"at 40 %, {above} of {len(routers)} routers separate rows for certain, {below} in the wrong direction"
    verdict = NO if below else YES if above == len(routers) else OPEN
    return ["routers send rows of a smaller gap to the small model (section 4.3)", here, verdict]


def _wider_gaps_cost_more(figures: Figures) -> list[str]:
    drops = {}
    for pair in PAIRS:
        router = figures.evaluation(pair)["routers"][-1]
        drops[pair] = router["drop"]["40"]
    here = ", ".join(f"{pair} {cell(drop)}" for pair, drop in drops.items())
    small, medium, large = (drops[pair] for pair in PAIRS)
    if small["high"] < medium["low"] and medium["high"] < large["low"]:
        verdict = YES
    else:
        verdict = NO if small["low"] > medium["high"] or medium["low"] > large["high"] else OPEN
    return ["the wider the pair's gap, the more a cost advantage of 40 % costs (Table 1)", here, verdict]


def _trans_is_best(figures: Figures) -> list[str]:
    found = next((c for c in _comparisons(figures, "large-gap") if Path(c["router"]).name == "trans"), None)
    claim = "of the large gap r_trans loses less than r_det: 10.3 against 13.8 % (Table 1)"
    if found is None:
        return [claim, "r_trans was not trained", OPEN]
    side = _side(found["difference"]["40"])
    here = f"difference of the drops at 40 %: {cell(found['difference']['40'])} points"
    return [claim, here, YES if side < 0 else NO if side > 0 else OPEN]


def _plain_rule_breaks(figures: Figures) -> list[str]:
    broken = [rule["broken"] for rule in _rules(figures, "empirical")]
    here = f"in {number(100 * min(broken), 0)} to {number(100 * max(broken), 0)} % of the splits, by pair and limit"
    return ["a threshold that keeps 1 % on validation rows breaks it in four of nine cells (Table 3)", here,
            YES if max(broken) > 0.05 else NO]  # fmt: skip


def _bounded_rule_holds(figures: Figures) -> list[str]:
    broken = [rule["broken"] for rule in _rules(figures, "bounded")]
    here = f"the bounded rule breaks it in {number(100 * min(broken))} to {number(100 * max(broken))} % of the splits"
    return ["(not in the paper: a limit with an upper confidence bound of 95 %)", here, ""]


def _router_is_fast(figures: Figures) -> list[str]:
    router = figures.router_seconds()
    times = {model: figures.seconds(model) / router for model in MODELS}
    here = "an answer takes " + ", ".join(f"{number(ratio)} times ({model})" for model, ratio in times.items())
    claim = "the router takes a small part of a generation: 1/13 (800m), 1/222 (7b), 1/406 (13b) (Table 2)"
    verdict = YES if min(times.values()) > 1 else NO if max(times.values()) < 1 else "only of the larger models"
    return [claim, f"{here} as long as a score", verdict]


def _metrics_agree(figures: Figures) -> list[list[str]]:
    rows = []
    for pair in PAIRS:
        spearman = figures.evaluation(pair)["agreement"]["spearman"]
        second = figures.evaluation(pair, figures.second)["routers"][-1]["gap_difference"]["40"]
        here = f"{pair}: {cell(spearman, 2)}; gap difference by {figures.second} at 40 %: {cell(second, 2)}"
        claim = "where two metrics' gaps correlate, a router of one works by the other"
        rows.append([claim, here, YES if _side(second) > 0 else NO if _side(second) < 0 else OPEN])
    return rows


def _transfer_follows_gaps(figures: Figures) -> list[list[str]]:
    """A pair that is said to be served agrees if its own router is no better; one that is not, if its own is better."""
    claim = "a router serves another pair if the gaps of both correlate by more than 0.7 (section 4.7)"
    rows = []
    for pair in PAIRS[:2]:
        lines = figures.transfer(pair)
        gaps = next((line.split(": ", 1)[1].split(";")[0] for line in lines if line.startswith("gaps")), "")
        found = re.search(r"at 40 % cost advantage: (-?[\d.]+) %", "\n".join(lines))
        own = figures.evaluation(pair)["routers"][-1]["drop"]["40"]
        here = f"{pair}: {gaps}; drop at 40 %: {found[1] if found else 'n/a'} with it, {cell(own)} with the pair's own"
        verdict = OPEN
        if found is not None and "serves the new pair" in lines[-1]:
            verdict = YES if float(found[1]) <= own["high"] else NO
        elif found is not None and "does not serve" in lines[-1]:
            verdict = YES if float(found[1]) > own["high"] else OPEN
        rows.append([claim, here, verdict])
    return rows


def _comparisons(figures: Figures, pair: str) -> list[dict[str, Any]]:
    comparisons: list[dict[str, Any]] = figures.evaluation(pair)["comparisons"]
    return comparisons


def _rules(figures: Figures, rule: str) -> list[dict[str, Any]]:
    return [found for pair in PAIRS for found in figures.rules(pair)["rules"] if found["rule"] == rule]


def _side(estimate: dict[str, Any]) -> int:
    """1 or −1 if the whole interval lies above or below 0, otherwise 0."""
    if estimate["low"] is None or estimate["high"] is None:
        return 0
    return int(estimate["low"] > 0) - int(estimate["high"] < 0)
