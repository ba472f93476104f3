"""Labelling: both models answer every prompt, a metric measures the answers, and a quality table is written.

As a run, it keeps its units in `<table>.work/` and resumes from them. The table is written last, as one file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from batchroute import generators, quality
from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.report import LabelReport, label_report
from batchroute.commands.label.sample import Sampler
from batchroute.commands.label.task import RUN_FILE, LabelTask
from batchroute.costs.usage import ModelUsage, model_usage
from batchroute.engines.local import LocalEngine
from batchroute.engines.ranks.world import World
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, InputError
from batchroute.fields import LARGE, SIDES, Side
from batchroute.pipeline.identity import difference
from batchroute.pipeline.precision import fixed
from batchroute.pipeline.shards.answers import with_confidence
from batchroute.pipeline.shards.tally import tokens_of
from batchroute.progress import Progress
from batchroute.quality.base import LIKENESS
from batchroute.quality.measuring.columns import (
    HELPER_AGREEMENT,
    input_columns,
    with_agreement,
    with_columns,
    with_qualities,
    with_recorded,
    with_responses,
    with_signals,
    with_tokens,
)
from batchroute.quality.measuring.measurer import AnsweredRow, Measurer
from batchroute.quality.measuring.responses import (
    AnsweredRows,
    EitherResponses,
    OneSide,
    RecordedResponses,
    ResponseSource,
    SampledResponses,
)
from batchroute.storage.receipts import FORMAT_VERSION
from batchroute.storage.table_file import TableFile
from batchroute.storage.units import spans
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables.repeated import check_ids
from batchroute.tables.signal_columns import RECORDED_KEY

_FINGERPRINT = "batchroute.label"
_REPORT, _RESPONSES = "report.json", "responses.parquet"
_MEASURED, _HELPED, _AGREED, _CHECKED = "measure", "helper", "agreement", "references"


@dataclass(frozen=True)
class LabelOutcome:
    """How labelling ended. The table exists either way."""

    output: str
    report: LabelReport
    was_done: bool
    exit_code: int


def label(options: LabelOptions, progress: Progress, fresh: bool = False, responses_a_unit: int = 256) -> LabelOutcome:
    """Label the prompts, resuming an earlier attempt; does nothing if the table exists already.

    Args:
        fresh: first remove what the output holds.
        responses_a_unit: a crash repeats no more responses of a model than that, or one prompt's samples if they are
            more.

    Raises:
        InputError: the input, the models or the metric cannot be used, or the output belongs to other settings.
        StoppedError: it stopped by itself and can be resumed.
        Terminated: SIGTERM arrived; it can be resumed.
    """
    if World.from_environment().size > 1:
        raise InputError("label is one process, and each of several would do all of it: start it without a launcher")
    labelling = _Labelling(options, progress, responses_a_unit)
    if fresh:
        labelling.file.discard((_REPORT, _RESPONSES))
    report = labelling.finished()
    was_done = report is not None
    if report is None:
        labelling.begin()
        with labelling.engine.terminable():
            labelling.check_metric()
            for side in labelling.task.specs:
                labelling.sample(side)
            labelling.measure()
            labelling.compare()
            report = labelling.write()
    too_many = report.failed > options.max_failed * report.rows
    return LabelOutcome(options.output, report, was_done, EXIT_FAILED_ROWS if too_many else EXIT_OK)


class _Labelling:
    def __init__(self, options: LabelOptions, progress: Progress, responses_a_unit: int) -> None:
        self.task, self.options, self.engine = LabelTask(options), options, LocalEngine(progress)
        self.file = TableFile(options.output, _FINGERPRINT)
        self.tree, self.fingerprint = self.task.identify(self.file)
        self.file.check_apart_from(options.prompts, [file.path for file in self.task.input.files])
        self.work = Workdir(self.file.output, self.fingerprint[:16])
        samples = options.samples if self.task.specs else 1
        self.spans = spans(self.task.table.rows, max(1, responses_a_unit // samples))

    def finished(self) -> LabelReport | None:
        """The report, if the table exists and has these settings; None if there is no table.

        Raises:
            InputError: the output is something else.
        """
        if not self.file.exists():
            return None
        if self.file.fingerprint() == self.fingerprint:
            can_add = self.options.keep_responses and self.work.read_json(RUN_FILE) is not None
            if can_add and not self.file.exists(_RESPONSES):
                self._put(with_responses(*self._columns()), _RESPONSES)
            return LabelReport.model_validate_json(self.file.read_text(_REPORT))
        self._refuse_others()
        raise InputError(f"the output {self.file.output} is there already, of something else; name another")

    def begin(self) -> None:
        """Fix input and settings in the work folder; an earlier attempt must have had the same."""
        self._refuse_others()
        if self.options.id is not None:
            check_ids(self.task.table, self.options.id, self.task.prompts.columns)
        begun = {"fingerprint": self.fingerprint, "format_version": FORMAT_VERSION}
        # With digests of the contents, by which a copy is known.
        records = [file.record() for file in self.task.input.source.seal(self.task.input.files)]
        self.work.put_json(RUN_FILE, {**self.tree, "files": records, **begun})
        if self.task.input.columns:
            self._note(f"columns: {self.task.input.columns}")
        if self.options.samples == 1 and self.task.specs:
            self._note("with one sample per model only the labels 'det' and 'gap' make sense; take more for shares")
        if self.task.recorded and not all(self.task.known_name(side) for side in SIDES):
            self._note("the table will not name both models: give --small-model and --large-model, or --job")
        self._note(f"labelling {self.task.table.rows:,} rows by {quality.describe(self.options.metric)}")

    def sample(self, side: Side) -> None:
        """Generate all units of one model that have no receipt yet."""
        with self.engine.workers(self, lambda _: self._sampler(side), None) as workers:
            workers.run(side, self.spans)

    def check_metric(self) -> None:
        """Try the metric before a model answers, unless the last one that is asked has answers already."""
        if self.task.specs and not self.work.stage(list(self.task.specs)[-1]).receipts():
            self.task.check_reference()
            quality.check(self.options.metric, lambda: self.engine.device)

    def measure(self) -> None:
        """Measure all units that have no receipt yet."""
        self.task.check_reference()
        self._measure(_MEASURED, self._rows(self.options.metric.record.needs_reference, self.task.likeness))

    def compare(self) -> None:
        """By the same metric: the small model's responses with a helper's, and with each other; and by references what
        likeness measured.
        """
        answers = OneSide("small", self._source())
        if self.options.helper is not None:
            self._measure(_HELPED, AnsweredRows(self.task.table, self.task.prompts, self.options.helper, answers, True))
        for peer in range(1, self.options.agree + 1):
            rows = AnsweredRows(self.task.table, self.task.prompts, None, answers, needs_reference=False, peer=peer)
            self._measure(f"{_AGREED}-{peer}", rows)
        if self.task.checks_likeness:
            self._measure(_CHECKED, self._rows(needs_reference=True))

    def write(self) -> LabelReport:
        """Write the report, the responses if they are kept and, last, the table."""
        labelled = self._measured(_MEASURED)
        columns, rows = self._columns()
        # There is no table, so these belong to one that was removed.
        for leftover in (_REPORT, _RESPONSES):
            self.file.remove(leftover)
        if self.options.keep_responses:
            self._put(with_responses(columns, rows), _RESPONSES)
        self.file.put_text(_REPORT, self._report(labelled).model_dump_json(indent=1))
        table = with_qualities(columns, labelled)
        for side in SIDES:
            if side in self.task.specs:
                table = with_tokens(table, side, self.work.stage(side), self.spans)
                table = with_signals(table, side, self.work.stage(side), self.spans)
            else:
                table = with_recorded(table, side, self.task.table, self.task.recorded[side])
        table = with_columns(table, self.task.table, self.options.signals)
        if self.options.agree:
            peers = [self._measured(f"{_AGREED}-{peer}") for peer in range(1, self.options.agree + 1)]
            table = with_agreement(table, peers)
        if self.options.helper is not None:
            table = table.append_column(HELPER_AGREEMENT, self._measured(_HELPED)["small_quality"])
        self._put(table)
        return LabelReport.model_validate_json(self.file.read_text(_REPORT))

    def _sampler(self, side: Side) -> Sampler:
        # Asked for signals, which cost little. The identity is without them, as an earlier version's.
        spec, options = with_confidence(self.task.specs[side]), self.options
        self._note(f"loading the {side} model {spec.model}")
        stage, progress = self.work.stage(side), self.engine.progress
        spec = fixed(self.work, side, spec, lambda: self.engine.device, progress, [side])
        generator = generators.load(spec, lambda: self.engine.device)
        return Sampler(side, spec, generator, options.samples, self.task.table, self.task.prompts, stage, progress)

    def _measure(self, stage: str, rows: AnsweredRows) -> None:
        metric = self.options.metric

        def measurer(_: object) -> Measurer:
            self._note(f"loading the metric {quality.describe(metric)}")
            return Measurer(quality.load(metric, lambda: self.engine.device), rows, self.work.stage(stage))

        with self.engine.workers(self, measurer, None) as workers:
            workers.run(stage, self.spans)

    def _measured(self, stage: str) -> pa.Table:
        return pa.concat_tables([self.work.stage(stage).read(span.unit) for span in self.spans])

    def _refuse_others(self) -> None:
        for run_id in run_ids(self.file.output):
            begun = Workdir(self.file.output, run_id).read_json(RUN_FILE)
            if begun is not None and begun["fingerprint"] != self.fingerprint:
                raise InputError(difference(self.file.output, "was begun by", begun, self.tree))

    def _source(self) -> ResponseSource:
        sources: list[ResponseSource] = []
        if self.task.recorded:
            sources.append(RecordedResponses(self.task.table, self.task.recorded))
        if self.task.specs:
            sources.append(SampledResponses({side: self.work.stage(side) for side in self.task.specs}))
        return EitherResponses(*sources)

    def _rows(self, needs_reference: bool, likeness: bool = False) -> AnsweredRows:
        return AnsweredRows(
            self.task.table, self.task.prompts, self.task.reference, self._source(), needs_reference, likeness
        )

    def _columns(self) -> tuple[pa.Table, list[AnsweredRow]]:
        rows = [row for span in self.spans for row in self._rows(False)(span)]
        return input_columns(self.task.table, rows, self.options.id), rows

    def _report(self, labelled: pa.Table) -> LabelReport:
        usages: dict[str, ModelUsage] = {
            side: model_usage(spec.model, spec.price, (), self.work.stage(side).receipts().values())
            for side, spec in self.task.specs.items()
        }
        measured = self.work.stage(_MEASURED).receipts().values()
        metric = quality.describe(self.options.metric)
        if self.task.likeness:
            metric = f"{metric}, {LIKENESS}"
        checked = self._measured(_CHECKED) if self.task.checks_likeness else None
        return label_report(self.work.run_id, metric, labelled, usages, measured, checked)

    def _put(self, table: pa.Table, suffix: str | None = None) -> None:
        names = {side: self.options.names.get(side) or self.task.known_name(side) for side in SIDES}
        metadata = {f"{side}_model": name for side, name in names.items() if name is not None}
        metadata["metric"] = quality.describe(self.options.metric)
        if self.task.likeness:
            metadata["reference"] = LARGE
        signals = self.options.signals + ([HELPER_AGREEMENT] if self.options.helper is not None else [])
        if signals:
            metadata[RECORDED_KEY] = json.dumps(signals)
        if self.task.specs:
            tokens = {side: spec.generation.max_new_tokens for side, spec in self.task.specs.items()}
            temperatures = {side: spec.generation.temperature for side, spec in self.task.specs.items()}
            sampling = {"samples": self.options.samples, "temperature": temperatures, "seed": self.options.seed}
            metadata["sampling"] = json.dumps({**sampling, "max_new_tokens": tokens})
            metadata |= self._speeds()
        elif b"sampling" in (known := self.task.table.schema.metadata or {}):
            metadata["sampling"] = known[b"sampling"].decode()
        self.file.put(table, self.fingerprint, metadata, suffix)

    def _speeds(self) -> dict[str, str]:
        """By model, the busy seconds per token read or written; `calibrate` keeps them for estimates of a night."""
        speeds = {}
        for side in self.task.specs:
            receipts = self.work.stage(side).receipts().values()
            tokens = sum(tokens_of(receipt) for receipt in receipts)
            if tokens:
                speeds[f"{side}_seconds_per_token"] = f"{sum(receipt.seconds for receipt in receipts) / tokens:.9f}"
        return speeds

    def _note(self, message: str) -> None:
        self.engine.progress.note("label", message)
