"""Transfer: whether a router trained for one pair of models can serve another pair, from a small labelled sample.

The rule is that of "Hybrid LLM" (ICLR 2024, arXiv 2404.14618, section 4.7): a router serves another pair if the quality
gaps of both pairs correlate strongly, prompt by prompt. In the paper's example Pearson's and Spearman's coefficients
both exceed 0.7, and the drop is at most 1.6 % at 20 % cost advantage and 4.1 % at 40 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.router.evaluation.curves import STEPS, MeanQualities, curves, random_curves
from batchroute.router.evaluation.scorecard import Correlations, Estimate, drops
from batchroute.router.notes import Notes
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable

if TYPE_CHECKING:
    import torch

Answer = Literal["serves", "does not serve", "cannot tell"]

MIN_PROMPTS = 30
STRONG = 0.7
"""The paper's: pairs whose gaps correlate at least this strongly can share a router."""

_SURE, _HARDLY = 0.5, 0.2
_SHARES = (0.2, 0.4)
_RESAMPLES = 1_000


class Transfer(BaseModel):
    """The outcome of a check; intervals are at 95 %, over prompts.

    Attributes:
        prompts: of the new pair's table that were used. The `seen` prompts that the router was trained on are left out,
            unless too few would remain.
        gaps: correlations of both pairs' gaps over `shared` prompts; None without the table of the router's own pair.
        scores: correlations of the router's scores and the new pair's gaps.
        drop, random_drop: percent, by cost advantage in percent, on the new pair.
        better_than_random: share of the resamples in which the router's drop is lower than random at every share.
    """

    model_config = ConfigDict(frozen=True)

    prompts: int
    seen: int
    shared: int
    gaps: Correlations | None
    scores: Correlations
    drop: dict[str, Estimate]
    random_drop: dict[str, Estimate]
    better_than_random: float
    verdict: Answer

    def sentences(self) -> list[str]:
        """The figures, a line each, then the verdict."""
        lines = [
            f"{self.prompts:,} prompts of the new pair"
            + (f"; the router was trained on {self.seen:,} others" if self.seen else "")
        ]
        if self.gaps is not None:
            lines.append(
                f"gaps of both pairs on {self.shared:,} shared prompts: {_both(self.gaps)}; the paper's pair that "
                "shared a router had 0.76 and 0.71"
            )
        lines.append(f"the router's scores and the new pair's gaps: {_both(self.scores)}")
        for share, drop in self.drop.items():
            routed, random = (estimate.text(1, " %", "not defined") for estimate in (drop, self.random_drop[share]))
            lines.append(f"quality drop at {share} % cost advantage: {routed}, at random {random}")
        return [*lines, _VERDICTS[self.verdict]]


_VERDICTS: dict[Answer, str] = {
    "serves": "The router serves the new pair: calibrate it on a table of that pair, then use it.",
    "does not serve": "The router does not serve the new pair: train one on a table of that pair.",
    "cannot tell": "These prompts cannot tell whether the router serves the new pair: label more of them.",
}


def check(router: str, new: str, device: torch.device, trained_on: str | None = None, seed: int = 0) -> Transfer:
    """Check a router against a quality table of another pair.

    With `trained_on`, the gaps of both pairs decide. The router serves if both coefficients are at least `STRONG` and
    the low ends of their intervals are above 0.5. It does not serve if the high end of either is below `STRONG`.

    Without `trained_on`, the router's scores and the new gaps decide; they correlate less than gaps do, even on the
    router's own pair. The router serves if the low end of Spearman's is above 0 and the drops at 20 and 40 % are lower
    than random in 97.5 % of the resamples. It does not serve if the high end of Spearman's is below 0.2.

    In between, the prompts cannot tell.

    Args:
        new: the quality table of the new pair.
        trained_on: the quality table of the router's own pair; prompts that both tables hold are compared.

    Raises:
        InputError: a table cannot be read, has too few prompts, or shares too few with the other.
    """
    from batchroute.router.model import Router
    from batchroute.router.scoring import score

    table = quality_table.read(new)
    prompts = len(set(table.prompts))
    if prompts < MIN_PROMPTS:
        raise InputError(
            f"the quality table '{new}' has {prompts:,} different prompts: label at least {MIN_PROMPTS}, better some "
            "hundred"
        )
    notes = Notes.read(router)
    gaps, shared = (None, 0) if trained_on is None else _gaps(table, _own_table(trained_on, notes, router), seed)
    unseen = notes.held_out(table)
    seen = len(table) - len(unseen)
    if len(set(unseen.prompts)) >= MIN_PROMPTS:
        table = unseen
    loaded = Router.load(router, device)
    scores = score(loaded, table.prompts).checked(router).scores.astype(np.float64)
    loaded.close()
    qualities = MeanQualities.of(table.small_mean, table.large_mean, table.prompts)
    draws = qualities.draws(_RESAMPLES, seed)
    routed, random = curves(scores, qualities, draws), random_curves(qualities, draws)
    correlations = Correlations.of(scores, qualities.gap, draws)
    columns = [round(share * STEPS) for share in _SHARES]
    better = float((routed.loss[1:, columns] < random.loss[1:, columns]).all(axis=1).mean())
    return Transfer(
        prompts=len(table),
        seen=seen,
        shared=shared,
        gaps=gaps,
        scores=correlations,
        drop=drops(routed, _SHARES),
        random_drop=drops(random, _SHARES),
        better_than_random=better,
        verdict=_by_scores(correlations.spearman, better) if gaps is None else _by_gaps(gaps),
    )


def _own_table(path: str, notes: Notes, router: str) -> QualityTable:
    table = quality_table.read(path)
    notes.check_pair(table, router)
    return table


def _by_gaps(gaps: Correlations) -> Answer:
    both = [gaps.pearson, gaps.spearman]
    if any(estimate.value is None or estimate.low is None or estimate.high is None for estimate in both):
        return "cannot tell"
    if all((estimate.value or 0) >= STRONG and (estimate.low or 0) > _SURE for estimate in both):
        return "serves"
    return "does not serve" if any((estimate.high or 0) < STRONG for estimate in both) else "cannot tell"


def _by_scores(spearman: Estimate, better_than_random: float) -> Answer:
    if spearman.low is None or spearman.high is None:
        return "cannot tell"
    if spearman.low > 0 and better_than_random > 0.975:
        return "serves"
    return "does not serve" if spearman.high < _HARDLY else "cannot tell"


def _gaps(new: QualityTable, old: QualityTable, seed: int) -> tuple[Correlations, int]:
    """Correlations of the mean gaps on the prompts that both tables hold, and the number of these prompts."""
    new_gaps, old_gaps = _mean_gaps(new), _mean_gaps(old)
    shared = [prompt for prompt in new_gaps if prompt in old_gaps]
    if len(shared) < MIN_PROMPTS:
        raise InputError(
            f"the quality tables '{new.path}' and '{old.path}' share {len(shared):,} prompts: label at least "
            f"{MIN_PROMPTS} of the prompts of '{old.path}' with the new pair"
        )
    first, second = (np.array([gaps[prompt] for prompt in shared]) for gaps in (new_gaps, old_gaps))
    draws = MeanQualities(first, second, np.arange(len(shared))).draws(_RESAMPLES, seed)
    return Correlations.of(first, second, draws), len(shared)


def _mean_gaps(table: QualityTable) -> dict[str, float]:
    """The mean quality gap of each prompt."""
    gaps: dict[str, list[float]] = {}
    for prompt, gap in zip(table.prompts, table.small_mean - table.large_mean, strict=True):
        gaps.setdefault(prompt.strip(), []).append(float(gap))
    return {prompt: float(np.mean(values)) for prompt, values in gaps.items()}


def _both(correlations: Correlations) -> str:
    pearson, spearman = (
        estimate.text(2, missing="not defined, one of them is constant")
        for estimate in (correlations.pearson, correlations.spearman)
    )
    return f"Pearson {pearson}, Spearman {spearman}"
