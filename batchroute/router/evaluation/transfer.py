"""Transfer: whether a router that learnt one pair of models can serve another, from a small labelled sample of that.

The rule is of "Hybrid LLM" (ICLR 2024, arXiv 2404.14618, section 4.7): a router serves another pair than its own where
the quality gaps of the two correlate strongly, prompt by prompt. There both of Pearson's and Spearman's coefficients
exceed 0.7, and 20 % of the rows go to the small model with a drop of at most 1.6 %, 40 % with 4.1 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.router.evaluation.curves import STEPS, Curves, Rows, correlations, curves, random_curves, ranks
from batchroute.router.evaluation.scorecard import Estimate
from batchroute.router.notes import Notes
from batchroute.tables.quality_table import QualityTable
from batchroute.tables.quality_table import read as read_table

if TYPE_CHECKING:
    import torch

Verdict = Literal["serves", "does not serve", "cannot tell"]

MIN_PROMPTS = 30
STRONG = 0.7
"""The paper's: gaps of both pairs that correlate by so much can share a router."""

_SURE, _HARDLY = 0.5, 0.2

_SHARES = (0.2, 0.4)
_RESAMPLES = 1_000


class Transfer(BaseModel):
    """What a check found; intervals are of 95 %, over prompts.

    Attributes:
        prompts: of the new pair's table that the router was held against. Those that it has learnt from, of which
            there are `seen`, are left out, unless too few would be left.
        gaps: correlations of both pairs' gaps, over `shared` prompts; None without the table of the router's own pair.
        scores: correlations of the router's scores and the new pair's gaps.
        drop, random_drop: percent, by cost advantage in percent, of the new pair.
    """

    model_config = ConfigDict(frozen=True)

    prompts: int
    seen: int
    shared: int
    gaps: dict[Literal["pearson", "spearman"], Estimate] | None
    scores: dict[Literal["pearson", "spearman"], Estimate]
    drop: dict[str, Estimate]
    random_drop: dict[str, Estimate]
    better_than_random: float
    verdict: Verdict

    def sentences(self) -> list[str]:
        """The figures, a line each, and the verdict last."""
        lines = [
            f"{self.prompts:,} prompts of the new pair"
            + (f"; the router has learnt from {self.seen:,} others" if self.seen else "")
        ]
        if self.gaps is not None:
            lines.append(
                f"gaps of both pairs on {self.shared:,} shared prompts: {_both(self.gaps)}; the paper's pair that "
                "shared a router had 0.76 and 0.71"
            )
        lines.append(f"the router's scores and the new pair's gaps: {_both(self.scores)}")
        for share, found in self.drop.items():
            chance = self.random_drop[share]
            lines.append(f"quality drop at {share} % cost advantage: {_percent(found)}, at random {_percent(chance)}")
        return [*lines, _VERDICTS[self.verdict]]


_VERDICTS: dict[Verdict, str] = {
    "serves": "The router serves the new pair: calibrate it on a table of that pair, and use it.",
    "does not serve": "The router does not serve the new pair: train one on a table of that pair.",
    "cannot tell": "These prompts cannot tell whether the router serves the new pair: label more of them.",
}


def check(router: str, new: str, device: torch.device, trained_on: str | None = None, seed: int = 0) -> Transfer:
    """Hold a router against a quality table of another pair.

    With `trained_on` the gaps of both pairs decide: it serves when both coefficients are `STRONG` and surely above 0.5,
    and does not when one of them is surely below `STRONG`. Without, the router's scores against the new gaps do, which
    correlate less than gaps do even on its own pair: it serves when Spearman's is surely above 0 and its drops at 20
    and 40 % are surely lower than at random, and does not when that is surely below 0.2. In between nothing can be
    told.

    Args:
        new: the quality table of the new pair.
        trained_on: that of the router's own pair; prompts that both have are compared.

    Raises:
        InputError: a table cannot be read, has too few prompts, or shares too few with the other.
    """
    from batchroute.router.model import Router
    from batchroute.router.scoring import score

    table = read_table(new)
    prompts = len(set(table.prompts))
    if prompts < MIN_PROMPTS:
        raise InputError(
            f"the quality table '{new}' has {prompts:,} different prompts: label at least {MIN_PROMPTS}, better some "
            "hundred"
        )
    notes = Notes.read(router)
    gaps, shared = (None, 0) if trained_on is None else _gaps(table, _own_table(trained_on, notes, router), seed)
    new_to_it = notes.held_out(table)
    seen = len(table) - len(new_to_it)
    if len(set(new_to_it.prompts)) >= MIN_PROMPTS:
        table = new_to_it
    loaded = Router.load(router, device)
    scores = score(loaded, table.prompts).scores.astype(np.float64)
    loaded.close()
    if np.isnan(scores).any():
        raise InputError(
            f"the router '{router}' gives no number for some prompts: load it in float32, or train it again"
        )
    rows = Rows.of(table.small_mean, table.large_mean, table.prompts)
    draws = rows.draws(_RESAMPLES, seed)
    its, chance = curves(scores, rows, draws), random_curves(rows, draws)
    gap = rows.small - rows.large
    found = {
        "pearson": Estimate.of(correlations(scores, gap, draws)),
        "spearman": Estimate.of(correlations(ranks(scores), ranks(gap), draws)),
    }
    columns = [round(share * STEPS) for share in _SHARES]
    better = float((its.loss[1:, columns] < chance.loss[1:, columns]).all(axis=1).mean())
    return Transfer(
        prompts=len(table),
        seen=seen,
        shared=shared,
        gaps=gaps,
        scores=found,
        drop=_drops(its),
        random_drop=_drops(chance),
        better_than_random=better,
        verdict=_by_scores(found["spearman"], better) if gaps is None else _by_gaps(list(gaps.values())),
    )


def _own_table(path: str, notes: Notes, router: str) -> QualityTable:
    table = read_table(path)
    notes.check_pair(table, router)
    return table


def _by_gaps(found: list[Estimate]) -> Verdict:
    if any(one.value is None or one.low is None or one.high is None for one in found):
        return "cannot tell"
    if all((one.value or 0) >= STRONG and (one.low or 0) > _SURE for one in found):
        return "serves"
    return "does not serve" if any((one.high or 0) < STRONG for one in found) else "cannot tell"


def _by_scores(spearman: Estimate, better_than_random: float) -> Verdict:
    if spearman.low is None or spearman.high is None:
        return "cannot tell"
    if spearman.low > 0 and better_than_random > 0.975:
        return "serves"
    return "does not serve" if spearman.high < _HARDLY else "cannot tell"


def _gaps(
    new: QualityTable, old: QualityTable, seed: int
) -> tuple[dict[Literal["pearson", "spearman"], Estimate], int]:
    """Correlations of the mean gaps on the prompts that both tables have, and how many these are."""
    first, second = _mean_gaps(new), _mean_gaps(old)
    shared = [prompt for prompt in first if prompt in second]
    if len(shared) < MIN_PROMPTS:
        raise InputError(
            f"the quality tables '{new.path}' and '{old.path}' share {len(shared):,} prompts: label at least "
            f"{MIN_PROMPTS} of the prompts of '{old.path}' with the new pair"
        )
    a, b = (np.array([gaps[prompt] for prompt in shared]) for gaps in (first, second))
    draws = Rows(a, b, np.arange(len(shared))).draws(_RESAMPLES, seed)
    return {
        "pearson": Estimate.of(correlations(a, b, draws)),
        "spearman": Estimate.of(correlations(ranks(a), ranks(b), draws)),
    }, len(shared)


def _mean_gaps(table: QualityTable) -> dict[str, float]:
    """By prompt."""
    gaps: dict[str, list[float]] = {}
    for prompt, gap in zip(table.prompts, table.small_mean - table.large_mean, strict=True):
        gaps.setdefault(prompt.strip(), []).append(float(gap))
    return {prompt: float(np.mean(values)) for prompt, values in gaps.items()}


def _drops(found: Curves) -> dict[str, Estimate]:
    return {f"{100 * share:g}": Estimate.of(found.drop[:, round(share * STEPS)]) for share in _SHARES}


def _both(found: dict[Literal["pearson", "spearman"], Estimate]) -> str:
    return ", ".join(f"{name.capitalize()} {_number(estimate)}" for name, estimate in found.items())


def _number(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "not defined, one of them is constant"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _percent(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "not defined"
    return f"{found.value:.1f} % ({found.low:.1f} to {found.high:.1f} %)"
