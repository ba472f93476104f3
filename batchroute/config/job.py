"""The job file's sections and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from batchroute.cache.settings import CacheSpec
from batchroute.costs.price_lists import PricesSpec
from batchroute.costs.prices import Money, Price
from batchroute.costs.usage import COLUMNS
from batchroute.engines.ray.pools import RaySpec
from batchroute.fields import Share, Side
from batchroute.generators.settings import Confidence, ModelSpec
from batchroute.generators.validation import Check
from batchroute.hardware.devices import Precision
from batchroute.policy.settings import Policy
from batchroute.quality.audit import AuditSpec
from batchroute.reports.export.lineage import LineageSpec
from batchroute.reports.export.notify import NotifySpec
from batchroute.tables.sources.base import InputSpec
from batchroute.tables.targets.settings import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa


class OutputSpec(BaseModel):
    """The section `output`: where the answers go."""

    model_config = ConfigDict(extra="forbid")

    uri: str
    storage_options: dict[str, Any] = Field(default_factory=dict, description="of the fsspec filesystem")
    single_writer: bool = Field(default=False, description="accept a storage without create-only puts")
    keep_work: bool = Field(default=True, description="keep the work folder after the commit")
    prefix: str = Field(default="", description="put before the names of the result columns")
    columns: Literal[True, "struct"] | None = Field(
        default=None, description="true: a typed column for each key of JSON answers; struct: one column 'json' of them"
    )
    table: TableSpec | None = Field(default=None, description="loaded from the committed files")


class RouterSpec(BaseModel):
    """The router: a Hugging Face sequence classifier whose score is high for easy prompts."""

    model_config = ConfigDict(extra="forbid")

    model: str
    max_length: int | None = Field(default=None, ge=8, description="tokens read of a prompt; the router's own limit")
    token_budget: int | None = Field(default=None, ge=64, description="tokens scored at a time, padding included")
    precision: Precision = Field(default="auto", description="auto: float32 on CPU, half precision on a GPU")
    allow_pickle: bool = Field(default=False, description="load weights that are no safetensors")
    price: Price | None = None


class JobModel(ModelSpec):
    """A model of the job with its price, and for the small model which of its rows go on to the large one."""

    price: Price | None = None
    on_failure: Literal["large"] | None = Field(
        default=None,
        description="large: rows that failed, were refused, cut, or came back empty go on to the large one",
    )
    escalate: Check | None = Field(default=None, description="so do rows whose response does not pass this check")

    @property
    def escalates(self) -> bool:
        return self.on_failure is not None or self.escalate is not None


class Models(BaseModel):
    model_config = ConfigDict(extra="forbid")

    small: JobModel
    large: JobModel

    @model_validator(mode="after")
    def _only_the_small_one_escalates(self) -> Self:
        if self.large.escalates:
            raise ValueError("on_failure and escalate are settings of models.small: there is no model above the large")
        return self

    @model_validator(mode="after")
    def _only_the_small_ones_answers_are_read(self) -> Self:
        if self.large.reader is not None:
            raise ValueError("confidence.reader is a setting of models.small: the large model's answers are not read")
        return self

    def of(self, side: Side) -> JobModel:
        return self.small if side == "small" else self.large


class ReportSpec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    group_by: list[str] = Field(default_factory=list, description="input columns to split the costs by")
    audit: AuditSpec | None = Field(default=None, description="this share of small's rows to the large one too")

    signals: bool = Field(default=False, description="the output also says what the small model's answers tell")

    @field_validator("group_by")
    @classmethod
    def _no_column_twice(cls, value: list[str]) -> list[str]:
        for number, name in enumerate(value):
            if name in COLUMNS:
                raise ValueError(f"'{name}' is a column of cost.parquet itself: rename the input's, or leave it out")
            if name in value[:number]:
                raise ValueError(f"'{name}' is there twice")
        return value


class Units(BaseModel):
    """Rows of a unit in each stage. A crash repeats at most one unit per process."""

    model_config = ConfigDict(extra="forbid")

    score: int | None = Field(default=None, ge=1, description="rows of a scored chunk")
    generate: int | None = Field(default=None, ge=1, description="rows of a piece of a shard")
    merge: int | None = Field(default=None, ge=1, description="rows of an output file; whole chunks")


class Job(BaseModel):
    """A job file, checked."""

    model_config = ConfigDict(extra="forbid")

    name: str = "batchroute"
    input: InputSpec
    output: OutputSpec
    router: RouterSpec | None = Field(default=None, description="may be missing where policy.decide is after")
    policy: Policy
    models: Models
    report: ReportSpec = Field(default_factory=ReportSpec)
    cache: CacheSpec | None = Field(default=None, description="answers of earlier runs, which are not paid again")
    prices: PricesSpec | None = None
    max_cost: Money | None = Field(default=None, description="USD; a run that would cost more stops, to be resumed")
    max_tokens: int | None = Field(default=None, ge=1, description="of both models, prompts and responses together")
    max_failed: Share = Field(default="1%", validate_default=True, description="of all rows; more: exit code 1")
    units: Units = Field(default_factory=Units)
    ray: RaySpec = Field(default_factory=RaySpec, description="what --engine ray uses")
    notify: NotifySpec | None = Field(default=None, description="who is told that a run has ended")
    lineage: LineageSpec | None = Field(default=None, description="where events of OpenLineage go")

    @model_validator(mode="after")
    def _sections_go_together(self) -> Self:
        if self.input.only_new is not None and self.output.table is None:
            raise ValueError("input.only_new needs output.table: what is new is known by what the table holds")
        if self.router is None and not self.policy.looks_after:
            raise ValueError(
                "router is missing: a policy that decides before the small model answers needs its scores; name one as "
                "router.model, or set policy.decide: after"
            )
        fitted = None if self.policy.calibrate is None else self.policy.calibrate.reader
        if self.policy.looks_after and self.policy.signals is None and fitted is None:
            _check_signals(self.models.small)
        if self.reader is not None and not self.policy.looks_after:
            raise ValueError(
                f"{'policy.calibrate' if self.models.small.reader is None else 'models.small.confidence'}.reader reads "
                "answers, and the policy decides before there are any: set policy.decide: after or auto, or leave the "
                "reader out"
            )
        if fitted is not None and self.models.small.reader is not None:
            raise ValueError(
                "policy.calibrate.reader fits a reader to tonight's rows, and models.small.confidence.reader is one "
                "already: leave one of them out"
            )
        if self.output.columns is not None and not self.json_columns:
            raise ValueError(
                "output.columns needs to know the keys of the answers: set the same response_format for both models, "
                "of type json_schema, whose schema has properties"
            )
        total = self.policy.budget
        if total is not None and self.max_cost is not None and total > self.max_cost:
            raise ValueError(
                f"policy.budget {total} is more than max_cost {self.max_cost}, which stops the run: make them agree"
            )
        if self.output.table is not None and self.output.table.mode == "upsert" and self.input.id is None:
            raise ValueError("output.table.mode upsert needs input.id, the column that rows are known by")
        return self

    @property
    def reader(self) -> str | None:
        """What reads the small model's answers: a trained reader, or the encoder of one that is fitted to tonight's
        rows.
        """
        fitted = None if self.policy.calibrate is None else self.policy.calibrate.reader
        return self.models.small.reader or fitted

    @property
    def json_columns(self) -> list[pa.Field]:
        """The typed columns of the answers, as `output.columns` asks for them."""
        import pyarrow as pa

        from batchroute.tables.json_columns import WHOLE, fields_of

        wanted = self.models.small.response_format or {}
        if self.output.columns is None or self.models.large.response_format != wanted or "json_schema" not in wanted:
            return []
        fields = fields_of(wanted["json_schema"]["schema"])
        return [pa.field(WHOLE, pa.struct(fields))] if fields and self.output.columns == "struct" else fields


def without_samples(job: Job) -> Job:
    """The job without extra samples of the small model, whose answers decide nothing."""
    small = job.models.small
    if small.confidence is None or not small.samples:
        return job
    silent = small.model_copy(update={"confidence": small.confidence.model_copy(update={"samples": 0})})
    return job.model_copy(update={"models": job.models.model_copy(update={"small": silent})})


def without_reader(model: JobModel) -> JobModel:
    """The model without the reader of its answers, as if the job did not name one."""
    if model.confidence is None or model.confidence.reader is None:
        return model
    kept = model.confidence.model_copy(update={"reader": None})
    return model.model_copy(update={"confidence": None if kept == Confidence() else kept})


def _check_signals(small: JobModel) -> None:
    """Raises:
    ValueError: nothing tells how far the small model's answers can be trusted.
    """
    logprobs = small.record.logprobs and (small.confidence is None or small.confidence.logprobs)
    if logprobs or small.samples or small.reader is not None:
        return
    if not small.record.logprobs and not small.record.samples:
        raise ValueError(
            f"policy.decide needs signals of the small model's answers, and the backend {small.backend} gives no "
            "log-probabilities and takes no samples: name a reader of answers as models.small.confidence.reader, "
            "choose another backend, or decide before"
        )
    what = "logprobs: true" if small.record.logprobs else "samples: 3"
    raise ValueError(
        "policy.decide needs signals of the small model's answers, and this job asks for none: set "
        f"models.small.confidence: {{{what}}}, or decide before"
    )
