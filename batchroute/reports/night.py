"""The report of a night, `report/report.json`: every figure that pages, tables, metrics and trends show."""

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
from batchroute.router.calibration.points import Calibration
from batchroute.router.drift.measure import Drift
from batchroute.storage.folder import Folder

REPORT, PAGE, TEXT, METRICS, FOCUS, AUDIT, CALIBRATION = (
    "report.json", "report.html", "report.md", "metrics.prom", "focus.parquet", "audit.parquet", "calibration.parquet"
)  # fmt: skip
FILES = (cost_report.JSON, cost_report.TABLE, REPORT, PAGE, TEXT, METRICS, FOCUS, AUDIT, CALIBRATION)
"""All files that may be in `report/`: see `NightReport.files`."""


class Histogram(BaseModel):
    """Scores in bins of equal width.

    Attributes:
        edges: one more than bins.
        small, large: rows in each bin by the model that got them first.
        unscored: rows with a usable prompt and no score.
    """

    model_config = ConfigDict(frozen=True)

    edges: list[float]
    small: list[int]
    large: list[int]
    unscored: int


class Spread(BaseModel):
    """How far a router's heads disagree about a row, in units of the score (`score_spread`).

    Attributes:
        rows: rows with a spread.
        median, ninetieth: percentiles 50 and 90 of the spread.
        near: rows whose score is no further from the threshold than their own spread; None where scores did not
            decide, or by more than one threshold.
        near_small: of these, rows whose score is not below the threshold.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    median: float
    ninetieth: float
    near: int | None = None
    near_small: int | None = None


class Choice(BaseModel):
    """The decision for all rows, or for one group.

    Attributes:
        group: None: all rows.
        policy: in words.
        threshold: rows with a higher score went to small; None for a budget, which has no single threshold.
    """

    model_config = ConfigDict(frozen=True)

    group: str | None
    policy: str
    rows: int
    small: int
    threshold: float | None


class StageTime(BaseModel):
    """What a stage took, over all processes and all attempts that wrote a receipt."""

    model_config = ConfigDict(frozen=True)

    name: str
    units: int
    rows: int
    seconds: float
    load_seconds: float
    input_tokens: int
    output_tokens: int


class Failure(BaseModel):
    """Rows that failed with one error type; `examples` are ids, or file and row."""

    model_config = ConfigDict(frozen=True)

    error_type: str
    rows: int
    examples: list[str]


class Deciding(BaseModel):
    """How a night was decided whose policy could look at answers, or was calibrated on rows of its own.

    Attributes:
        way: `before`: by scores; `after`: by confidences; `both`: rows of a low score went to the large model at once.
        why: one sentence, if there was a choice.
        skip: of `both`: the score below which rows skipped the small model.
        skipped: number of such rows.
        drawn: rows of tonight's calibration; None without one. Of them `measured` have a quality of both answers.
        metric: of tonight's calibration.
        by_likeness: the large model's answer was taken for the truth: all drops are of the likeness to it.
    """

    model_config = ConfigDict(frozen=True)

    way: str
    why: str | None = None
    skip: float | None = None
    skipped: int = 0
    drawn: int | None = None
    measured: int = 0
    metric: str | None = None
    by_likeness: bool = False


class NightReport(BaseModel):
    """`report/report.json`.

    Attributes:
        finished: UTC, ISO 8601.
        policy: as in the job file.
        by: the column of a policy by group.
        on_drift: the action that followed drift; None without drift, or where drift was not measured.
        expected: the forecast for the decision, made before generation.
        assumptions: a sentence each.
        calibration: the basis of the forecasts; None if the router has none that fits the job.
        prices: of `router`, `small` and `large`, fixed when the run began.
        deciding: None where the policy decides before, by a stored calibration if by any. Unless its way is `before`,
            `scores` and thresholds are confidences.
        spread: None unless the router has heads.
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
    deciding: Deciding | None = None
    spread: Spread | None = None

    @classmethod
    def of(cls, output: Folder) -> Self:
        """The report of a committed output.

        Raises:
            InputError: the report is missing or damaged.
        """
        reports = output.folder("report")
        try:
            return cls.model_validate_json(reports.read(REPORT))
        except FileNotFoundError as error:
            raise InputError(
                f"{reports}/{REPORT} is missing: an earlier batchroute wrote this output, with cost.json alone; "
                "give it together with other nights for their trend, or run the job again with --fresh"
            ) from error
        except ValidationError as error:
            raise InputError(
                f"{reports}/{REPORT} is damaged, or a newer batchroute wrote it: its figures cannot be read; restore "
                "it, or report with the version that the manifest names"
            ) from error

    @property
    def files(self) -> list[str]:
        """The files in `report/`: `audit.parquet` after an audit, `calibration.parquet` after tonight's calibration."""
        drawn = self.deciding is not None and self.deciding.drawn is not None
        missing = {name for name, there in ((AUDIT, self.audit is not None), (CALIBRATION, drawn)) if not there}
        return [name for name in FILES if name not in missing]

    @property
    def after(self) -> bool:
        """Whether the small model's answers decided."""
        return self.deciding is not None and self.deciding.way != "before"

    @property
    def name(self) -> str:
        return self.cost.name

    @property
    def run_id(self) -> str:
        return self.cost.run_id

    @property
    def total_cost(self) -> Decimal | None:
        return self.cost.total_cost
