"""The report of a night, `report/report.json`: all that its pages, tables and metrics show, and a trend over many."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from batchroute.costs import report as cost_report
from batchroute.costs.prices import Price
from batchroute.costs.report import CostReport
from batchroute.errors import InputError
from batchroute.policy.forecast import Curve, Forecast
from batchroute.quality.audit import Audit
from batchroute.router.calibration.calibrate import Calibration
from batchroute.router.drift.measure import Drift
from batchroute.storage.folder import Folder

REPORT, PAGE, TEXT, METRICS, FOCUS, AUDIT = (
    "report.json", "report.html", "report.md", "metrics.prom", "focus.parquet", "audit.parquet"
)  # fmt: skip
FILES = (cost_report.JSON, cost_report.TABLE, REPORT, PAGE, TEXT, METRICS, FOCUS, AUDIT)
"""All that may be in `report/`; the audit's table only where there was one."""


class Histogram(BaseModel):
    """Scores in bins of equal width.

    Attributes:
        edges: one more than there are bins.
        small, large: rows by where they were sent first.
        unscored: rows that can be routed and have no score.
    """

    model_config = ConfigDict(frozen=True)

    edges: list[float]
    small: list[int]
    large: list[int]
    unscored: int


class Choice(BaseModel):
    """What was decided for all rows, or for one group of them.

    Attributes:
        group: None: all rows.
        policy: in words.
        threshold: rows with a higher score went to small; None for a budget, which has no single one.
    """

    model_config = ConfigDict(frozen=True)

    group: str | None
    policy: str
    rows: int
    small: int
    threshold: float | None


class StageTime(BaseModel):
    """What a stage took, over all processes and attempts that counted."""

    model_config = ConfigDict(frozen=True)

    name: str
    units: int
    rows: int
    seconds: float
    load_seconds: float
    input_tokens: int
    output_tokens: int


class Failure(BaseModel):
    """Rows that failed alike, and the first few of them: by id, or by file and row."""

    model_config = ConfigDict(frozen=True)

    error_type: str
    rows: int
    examples: list[str]


class NightReport(BaseModel):
    """`report/report.json`.

    Attributes:
        finished: UTC, ISO 8601.
        policy: as the job file has it.
        by: the column of a policy by group.
        on_drift: what drift led to: None when there was none, or it was not looked for.
        expected: what was expected of the decision, before anything was generated.
        assumptions: in words, a sentence each.
        calibration: that forecasts went by; None where there was none that fits the job.
        prices: of `router`, `small` and `large`, as the run began with them.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int = 1
    finished: str
    cost: CostReport
    policy: dict[str, Any]
    by: str | None
    choices: list[Choice]
    expected: Forecast | None
    alternatives: list[Forecast]
    curve: Curve | None
    scores: Histogram
    audit: Audit | None
    drift: Drift | None
    on_drift: str | None
    stages: list[StageTime]
    failures: list[Failure]
    assumptions: list[str]
    calibration: Calibration | None = None
    prices: dict[str, Price | None] = {}

    @classmethod
    def of(cls, output: Folder) -> Self:
        """The report of a committed output.

        Raises:
            InputError: it has none, or it is damaged.
        """
        reports = output.folder("report")
        try:
            return cls.model_validate_json(reports.read(REPORT))
        except FileNotFoundError as error:
            raise InputError(
                f"{reports}/{REPORT} is missing: the output is of an earlier batchroute, which wrote cost.json alone; "
                "give it together with other nights for their trend, or run the job again with --fresh"
            ) from error
        except ValidationError as error:
            raise InputError(
                f"{reports}/{REPORT} is damaged, or of a newer batchroute: its figures cannot be read; restore it, or "
                "report with the version that the manifest names"
            ) from error

    @property
    def name(self) -> str:
        return self.cost.name

    @property
    def run_id(self) -> str:
        return self.cost.run_id

    @property
    def total_cost(self) -> Decimal | None:
        return self.cost.total_cost
