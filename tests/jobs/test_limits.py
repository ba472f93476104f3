"""Limits of a run: it stops before one is passed, at once when it must be, and goes on when the limit is raised."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchroute import cli, generators
from batchroute.engines.local import LocalEngine
from batchroute.errors import EXIT_STOPPED, InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.pipeline.context import Context, Snapshot
from batchroute.pipeline.shards.limits import JobLimits
from batchroute.pipeline.shards.names import shard_stage
from batchroute.progress import PlainProgress
from batchroute.prompt import Prompt
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir, run_ids
from tests.support.jobs import JobFolder

# A row takes four tokens each way, which are $0.000008.
PROMPT = "one two three four"
TOKENS = 8


class Counting(EchoGenerator):
    """Counts the rows that it is asked for."""

    asked = 0

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        type(self).asked += len(prompts)
        return super().generate(prompts, seeds)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    class Fresh(Counting):
        pass

    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: Fresh(spec))
    return Fresh


def job_of(folder: Path, rows: int = 100, unit: int = 10, **small: Any) -> JobFolder:
    """Rows that all take the same, all for the small model. It samples, so that it is asked for equal prompts too."""
    frame = pl.DataFrame({"id": range(rows), "prompt": [PROMPT] * rows, "team": ["a"] * rows})
    job = JobFolder(folder, frame, policy={"threshold": 0}, units={"generate": unit})
    job.settings["router"]["price"] = {"gpu_hour": 0}
    job.settings["models"]["small"] |= {
        "generation": {"temperature": 1}, "price": {"input": 1, "output": 1}, **small,
    }  # fmt: skip
    return job


def taken(job: JobFolder, shard: str = "small") -> int:
    """Tokens of what is committed, and of the answers of units that are not whole."""
    (work,) = (Workdir(folder_at(str(job.output)), run_id) for run_id in run_ids(folder_at(str(job.output))))
    stage = work.stage(shard)
    receipts = stage.receipts().values()
    begun = [row for unit in stage.begun_units() for row in stage.begun_rows(unit)]
    whole = sum(receipt.counts["input_tokens"] + receipt.counts["output_tokens"] for receipt in receipts)
    return whole + sum(row["input_tokens"] + row["output_tokens"] for row in begun)


LIMITS = [("max_tokens=250", "250: 248", "800"), ("max_cost=0.00025", "$0.000250: $0.000248", "$0.000800")]


@pytest.mark.parametrize(("limit", "so_far", "in_all"), LIMITS)
def test_a_run_stops_before_its_limit_is_passed_and_says_what_it_would_take(
    tmp_path: Path, counting: type[Counting], limit: str, so_far: str, in_all: str
) -> None:
    job, name = job_of(tmp_path), limit.split("=")[0]
    with pytest.raises(StoppedError) as stopped:
        job.run(limit)
    assert str(stopped.value) == (
        f"{name} {so_far} taken so far, and the run would take {in_all} or more; "
        f"raise {name} and run again to go on, or choose another policy"
    )
    assert taken(job) == 248
    assert not (job.output / "manifest.json").exists()


@pytest.mark.parametrize("limit", [limit for limit, *_ in LIMITS])
def test_with_the_same_limit_a_run_stops_again_without_loading_a_model(
    tmp_path: Path, counting: type[Counting], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    job = job_of(tmp_path)
    for _ in range(2):
        with pytest.raises(StoppedError):
            job.run(limit)
        monkeypatch.setattr(generators, "load", lambda spec, device, gpus: pytest.fail("a model is loaded"))
    assert counting.asked == 31
    assert taken(job) == 248


def test_with_a_higher_limit_a_run_goes_on_and_does_no_unit_twice(tmp_path: Path, counting: type[Counting]) -> None:
    job = job_of(tmp_path)
    # The last row may take the limit to its last token, after a resume as before it.
    for limit, so_far in [("max_tokens=160", 160), ("max_tokens=240", 240), ("max_cost=0.000559", 552)]:
        with pytest.raises(StoppedError):
            job.run(limit)
        assert taken(job) == so_far
    assert job.run("max_tokens=800", "max_cost=0.0008").report.total_cost == Decimal("0.0008")
    assert counting.asked == 100
    assert job.answers()["status"].to_list() == ["ok"] * 100


def test_a_limit_of_nothing_asks_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: pytest.fail("a model is loaded"))
    with pytest.raises(StoppedError, match=r"^max_cost \$0\.00: \$0\.00 taken so far"):
        job_of(tmp_path).run("max_cost=0")


@pytest.mark.parametrize(("unit", "so_far"), [(100, 1600), (40, 1600), (30, 1680), (10, 1600)])
def test_a_run_that_would_end_above_its_limit_stops_when_200_rows_say_so_and_not_before(
    tmp_path: Path, counting: type[Counting], unit: int, so_far: int
) -> None:
    job = job_of(tmp_path, rows=1000, unit=unit)
    with pytest.raises(StoppedError, match=r"max_tokens 7,999: 1,6\d0 taken so far, and the run would take 8,000"):
        job.run("max_tokens=7999")
    assert taken(job) == so_far
    assert job.run("max_tokens=8000").manifest.counts["ok"] == 1000
    assert counting.asked == 1000


def test_a_limit_is_for_both_models_and_the_router_together(tmp_path: Path, counting: type[Counting]) -> None:
    job = job_of(tmp_path)
    job.settings["router"]["price"] = {"input": 1, "output": 0}
    job.settings["models"]["large"] |= {"generation": {"temperature": 1}, "price": {"input": 1, "output": 1}}
    overrides = ("policy.small_share=60%", "units.generate=20")
    with pytest.raises(StoppedError, match=r"max_tokens 650: 648 taken so far, and the run would take 800"):
        job.run(*overrides, "max_tokens=650")
    assert (taken(job, "small"), taken(job, "large")) == (480, 168)
    # The small model's rows are $0.00048; the router has read the prompts at $1 a million tokens.
    with pytest.raises(StoppedError, match="max_cost"):
        job.run(*overrides, "max_cost=0.0008")
    report = job.run(*overrides, "max_cost=0.01").report
    assert report.router.cost is not None
    assert report.total_cost == report.router.cost + report.models["small"].cost + report.models["large"].cost
    assert counting.asked == 100


def test_by_the_hour_loading_counts_too(tmp_path: Path, counting: type[Counting]) -> None:
    counting.load_seconds = 2.0
    job = job_of(tmp_path, price={"gpu_hour": 3600})
    with pytest.raises(StoppedError, match=r"^max_cost \$1\.00: \$2\.0\d taken so far"):
        job.run("max_cost=1")
    assert taken(job) == 80
    # Loaded anew, which costs again.
    report = job.run("max_cost=1000").report
    assert report.models["small"].load_seconds == 4.0
    assert report.total_cost > 4
    assert counting.asked == 100


def test_a_limit_that_nothing_goes_above_changes_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.run()
    without = job.answers()
    assert job.run("max_cost=1", "max_tokens=1000000").was_done
    job.run("max_cost=1", "max_tokens=1000000", fresh=True)
    assert job.answers().equals(without)


def test_two_units_side_by_side_stay_below_the_limit_together(tmp_path: Path, counting: type[Counting]) -> None:
    counting.units_at_once = 2
    job = job_of(tmp_path)
    with pytest.raises(StoppedError, match="max_tokens 250: "):
        job.run("max_tokens=250")
    assert 160 <= taken(job) <= 250
    assert job.run("max_tokens=800").manifest.counts["ok"] == 100
    assert taken(job) == 800


def begun(job: JobFolder, *overrides: str) -> tuple[JobLimits, list[Receipt]]:
    """The limits of a run that was begun, and the units of the small shard that have no answers yet."""
    output = folder_at(str(job.output))
    (run_id,) = run_ids(output)
    work = Workdir(output, run_id)
    snapshot = Snapshot.model_validate(work.read_json("run.json"))
    table: Any = None
    context = Context(job.load(*overrides), snapshot, table, work, LocalEngine(PlainProgress(io.StringIO())))
    done = work.stage("small").receipts()
    return JobLimits(context.job, context.snapshot, context.work), [
        unit for name, unit in shard_stage(work, "small").receipts().items() if name not in done
    ]


def test_a_unit_waits_while_what_is_in_flight_may_take_all_that_is_left(
    tmp_path: Path, counting: type[Counting]
) -> None:
    job = job_of(tmp_path)
    with pytest.raises(StoppedError):
        job.run("max_tokens=240")
    # A unit takes 80 tokens, and no more than ten times 256 and the bytes of its prompts.
    limits, (first, second, third, *_) = begun(job, "max_tokens=9000")
    assert limits.before("small", second)
    assert limits.before("small", second)
    assert limits.before("small", first)
    assert not limits.before("small", third)
    counts = {"generated": 10, "input_tokens": 40, "output_tokens": 40, "cost_pico": 0}
    limits.after("small", first, first.model_copy(update={"counts": counts}))
    assert limits.before("small", third)


def test_a_unit_that_may_take_more_than_is_left_begins_alone(tmp_path: Path, counting: type[Counting]) -> None:
    job = job_of(tmp_path)
    with pytest.raises(StoppedError):
        job.run("max_cost=0")
    limits, (first, second, *_) = begun(job, "max_tokens=100")
    assert limits.before("small", first)
    assert not limits.before("small", second)
    counts = {"generated": 10, "input_tokens": 40, "output_tokens": 40, "cost_pico": 0}
    limits.after("small", first, first.model_copy(update={"counts": counts}))
    # 80 of 100 are taken; a row takes 8.
    assert limits.before("small", second)
    limits.after("small", second, second.model_copy(update={"counts": {**counts, "input_tokens": 53}}))
    with pytest.raises(StoppedError, match="max_tokens 100: 173 taken so far"):
        limits.before("small", second)


def test_what_cannot_be_stopped_must_fit_with_all_that_is_in_flight(tmp_path: Path, counting: type[Counting]) -> None:
    job = job_of(tmp_path)
    with pytest.raises(StoppedError):
        job.run("max_cost=0")
    limits, (first, second, *_) = begun(job, "max_tokens=5000")
    limits.before_all("small", first, 10)
    with pytest.raises(StoppedError, match=r"max_tokens 5,000: 0 taken so far, and the run may take up to \d,\d{3};"):
        limits.before_all("small", second, 10)
    limits.before_all("small", second, 5)


@pytest.mark.parametrize("unit", [1, 7, 1000])
@pytest.mark.parametrize("units_at_once", [1, 3])
def test_a_limit_holds_within_units_of_any_size_and_what_was_answered_is_kept(
    tmp_path: Path, counting: type[Counting], unit: int, units_at_once: int
) -> None:
    counting.units_at_once = units_at_once
    job = job_of(tmp_path, rows=60, unit=unit)
    for limit in (100, 101, 300):
        with pytest.raises(StoppedError, match=f"max_tokens {limit}: "):
            job.run(f"max_tokens={limit}")
        assert limit - 8 < taken(job) <= limit
        assert counting.asked == taken(job) / TOKENS
    assert job.run("max_tokens=480").report.total_cost == Decimal("0.00048")
    assert counting.asked == 60
    assert job.answers()["attempts"].to_list() == [1] * 60


def test_the_command_ends_with_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(tmp_path)
    monkeypatch.setattr(sys, "argv", ["batchroute", "run", job.path, "--set", "max_tokens=250"])
    assert cli.command() == EXIT_STOPPED == 3
    assert "error: max_tokens 250: 248 taken so far" in capsys.readouterr().err


class TestMissingPrices:
    def test_a_limited_cost_needs_all_prices_before_any_work(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        del job.settings["models"]["large"]["price"], job.settings["router"]["price"]
        with pytest.raises(InputError) as refused:
            job.run("max_cost=1")
        why = "the job file gives none, and has no section prices"
        assert str(refused.value) == (
            f"max_cost needs the price of the router ({why}) and the large model ({why}): set router.price and "
            "models.large.price in the job file, or name a list under prices that has what is missing"
        )
        assert not job.output.exists()
        assert not (tmp_path / "out.work").exists()

    def test_a_limit_of_tokens_needs_no_price(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        del job.settings["models"]["small"]["price"]
        with pytest.raises(StoppedError):
            job.run("max_tokens=250")
        assert job.run("max_tokens=800").report.missing_prices == ["models.small.price"]

    def test_a_run_that_began_without_a_price_cannot_be_limited_later(self, tmp_path: Path) -> None:
        job = job_of(tmp_path)
        del job.settings["models"]["small"]["price"]
        with pytest.raises(StoppedError):
            job.run("max_tokens=250")
        prices = tmp_path / "prices.yaml"
        prices.write_text("as_of: 2026-11-01\nsource: us\nmodels: {echo-small: {input: 1, output: 1}}\n")
        with pytest.raises(InputError, match=r"the small model \(the job file gives none.*\): the run began without"):
            job.run("max_cost=1", f"prices.file={prices}")
        assert job.run("max_cost=1", f"prices.file={prices}", fresh=True).report.total_cost == Decimal("0.0008")
