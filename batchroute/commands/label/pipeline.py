"""Labelling: both models answer every prompt, a metric measures the answers, and a quality table is written.

The other pipeline beside `job`. Its state lies in `<table>.work/`, as a run's does; the table appears whole, last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from batchroute import generators, models, quality
from batchroute.commands.label import report as label_report
from batchroute.commands.label.report import LabelReport
from batchroute.commands.label.sample import Sampler
from batchroute.config.job import Models
from batchroute.costs.usage import ModelUsage, model_usage
from batchroute.engines.local import LocalEngine
from batchroute.engines.ranks.world import World
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, InputError
from batchroute.fields import SIDES, Share, Side
from batchroute.pipeline.identity import difference, fingerprint_of, model_settings
from batchroute.pipeline.stages.snapshot import check_ids
from batchroute.progress import Progress
from batchroute.quality.base import Item, Metric, MetricSpec
from batchroute.quality.measuring import columns as collect
from batchroute.quality.measuring.measurer import Answered, Measurer
from batchroute.quality.measuring.responses import RECORDED, Recorded, Rows, Sampled, Source
from batchroute.storage.receipts import FORMAT_VERSION
from batchroute.storage.table_file import TableFile
from batchroute.storage.units import spans
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable

_RUN = "run.json"
_FINGERPRINT = "batchroute.label"
_REPORT, _RESPONSES = "report.json", "responses.parquet"
_TEMPERATURE = 0.7
_RESPONSES_A_UNIT = 256


class LabelOptions(BaseModel):
    """What to label, how, and where to."""

    model_config = ConfigDict(extra="forbid")

    prompts: str = Field(description="parquet: a file, a glob or a folder")
    output: str = Field(description="of the quality table, a parquet file")
    metric: MetricSpec
    models: Models | None = Field(default=None, description="the pair; needed unless the responses are recorded")
    samples: int = Field(default=10, ge=1, description="responses of each model to each prompt")
    temperature: float | None = Field(
        default=None, ge=0, description="default: the model's own, or 0.7 where that is 0 and there are several samples"
    )
    seed: int = Field(default=0, ge=0)
    prompt: str = "prompt"
    id: str | None = None
    reference: str | None = Field(default=None, description="default: 'reference' where the input has it")
    names: dict[Side, str] = Field(default_factory=dict, description="of the models, for recorded responses")
    keep_responses: bool = False
    max_failed: Share = Field(default="1%", validate_default=True)


@dataclass(frozen=True)
class Outcome:
    """How labelling ended; the table is there either way."""

    output: str
    report: LabelReport
    was_done: bool
    exit_code: int


def label(options: LabelOptions, progress: Progress, fresh: bool = False) -> Outcome:
    """Label the prompts, or go on where an earlier attempt stopped; does nothing when the table is there already.

    Raises:
        InputError: the input, the models or the metric cannot be used, or the output belongs to other settings.
        StoppedError: it stopped by itself and can be resumed.
        Terminated: SIGTERM arrived; it can be resumed.
    """
    if World.here().size > 1:
        raise InputError("label is one process, and each of several would do all of it: start it without a launcher")
    work = _Labelling(options, progress)
    if fresh:
        work.file.discard((_REPORT, _RESPONSES))
    found = work.finished()
    if found is not None:
        return _outcome(options, found, was_done=True)
    work.begin()
    with work.engine.terminable():
        if not work.recorded:
            work.check_metric()
            for side in SIDES:
                work.sample(side)
        work.measure()
        report = work.write()
    return _outcome(options, report, was_done=False)


class _Labelling:
    def __init__(self, options: LabelOptions, progress: Progress) -> None:
        self.options, self.engine = options, LocalEngine(progress)
        source = Files(options.prompts)
        self.table = PromptTable.open(source.find(), source)
        self.kind = self.table.prompt_kind(options.prompt)
        names = self.table.schema.names
        self.recorded = any(column in names for column in RECORDED.values())
        if not self.recorded and options.models is None:
            raise InputError(
                "label needs --job for the two models, or an input with the columns "
                f"{' and '.join(RECORDED.values())}; it has {', '.join(names)}"
            )
        if self.table.rows == 0:
            raise InputError(f"{options.prompts} has no rows: there is nothing to label")
        if self.recorded:
            Recorded(self.table)
        elif options.names:
            raise InputError("--small-model and --large-model name recorded responses' models; here the job names them")
        elif options.temperature == 0 and options.samples > 1:
            raise InputError(
                f"{options.samples} samples at temperature 0 would all be the same: give another --temperature"
            )
        self.reference = options.reference or ("reference" if "reference" in names else None)
        if self.reference is not None:
            self.table.check_groupable(self.reference, "--reference")
        if options.id is not None:
            self.table.check_column(options.id, "--id")
        self.specs = {} if self.recorded or options.models is None else {side: self._spec(side) for side in SIDES}
        self.tree = {"settings": self._settings(), "files": [file.identity() for file in self.table.files]}
        self.fingerprint = fingerprint_of(self.tree)
        self.file = TableFile(options.output, _FINGERPRINT)
        self.file.check_apart_from(options.prompts, [file.path for file in self.table.files])
        self.work = Workdir(self.file.output, self.fingerprint[:16])
        self.spans = spans(self.table.rows, max(1, _RESPONSES_A_UNIT // (1 if self.recorded else options.samples)))

    def finished(self) -> LabelReport | None:
        """The report, when this very labelling is done.

        Raises:
            InputError: the output is something else.
        """
        if not self.file.exists():
            return None
        if self.file.fingerprint() == self.fingerprint:
            can_add = self.options.keep_responses and self.work.read_json(_RUN) is not None
            if can_add and not self.file.exists(_RESPONSES):
                self._put(collect.with_responses(*self._columns()), _RESPONSES)
            return LabelReport.model_validate_json(self.file.read_text(_REPORT))
        self._refuse_others()
        raise InputError(f"the output {self.file.output} is there already, of something else; name another")

    def begin(self) -> None:
        """Freeze the input, or take up what was begun."""
        self._refuse_others()
        if self.options.id is not None:
            check_ids(self.table, self.options.id)
        self.work.put_json(_RUN, {**self.tree, "fingerprint": self.fingerprint, "format_version": FORMAT_VERSION})
        if self.options.samples == 1 and not self.recorded:
            self._note("with one sample a model only the labels 'det' and 'gap' make sense; take more for shares")
        if self.recorded and not all(self._known_name(side) for side in SIDES):
            self._note("the table will not name both models: give --small-model and --large-model, or --job")
        self._note(f"labelling {self.table.rows:,} rows by {quality.describe(self.options.metric)}")

    def sample(self, side: Side) -> None:
        """All units of one model that have no receipt yet."""
        with self.engine.workers(self, lambda _: self._sampler(side), None) as workers:
            workers.run(side, self.spans)

    def check_metric(self) -> None:
        """Measure a sentence before any model is asked: hours of sampling must not end at a metric that cannot work."""
        if self.work.stage("large").receipts():
            return
        metric = self._metric()
        try:
            metric.measure([Item("What is 2 + 2?", "4", "4")])
        finally:
            metric.close()

    def measure(self) -> None:
        """All units that have not been measured yet."""
        with self.engine.workers(self, lambda _: self._measurer(), None) as workers:
            workers.run("measure", self.spans)

    def write(self) -> LabelReport:
        """Put the report, the responses when they are asked for, and, last, the table."""
        labelled = pa.concat_tables([self.work.stage("measure").read(span.unit) for span in self.spans])
        columns, rows = self._columns()
        # Without a table they are leftovers of one that was removed.
        for leftover in (_REPORT, _RESPONSES):
            self.file.remove(leftover)
        if self.options.keep_responses:
            self._put(collect.with_responses(columns, rows), _RESPONSES)
        self.file.put_text(_REPORT, self._report(labelled).model_dump_json(indent=1))
        table = collect.with_qualities(columns, labelled)
        for side in self.specs:
            table = collect.with_tokens(table, side, self.work.stage(side), self.spans)
        self._put(table)
        return LabelReport.model_validate_json(self.file.read_text(_REPORT))

    def _sampler(self, side: Side) -> Sampler:
        spec, options = self.specs[side], self.options
        self._note(f"loading the {side} model {spec.model}")
        generator = generators.load(spec, lambda: self.engine.device)
        stage, progress = self.work.stage(side), self.engine.progress
        return Sampler(side, spec, generator, options.samples, self.table, options.prompt, self.kind, stage, progress)

    def _measurer(self) -> Measurer:
        self._note(f"loading the metric {quality.describe(self.options.metric)}")
        metric = self._metric()
        return Measurer(metric, self._rows(metric.needs_reference), self.work.stage("measure"))

    def _metric(self) -> Metric:
        metric = quality.load(self.options.metric, lambda: self.engine.device)
        if metric.needs_reference and self.reference is None:
            metric.close()
            raise InputError(
                f"the metric {self.options.metric.name} needs a reference: name its column with --reference; the input "
                f"has {', '.join(self.table.schema.names)}"
            )
        return metric

    def _refuse_others(self) -> None:
        for run_id in run_ids(self.file.output):
            begun = Workdir(self.file.output, run_id).read_json(_RUN)
            if begun is not None and begun["fingerprint"] != self.fingerprint:
                raise InputError(difference(self.file.output, "was begun by", begun, self.tree))

    def _spec(self, side: Side) -> Any:
        assert self.options.models is not None
        spec = self.options.models.of(side)
        temperature = self.options.temperature
        if temperature is None and spec.generation.greedy and self.options.samples > 1:
            temperature = _TEMPERATURE
        given = {} if temperature is None else {"temperature": temperature}
        generation = spec.generation.model_copy(update={**given, "seed": self.options.seed})
        return spec.model_copy(update={"generation": generation})

    def _settings(self) -> dict[str, Any]:
        """All that the table depends on; models by their identity."""
        settings: dict[str, Any] = self.options.model_dump(
            mode="json",
            include={"prompt", "id", "names"} | (set() if self.recorded else {"samples", "seed"}),
        )
        metric = self.options.metric.model_dump(
            mode="json", exclude={"batch_size", "api_key_env", "endpoint"}, exclude_none=True
        )
        if metric.get("model") and self.options.metric.name != "judge":
            metric["identity"] = models.identity(metric["model"])
        settings |= {"reference": self.reference, "metric": metric}
        for side, spec in self.specs.items():
            settings[side] = model_settings(spec)
        return settings

    def _rows(self, needs_reference: bool) -> Rows:
        source: Source
        source = Recorded(self.table) if self.recorded else Sampled({side: self.work.stage(side) for side in SIDES})
        return Rows(self.table, self.options.prompt, self.kind, self.reference, source, needs_reference)

    def _columns(self) -> tuple[pa.Table, list[Answered]]:
        rows = [row for span in self.spans for row in self._rows(False)(span)]
        return collect.input_columns(self.table, rows, self.options.id), rows

    def _report(self, labelled: pa.Table) -> LabelReport:
        usages: dict[str, ModelUsage] = {
            side: model_usage(spec.model, spec.price, (), self.work.stage(side).receipts().values())
            for side, spec in self.specs.items()
        }
        measured = self.work.stage("measure").receipts().values()
        return label_report.report(self.work.run_id, quality.describe(self.options.metric), labelled, usages, measured)

    def _put(self, table: pa.Table, suffix: str | None = None) -> None:
        found = {side: self.options.names.get(side) or self._known_name(side) for side in SIDES}
        metadata = {f"{side}_model": model for side, model in found.items() if model is not None}
        metadata["metric"] = quality.describe(self.options.metric)
        if not self.recorded:
            tokens = {side: spec.generation.max_new_tokens for side, spec in self.specs.items()}
            temperatures = {side: spec.generation.temperature for side, spec in self.specs.items()}
            sampling = {"samples": self.options.samples, "temperature": temperatures, "seed": self.options.seed}
            metadata["sampling"] = json.dumps({**sampling, "max_new_tokens": tokens})
            metadata |= self._speeds()
        elif b"sampling" in (known := self.table.schema.metadata or {}):
            metadata["sampling"] = known[b"sampling"].decode()
        self.file.put(table, self.fingerprint, metadata, suffix)

    def _speeds(self) -> dict[str, str]:
        """Busy seconds for each token read or written, by model: what a night of it will take."""
        found = {}
        for side in self.specs:
            receipts = self.work.stage(side).receipts().values()
            tokens = sum(receipt.counts["input_tokens"] + receipt.counts["output_tokens"] for receipt in receipts)
            if tokens:
                found[f"{side}_seconds_per_token"] = f"{sum(receipt.seconds for receipt in receipts) / tokens:.9f}"
        return found

    def _known_name(self, side: Side) -> str | None:
        if self.options.models is not None:
            return self.options.models.of(side).model
        found = (self.table.schema.metadata or {}).get(f"{side}_model".encode())
        return None if found is None else found.decode()

    def _note(self, message: str) -> None:
        self.engine.progress.note("label", message)


def _outcome(options: LabelOptions, report: LabelReport, was_done: bool) -> Outcome:
    too_many = report.failed > options.max_failed * report.rows
    return Outcome(options.output, report, was_done, EXIT_FAILED_ROWS if too_many else EXIT_OK)
