"""The verdict on a pair of models: what perfect routing between them could gain, before a router is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from batchroute.router.evaluation.curves import MeanQualities, oracle_curves, random_curves
from batchroute.tables.quality_table import QualityTable

Kind = Literal[
    "routing can pay",
    "the small model is enough",
    "the large model is needed",
    "the gap hardly varies",
    "the gap is noise",
]

_PERCENTILES = (5, 25, 50, 75, 95)
# Below this share of rows on the small model, even perfect routing saves less than a team's time is worth.
_LEAST_SHARE = 0.10
_LEAST_DROP = 1.0
# Percentage points of quality drop, at 40 % cost advantage. Where perfect routing saves less than this over random
# routing, it does not matter which rows are routed.
_LEAST_GAIN = 0.5
# Above this share of noise, prompts hardly differ in anything that a router could learn.
_MOST_NOISE = 0.9


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a quality table says of its pair. Shares are of rows; drops in percent.

    Attributes:
        gap_percentiles: the 5th, 25th, 50th, 75th and 95th percentile of the mean gap.
        at_least_as_good, better: share of rows on which the small model is at least as good, or better.
        oracle_share, oracle_share_1: largest cost advantage of perfect routing with a drop of at most 0 and 1 %.
        oracle_gain: percent by which the better model of each row exceeds the large model on all rows.
        all_small_drop: drop with all rows on the small model.
        oracle_drop_40, random_drop_40: drop at 40 % cost advantage, by perfect routing and at random.
        noise: share of the gap's variance that is sampling noise, estimated on rows with two or more responses of each
            model; None if fewer than half of the rows have them.
    """

    rows: int
    small_mean: float
    large_mean: float
    gap_mean: float
    gap_percentiles: tuple[float, ...]
    at_least_as_good: float
    better: float
    oracle_share: float
    oracle_share_1: float
    oracle_gain: float
    all_small_drop: float
    oracle_drop_40: float
    random_drop_40: float
    noise: float | None

    @classmethod
    def on(cls, table: QualityTable) -> Self:
        """Raises:
        InputError: the large model's mean quality is 0.
        """
        qualities = MeanQualities.of(table.small_mean, table.large_mean, table.prompts)
        qualities.check()
        gap, large_mean = qualities.gap, float(qualities.large.mean())
        oracle, random = oracle_curves(qualities), random_curves(qualities)
        return cls(
            rows=len(table),
            small_mean=float(qualities.small.mean()),
            large_mean=large_mean,
            gap_mean=float(gap.mean()),
            gap_percentiles=tuple(float(value) for value in np.percentile(gap, _PERCENTILES)),
            at_least_as_good=float((gap >= 0).mean()),
            better=float((gap > 0).mean()),
            oracle_share=float(oracle.share_within(0.0)[0]),
            oracle_share_1=float(oracle.share_within(_LEAST_DROP)[0]),
            oracle_gain=100.0 * float(np.maximum(gap, 0.0).mean()) / abs(large_mean),
            all_small_drop=float(oracle.drop_at(1.0)[0]),
            oracle_drop_40=float(oracle.drop_at(0.4)[0]),
            random_drop_40=float(random.drop_at(0.4)[0]),
            noise=_noise(table),
        )

    @property
    def kind(self) -> Kind:
        if self.all_small_drop <= 0.0:
            return "the small model is enough"
        if self.oracle_share_1 < _LEAST_SHARE:
            return "the large model is needed"
        if self.random_drop_40 - self.oracle_drop_40 < _LEAST_GAIN:
            return "the gap hardly varies"
        if self.noise is not None and self.noise > _MOST_NOISE:
            return "the gap is noise"
        return "routing can pay"

    def sentences(self) -> list[str]:
        """The figures, a line each, then the verdict."""
        percentiles = " / ".join(f"{value:.3g}" for value in self.gap_percentiles)
        lines = [
            f"the pair on {self.rows:,} rows: mean quality {self.small_mean:.3f} small, {self.large_mean:.3f} large",
            f"quality gap (small − large): mean {self.gap_mean:.3f}; 5/25/50/75/95th percentile {percentiles}",
            f"the small model is at least as good on {self.at_least_as_good:.0%} of the rows, better on "
            f"{self.better:.0%}",
            f"perfect routing could send {self.oracle_share:.0%} of the rows to it at no drop, "
            f"{self.oracle_share_1:.0%} at a drop of {_LEAST_DROP:g} %, or gain {self.oracle_gain:.1f} % over the "
            "large model alone",
            f"40 % of the rows on it, at random: drop {self.random_drop_40:.1f} %",
        ]
        if self.noise is None:
            lines.append("with one response per model, the gaps hold luck too: routing can gain less than this")
        else:
            lines.append(f"{self.noise:.0%} of the gap's variance is sampling noise")
        return [*lines, f"verdict: {self.kind}{_ADVICE[self.kind]}"]


_ADVICE: dict[Kind, str] = {
    "routing can pay": "",
    "the small model is enough": ": routing is hardly worth it, since it is as good on average; use it for all rows, "
    "or route for quality alone",
    "the large model is needed": f": routing is not worth it, since even perfect routing could send fewer than "
    f"{_LEAST_SHARE:.0%} of the rows to the small one within a drop of {_LEAST_DROP:g} %",
    "the gap hardly varies": ": routing is not worth it, since even perfect routing is hardly better than a random "
    "share; use the model whose price and quality you prefer",
    "the gap is noise": ": routing is not worth it, since prompts hardly differ in which model suits them; take more "
    "samples, another metric, or a share at random",
}


def _noise(table: QualityTable) -> float | None:
    """The mean sampling variance of a row's mean gap, as a share of the variance of the gaps over rows."""
    pairs = zip(table.small, table.large, strict=True)
    several = [(small, large) for small, large in pairs if min(len(small), len(large)) > 1]
    if len(several) < max(2, len(table) / 2):
        return None
    spread = float(np.var([small.mean() - large.mean() for small, large in several], ddof=1))
    if spread == 0.0:
        return None
    sampling = np.mean([small.var(ddof=1) / len(small) + large.var(ddof=1) / len(large) for small, large in several])
    return min(1.0, float(sampling) / spread)
