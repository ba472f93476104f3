"""The report of a labelling, `<table>.report.json`: rows, responses, tokens, seconds and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batchroute.costs.usage import ModelUsage
from batchroute.fields import SIDES
from batchroute.quality.measuring.measurer import UNMEASURED
from batchroute.storage.receipts import Receipt


class LikenessCheck(BaseModel):
    """How far likeness to the large model can be trusted, on the rows with a reference. Shares of these rows.

    Attributes:
        as_good: by likeness, the small model is as good as the large one is to itself.
        truly_as_good: by the references it is as good as the large one.
        agree: both say the same.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    as_good: float
    truly_as_good: float
    agree: float

    @classmethod
    def of(cls, likeness: pa.Table, references: pa.Table) -> LikenessCheck | None:
        """From the measured rows by each; None if no row has both."""
        verdicts = [
            (_as_good(alike), _as_good(truly))
            for alike, truly in zip(_qualities(likeness), _qualities(references), strict=True)
            if all(alike) and all(truly)
        ]
        if not verdicts:
            return None
        alike, truly = np.array(verdicts).T
        return cls(rows=len(verdicts), as_good=alike.mean(), truly_as_good=truly.mean(), agree=(alike == truly).mean())


class LabelReport(BaseModel):
    """Costs are in USD, exact; null if a price is missing.

    Attributes:
        failures: rows without qualities, by error type.
        unmeasured: responses without a quality, by error type.
        models: by side; empty for recorded responses. `rows` are responses.
        mean_quality: by side, over the rows that have one; null if no row has.
        likeness: None unless likeness was measured and there are references.
        total_cost: of the two models; the cost of a judge or of the metric's model is not known.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    metric: str
    rows: int
    labelled: int
    failures: dict[str, int]
    unmeasured: dict[str, int]
    models: dict[str, ModelUsage]
    mean_quality: dict[str, float | None]
    measuring_seconds: float
    total_cost: Decimal | None
    missing_prices: list[str]
    likeness: LikenessCheck | None = None

    @property
    def failed(self) -> int:
        return self.rows - self.labelled

    def sentences(self) -> list[str]:
        """The report for people, one sentence per line."""
        lines = [f"{self.labelled:,} of {self.rows:,} rows labelled by {self.metric}"]
        for side, usage in self.models.items():
            cost = "cost not known" if usage.cost is None else f"${usage.cost:,.6f}"
            lines.append(
                f"{side} model {usage.model}: {usage.rows:,} responses, {usage.failed:,} failed, {usage.cut:,} cut, "
                f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, {usage.busy_seconds:,.1f} s, {cost}"
            )
            if usage.sample_output_tokens:
                read, written = usage.sample_input_tokens, usage.sample_output_tokens
                lines.append(f"its extra samples: {read:,} tokens in, {written:,} out, which the cost counts")
        lines.append(f"measuring took {self.measuring_seconds:,.1f} s; what the metric itself costs is not counted")
        if None not in self.mean_quality.values():
            means = ", ".join(f"{side} {mean:.4f}" for side, mean in self.mean_quality.items())
            lines.append(f"mean quality: {means}")
        if self.likeness is not None:
            known = self.likeness
            lines.append(
                f"likeness and references say the same of {known.agree:.0%} of {known.rows:,} rows with references: by "
                f"likeness the small model is as good in {known.as_good:.0%}, by the references in "
                f"{known.truly_as_good:.0%}"
            )
        for what, counts in (("rows failed", self.failures), ("responses were not measured", self.unmeasured)):
            if counts:
                kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
                lines.append(f"{sum(counts.values()):,} {what} ({kinds})")
        if self.missing_prices:
            lines.append(f"total cost not known: {', '.join(self.missing_prices)} missing in the job file")
        elif self.models:
            lines.append(f"total cost ${self.total_cost:,.6f}")
        return lines


def label_report(
    run_id: str,
    metric: str,
    labelled: pa.Table,
    usages: Mapping[str, ModelUsage],
    measured: Collection[Receipt],
    by_references: pa.Table | None = None,
) -> LabelReport:
    """Args:
    metric: the text of `quality.describe`.
    labelled: the measured rows of all units.
    usages: by side; empty for recorded responses.
    measured: the receipts of measuring.
    by_references: the same rows measured by their references, if `labelled` has likeness.
    """
    failures = Counter(kind for kind in labelled["error_type"].to_pylist() if kind is not None)
    unmeasured: Counter[str] = Counter()
    for receipt in measured:
        counts = {key.removeprefix(UNMEASURED): n for key, n in receipt.counts.items() if key.startswith(UNMEASURED)}
        unmeasured.update(counts)
    missing = [f"models.{side}.price" for side, usage in usages.items() if usage.cost is None]
    return LabelReport(
        run_id=run_id,
        metric=metric,
        rows=labelled.num_rows,
        labelled=labelled.num_rows - failures.total(),
        failures=dict(sorted(failures.items())),
        unmeasured=dict(sorted(unmeasured.items())),
        models=dict(usages),
        mean_quality={side: _mean(labelled[f"{side}_quality"]) for side in SIDES},
        measuring_seconds=sum(receipt.seconds + receipt.load_seconds for receipt in measured),
        total_cost=None if missing else sum((usage.cost or Decimal(0) for usage in usages.values()), Decimal(0)),
        missing_prices=missing,
        likeness=None if by_references is None else LikenessCheck.of(labelled, by_references),
    )


def _qualities(labelled: pa.Table) -> list[tuple[list[float], list[float]]]:
    return list(zip(*(labelled[f"{side}_quality"].to_pylist() for side in SIDES), strict=True))


def _as_good(qualities: tuple[list[float], list[float]]) -> bool:
    small, large = (float(np.mean(some)) for some in qualities)
    return small >= large - 1e-9


def _mean(qualities: pa.ChunkedArray) -> float | None:
    means = [float(np.mean(row)) for row in qualities.to_pylist() if row]
    return float(np.mean(means)) if means else None
