"""The audit in whole jobs: which rows the large model answers too, the measured drop, and that no output changes."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from batchroute import generators
from batchroute.commands import status
from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.pipeline import label
from batchroute.commands.validate import validate
from batchroute.engines.local import LocalEngine
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline import layout, run
from batchroute.pipeline.audit.metric import metric_of
from batchroute.pipeline.audit.plan import AuditPlan, read_audit_plan
from batchroute.pipeline.audit.results import audit_table, read_audit
from batchroute.pipeline.context import Context, Snapshot
from batchroute.pipeline.shards.names import shard_stage
from batchroute.progress import PlainProgress
from batchroute.prompt import Prompt
from batchroute.quality.audit import Audit
from batchroute.router.calibration.points import Calibration
from batchroute.router.training import train as training
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables import quality_table
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable
from tests.quality.test_judge import Server
from tests.router.training.trainings import options as training_options
from tests.support.jobs import JobFolder, prompts, table
from tests.support.openai_server import OpenAIServer
from tests.support.provider_batches import batch_model

WORDS = 8
"""The small model writes that many, so it is right about prompts that are no longer."""


def frame_of(rows: int) -> pl.DataFrame:
    frame = table(rows)
    return frame.with_columns(reference=frame["prompt"].str.strip_chars(), task=pl.lit("echo"))


def job_of(folder: Path, rows: int = 300, audit: Any = "100%", frame: pl.DataFrame | None = None) -> JobFolder:
    job = JobFolder(folder, frame_of(rows) if frame is None else frame)
    job.settings["models"]["small"]["generation"] = {"max_new_tokens": WORDS}
    given = audit if isinstance(audit, dict) else {"share": audit, "metric": {"name": "exact_match"}}
    job.settings["report"] = {"audit": given}
    return job


def workdir(of: JobFolder) -> Workdir:
    output = folder_at(str(of.output))
    (run_id,) = run_ids(output)
    return Workdir(output, run_id)


def context_of(of: JobFolder, *overrides: str) -> Context:
    """The context of a run that was begun."""
    work = workdir(of)
    snapshot = Snapshot.model_validate(work.read_json("run.json"))
    source = Files(str(of.input))
    engine = LocalEngine(PlainProgress(io.StringIO()))
    return Context(of.load(*overrides), snapshot, PromptTable.open(source.find(), source), work, engine)


def audit_of(of: JobFolder) -> Audit:
    audit = read_audit(context_of(of))
    assert audit is not None
    return audit


def table_of(of: JobFolder) -> str:
    return str(of.output / "report" / "audit.parquet")


def rows_of(of: JobFolder) -> pl.DataFrame:
    return pl.read_parquet(table_of(of))


def is_right(frame: pl.DataFrame) -> pl.Series:
    return frame["response"].str.strip_chars() == frame["reference"]


class Failing(EchoGenerator):
    """A large model that fails on some prompts."""

    asked: ClassVar[Counter[str]] = Counter()
    fails_on = ""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._spec = spec

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        Failing.asked[self._spec.model] += len(prompts)
        answers = super().generate(prompts, seeds)
        if self._spec.model == "echo-small" or not self.fails_on:
            return answers
        bad = Response(error_type="api_error", error="try later")
        return [bad if str(answer.text).startswith(self.fails_on) else answer for answer in answers]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    Failing.asked, Failing.fails_on = Counter(), ""
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: Failing(spec))
    return Failing


class TestWholeJobs:
    def test_an_audit_of_all_rows_measures_the_exact_drop(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        outcome = job.run()
        answers, audit = job.answers(), audit_of(job)
        assert outcome.night is not None
        assert outcome.night.audit == audit
        lost = answers.filter(pl.Series(~is_right(answers)))
        assert 0 < lost.height < 150
        assert set(lost["route"]) == {"small"}
        # The large model is always right, so a row of 300 is 1/3 %.
        assert audit.drop == audit.low == audit.high == pytest.approx(100 * lost.height / 300)
        assert (audit.rows, audit.of, audit.measured, audit.large_rows) == (180, 180, 180, 120)
        assert audit.large_quality == pytest.approx(1)
        assert audit.small_quality == audit.as_good == pytest.approx(1 - lost.height / 180)
        assert (audit.metric, audit.share, audit.seed, audit.failures) == ("exact_match", Decimal(1), 0, {})
        words = sum(len(text.split()) for text in answers.filter(route="small")["prompt"])
        assert audit.cost == Decimal(2 * words) / 10**6

    def test_a_sample_is_near_the_drop_and_stays_the_same(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, audit="50%")
        job.run()
        answers, audit, rows = job.answers(), audit_of(job), rows_of(job)
        assert (audit.rows, audit.of, audit.large_rows) == (90, 180, 90)
        assert audit.low is not None
        assert audit.drop is not None
        assert audit.high is not None
        assert audit.low < audit.drop < audit.high < audit.low + 15
        # Each folder is another run and so has another sample: five standard errors are never passed.
        assert audit.drop == pytest.approx(100 * (~is_right(answers)).sum() / 300, abs=5 * (audit.high - audit.low) / 4)
        # From the easiest to the hardest rows alike: as many of the lower half of the scores as of the upper.
        middle = np.median(answers.filter(route="small")["score"].to_numpy())
        assert abs(np.count_nonzero(rows["score"].to_numpy() > middle) - 45) <= 2
        job.run(fresh=True)
        assert rows_of(job).equals(rows)
        job.settings["report"]["audit"]["seed"] = 1
        job.run(fresh=True)
        assert set(rows_of(job)["id"]) != set(rows["id"])

    def test_the_output_and_what_it_costs_are_the_same_without_the_audit(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, audit="10%")
        with_audit = job.run()
        audited = job.answers()
        job.settings["report"] = {}
        without = job.run(fresh=True)
        assert audited.equals(job.answers())
        assert with_audit.manifest.counts == without.manifest.counts
        costs = [[outcome.report.models[side].cost for side in ("small", "large")] for outcome in (with_audit, without)]
        assert costs[0] == costs[1]
        assert (read_audit(context_of(job)), audit_table(context_of(job))) == (None, None)
        assert not Path(table_of(job)).exists()
        assert not workdir(job).stage("audited").receipts()

    @pytest.mark.parametrize(
        ("rows", "share", "audited"), [(300, "0.1%", 2), (10, "1%", 2), (10, "25%", 3), (1, "1%", 1)]
    )
    def test_two_rows_are_audited_at_the_least(self, tmp_path: Path, rows: int, share: str, audited: int) -> None:
        job = job_of(tmp_path, rows, share)
        job.settings["policy"] = {"threshold": 0}
        job.run()
        audit = audit_of(job)
        assert (audit.rows, audit.measured) == (audited, audited)
        assert (audit.drop is None) == (audited < 2)

    @pytest.mark.parametrize(("rows", "policy"), [(0, {"threshold": 0}), (40, {"small_share": 0})])
    def test_without_rows_of_the_small_model_there_is_no_drop(
        self, tmp_path: Path, rows: int, policy: dict[str, Any]
    ) -> None:
        job = job_of(tmp_path, rows)
        job.settings["policy"] = policy
        job.run()
        audit = audit_of(job)
        assert (audit.rows, audit.of, audit.drop, audit.small_quality, audit.cost) == (0, 0, None, None, Decimal(0))
        assert rows_of(job).height == 0
        assert rows_of(job).columns[:4] == ["prompt", "task", "id", "score"]

    def test_copies_are_audited_once_and_chat_prompts_by_their_text(self, tmp_path: Path) -> None:
        one = frame_of(40).with_columns(
            prompt=pl.Series([[{"role": "user", "content": text}] for text in prompts(40)]),
        )
        frame = pl.concat([one, one.with_columns(id="again-" + pl.col("id"))])
        job = job_of(tmp_path, frame=frame)
        job.settings["policy"] = {"threshold": 0}
        job.run()
        audit, rows = audit_of(job), rows_of(job)
        assert (audit.rows, audit.of) == (40, 40)
        assert rows["id"].to_list() == one["id"].to_list()
        assert all(text in prompt for text, prompt in zip(one["reference"], rows["prompt"], strict=True))

    def test_rows_that_went_on_to_the_large_model_are_not_audited_and_lose_nothing(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        job.settings["models"]["small"]["escalate"] = {"regex": "[a-m].*"}
        report = job.run().report
        answers, audit, rows = job.answers(), audit_of(job), rows_of(job)
        gone_on = answers.filter(route="small→large")
        assert report.escalated is not None
        assert 0 < gone_on.height == report.escalated.rows
        assert sorted(rows["id"]) == sorted(answers.filter(route="small")["id"])
        assert audit.drop == pytest.approx(100 * (~is_right(answers)).sum() / 300)
        assert audit.large_rows == min(audit.rows, 120 + gone_on.height)

    def test_the_status_shows_the_audited_rows(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        job = job_of(tmp_path, audit="20%")
        job.run()
        assert "36 of 180 rows that the small model answered go to the large one too" in job.log
        status.show(str(job.output))
        lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
        shown = {line[0]: line[1:3] for line in lines if line}
        assert (shown["audited"], shown["audit"]) == (["1/1", "36"], ["2/2", "72"])


class TestTable:
    def test_each_audited_row_is_there_with_what_both_models_said(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, audit="20%")
        job.run()
        rows = rows_of(job).join(job.answers(), on="id", suffix="_out")
        assert rows.height == 36
        assert rows["small_responses"].list.first().to_list() == rows["response"].to_list()
        assert rows["large_responses"].list.first().to_list() == rows["prompt"].to_list()
        assert rows["score"].to_list() == rows["score_out"].to_list()
        assert rows["small_quality"].to_list() == [[float(right)] for right in is_right(rows)]
        assert rows["large_quality"].to_list() == [[1.0]] * 36
        assert rows["status"].unique().to_list() == ["ok"]
        assert rows["task"].unique().to_list() == ["echo"]

    def test_label_measures_the_recorded_responses_by_another_metric(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, audit="50%")
        job.run()
        values = {"metric": {"name": "chrf"}, "output": str(tmp_path / "labelled.parquet"), "id": "id"}
        options = LabelOptions.model_validate({**values, "prompts": table_of(job)})
        label(options, PlainProgress(io.StringIO()))
        labelled, rows = quality_table.read(str(tmp_path / "labelled.parquet")), rows_of(job)
        assert (labelled.ids, labelled.failed) == (rows["id"].to_list(), 0)
        assert labelled.metadata["metric"] == "chrf"
        assert (labelled.metadata["small_model"], labelled.metadata["large_model"]) == ("echo-small", "echo-large")
        assert json.loads(labelled.metadata["sampling"])["max_new_tokens"]["small"] == WORDS
        right = rows["small_quality"].list.first() == 1
        assert ((labelled.small_mean > 0.999) == right.to_numpy()).all()
        assert labelled.large_mean == pytest.approx(np.ones(rows.height))

    def test_train_learns_from_it(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, 100)
        job.settings["policy"] = {"threshold": 0}
        job.run()
        path = table_of(job)
        read = quality_table.read(path)
        assert (len(read), read.failed, read.metadata["metric"]) == (100, 0, "exact_match")
        options = training_options(tmp_path, path, label="gap", epochs=1)
        training.train(options)
        notes = json.loads((Path(options.output) / "router.json").read_text())
        assert notes["metric"] == "exact_match"
        assert notes["models"] == {"small": "echo-small", "large": "echo-large"}


class TestFailures:
    def test_rows_that_the_large_model_fails_on_are_left_out_and_not_asked_again(
        self, tmp_path: Path, failing: type[Failing]
    ) -> None:
        failing.fails_on = "river"
        job = job_of(tmp_path, 200)
        outcome = job.run()
        audit, rows = audit_of(job), rows_of(job)
        bad = rows.filter(status="failed")
        assert audit.failures == {"api_error": bad.height}
        assert (audit.measured, bad.height) == (120 - bad.height, rows["prompt"].str.starts_with("river").sum())
        assert bad["error"].unique().to_list() == ["large model: try later"]
        assert bad["small_quality"].to_list() == bad["large_quality"].to_list() == [[]] * bad.height
        assert outcome.manifest.counts["failed"] > 0
        failing.fails_on, failing.asked = "", Counter()
        again = job.run(retry_failed=True)
        # Those of the output alone.
        assert failing.asked == {"echo-large": outcome.manifest.counts["failed"]}
        assert again.manifest.counts["failed"] == 0
        assert audit_of(job).failures == audit.failures
        assert audit_of(job).rows == audit.rows

    def test_rows_without_a_reference_are_counted(self, tmp_path: Path) -> None:
        frame = frame_of(100).with_columns(reference=pl.when(pl.int_range(100) % 4 > 0).then("reference"))
        job = job_of(tmp_path, frame=frame)
        job.settings["policy"] = {"threshold": 0}
        job.run()
        audit = audit_of(job)
        assert (audit.failures, audit.measured) == ({"no_reference": 25}, 75)
        assert audit.drop is not None
        assert quality_table.read(table_of(job)).failed == 25


class TestMetric:
    def test_it_is_the_routers_own_unless_the_job_names_one(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, audit={"share": "10%"})
        (job.router / "router.json").write_text(json.dumps({"metric": "rouge", "max_length": 64}))
        job.run()
        assert audit_of(job).metric == "rouge"
        calibration = Calibration(
            table_sha256="", rows=50, prompts=50, models={"small": None, "large": None}, metric="exact_match",
            max_length=64, confidence=0.95, points=[],
        )  # fmt: skip
        (job.router / "calibration.json").write_text(calibration.model_dump_json())
        assert metric_of(job.load()).name == "exact_match"
        assert metric_of(job.load("report.audit.metric.name=chrf")).name == "chrf"

    @pytest.mark.parametrize(
        ("known", "why"),
        [
            (None, "does not say by which metric it was trained"),
            ("judge (gpt-4)", r"was trained by judge \(gpt-4\)"),
            ("simulated", "was trained by simulated"),
        ],
    )
    def test_one_that_cannot_be_known_is_asked_for_before_any_work(
        self, tmp_path: Path, known: str | None, why: str
    ) -> None:
        job = job_of(tmp_path, 20, audit="1%")
        job.settings["report"] = {"audit": "1%"}
        (job.router / "router.json").write_text(json.dumps({"metric": known}))
        message = rf"router' {why}: name the audit's metric as report\.audit\.metric, for example \{{name: rouge\}}"
        for command in (job.run, lambda: validate(job.load())):
            with pytest.raises(InputError, match=message):
                command()
        assert not job.output.exists()
        assert not (tmp_path / "out.work").exists()

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            (
                None,
                r"exact_match needs a reference: name its column as report\.audit\.reference, or .*; the input has",
            ),
            ("answer", r"report\.audit\.reference: no column 'answer' in the input"),
        ],
    )
    def test_a_reference_that_is_not_there_is_asked_for_before_any_work(
        self, tmp_path: Path, reference: str | None, message: str
    ) -> None:
        job = job_of(tmp_path, frame=table(20))
        if reference is not None:
            job.settings["report"]["audit"]["reference"] = reference
        for command in (job.run, lambda: validate(job.load())):
            with pytest.raises(InputError, match=message):
                command()
        assert not (tmp_path / "out.work").exists()

    def test_another_column_can_hold_the_references(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, 60, frame=frame_of(60).rename({"reference": "answer"}))
        job.settings["report"]["audit"]["reference"] = "answer"
        job.run()
        assert audit_of(job).large_quality == pytest.approx(1)
        assert "answer" not in rows_of(job).columns
        assert rows_of(job)["reference"].null_count() == 0

    def test_the_large_model_s_answers_can_be_the_reference(self, tmp_path: Path) -> None:
        """The small model's answers are cut after eight words, so those to short prompts are the large model's."""
        job = job_of(tmp_path)
        job.settings["report"]["audit"]["reference"] = "large"
        job.input.write_bytes(b"")
        frame_of(300).drop("reference").write_parquet(job.input)
        job.run()
        audit = read_audit(context_of(job))
        assert audit is not None
        assert (audit.likeness, audit.metric) == (True, "exact_match, likeness to the large model, not truth")
        assert audit.large_quality == 1.0
        assert 0.0 < (audit.small_quality or 0.0) == (audit.as_good or 0.0) < 1.0
        table = audit_table(context_of(job))
        assert table is not None
        assert table.schema.metadata[b"reference"] == b"large"
        assert "reference" not in table.schema.names
        page = (job.output / "report" / "report.md").read_text()
        assert "likeness to the large model" in page

    def test_one_that_cannot_be_loaded_ends_the_run_before_a_model_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(generators, "load", lambda spec, device, gpus: pytest.fail("a model is loaded"))
        job = job_of(tmp_path, 20)
        job.settings["report"]["audit"]["metric"] = {"name": "embedding", "model": str(tmp_path / "none")}
        with pytest.raises(InputError, match="none"):
            job.run()

    def test_a_judge_needs_no_reference(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = Server()
        server.answers = defaultdict(lambda: ["Rating: 8"])
        metric = {"name": "judge", "model": "m", "endpoint": server.url}
        job = job_of(tmp_path, frame=table(40), audit={"share": "10%", "metric": metric})
        try:
            job.run()
        finally:
            server.close()
        audit = audit_of(job)
        assert (audit.metric, audit.small_quality, audit.drop) == ("judge (m)", 8, 0)
        assert "reference" not in rows_of(job).columns
        assert server.url not in (workdir(job).folder.read(layout.AUDIT)).decode()
        # One sentence before any work, then both answers to two rows and those to two of the large model's.
        assert len(server.requests) == 1 + 2 * audit.rows + audit.large_rows


class TestResuming:
    def stopped(self, job: JobFolder) -> AuditPlan:
        """The plan of a run that stopped with the audited shard written, before the large model answered any row."""

        def load(spec: ModelSpec, device: object, gpus: object) -> EchoGenerator:
            if spec.model == "echo-large":
                raise StoppedError("it is down")
            return EchoGenerator(spec)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generators, "load", load)
            with pytest.raises(StoppedError, match="it is down"):
                job.run()
        plan = read_audit_plan(workdir(job))
        assert plan is not None
        assert not workdir(job).stage("large").receipts()
        return plan

    def test_it_keeps_its_plan_whatever_the_job_says_now(self, tmp_path: Path) -> None:
        job = job_of(tmp_path, audit="20%")
        plan = self.stopped(job)
        before = shard_stage(workdir(job), "audited").receipts()
        job.settings["report"]["audit"] |= {"share": "50%", "seed": 7, "metric": {"name": "chrf"}}
        job.run()
        audit = audit_of(job)
        assert (audit.share, audit.seed, audit.rows, audit.metric) == (Decimal("0.2"), 0, plan.drawn, "exact_match")
        assert shard_stage(workdir(job), "audited").receipts() == before

    def test_a_shard_that_was_half_written_is_completed(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        self.stopped(job)
        stage = shard_stage(workdir(job), "audited")
        pieces = stage.receipts()
        assert len(pieces) == 5
        for unit in ("00001", "00004"):
            stage.reopen(unit)
        job.run()
        completed = shard_stage(workdir(job), "audited").receipts()
        assert {unit for unit in pieces if completed[unit] != pieces[unit]} == {"00001", "00004"}
        assert sorted(rows_of(job)["id"]) == sorted(job.answers().filter(route="small")["id"])

    def test_what_is_measured_already_is_not_measured_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = job_of(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(run, "write_report", lambda *_: pytest.exit("killed"))
            with pytest.raises(pytest.exit.Exception):
                job.run()
        measured = workdir(job).stage("audit").receipts()
        # 180 audited rows and 120 of the large model, by 40.
        assert len(measured) == 5 + 3
        workdir(job).stage("audit").reopen("00006")
        job.run()
        again = workdir(job).stage("audit").receipts()
        assert {unit for unit in again if again[unit] != measured[unit]} == {"00006"}
        assert audit_of(job).measured == 180

    def test_an_audit_that_is_not_asked_for_any_more_is_left_out(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        self.stopped(job)
        job.settings["report"] = {}
        assert job.run().exit_code == 0
        assert read_audit(context_of(job)) is None
        assert not workdir(job).stage("audit").receipts()

    def test_another_judge_than_the_audits_is_refused(self, tmp_path: Path) -> None:
        server = Server()
        server.answers = defaultdict(lambda: ["8"])
        metric = {"name": "judge", "model": "m", "endpoint": server.url}
        job = job_of(tmp_path, audit={"share": "10%", "metric": metric})
        try:
            self.stopped(job)
        finally:
            server.close()
        job.settings["report"]["audit"]["metric"] = {"name": "exact_match"}
        with pytest.raises(InputError, match=r"metric is exact_match, but this run's audit was begun with judge \(m\)"):
            job.run()


class TestLimits:
    def test_what_the_audited_rows_take_counts(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        job.run()
        stages = [workdir(job).stage(name).receipts().values() for name in ("small", "large", "audited")]
        taken = [sum(r.counts["input_tokens"] + r.counts["output_tokens"] for r in done) for done in stages]
        with pytest.raises(StoppedError, match="max_tokens"):
            job.run(f"max_tokens={sum(taken) - taken[-1] // 2}", fresh=True)
        assert 0 < len(workdir(job).stage("audited").receipts()) < 5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with OpenAIServer() as server:
        yield server


def test_a_provider_batch_answers_the_audited_rows(tmp_path: Path, server: OpenAIServer) -> None:
    job = job_of(tmp_path, 40, "50%")
    job.settings["models"]["large"] = batch_model(server)
    job.run()
    assert [server.batch(name)["metadata"]["batchroute_batch"] for name in server.batches()] == [
        "large/00000", "audited/00000",
    ]  # fmt: skip
    assert len(server.submitted) == 16 + 12
    audit, rows = audit_of(job), rows_of(job)
    assert (audit.rows, audit.measured) == (12, 12)
    assert rows["large_responses"].list.first().to_list() == [f"echo: {prompt}" for prompt in rows["prompt"]]
