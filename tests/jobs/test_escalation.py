"""Escalation in whole jobs: the large model answers what the small one does not manage, and both are paid for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from rich.console import Console

from batchroute import generators
from batchroute.commands import status
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline import layout
from batchroute.prompt import Prompt, as_text
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir, run_ids
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, prompts, table

KINDS = {
    "boom": "failed",
    "secret": "refused",
    "bad": "invalid",
    "unfit": "invalid",
    "long": "cut",
    "blank": "empty",
    "fine": None,
}
"""First words of prompts, and why the small model's answer to them will not do."""
UNITS = {"score": 16, "generate": 10, "merge": 16}


class Models:
    """Both models of a job, in echoes: what they were asked, and what goes wrong."""

    def __init__(self) -> None:
        self.asked: dict[str, list[str]] = {"echo-small": [], "echo-large": []}
        self.large_fails_on: tuple[str, ...] = ()
        self.large_refuses_all = False
        self.small_is_mended = False

    def load(self, spec: ModelSpec, device: object, gpus: object) -> EchoGenerator:
        models = self

        class Model(EchoGenerator):
            def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
                models.asked[spec.model] += [as_text(prompt) for prompt in prompts]
                answers = super().generate(prompts, seeds)
                return [models.of(spec.model, answer) for answer in answers]

        return Model(spec)

    def of(self, model: str, answer: Response) -> Response:
        first = str(answer.text).split()[0]
        read = answer.input_tokens
        if model == "echo-large":
            boom = Response(error_type="api_error", error="try later")
            if self.large_refuses_all:
                return Response(None, None, read, 2, "refused", "a refusal")
            return boom if first in self.large_fails_on else answer
        if self.small_is_mended:
            return answer
        if first == "boom":
            return Response(error_type="model_error", error="it broke")
        if first == "secret":
            return Response(None, None, read, 2, "refused", "a refusal")
        if first == "unfit":
            return Response("{}", "stop", read, 1, "invalid_response", "it breaks 'required'")
        if first == "long":
            return Response("so far", "length", read, 256)
        return Response(" \n", "stop", read, 1) if first == "blank" else answer


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    found = Models()
    monkeypatch.setattr(generators, "load", found.load)
    return found


def rows_of(kinds: Sequence[str], each: int = 8) -> pl.DataFrame:
    """`each` rows of each kind, mixed."""
    texts = [f"{kinds[i % len(kinds)]} {text}" for i, text in enumerate(prompts(each * len(kinds)))]
    return table(len(texts)).with_columns(prompt=pl.Series(texts, dtype=pl.String))


def job_of(folder: Path, frame: pl.DataFrame, **small: Any) -> JobFolder:
    """A job whose small model gets all rows unless a policy says otherwise."""
    job = JobFolder(folder, frame, units=UNITS, policy={"threshold": 0})
    job.settings["models"]["small"] |= small or {"on_failure": "large", "escalate": {"regex": "(?!bad).*"}}
    return job


def kind_of(frame: pl.DataFrame) -> pl.Series:
    return frame["prompt"].str.split(" ").list.first()


def of_kinds(frame: pl.DataFrame, *kinds: str) -> pl.DataFrame:
    return frame.filter(kind_of(frame).is_in(kinds))


def test_every_reason_sends_a_row_on_to_the_large_model(tmp_path: Path, models: Models) -> None:
    frame = rows_of(list(KINDS))
    job = job_of(tmp_path, frame)
    outcome = job.run()
    answers = job.answers()
    assert outcome.exit_code == EXIT_OK
    assert answers.select(frame.columns).equals(frame)
    assert answers["status"].to_list() == ["ok"] * 56
    assert answers["response"].to_list() == answers["prompt"].to_list()
    gone_on = kind_of(answers) != "fine"
    assert answers["route"].to_list() == ["small→large" if on else "small" for on in gone_on]
    assert answers["model"].to_list() == ["echo-large" if on else "echo-small" for on in gone_on]
    assert answers["attempts"].to_list() == [2 if on else 1 for on in gone_on]
    assert answers["error_type"].null_count() == 56
    escalated = outcome.report.escalated
    assert escalated is not None
    assert escalated.reasons == {"cut": 8, "empty": 8, "failed": 8, "invalid": 16, "refused": 8}
    assert escalated.rows == escalated.usage.rows == 48
    assert outcome.manifest.counts == {
        "total": 56, "ok": 56, "failed": 0, "small": 8, "large": 0, "escalated": 48, "unrouted": 0, "copies": 0,
    }  # fmt: skip
    assert sorted(models.asked["echo-large"]) == sorted(answers.filter(gone_on)["prompt"])
    assert "48 rows go on to the large model: 8 cut, 8 empty, 8 failed, 16 invalid, 8 refused" in job.log


def test_a_row_costs_what_both_models_took_for_it(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(list(KINDS)))
    report = job.run().report
    answers = job.answers()
    # Of the small model's at $0.05 and $0.1, of the large one's at $0.5 and $1.5 per million tokens.
    written = {"boom": None, "secret": 2, "unfit": 1, "long": 256, "blank": 1}
    for row in answers.iter_rows(named=True):
        kind, words = row["prompt"].split()[0], len(row["prompt"].split())
        spent = written.get(kind, words)
        small = 0 if spent is None else words * Decimal("0.05") + spent * Decimal("0.1")
        large = 0 if kind == "fine" else words * Decimal("0.5") + words * Decimal("1.5")
        assert row["cost"] * 10**6 == small + large
    assert report.escalated is not None
    assert of_kinds(answers, "fine")["cost"].sum() == report.models["small"].cost - report.escalated.small_cost


def test_the_report_adds_up_to_the_last_digit(tmp_path: Path, models: Models) -> None:
    more = rows_of(["fine", "bad"]).with_columns(id="more-" + pl.col("id"))
    job = job_of(tmp_path, pl.concat([rows_of(list(KINDS)), more]))
    report = job.run("policy={small_share: 60%}").report
    answers, groups = job.answers(), pl.read_parquet(job.output / "report" / "cost.parquet")
    small, large, escalated = report.models["small"], report.models["large"], report.escalated
    assert escalated is not None
    assert large.rows > 0
    costs = {
        "router": report.router.cost,
        "small": small.cost - escalated.small_cost,
        "large": large.cost,
        "small→large": escalated.small_cost + escalated.usage.cost,
    }
    for route, cost in costs.items():
        assert groups.filter(route=route)["cost"].sum() == cost
        if route != "router":
            assert answers.filter(route=route)["cost"].sum() == cost
    assert groups["cost"].sum() == report.total_cost == sum(costs.values())
    usage = escalated.usage
    gone_on = groups.filter(route="small→large")
    assert gone_on["model"].unique().to_list() == ["echo-large"]
    assert gone_on["team"].n_unique() == 3
    assert gone_on.select("rows", "input_tokens", "output_tokens").sum().rows() == [
        (report.rows["escalated"], usage.input_tokens, usage.output_tokens)
    ]
    assert groups.filter(pl.col("route") != "router")["rows"].sum() == answers.height


def test_without_on_failure_a_cut_or_empty_answer_that_passes_the_check_stays(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(list(KINDS)), escalate={"regex": "(?!bad).*"})
    escalated = job.run().report.escalated
    assert escalated is not None
    assert escalated.reasons == {"failed": 8, "invalid": 16, "refused": 8}
    assert of_kinds(job.answers(), "long")["response"].unique().to_list() == ["so far"]
    assert of_kinds(job.answers(), "long")["route"].unique().to_list() == ["small"]


def test_without_a_check_any_text_will_do(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(list(KINDS)), on_failure="large")
    escalated = job.run().report.escalated
    assert escalated is not None
    assert escalated.reasons == {"cut": 8, "empty": 8, "failed": 8, "invalid": 8, "refused": 8}


def test_answers_that_a_json_schema_does_not_describe_go_on(tmp_path: Path) -> None:
    texts = ['{"n": 1}', ' {"n": 2}\n', '{"n": "two"}', "n is 3", '{"m": 4}', "[1]"]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    job = job_of(tmp_path, table(6).with_columns(prompt=pl.Series(texts)), escalate={"json": schema})
    job.run()
    assert job.answers()["route"].to_list() == ["small", "small", *["small→large"] * 4]


def test_copies_have_the_large_models_answer_too_and_cost_nothing(tmp_path: Path, models: Models) -> None:
    one = rows_of(["bad", "fine", "boom"], each=5)
    job = job_of(tmp_path, pl.concat([one, one, one]).with_columns(id=pl.Series(range(45))))
    outcome = job.run()
    answers = job.answers()
    assert answers["response"].to_list() == answers["prompt"].to_list()
    assert (answers["route"] == "small→large").to_list() == (kind_of(answers) != "fine").to_list()
    assert answers["attempts"].to_list() == [1 if kind == "fine" else 2 for kind in kind_of(one)] + [0] * 30
    assert answers["cost"][15:].sum() == 0
    assert len(models.asked["echo-large"]) == 10
    report = outcome.report
    assert (report.rows["escalated"], report.rows["copies"], report.rows["small"]) == (30, 30, 15)
    assert report.escalated is not None
    assert report.escalated.rows == 10
    assert answers["cost"].sum() == report.models["small"].cost + report.escalated.usage.cost


@pytest.mark.parametrize("retries", [1, 3])
def test_what_the_large_model_fails_on_fails_and_a_retry_asks_only_the_large_one(
    tmp_path: Path, models: Models, retries: int
) -> None:
    one = rows_of(["bad", "fine", "boom"], each=10)
    again = of_kinds(one, "boom").with_columns(id="again-" + pl.col("id"))
    job = job_of(tmp_path, pl.concat([one, again]))
    models.large_fails_on = ("boom",)
    outcome = job.run()
    assert outcome.exit_code == EXIT_FAILED_ROWS
    failed = job.answers().filter(status="failed")
    assert failed["prompt"].to_list() == of_kinds(one, "boom")["prompt"].to_list() * 2
    assert failed["route"].unique().to_list() == ["small→large"]
    assert failed["error_type"].unique().to_list() == ["api_error"]
    assert failed["error"].unique().to_list() == ["try later"]
    assert failed["response"].null_count() == failed.height == outcome.manifest.counts["failed"] == 20
    for retry in range(retries):
        models.large_fails_on = ("boom",) if retry < retries - 1 else ()
        models.asked = {"echo-small": [], "echo-large": []}
        outcome = job.run(retry_failed=True)
        assert models.asked["echo-small"] == []
        assert sorted(models.asked["echo-large"]) == sorted(of_kinds(one, "boom")["prompt"])
    answers = job.answers()
    assert outcome.exit_code == EXIT_OK
    assert answers["response"].to_list() == answers["prompt"].to_list()
    attempts = of_kinds(answers, "boom")["attempts"].to_list()
    # One of the small model, one of the large in the first run, and one in each retry; copies have none.
    assert attempts == [2 + retries] * 10 + [0] * 10
    report = outcome.report
    assert report.escalated is not None
    assert answers["cost"].sum() == report.models["small"].cost + report.escalated.usage.cost
    assert job.run(retry_failed=True).was_done


def test_a_retry_that_costs_adds_to_what_the_row_had_cost(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(["bad"], each=4))
    models.large_refuses_all = True
    job.run()
    models.large_refuses_all = False
    report = job.run(retry_failed=True).report
    words = [len(prompt.split()) for prompt in job.answers()["prompt"]]
    small, refusal, answer = ([n * each + more for n in words] for each, more in ((15, 0), (50, 300), (200, 0)))
    spent = [Decimal(sum(parts)) / 10**8 for parts in zip(small, refusal, answer, strict=True)]
    assert job.answers()["cost"].to_list() == spent
    assert sum(spent) == report.total_cost - report.router.cost
    assert report.failures == {}


def test_a_retry_before_all_is_escalated_leaves_what_is_dealt_out_as_it_is(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, rows_of(list(KINDS)))
    put_json = Workdir.put_json

    def stopped(self: Workdir, name: str, value: object) -> bool:
        if name == layout.ESCALATION:
            raise StoppedError("cut")
        return put_json(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "put_json", stopped)
        with pytest.raises(StoppedError, match="cut"):
            job.run()
    models.small_is_mended = True
    models.asked = {"echo-small": [], "echo-large": []}
    outcome = job.run(retry_failed=True)
    assert models.asked["echo-small"] == []
    assert len(models.asked["echo-large"]) == outcome.manifest.counts["escalated"] == 48
    assert job.answers()["response"].to_list() == job.answers()["prompt"].to_list()


def test_nothing_to_escalate_changes_nothing(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(["fine"], each=30))
    outcome = job.run()
    with_escalation = job.answers()
    assert outcome.manifest.counts["escalated"] == 0
    assert outcome.report.escalated is not None
    assert (outcome.report.escalated.rows, outcome.report.escalated.reasons) == (0, {})
    assert models.asked["echo-large"] == []
    assert "go on to the large model" not in job.log
    del job.settings["models"]["small"]["on_failure"], job.settings["models"]["small"]["escalate"]
    without = job.run(fresh=True).report
    assert job.answers().equals(with_escalation)
    assert without.escalated is None
    assert outcome.report.models["small"].cost == without.models["small"].cost


def test_an_input_without_rows_has_nothing_to_escalate(tmp_path: Path, models: Models) -> None:
    assert job_of(tmp_path, table(0)).run().manifest.counts["escalated"] == 0


def test_chat_messages_go_on_as_they_are(tmp_path: Path, models: Models) -> None:
    frame = rows_of(["bad", "fine"], each=15)
    answer = {"role": "assistant", "content": "Go on."}
    chats = [[{"role": "user", "content": text}, answer] for text in frame["prompt"]]
    job = job_of(tmp_path, frame.with_columns(prompt=pl.Series(chats)))
    outcome = job.run()
    expected = [f"{text}\n\nGo on." for text in frame["prompt"]]
    assert job.answers()["response"].to_list() == expected
    assert sorted(models.asked["echo-large"]) == sorted(text for text in expected if text.startswith("bad"))
    assert outcome.manifest.counts["escalated"] == 15


@pytest.mark.parametrize("missing", ["small", "large"])
def test_with_a_missing_price_what_went_on_has_no_cost(tmp_path: Path, models: Models, missing: str) -> None:
    job = job_of(tmp_path, rows_of(["bad", "fine"], each=10))
    del job.settings["models"][missing]["price"]
    report = job.run().report
    answers = job.answers()
    assert report.missing_prices == [f"models.{missing}.price"]
    assert report.total_cost is None
    assert answers.filter(route="small→large")["cost"].null_count() == 10
    assert answers.filter(route="small")["cost"].null_count() == (10 if missing == "small" else 0)
    assert report.escalated is not None
    assert (report.escalated.small_cost is None, report.escalated.usage.cost is None) == (
        missing == "small",
        missing == "large",
    )


def test_the_same_job_gives_the_same_rows(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(list(KINDS)))
    job.run()
    first, assigned = job.answers(), _dealt(job)
    assert job.run().was_done
    job.run(fresh=True)
    assert job.answers().equals(first)
    assert _dealt(job).equals(assigned)


def _dealt(job: JobFolder) -> pa.Table:
    """The escalated shard, in its pieces."""
    output = folder_at(str(job.output))
    (work,) = (Workdir(output, run_id) for run_id in run_ids(output))
    stage = work.stage("shards/escalated")
    return pa.concat_tables(stage.read(unit) for unit in stage.receipts())


def test_another_way_to_escalate_is_another_run(tmp_path: Path, models: Models) -> None:
    job = job_of(tmp_path, rows_of(["fine"]), on_failure="large")
    job.run()
    with pytest.raises(InputError, match=r"models\.small\.escalate\.regex was not set and is fine"):
        job.run("models.small.escalate.regex=fine")


def test_a_row_that_no_model_can_be_asked_for_does_not_go_on(tmp_path: Path, models: Models) -> None:
    frame = rows_of(["bad", "fine"], each=5)
    job = job_of(tmp_path, frame.with_columns(prompt=pl.when(pl.col("id") == "row-4").then(None).otherwise("prompt")))
    counts = job.run().manifest.counts
    assert (counts["escalated"], counts["unrouted"], counts["failed"], counts["small"]) == (4, 1, 1, 5)


def test_status_shows_the_escalated_stage_once_it_is_dealt_out(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "Console", functools.partial(Console, width=120))
    job = job_of(tmp_path, rows_of(["bad", "fine", "boom"], each=10))
    with pytest.raises(StoppedError):
        job.run("max_tokens=1")
    status.show(str(job.output))
    assert "escalated" not in capsys.readouterr().out
    job.run()
    status.show(str(job.output))
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("│ escalated"))
    assert line.replace("│", "").split()[:4] == ["escalated", "2/2", "20", "0"]
    assert line.replace("│", "").split()[-1] == "done"
    assert "10 small, 20 escalated" in shown


def test_a_real_decoder_answers_what_another_one_has_not_finished(tmp_path: Path) -> None:
    for name, seed in (("small", 0), ("large", 1)):
        tiny_decoder(tmp_path / name, seed=seed)
    job = job_of(tmp_path, table(24), on_failure="large")
    for side in ("small", "large"):
        job.settings["models"][side] |= {
            "backend": "transformers", "model": str(tmp_path / side), "price": {"gpu_hour": 3},
            "generation": {"max_new_tokens": 3 if side == "small" else 6},
        }  # fmt: skip
    report = job.run("policy={small_share: 50%}").report
    answers = job.answers()
    assert report.escalated is not None
    assert 0 < report.escalated.rows == report.escalated.reasons["cut"]
    gone_on = answers.filter(route="small→large")
    assert gone_on.height == report.escalated.rows
    assert gone_on["output_tokens"].max() > 3
    # Loaded once for both of its shards; in rows' costs loading is not.
    assert report.escalated.usage.load_seconds == 0
    for cost, usage, route in (
        (report.models["large"].cost, report.models["large"], "large"),
        (report.escalated.usage.cost + report.escalated.small_cost, report.escalated.usage, "small→large"),
    ):
        loading = cost - answers.filter(route=route)["cost"].sum()
        assert loading == pytest.approx(Decimal(3) * Decimal(usage.load_seconds) / 3600, rel=Decimal("1e-6"))
    job.run("policy={small_share: 0}", fresh=True)
    of_large = job.answers().join(gone_on, on="id", how="semi")
    assert of_large["response"].to_list() == gone_on["response"].to_list()
