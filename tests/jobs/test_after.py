"""Whole jobs that decide after the small model has answered: exact to the row, and every answer paid for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from batchroute import generators
from batchroute.commands import status
from batchroute.commands.validate import validate
from batchroute.commands.verify import verify
from batchroute.config import loading
from batchroute.config.job import Job
from batchroute.errors import EXIT_OK, InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline import run as pipeline
from batchroute.pipeline.stages import partition
from batchroute.pipeline.tonight.drawn import read_drawn
from batchroute.pipeline.tonight.way import Way
from batchroute.progress import NoProgress
from batchroute.prompt import Prompt
from batchroute.reports.headline import headline
from batchroute.reports.sentences import assumptions
from batchroute.storage import manifest
from batchroute.storage.local import LocalFolder
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables import quality_table
from tests.support.jobs import CutProgress, JobFolder, table

ROWS = 200
AFTER = {"decide": "after"}
TONIGHT = {"rows": 60, "metric": "exact_match", "reference": "large"}


def job_of(folder: Path, policy: dict[str, Any], frame: pl.DataFrame | None = None, router: bool = False) -> JobFolder:
    job = JobFolder(folder, table(ROWS) if frame is None else frame, policy={**AFTER, **policy})
    if not router:
        del job.settings["router"]
    return job


def kept(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(route="small")


def check_money(job: JobFolder, outcome: Any) -> None:
    """Costs of rows add up to those of the models, to the last digit (none is by time, and nothing is audited)."""
    assert job.answers()["cost"].sum() + outcome.report.router.cost == outcome.report.total_cost


class Worse(EchoGenerator):
    """A small model whose answers to some prompts are wrong, or fail; its signals know nothing of it."""

    wrong: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    asked: ClassVar[list[str]] = []

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        answers = super().generate(prompts, seeds)
        Worse.asked += [str(prompt) for prompt in prompts]
        return [self._spoilt(str(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _spoilt(self, prompt: str, answer: Response) -> Response:
        word = prompt if prompt in self.wrong else prompt.split()[0]
        if word in self.fails:
            return Response(error_type="model_error", error="it broke")
        if word not in self.wrong:
            return answer
        return Response("wrong", "stop", answer.input_tokens, 1, logprob=-9.0, logprob_low=-9.0, agreement=None)


@pytest.fixture
def worse(monkeypatch: pytest.MonkeyPatch) -> type[Worse]:
    monkeypatch.setattr(Worse, "wrong", ())
    monkeypatch.setattr(Worse, "fails", ())
    monkeypatch.setattr(Worse, "asked", [])

    def load(spec: ModelSpec, device: object, gpus: object) -> EchoGenerator:
        return Worse(spec) if spec.model == "echo-small" else EchoGenerator(spec)

    monkeypatch.setattr(generators, "load", load)
    return Worse


# Every way


def test_a_threshold_is_a_threshold_on_the_confidence(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"threshold": 0.7})
    outcome = job.run()
    answers = job.answers()
    assert outcome.exit_code == EXIT_OK
    assert answers["confidence"].null_count() == 0
    assert (answers["route"] == "small").to_list() == (answers["confidence"] >= 0.7).to_list()
    assert set(answers["route"]) == {"small", "small→large"}
    assert answers["score"].null_count() == ROWS
    check_money(job, outcome)
    assert (verify(str(job.output)).wrong, verify(str(job.output)).unchecked) == ([], [])


@pytest.mark.parametrize("share", ["0%", "33.3%", "50%", "100%"])
def test_a_share_counts_the_rows_that_keep_the_small_answer(tmp_path: Path, share: str) -> None:
    frame = table(ROWS).with_columns(prompt=pl.when(pl.int_range(ROWS) == 7).then(None).otherwise("prompt"))
    job = job_of(tmp_path, {"small_share": share}, frame)
    outcome = job.run("max_failed=1")
    answers = job.answers()
    wanted = round(float(share[:-1]) / 100 * (ROWS - 1) + 1e-9)
    assert len(kept(answers)) == wanted
    assert outcome.report.cost_advantage == wanted / (ROWS - 1)
    if 0 < wanted < ROWS - 1:
        others = answers.filter(route="small→large")
        assert kept(answers)["confidence"].min() >= others["confidence"].max()
    check_money(job, outcome)


def test_both_answers_are_paid_for(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"small_share": "50%"})
    outcome = job.run()
    answers, report = job.answers(), outcome.report
    assert report.deferred is not None
    deferred = answers.filter(route="small→large")
    assert len(deferred) == report.deferred.rows == report.rows["deferred"] == ROWS / 2
    assert report.deferred.small_cost is not None
    assert report.deferred.usage.cost is not None
    assert deferred["cost"].sum() == report.deferred.small_cost + report.deferred.usage.cost
    assert set(deferred["attempts"]) == {2}
    assert set(deferred["model"]) == {"echo-large"}


def test_each_group_has_its_own_rule(tmp_path: Path) -> None:
    groups = {"search": {"small_share": "20%"}, "support": {"threshold": 1.01}, "default": {"small_share": "75%"}}
    job = job_of(tmp_path, {"by": "team", **groups})
    job.run()
    answers = job.answers()
    for team, share in (("search", 0.2), ("support", 0.0), (None, 0.75)):
        rows = answers.filter(pl.col("team").eq_missing(team))
        assert len(kept(rows)) == int(share * len(rows) + 0.5)


@pytest.mark.parametrize("amount", ["0.0008", "0.0015", "0.003", "1"])
def test_a_budget_buys_what_the_small_model_left_over(tmp_path: Path, amount: str) -> None:
    job = job_of(tmp_path, {"budget": amount})
    outcome = job.run("models.small.generation.max_new_tokens=20", "models.large.generation.max_new_tokens=20")
    total = outcome.report.total_cost
    assert total is not None
    assert total <= outcome.report.total_cost.__class__(amount)
    answers = job.answers()
    if amount == "1":
        # The row of the highest rank gains nothing.
        assert len(kept(answers)) == 1
    else:
        assert 0 < len(kept(answers)) < ROWS
    check_money(job, outcome)


def test_a_budget_that_the_small_model_has_spent_buys_nothing_more(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"budget": "0.00001"})
    outcome = job.run()
    assert outcome.report.rows["small"] == ROWS
    assert outcome.report.rows["deferred"] == 0
    assert "budget 0.00001 USD was spent before a row could be deferred" in job.log
    assert outcome.night is not None
    assert any("was spent before a row could be deferred" in line for line in outcome.night.assumptions)


def test_the_samples_of_the_small_model_are_paid_before_the_budget_buys(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"budget": "0.002"})
    few = job.run("models.large.generation.max_new_tokens=20").report.rows["deferred"]
    job.settings["models"]["small"]["confidence"] = {"samples": 8}
    job.settings["output"]["uri"] = str(tmp_path / "out2")
    outcome = job.run("models.large.generation.max_new_tokens=20")
    assert outcome.report.total_cost is not None
    assert float(outcome.report.total_cost) <= 0.002
    assert outcome.report.rows["deferred"] < few


def test_a_row_that_failed_has_no_confidence_and_goes_on(tmp_path: Path, worse: type[Worse]) -> None:
    worse.fails = ("apple",)
    job = job_of(tmp_path, {"threshold": 0})
    outcome = job.run()
    answers = job.answers()
    failed = answers["prompt"].str.starts_with("apple")
    assert (answers["route"] == "small→large").to_list() == failed.to_list()
    assert answers["confidence"].is_null().to_list() == failed.to_list()
    assert set(answers["status"]) == {"ok"}
    assert outcome.report.deferred is not None
    assert outcome.report.deferred.no_answer == int(failed.sum())


def test_what_escalates_goes_on_first_and_once(tmp_path: Path, worse: type[Worse]) -> None:
    worse.fails, worse.wrong = ("apple",), ("river",)
    job = job_of(tmp_path, {"small_share": "50%"})
    job.settings["models"]["small"] |= {"on_failure": "large", "escalate": {"regex": "(?!wrong).*"}}
    outcome = job.run()
    answers, rows = job.answers(), outcome.report.rows
    assert len(kept(answers)) == rows["small"] == ROWS / 2
    gone_on = answers["prompt"].str.contains("^(apple|river)")
    assert rows["escalated"] == int(gone_on.sum())
    assert rows["escalated"] + rows["deferred"] == ROWS / 2
    assert set(answers.filter(gone_on)["route"]) == {"small→large"}
    assert set(answers["attempts"]) == {1, 2}
    check_money(job, outcome)


def test_copies_count_as_rows_and_are_asked_once(tmp_path: Path, worse: type[Worse]) -> None:
    texts = [f"apple {i % 40} stone" for i in range(ROWS)]
    job = job_of(tmp_path, {"small_share": "51%"}, table(ROWS).with_columns(prompt=pl.Series(texts)))
    outcome = job.run()
    answers = job.answers()
    assert len(kept(answers)) == 102
    assert len(worse.asked) == 40
    assert outcome.report.deferred is not None
    # One prompt is cut by the share: the large model answers it, and the rows before keep the small model's answer.
    assert outcome.report.deferred.usage.generated == 20
    assert answers["response"].to_list() == answers["prompt"].to_list()
    assert answers.group_by("prompt").agg(pl.col("confidence").n_unique())["confidence"].to_list() == [1] * 40
    check_money(job, outcome)


def test_an_empty_input_is_an_empty_output(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"small_share": "50%"}, table(0))
    assert job.run().exit_code == EXIT_OK
    assert job.answers().is_empty()


def test_signals_are_columns_if_the_report_asks_for_them(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"small_share": "50%"})
    job.settings["report"] = {"signals": True}
    job.settings["models"]["small"]["confidence"] = {"samples": 4}
    job.run()
    answers = job.answers()
    assert answers.columns[-4:] == ["confidence", "logprob", "logprob_low", "agreement"]
    assert answers.select(answers.columns[-4:]).null_count().row(0) == (0, 0, 0, 0)
    # With samples, their agreement is the confidence.
    assert answers["confidence"].to_list() == answers["agreement"].to_list()


def test_a_job_that_decides_before_has_no_new_column(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(40))
    job.run("policy.decide=before")
    assert "confidence" not in job.answers().columns
    assert job.run().was_done, "before is what a job without the key does"


# Resuming and retrying


def test_a_run_resumes_after_the_decision(tmp_path: Path, worse: type[Worse]) -> None:
    job = job_of(tmp_path, {"small_share": "50%"})
    with pytest.raises(StoppedError):
        pipeline.run(job.load(), CutProgress("deferred to the large model"))
    asked = len(worse.asked)
    assert asked == ROWS
    job.run()
    assert len(worse.asked) == asked
    assert len(kept(job.answers())) == ROWS / 2


def test_retrying_asks_again_for_deferred_rows_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"echo-large"}

    class Model(EchoGenerator):
        name = ""

        def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
            if self.name not in broken:
                return super().generate(prompts, seeds)
            boom = Response(error_type="model_error", error="it broke")
            return [
                boom if str(prompt).startswith("apple") else answer
                for prompt, answer in zip(prompts, super().generate(prompts, seeds), strict=True)
            ]

    def load(spec: ModelSpec, device: object, gpus: object) -> EchoGenerator:
        model = Model(spec)
        model.name = spec.model
        return model

    monkeypatch.setattr(generators, "load", load)
    job = job_of(tmp_path, {"small_share": "50%", "calibrate": TONIGHT})
    job.run("max_failed=1")
    before = job.answers()
    drawn = read_drawn(Workdir(LocalFolder(job.output), run_ids(LocalFolder(job.output))[0]))
    assert drawn is not None
    assert "failed" in before["status"].gather(drawn.positions)
    assert 0 < len(before.filter(status="failed")) < ROWS / 2
    broken.clear()
    job.run("max_failed=1", retry_failed=True)
    after = job.answers()
    assert set(after["status"]) == {"ok"}
    assert after["route"].to_list() == before["route"].to_list()
    assert after["confidence"].to_list() == before["confidence"].to_list()


def test_an_audit_measures_rows_that_kept_the_small_answer(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"small_share": "50%"}, table(ROWS).with_columns(reference=pl.col("prompt")))
    job.settings["report"] = {"audit": {"share": "20%", "metric": {"name": "exact_match"}}}
    outcome = job.run()
    assert outcome.night is not None
    assert outcome.night.audit is not None
    assert (outcome.night.audit.rows, outcome.night.audit.of) == (20, 100)
    assert outcome.night.audit.drop == 0


def test_status_shows_the_deferred_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(tmp_path, {"small_share": "50%"})
    job.run()
    status.show(str(job.output))
    assert "deferred" in capsys.readouterr().out


# Tonight's calibration


@pytest.mark.parametrize("decide", ["before", "after"])
def test_a_limit_is_met_by_the_nights_own_rows(tmp_path: Path, worse: type[Worse], decide: str) -> None:
    """The small model is wrong, and says so, on four of eleven kinds of prompts."""
    worse.wrong = ("apple", "river", "stone", "number")
    job = job_of(tmp_path, {"max_quality_drop": "10%", "decide": decide, "calibrate": TONIGHT}, router=True)
    outcome = job.run()
    answers = job.answers()
    assert outcome.report.rows["calibration_large"] == 60
    assert (kept(answers)["response"] == "wrong").sum() <= ROWS / 10
    if decide == "after":
        assert len(kept(answers)) > ROWS / 4
    check_money(job, outcome)


def test_the_drawn_rows_are_asked_once_and_keep_the_large_answer(tmp_path: Path, worse: type[Worse]) -> None:
    worse.wrong = ("fox",)
    job = job_of(tmp_path, {"small_share": "100%", "calibrate": TONIGHT})
    outcome = job.run()
    assert sorted(worse.asked) == sorted(table(ROWS)["prompt"].to_list())
    assert len(kept(job.answers())) == ROWS - 60
    assert outcome.report.calibration is not None
    assert {side: usage.rows for side, usage in outcome.report.calibration.items()} == {"small": 60, "large": 60}
    check_money(job, outcome)
    # For the next training.
    committed = manifest.read(folder_at(str(job.output)))
    assert committed is not None
    assert "report/calibration.parquet" in committed.report
    rows = quality_table.read(str(job.output / "report" / "calibration.parquet"))
    assert len(rows) == 60
    assert rows.metadata["small_model"] == "echo-small"
    assert rows.metadata["metric"] == "exact_match"
    wrong = [prompt.split()[0] == "fox" for prompt in rows.prompts]
    assert any(wrong)
    assert [quality.tolist() for quality in rows.small] == [[0.0] if one else [1.0] for one in wrong]


def test_each_group_is_decided_on_its_own_rows(tmp_path: Path, worse: type[Worse]) -> None:
    frame = table(600).with_columns(team=pl.when(pl.int_range(600) % 3 == 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    # The model never says which of its answers are wrong, and only group b has wrong ones.
    frame = frame.with_columns(
        prompt=pl.when(pl.col("team") == "b")
        .then(pl.lit("apple ") + pl.col("id"))
        .otherwise(pl.lit("fox ") + pl.col("id"))
    )
    worse.wrong = ("apple",)
    groups = {"a": {"max_quality_drop": "10%"}, "default": {"max_quality_drop": "10%"}}
    job = job_of(tmp_path, {"by": "team", **groups, "calibrate": {**TONIGHT, "rows": 90}}, frame)
    job.run()
    answers = job.answers()
    assert set(answers.filter(team="b")["route"]) == {"small→large"}
    # Of 150: rows less sure than each drawn row are not known to be safe.
    assert len(kept(answers.filter(team="a"))) > 110
    said = r"(\w+): max_quality_drop 10 % \(bounded\) lets (.*) stay: on \d+ measured prompts the mean likeness to .*"
    found = {match[1]: match for match in re.finditer(said, job.log)}
    assert found["default"][2] == "no row"
    assert found["default"][0].endswith("compare by meaning (metric embedding or judge)")
    assert int(found["a"][2].removesuffix("% of the rows")) > 50
    assert found["a"][0].endswith("is 1.00 for the small model and 1.00 for the large one")


def test_a_group_without_calibration_rows_is_said(tmp_path: Path) -> None:
    groups = {"no such team": {"max_quality_drop": "10%"}, "default": {"max_quality_drop": "10%"}}
    job = job_of(tmp_path, {"by": "team", **groups, "calibrate": TONIGHT})
    job.run()
    assert "no such team: the calibration measured 0 different prompts, and 12 are needed" in job.log


def test_a_budget_pays_for_the_calibration_too(tmp_path: Path, worse: type[Worse]) -> None:
    worse.wrong = ("apple", "river", "stone", "number")
    job = job_of(tmp_path, {"budget": "0.0025", "calibrate": TONIGHT})
    outcome = job.run()
    assert outcome.report.total_cost is not None
    assert 0.0015 < float(outcome.report.total_cost) <= 0.0025
    assert outcome.report.rows["deferred"] > 0
    # What is bought first are the rows that the small model is least sure of, which it has wrong.
    deferred = job.answers().filter(
        pl.col("route") == "small→large", pl.col("prompt").str.contains("^(apple|river|stone|number)")
    )
    assert len(deferred) > outcome.report.rows["deferred"] / 2


@pytest.mark.parametrize("wrong", [("apple", "river", "stone", "number"), ()])
def test_auto_says_why_it_decides_as_it_does(tmp_path: Path, worse: type[Worse], wrong: tuple[str, ...]) -> None:
    """The model says which answers are wrong, and its router knows nothing: the answers decide."""
    worse.wrong = wrong
    job = job_of(tmp_path, {"small_share": "30%", "decide": "auto", "calibrate": TONIGHT}, router=True)
    outcome = job.run()
    answers = job.answers()
    assert len(kept(answers)) == ROWS * 3 / 10
    why = next(line for line in job.log.splitlines() if "of the cost of all rows on the large model" in line)
    if wrong:
        assert " after: at " in why or " both (" in why
        assert answers["confidence"].null_count() == outcome.report.models["large"].rows
        assert not (kept(answers)["response"] == "wrong").any()
    check_money(job, outcome)


def test_rows_that_the_router_finds_hopeless_skip_the_small_model(tmp_path: Path, worse: type[Worse]) -> None:
    """The small model is dear and always wrong where the router's score is low: to ask it there is a waste."""
    first = job_of(tmp_path, {"threshold": 0, "decide": "before"}, table(400), router=True)
    first.run()
    scores = first.answers()
    low = scores.sort("score").head(200)
    job = job_of(tmp_path, {"small_share": "30%", "calibrate": {**TONIGHT, "rows": 150}}, table(400), router=True)
    job.settings["output"]["uri"] = str(tmp_path / "skipping")
    job.settings["models"]["small"]["price"] = {"input": 0.3, "output": 0.9}
    # A price by time would weigh in the choice, and more so on a busy machine.
    job.settings["router"]["price"] = {"gpu_hour": 0}
    worse.wrong = tuple(low["prompt"].to_list())
    job.run()
    answers = pl.read_parquet(tmp_path / "skipping" / "data" / "*.parquet")
    assert len(kept(answers)) == 120
    skipped = answers.filter(route="large")
    assert len(skipped) > 20
    assert skipped["score"].max() < kept(answers)["score"].min()
    assert skipped["confidence"].null_count() == len(skipped)
    assert "skip the small model" in job.log


@pytest.mark.parametrize("amount", ["0.002", "0.01"])
def test_no_more_rows_skip_than_a_budget_pays_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amount: str) -> None:
    monkeypatch.setattr(partition, "way_of", lambda *_: Way(way="both", skip=1.0))
    job = job_of(tmp_path, {"budget": amount, "calibrate": TONIGHT}, router=True)
    job.settings["router"]["price"] = {"gpu_hour": 0}
    outcome = job.run()
    assert outcome.report.total_cost is not None
    assert float(outcome.report.total_cost) <= float(amount)
    # The larger amount pays for the large model's answers to all rows.
    assert outcome.report.rows["large"] == (0 if amount == "0.002" else ROWS - 60)


# Bad input


def settings_of(**changes: Any) -> dict[str, Any]:
    return {
        "input": {"uri": "in.parquet"},
        "output": {"uri": "out"},
        "policy": {"small_share": "50%", "decide": "after"},
        "models": {"small": {"backend": "echo"}, "large": {"backend": "echo"}},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": {"small_share": "50%"}}, "router is missing: .* policy.decide: after"),
        ({"policy": {"max_quality_drop": "1%", "decide": "after", "calibrate": {"rows": 100}}}, "calibrate.metric"),
        (
            {"policy": {"max_quality_drop": "1%", "decide": "after", "calibrate": TONIGHT, "calibration": "x"}},
            "leave one of them out",
        ),
        ({"policy": {"small_share": "1%", "calibration": "x"}, "router": {"model": "m"}}, "decide: after or auto"),
        (
            {"policy": {"small_share": "1%", "decide": "after", "calibrate": {**TONIGHT, "metric": "no_such"}}},
            "there is no metric 'no_such'",
        ),
    ],
)  # fmt: skip
def test_what_a_policy_needs_is_said_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Job.model_validate(settings_of(**changes))


@pytest.mark.parametrize(
    ("tonight", "words"),
    [
        ({"rows": 500}, r"policy.calibrate.rows is 500, but the input has 200 rows"),
        ({"reference": None}, r"needs a reference: .* reference: large; the input has id, prompt, team"),
        ({"reference": "answer"}, r"policy.calibrate.reference"),
        ({"reference": "few"}, r"calibrate.reference: \d of the 60 drawn rows have a reference in the column 'few'"),
        ({"metric": {"name": "embedding", "model": "/no/such"}}, r"calibrate.metric: .*'/no/such' does not exist"),
        ({"rows": 190}, r"policy.calibrate.rows is 190, but only 180 of 200 rows have a prompt that both"),
    ],
)
def test_a_calibration_that_cannot_be_made_is_refused_before_a_model_answers(
    tmp_path: Path, tonight: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: pytest.fail("a model was loaded"))
    frame = table(ROWS).with_columns(
        prompt=pl.when(pl.int_range(ROWS) % 10 > 0).then("prompt"),
        few=pl.when(pl.int_range(ROWS) % 40 == 1).then(pl.lit("a word")),
    )
    job = job_of(tmp_path, {"max_quality_drop": "1%", "calibrate": {**TONIGHT, **tonight}}, frame)
    with pytest.raises(InputError, match=words):
        job.run()


def test_what_a_metric_needs_is_looked_for_without_running(tmp_path: Path) -> None:
    metric = {"name": "embedding", "model": "/no/such"}
    job = job_of(tmp_path, {"max_quality_drop": "1%", "calibrate": {**TONIGHT, "metric": metric}})
    with pytest.raises(InputError, match=r"policy.calibrate.metric: .*'/no/such' does not exist"):
        validate(job.load())


@pytest.mark.parametrize(("rows", "asked"), [(ROWS, 40), (19, 19)])
def test_answers_without_any_signal_are_not_decided_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, asked: int
) -> None:
    """As many answers as tell that there are no signals are paid for, and no more than a unit."""
    seen: list[Prompt] = []

    class Silent(EchoGenerator):
        def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
            seen.extend(prompts)
            return [Response(answer.text, "stop", 1, 1) for answer in super().generate(prompts, seeds)]

    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: Silent(spec))
    job = job_of(tmp_path, {"small_share": "50%"}, table(rows))
    with pytest.raises(InputError, match="the small model's answers tell nothing"):
        job.run()
    assert len(seen) == asked


def test_ranks_of_the_confidence_are_even(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"threshold": 0.5})
    job.run()
    values = np.sort(job.answers()["confidence"].to_numpy())
    assert np.allclose(values, np.linspace(values[0], values[-1], ROWS), atol=1e-6)


# The first contact


def test_the_first_contact_is_one_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as it is, with models that need no endpoint."""
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PROMPTS", str(root / "sample_data" / "backlog.parquet"))
    monkeypatch.setenv("ANSWERS", str(tmp_path / "answers"))
    models = [f"models.{side}.backend=echo" for side in ("small", "large")]
    outcome = pipeline.run(loading.load(str(root / "jobs" / "first-contact.yaml"), models), NoProgress())
    assert outcome.exit_code == EXIT_OK
    assert outcome.report.rows["calibration_large"] == 60
    # Both models echo: all answers are alike.
    assert outcome.report.rows["small"] > 30
    assert outcome.night is not None
    assert outcome.night.deciding is not None
    assert outcome.night.deciding.by_likeness
    assert "likeness to the large model is expected to be" in headline(outcome.night)
    assert any("not of correctness" in line for line in assumptions(outcome.night))
