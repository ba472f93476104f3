"""Jobs with a cache: what an earlier run was answered is not paid again, whatever happens to either run."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchroute import generators
from batchroute.commands.gc import collect
from batchroute.commands.validate import validate
from batchroute.commands.verify import verify
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline.cache import recall, remember
from batchroute.prompt import Prompt, as_text
from batchroute.storage.local import LocalFolder
from batchroute.tables.prompts import digest
from tests.support.jobs import JobFolder, prompts, table

PAID = ("cost", "attempts", "from_cache")


class Counting(EchoGenerator):
    """Counts what it is asked. It does not answer prompts with this word."""

    asked: ClassVar[list[str]] = []
    refuses = ""

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        Counting.asked += [as_text(prompt) for prompt in prompts]
        answers = super().generate(prompts, seeds)
        if not Counting.refuses:
            return answers
        refused = [Counting.refuses in as_text(prompt) for prompt in prompts]
        no = Response(error_type="refused", error="no")
        return [no if is_refused else answer for is_refused, answer in zip(refused, answers, strict=True)]


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: ModelSpec, device: object, gpus: object = None) -> Counting:
        return Counting(spec)

    monkeypatch.setattr(generators, "load", load)
    monkeypatch.setattr(Counting, "asked", [])
    monkeypatch.setattr(Counting, "refuses", "")


class Nights:
    """A job without a router, each night at an output of its own; all nights share a cache."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.number = folder, 0
        (folder / "router").mkdir()
        self.job = JobFolder(folder, cache={"uri": str(folder / "cache")}, **settings)
        del self.job.settings["router"]
        self.job.settings["policy"] = {"small_share": "60%", "decide": "after"}
        self.job.settings["units"] = {"score": 32, "generate": 10, "merge": 32}

    def night(self, frame: pl.DataFrame, *overrides: str, **options: bool) -> pl.DataFrame:
        """The answers of a night with this table."""
        self.number += 1
        self.job.input = self.folder / f"in{self.number}.parquet"
        frame.write_parquet(self.job.input)
        self.job.output = self.folder / f"out{self.number}"
        self.job.settings["input"] = {**self.job.settings["input"], "uri": str(self.job.input)}
        self.job.settings["output"] = {"uri": str(self.job.output)}
        Counting.asked.clear()
        self.job.run(*overrides, **options)
        return self.job.answers()

    @property
    def cost(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.job.output / "report" / "cost.json").read_text())
        return report

    def files(self) -> list[Path]:
        return sorted((self.folder / "cache").rglob("*.parquet"))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_the_rows_of_an_earlier_night_are_not_paid_again(nights: Nights) -> None:
    first = nights.night(table(50))
    assert len(Counting.asked) > 50
    assert first["from_cache"].to_list() == [False] * 50
    paid = nights.cost
    assert "hits" not in nights.job.log
    # Of the rows of the first night, none is deferred that was not deferred then.
    nights.job.settings["policy"]["small_share"] = "70%"
    second = nights.night(table(50).reverse().vstack(table(60).tail(10)))
    assert [text for text in Counting.asked if text in set(prompts(50))] == []
    again = second.filter(pl.col("id").is_in(first["id"].implode())).sort("id")
    known = again.filter("from_cache")
    assert len(known) == 50
    assert known["cost"].sum() == 0
    assert known["attempts"].to_list() == [0] * 50
    same = [name for name in first.columns if name not in (*PAID, "route", "confidence", "model")]
    assert known.select(same).equals(first.sort("id").select(same))
    fresh = second.filter(~pl.col("from_cache"))
    assert len(fresh) == 10
    assert fresh["attempts"].min() >= 1
    small = nights.cost["models"]["small"]
    assert (small["hits"], small["generated"], small["rows"]) == (50, 10, 60)
    assert Decimal(small["hit_cost"]) == Decimal(paid["models"]["small"]["cost"])
    assert small["hit_input_tokens"] == paid["models"]["small"]["input_tokens"]
    assert Decimal(nights.cost["total_cost"]) == second["cost"].sum()
    assert "small: 50 of 60 rows have an answer of an earlier run" in nights.job.log
    text = (nights.job.output / "report" / "report.md").read_text()
    assert "answers came from the cache and cost nothing; asked for again, they would have taken" in text
    metrics = (nights.job.output / "report" / "metrics.prom").read_text()
    assert 'batchroute_cache_hit_rows{job_name="test",side="small"} 50.0' in metrics
    assert verify(str(nights.job.output)).wrong == []


def test_a_night_without_a_new_row_loads_no_model(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.night(table(30))
    kept = nights.files()

    def load(spec: ModelSpec, device: object, gpus: object = None) -> Counting:
        raise AssertionError("no row is left to ask for")

    monkeypatch.setattr(generators, "load", load)
    assert nights.night(table(30))["from_cache"].all()
    # Nothing new is kept, and what is there does not grow young.
    assert nights.files() == kept


def test_what_failed_is_not_kept_and_is_after_a_retry(nights: Nights) -> None:
    Counting.refuses = "river"
    failed = nights.night(table(40), "models.small.on_failure=large")
    bad = failed.filter(status="failed")["prompt"].to_list()
    assert bad
    Counting.refuses = ""
    nights.job.run("models.small.on_failure=large", retry_failed=True)
    assert nights.job.answers()["status"].to_list() == ["ok"] * 40
    retried = {prompt for prompt in Counting.asked if prompt in bad}
    again = nights.night(table(40), "models.small.on_failure=large")
    assert again["status"].to_list() == ["ok"] * 40
    # The small model had refused them, and is asked again.
    small = nights.cost["models"]["small"]
    assert (small["generated"], small["hits"]) == (len(bad), 40 - len(bad))
    kept = {
        key for file in nights.files() if "-escalated-" in file.name for key in pq.read_table(file)["key"].to_pylist()
    }
    assert {digest(prompt) for prompt in retried} <= kept


def test_a_run_that_is_given_up_keeps_what_it_paid_for(nights: Nights) -> None:
    with pytest.raises(StoppedError, match=r"^max_tokens 200: "):
        nights.night(table(50), "max_tokens=200")
    done = len(Counting.asked)
    assert nights.files() == []
    nights.job.run(fresh=True)
    known = nights.job.answers().filter("from_cache")
    assert 0 < len(known) <= done


def test_sampled_answers_are_those_of_the_same_seed_and_place(nights: Nights) -> None:
    for side in ("small", "large"):
        nights.job.settings["models"][side]["generation"] = {"temperature": 1.0, "seed": 3}
    frame = table(20)
    nights.night(frame)
    assert nights.night(frame)["from_cache"].all()
    moved = nights.night(pl.concat([table(21).tail(1), frame]))
    assert not moved["from_cache"].any()
    assert not nights.night(frame, "models.small.generation.seed=4").filter(route="small")["from_cache"].any()


def test_files_that_go_meanwhile_and_damaged_ones_are_only_asked_again(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nights.night(table(40))
    (damaged, *_) = [file for file in nights.files() if "-large-" in file.name or "-deferred-" in file.name]
    damaged.write_bytes(b"?" * damaged.stat().st_size)
    match = recall.match

    def match_then_remove(*arguments: Any) -> Any:
        found = match(*arguments)
        for file in nights.files():
            if file != damaged:
                file.unlink()
        return found

    monkeypatch.setattr(recall, "match", match_then_remove)
    second = nights.night(table(40))
    assert not second["from_cache"].any()
    assert second.drop(PAID).equals(first.drop(PAID))
    assert f"{damaged} is damaged and counts as empty: remove it" in nights.job.log


def test_a_cache_that_cannot_be_written_at_the_end_holds_no_output_back(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*arguments: object) -> None:
        raise StoppedError("cannot write: the disk is full")

    monkeypatch.setattr(remember.CacheFiles, "put", put)
    assert len(nights.night(table(20))) == 20
    assert "the answers of this run are not kept for later ones: cannot write: the disk is full" in nights.job.log


def test_the_groups_of_units_that_are_looked_up_and_kept_change_nothing(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remember, "_FILE_BYTES", 1)
    monkeypatch.setattr(recall, "_BYTES_IN_MEMORY", 1)
    first = nights.night(table(50))
    assert len(nights.files()) > 5
    second = nights.night(table(50))
    assert second["from_cache"].all()
    assert second.drop(PAID).equals(first.drop(PAID))


def test_every_shard_of_a_night_is_looked_up(tmp_path: Path) -> None:
    """Calibration rows, escalated, deferred and audited ones, and a table without any of them."""
    job = JobFolder(tmp_path, table(90), cache={"uri": str(tmp_path / "cache")})
    job.use_every_stage()
    job.run()
    first, paid = job.answers(), Counting.asked.copy()
    job.output = tmp_path / "again"
    job.settings["output"] = {"uri": str(job.output)}
    job.run()
    second = job.answers()
    assert Counting.asked == paid
    assert second["from_cache"].all()
    assert second.drop(PAID).equals(first.drop(PAID))
    usages = json.loads((job.output / "report" / "cost.json").read_text())
    shards = [*usages["models"].values(), *usages["calibration"].values(), usages["audited"]]
    shards += [usages[name]["usage"] for name in ("escalated", "deferred")]
    assert all(usage["hits"] == usage["rows"] - usage["copies"] for usage in shards)
    assert usages["calibration"]["large"]["rows"] == 50


def test_a_limit_counts_only_what_is_paid(nights: Nights) -> None:
    nights.night(table(40))
    assert len(nights.night(table(42), "max_tokens=150")) == 42
    with pytest.raises(StoppedError, match=r"^max_tokens 150: "):
        nights.night(table(80), "max_tokens=150")
    # What was answered before the stop is taken up, next to the hits of its unit.
    nights.job.run("max_tokens=10000")
    frame = nights.job.answers()
    assert frame["status"].to_list() == ["ok"] * 80
    assert frame.filter(route="small")["from_cache"].sum() > 0


def test_old_answers_are_not_read_and_gc_removes_them(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.night(table(20))
    uri = str(nights.folder / "cache")
    assert collect(uri, 0) == []
    later = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=31)
    for module in (recall, remember):
        monkeypatch.setattr(module, "today", lambda: later)
    monkeypatch.setattr("batchroute.commands.gc.today", lambda: later)
    assert not nights.night(table(20))["from_cache"].any()
    before = len(nights.files())
    lines = collect(uri, 0, dry_run=True)
    assert all(line.endswith("older than the 30 days of its jobs") for line in lines)
    assert len(nights.files()) == before
    assert collect(uri, 0) == lines
    assert 0 < len(nights.files()) < before
    assert nights.night(table(20))["from_cache"].all()


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"uri": " "}, "cache.uri: is empty; name a folder"),
        ({"uri": "x", "days": 0}, "cache.days"),
        ({"uri": "{folder}/out/cache"}, "cache.uri {folder}/out/cache and output.uri {folder}/out lie in one another"),
        ({"uri": "{folder}/out.work"}, "and the work folder of output.uri {folder}/out.work lie in one another"),
        ({"uri": "{folder}"}, "lie in one another"),
        ({"uri": "{folder}/in.parquet"}, "cache.uri {folder}/in.parquet is a file; name a folder"),
        ({"uri": "{folder}/in.parquet/cache"}, "and the input {folder}/in.parquet lie in one another"),
    ],
)
def test_a_wrong_place_is_refused_before_any_work(tmp_path: Path, cache: dict[str, Any], message: str) -> None:
    cache = {key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in cache.items()}
    folder = JobFolder(tmp_path, table(5), cache=cache)
    for command in (lambda: validate(folder.load()), folder.run):
        with pytest.raises(InputError) as raised:
            command()
        assert message.format(folder=tmp_path) in str(raised.value)
    assert not folder.output.exists()


def test_an_input_whose_glob_matches_the_cache_is_refused(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(5), cache={"uri": str(tmp_path / "cache")})
    folder.settings["input"]["uri"] = f"{tmp_path}/**/*.parquet"
    folder.settings["output"]["uri"] = str(tmp_path.parent / f"{tmp_path.name}-out")
    with pytest.raises(InputError, match=r"matches files of cache\.uri"):
        validate(folder.load())


def test_a_cache_can_be_added_to_no_run_that_has_begun(nights: Nights) -> None:
    nights.night(table(10))
    assert any(line.endswith("/cache: writable") for line in validate(nights.job.load()))
    # Place and days are no part of a run; whether there is a cache is, since it adds a column.
    assert nights.job.run(f"cache.uri={nights.folder / 'other'}", "cache.days=3").was_done
    del nights.job.settings["cache"]
    with pytest.raises(InputError, match="cache was True and is not set"):
        nights.job.run()


class Moments:
    """What is stored before each put of a run that has to do with the cache."""

    def __init__(self, nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nights, self.taken = nights, list[Path]()
        put_new = LocalFolder.put_new

        def watched(folder: LocalFolder, name: str, data: Any, sync_folder: bool = True) -> bool:
            if {"cache", "cached"} & set((folder.path / name).parts):
                self._take()
            return put_new(folder, name, data, sync_folder)

        monkeypatch.setattr(LocalFolder, "put_new", watched)

    def _take(self) -> None:
        place = self.nights.folder / "moments" / f"{len(self.taken):03d}"
        shutil.copytree(self.nights.folder / "cache", place / "cache")
        for name in (self.nights.job.output.name, f"{self.nights.job.output.name}.work"):
            if (self.nights.folder / name).exists():
                shutil.copytree(self.nights.folder / name, place / name)
        self.taken.append(place)


def test_a_kill_at_every_put_of_the_cache_changes_no_row_and_loses_no_answer(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.night(table(16))
    with monkeypatch.context() as patched:
        moments = Moments(nights, patched)
        calm = nights.night(table(16).vstack(table(40).tail(24)))
    kept = keys_of(nights.folder / "cache")
    assert 0 < calm["from_cache"].sum() < 40
    assert len(moments.taken) > 10
    for place in moments.taken:
        nights.job.output = place / nights.job.output.name
        nights.job.settings["output"] = {"uri": str(nights.job.output)}
        nights.job.settings["cache"] = {"uri": str(place / "cache")}
        nights.job.run()
        assert nights.job.answers().equals(calm), place
        assert keys_of(place / "cache") == kept, place


def keys_of(cache: Path) -> list[tuple[str, bytes]]:
    """Every answer in a cache, by its model's folder."""
    files = [(file.parts[-3], pq.read_table(file)["key"].to_pylist()) for file in cache.rglob("*.parquet")]
    return sorted((model, key) for model, keys in files for key in keys)
