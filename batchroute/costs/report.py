"""The cost report: what the run cost, what sending every row to the large model would have cost, and the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from batchroute.costs.baseline import Baseline, baseline_of
from batchroute.costs.prices import Price
from batchroute.costs.usage import COLUMNS, ModelUsage, RouterUsage
from batchroute.tables.types import plain

# polars is imported where it is used: a run comes to its report long after its first unit.
if TYPE_CHECKING:
    import polars as pl

ESCALATED = "small→large"
"""The route of a row that went on to the large model."""

JSON, TABLE = "cost.json", "cost.parquet"

_SUMMED = ("input_tokens", "output_tokens", "cost")
# Reading and summing leave Python to one another; memory holds the columns of so many files.
_FILES_AT_ONCE = 2


class Savings(BaseModel):
    model_config = ConfigDict(frozen=True)

    usd: Decimal
    share: Decimal | None


class Escalated(BaseModel):
    """Rows of the small shard that went on to the large model.

    Attributes:
        reasons: rows by what was wrong with the small model's answer.
        small_cost: of the small model's answers to these rows; part of the small model's cost.
        usage: of the large model for these rows.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    reasons: dict[str, int]
    small_cost: Decimal | None
    usage: ModelUsage


class Deferred(BaseModel):
    """Rows that the policy deferred to the large model once the small model had answered.

    Attributes:
        no_answer: rows of them that the small model did not answer.
        small_cost: of the small model's answers to these rows; part of the small model's cost.
        usage: of the large model for these rows.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    no_answer: int
    small_cost: Decimal | None
    usage: ModelUsage


class CostReport(BaseModel):
    """`report/cost.json`. All money in USD, exact; null where a price is missing."""

    model_config = ConfigDict(frozen=True)

    name: str
    run_id: str
    currency: str = "USD"
    rows: dict[str, int]
    cost_advantage: float | None
    router: RouterUsage
    reader: RouterUsage | None = None
    models: dict[str, ModelUsage]
    escalated: Escalated | None = None
    deferred: Deferred | None = None
    calibration: dict[str, ModelUsage] | None = None
    audited: ModelUsage | None = None
    total_cost: Decimal | None
    baseline: Baseline
    savings: Savings | None
    missing_prices: list[str]
    groups: list[dict[str, Any]]
    failures: dict[str, int]

    @property
    def routed(self) -> int:
        """Rows that were sent to a model."""
        drawn = 0 if self.calibration is None else self.calibration["large"].rows
        return sum(usage.rows for usage in self.models.values()) + drawn

    @property
    def kept(self) -> int:
        """Rows that were sent to the small model alone; where its answers decided, rows that keep its answer."""
        return self.models["small"].rows if self.deferred is None else self.rows["small"]

    @property
    def encoders(self) -> dict[str, RouterUsage]:
        """The usage of what reads and does not write: the router, which may have no name, and the reader of answers."""
        return {"router": self.router, **({} if self.reader is None else {"reader": self.reader})}

    @property
    def usages(self) -> dict[str, ModelUsage]:
        """The usage of each shard."""
        usages = dict(self.models)
        if self.escalated is not None:
            usages["escalated"] = self.escalated.usage
        if self.deferred is not None:
            usages["deferred"] = self.deferred.usage
        for side, usage in (self.calibration or {}).items():
            usages[f"calibration_{side}"] = usage
        if self.audited is not None:
            usages["audited"] = self.audited
        return usages


def build(
    name: str,
    run_id: str,
    rows: dict[str, int],
    router: RouterUsage,
    small: ModelUsage,
    large: ModelUsage,
    large_price: Price | None,
    groups: pl.DataFrame,
    failures: dict[str, int],
    escalated: Escalated | None = None,
    audited: ModelUsage | None = None,
    deferred: Deferred | None = None,
    calibration: dict[str, ModelUsage] | None = None,
    reader: RouterUsage | None = None,
) -> CostReport:
    """Args:
    reader: what the reader of answers took, at the router's price.
    calibration: what tonight's calibration took, by side; its rows are not among those of `small` and `large`.
    audited: what the large model took for the audited rows of the small model; part of the run's cost, not of the
        baseline.
    """
    of_router = router.cost
    if reader is not None and of_router is not None:
        of_router += reader.cost or Decimal(0)
    parts = {"router": of_router, "models.small": small.cost, "models.large": large.cost}
    if escalated is not None and large.cost is not None:
        parts["escalated"] = escalated.usage.cost
    if deferred is not None and large.cost is not None:
        parts["deferred"] = deferred.usage.cost
    for side, usage in (calibration or {}).items():
        if parts[f"models.{side}"] is not None:
            parts[f"calibration.{side}"] = usage.cost
    if audited is not None and large.cost is not None:
        parts["audited"] = audited.cost
    missing = [f"{key}.price" for key, cost in parts.items() if cost is None]
    total = None if missing else sum((cost for cost in parts.values() if cost is not None), Decimal(0))
    again = [part.usage for part in (escalated, deferred) if part is not None]
    drawn = [] if calibration is None else [calibration["large"]]
    baseline = baseline_of(small, large, again, drawn, large_price)
    savings = None
    if total is not None and baseline.cost is not None:
        saved = baseline.cost - total
        savings = Savings(usd=saved, share=round(saved / baseline.cost, 6) if baseline.cost else None)
    report = CostReport(
        name=name,
        run_id=run_id,
        rows=rows,
        cost_advantage=None,
        router=router,
        reader=reader,
        models={"small": small, "large": large},
        escalated=escalated,
        deferred=deferred,
        calibration=calibration,
        audited=audited,
        total_cost=total,
        baseline=baseline,
        savings=savings,
        missing_prices=missing,
        groups=groups.to_dicts(),
        failures=failures,
    )
    return report.model_copy(update={"cost_advantage": report.kept / report.routed if report.routed else None})


def by_group(
    files: Iterable[Any], prefix: str, group_by: list[str], answered_all_the_same: Collection[str] = ()
) -> pl.DataFrame:
    """Rows, tokens and costs by route and by the values of `group_by`, from the committed files.

    Args:
        answered_all_the_same: error types of failed rows whose tokens count.
    """
    import polars as pl

    column = {name: pl.col(prefix + name) for name in ("route", "status", *_SUMMED)}
    counts = (column["status"] == "ok") | pl.col(prefix + "error_type").is_in(list(answered_all_the_same))
    answered = counts & (pl.col(prefix + "attempts") > 0)
    keys = [*(pl.col(name) for name in group_by), column["route"].alias("route")]
    columns = [*group_by, *(prefix + name for name in ("route", "status", "error_type", *_SUMMED, "attempts"))]

    def grouped(file: Any) -> pl.DataFrame:
        return (
            _frame(file, columns)
            .group_by(*keys)
            .agg(
                pl.len().cast(pl.Int64).alias("rows"),
                (column["status"] == "failed").sum().cast(pl.Int64).alias("failed"),
                column["input_tokens"].filter(answered).sum().cast(pl.Int64).alias("input_tokens"),
                column["output_tokens"].filter(answered).sum().cast(pl.Int64).alias("output_tokens"),
                # Without a price the cost is null; polars' own sum of nulls would be 0.
                pl.when(column["cost"].is_not_null().all()).then(column["cost"].sum()).alias("cost"),
            )
        )

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        of_files = list(pool.map(grouped, files))
    names = [*group_by, "route"]
    cost = pl.col("cost")
    return (
        pl.concat(of_files)
        .group_by(names)
        .agg(
            pl.col("rows", "failed", "input_tokens", "output_tokens").sum(),
            pl.when(cost.is_not_null().all()).then(cost.sum()).alias("cost"),
        )
        .sort(names)
    )


def failures(files: Iterable[Any], prefix: str) -> dict[str, int]:
    """How many rows failed with each error type."""
    kind = prefix + "error_type"
    counted: Counter[str] = Counter()
    for file in files:
        counted.update(dict(_frame(file, [kind]).drop_nulls(kind).group_by(kind).len().iter_rows()))
    return dict(sorted(counted.items()))


def _frame(file: Any, columns: list[str]) -> pl.DataFrame:
    """The columns of one file: memory does not grow with the output."""
    import polars as pl

    table = pq.read_table(file, columns=list(dict.fromkeys(columns)), partitioning=None)
    return pl.DataFrame(pa.table([_valid(column) for column in table.columns], table.column_names))


def _valid(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with each byte that is not UTF-8 replaced: people read group names."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        buffers = (value.as_buffer() for chunk in column.chunks for value in plain(chunk).cast(pa.large_binary()))
        return pa.chunked_array([[buffer and buffer.to_pybytes().decode(errors="replace") for buffer in buffers]])
    return column


def to_frame(report: CostReport, groups: pl.DataFrame) -> pl.DataFrame:
    """`report/cost.parquet`: one row per group and route, one for the router, and one for the reader."""
    import polars as pl

    models = {side: usage.model for side, usage in report.models.items()}
    models[ESCALATED] = models["large"]
    rows = groups.with_columns(
        pl.lit(report.name).alias("name"),
        pl.lit(report.run_id).alias("run_id"),
        pl.col("route").replace_strict(models, default=None, return_dtype=pl.String).alias("model"),
    )
    encoders = report.encoders
    read = pl.DataFrame(
        {
            "name": [report.name] * len(encoders),
            "run_id": [report.run_id] * len(encoders),
            "route": list(encoders),
            "model": [usage.model for usage in encoders.values()],
            "rows": [usage.rows for usage in encoders.values()],
            "failed": [0] * len(encoders),
            "input_tokens": [usage.tokens for usage in encoders.values()],
            "output_tokens": [0] * len(encoders),
            "cost": [usage.cost for usage in encoders.values()],
        },
        schema_overrides={"cost": rows.schema["cost"]},
    )
    leading = [name for name in groups.columns if name not in COLUMNS]
    return pl.concat([rows, read], how="diagonal").select("name", "run_id", *leading, *COLUMNS[2:])
