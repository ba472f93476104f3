"""Whole runs on local files: what goes in comes out once, in order, with an answer or a reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchroute import generators
from batchroute.commands.validate import validate
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK, InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline.stages.results import RESULTS
from batchroute.prompt import Prompt
from tests.generators.transformers.tiny_generators import tiny_decoder, tiny_encoder_decoder
from tests.support.jobs import JobFolder, prompts, table


def test_every_row_comes_out_once_in_order_with_the_answer_of_its_model(tmp_path: Path) -> None:
    frame = table(200)
    folder = JobFolder(tmp_path, frame)
    outcome = folder.run()
    answers = folder.answers()
    assert outcome.exit_code == EXIT_OK
    assert answers.columns == [*frame.columns, *RESULTS.names]
    assert answers.select(frame.columns).equals(frame)
    assert answers["status"].to_list() == ["ok"] * 200
    assert answers["response"].to_list() == answers["prompt"].to_list()
    assert answers["route"].value_counts().sort("count")["count"].to_list() == [80, 120]
    assert (answers["model"] == "echo-" + answers["route"]).all()
    small, large = (answers.filter(route=side)["score"] for side in ("small", "large"))
    assert small.min() >= large.max()


def test_the_manifest_names_exactly_the_files_that_are_there(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(200))
    folder.run()
    manifest = json.loads((folder.output / "manifest.json").read_text())
    assert [file["path"] for file in manifest["files"]] == [f"data/part-0000{i}.parquet" for i in range(4)]
    assert sorted(os.listdir(folder.output / "data")) == [f"part-0000{i}.parquet" for i in range(4)]
    for file in manifest["files"]:
        data = (folder.output / file["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert pq.read_metadata(folder.output / file["path"]).num_rows == file["rows"]
    assert sum(file["rows"] for file in manifest["files"]) == manifest["rows"] == 200


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(50))
    first = folder.run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    second = folder.run()
    assert not first.was_done
    assert second.was_done
    assert second.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("policy.small_share=50%", "policy.small_share was 0.6 and is 0.5"),
        ("policy.threshold=0.5", "policy.small_share was 0.6 and is not set"),
        ("models.large.generation.max_new_tokens=7", "models.large.generation.max_new_tokens was 256 and is 7"),
        ("models.small.price.input=0.06", "models.small.price.input was 0.05 and is 0.06"),
    ],
)
def test_a_changed_job_is_refused_with_the_first_key_that_differs(tmp_path: Path, override: str, key: str) -> None:
    folder = JobFolder(tmp_path, table(20))
    folder.run()
    with pytest.raises(InputError, match=key):
        folder.run(override)
    os.remove(folder.output / "manifest.json")
    with pytest.raises(InputError, match=f"unfinished run of another job: {key}"):
        folder.run(override)
    assert not folder.run(override, fresh=True).was_done


def test_settings_that_do_not_change_results_may_change(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(20))
    folder.run()
    assert folder.run("models.small.batch_size=3", "max_failed=50%", "units.score=4", "name=other").was_done


def test_a_changed_input_is_refused_by_name(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(20))
    folder.run()
    table(21).write_parquet(folder.input)
    with pytest.raises(InputError, match=r"another input: .*in\.parquet has changed"):
        folder.run()


def test_new_router_weights_are_another_run(tmp_path: Path) -> None:
    from tests.support.tiny_models import tiny_router

    folder = JobFolder(tmp_path, table(20))
    folder.run()
    tiny_router(folder.router, seed=5)
    with pytest.raises(InputError, match=r"router\.model was sha256:"):
        folder.run()


def test_data_without_a_receipt_is_adopted_and_a_lost_stage_is_done_again(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(200), units={"score": 16, "generate": 10, "merge": 64})
    folder.run()
    before = {path.name: path.read_bytes() for path in (folder.output / "data").iterdir()}
    work = next((tmp_path / "out.work").iterdir())
    os.remove(folder.output / "manifest.json")
    for receipt in [*work.glob("merge/*.json"), *work.glob("small/*1.json"), *work.glob("score/*2.json")]:
        receipt.unlink()
    for file in [*work.glob("large/*1.*"), *work.glob("shards/large/*3.*"), *work.glob("shards/partition.json")]:
        file.unlink()
    folder.run()
    assert {path.name: path.read_bytes() for path in (folder.output / "data").iterdir()} == before


def test_foreign_files_in_the_output_are_refused_before_any_work(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(20))
    (folder.output / "data").mkdir(parents=True)
    table(3).write_parquet(folder.output / "data" / "part-00000.parquet")
    with pytest.raises(InputError, match=r"holds 1 files of no run that is known here"):
        folder.run()


def test_an_empty_input_gives_an_empty_output_with_all_columns(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(0))
    outcome = folder.run()
    assert outcome.exit_code == EXIT_OK
    assert outcome.manifest.rows == 0
    assert folder.answers().columns == ["id", "prompt", "team", *RESULTS.names]
    assert folder.answers().height == 0


def test_an_empty_input_whose_types_are_not_known_is_an_empty_night(tmp_path: Path) -> None:
    """As pandas and pyarrow write lists without values."""
    folder = JobFolder(tmp_path)
    pl.DataFrame({"id": [], "prompt": [], "team": []}).write_parquet(folder.input)
    assert folder.run().report.rows["ok"] == 0
    assert folder.answers().height == 0


def test_many_files_in_hive_folders_keep_their_order(tmp_path: Path) -> None:
    frame = table(90).with_columns(day=pl.Series([i // 30 + 1 for i in range(90)], dtype=pl.Int64))
    for day in (1, 2, 3):
        target = tmp_path / "in" / f"day={day}"
        target.mkdir(parents=True)
        rows = frame.filter(day=day).drop("day")
        rows[:11].write_parquet(target / "a.parquet", row_group_size=4)
        rows[11:].write_parquet(target / "b.parquet", row_group_size=1000)
    folder = JobFolder(tmp_path)
    folder.run(f"input.uri={tmp_path / 'in'}")
    assert folder.answers().select(frame.columns).equals(frame)


def test_chat_messages_are_prompts(tmp_path: Path) -> None:
    chats = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in prompts(30)]
    folder = JobFolder(tmp_path, pl.DataFrame({"id": range(30), "prompt": chats, "team": ["a"] * 30}))
    folder.run()
    assert folder.answers()["response"].to_list() == [f"Be brief.\n\n{text}" for text in prompts(30)]
    assert folder.answers()["prompt"].to_list() == chats


def test_identical_prompts_are_generated_once_and_counted(tmp_path: Path) -> None:
    frame = pl.concat([table(40), table(40), table(40)]).with_columns(id=pl.Series(range(120)))
    folder = JobFolder(tmp_path, frame)
    outcome = folder.run("policy.threshold=0")
    answers = folder.answers()
    assert answers["response"].to_list() == frame["prompt"].to_list()
    assert outcome.report.models["small"].generated == 40
    assert outcome.report.models["small"].copies == outcome.manifest.counts["copies"] == 80
    assert answers["attempts"].to_list() == [1] * 40 + [0] * 80
    assert answers["cost"][40:].sum() == 0
    assert answers["cost"].sum() == outcome.report.models["small"].cost


def test_identical_prompts_are_sampled_each_for_itself(tmp_path: Path) -> None:
    frame = pl.concat([table(10), table(10)]).with_columns(id=pl.Series(range(20)))
    folder = JobFolder(tmp_path, frame)
    outcome = folder.run("policy.threshold=0", "models.small.generation.temperature=1")
    assert outcome.report.models["small"].generated == 20


BAD_PROMPTS = {3: (None, "null_prompt"), 8: ("", "empty_prompt"), 9: (" \n\t", "empty_prompt")}


def test_bad_rows_stay_with_their_reason_and_cost_nothing(tmp_path: Path) -> None:
    texts = [BAD_PROMPTS.get(i, (text,))[0] for i, text in enumerate(prompts(40))]
    folder = JobFolder(tmp_path, table(40).with_columns(prompt=pl.Series(texts)))
    outcome = folder.run("policy.small_share=50%")
    answers = folder.answers()
    for row, (_, kind) in BAD_PROMPTS.items():
        found = answers.row(row, named=True)
        assert (found["status"], found["error_type"], found["route"], found["score"]) == ("failed", kind, None, None)
        assert (found["response"], found["cost"], found["attempts"]) == (None, Decimal(0), 0)
    # The share is of the rows that can be routed: 37, halves up.
    assert outcome.manifest.counts == {
        "total": 40, "ok": 37, "failed": 3, "small": 19, "large": 18, "escalated": 0, "unrouted": 3,
        "copies": 0,
    }  # fmt: skip
    assert outcome.report.failures == {"empty_prompt": 2, "null_prompt": 1}


@pytest.mark.parametrize(("limit", "code"), [("7.5%", EXIT_OK), ("7.4%", EXIT_FAILED_ROWS), ("0", EXIT_FAILED_ROWS)])
def test_max_failed_decides_the_exit_code_also_of_a_second_run(tmp_path: Path, limit: str, code: int) -> None:
    texts = [BAD_PROMPTS.get(i, (text,))[0] for i, text in enumerate(prompts(40))]
    folder = JobFolder(tmp_path, table(40).with_columns(prompt=pl.Series(texts)))
    assert folder.run(f"max_failed={limit}").exit_code == code
    assert folder.run(f"max_failed={limit}").exit_code == code


def test_text_that_is_not_utf8_fails_its_row_alone_and_stays_as_it_is(tmp_path: Path) -> None:
    values = [b"good", b"\xff\xfe", b"\xed\xa0\x80 surrogate", b"fine"]
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 4, 6, 19, 23)))
    column = pa.StringArray.from_buffers(4, offsets, pa.py_buffer(b"".join(values)))
    folder = JobFolder(tmp_path)
    pq.write_table(pa.table({"prompt": column}), folder.input)
    del folder.settings["input"]["id"], folder.settings["report"]
    outcome = folder.run()
    assert outcome.manifest.counts["failed"] == 2
    output = pq.read_table(folder.output / "data")
    assert output["error_type"].to_pylist() == [None, "bad_text", "bad_text", None]
    assert [value.as_buffer().to_pybytes() for value in output["prompt"]] == values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ["x"] * 20}, r"repeats 1 ids: 'x' in in\.parquet, row 0 and in\.parquet, row 1"),
        ({"id": [None, *"abcdefghijklmnopqrs"]}, r"null in in\.parquet, row 0"),
        ({"score": [1.0] * 20, "route": ["a"] * 20}, r"columns that the output adds: route, score; set output\.prefix"),
        ({"prompt": list(range(20))}, r"column 'prompt' is int64; a prompt is text"),
    ],
)
def test_a_wrong_input_is_refused_in_one_sentence(
    tmp_path: Path, change: dict[str, list[object]], message: str
) -> None:
    folder = JobFolder(tmp_path, table(20).with_columns(**{name: pl.Series(values) for name, values in change.items()}))
    with pytest.raises(InputError, match=message):
        folder.run()
    assert not folder.output.exists()
    assert not (tmp_path / "out.work").exists()


def test_a_prefix_keeps_result_columns_apart(tmp_path: Path) -> None:
    frame = table(20).with_columns(score=pl.lit(7), cost=pl.lit("x"))
    folder = JobFolder(tmp_path, frame)
    folder.run("output.prefix=br_")
    assert folder.answers().columns == [*frame.columns, *[f"br_{name}" for name in RESULTS.names]]
    assert folder.answers().select(frame.columns).equals(frame)


def test_output_inside_the_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table(5).write_parquet(tmp_path / "in" / "a.parquet")
    folder = JobFolder(tmp_path)
    with pytest.raises(InputError, match="lie in one another"):
        folder.run(f"input.uri={tmp_path / 'in'}", f"output.uri={tmp_path / 'in' / 'out'}")


def test_a_missing_price_is_null_and_named_never_zero(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(20))
    del folder.settings["models"]["large"]["price"]
    report = folder.run().report
    assert report.models["large"].cost is None
    assert report.total_cost is None
    assert report.savings is None
    assert report.missing_prices == ["models.large.price"]
    assert folder.answers().filter(route="large")["cost"].null_count() == 8
    assert pl.read_parquet(folder.output / "report" / "cost.parquet").filter(route="large")["cost"].null_count() == 3


def test_the_report_adds_up_to_the_last_digit(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(200))
    report = folder.run().report
    answers, groups = folder.answers(), pl.read_parquet(folder.output / "report" / "cost.parquet")
    for side in ("small", "large"):
        assert answers.filter(route=side)["cost"].sum() == report.models[side].cost
        assert groups.filter(route=side)["cost"].sum() == report.models[side].cost
        assert groups.filter(route=side)["output_tokens"].sum() == report.models[side].output_tokens
    assert groups["cost"].sum() == report.total_cost
    assert groups["rows"].sum() == 400  # every row once for its model and once for the router
    assert report.savings is not None
    assert report.savings.usd == report.baseline.cost - report.total_cost


class _Flaky(EchoGenerator):
    """Fails on every third row until it is mended."""

    broken = True
    asked: list[str] = []  # noqa: RUF012 - shared by both models on purpose

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        self.asked.extend(str(prompt) for prompt in prompts)
        answers = super().generate(prompts, seeds)
        bad = Response(error_type="model_error", error="boom")
        return [bad if self.broken and len(str(p)) % 3 == 0 else a for p, a in zip(prompts, answers, strict=True)]


def test_retry_failed_asks_only_for_the_failed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: _Flaky(spec))
    monkeypatch.setattr(_Flaky, "broken", True)
    folder = JobFolder(tmp_path, pl.concat([table(100), table(10).with_columns(id="again-" + pl.col("id"))]))
    first = folder.run()
    failed = folder.answers().filter(status="failed")
    assert first.exit_code == EXIT_FAILED_ROWS
    assert failed.height > 20
    monkeypatch.setattr(_Flaky, "broken", False)
    assert folder.run().was_done
    _Flaky.asked.clear()
    second = folder.run(retry_failed=True)
    answers = folder.answers()
    assert second.exit_code == EXIT_OK
    assert sorted(_Flaky.asked) == sorted(set(failed["prompt"]))
    assert answers["response"].to_list() == answers["prompt"].to_list()
    retried = answers.join(failed, on="id", how="semi").filter(pl.col("attempts") > 0)
    assert retried["attempts"].unique().to_list() == [2]
    assert answers["cost"].sum() == sum(second.report.models[side].cost for side in ("small", "large"))


def test_retry_failed_reaches_copies_in_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: _Flaky(spec))
    monkeypatch.setattr(_Flaky, "broken", True)
    texts = ["xyz", "aa", "bb", "cc", "dd", "ee", "xyz", "ff"]  # the flaky model fails on three letters
    folder = JobFolder(tmp_path, table(8).with_columns(prompt=pl.Series(texts)))
    folder.settings["units"] = {"score": 2, "generate": 2, "merge": 2}
    assert folder.run("policy.threshold=0").manifest.counts["failed"] == 2
    monkeypatch.setattr(_Flaky, "broken", False)
    assert folder.run("policy.threshold=0", retry_failed=True).manifest.counts["failed"] == 0
    assert folder.answers()["response"].to_list() == texts


def test_a_column_that_cannot_be_grouped_by_is_refused(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(4).with_columns(team=pl.Series([[1], [2], [3], [4]])))
    with pytest.raises(InputError, match="group by text, numbers, dates or booleans"):
        folder.run()


def test_a_model_that_fails_on_everything_alike_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EchoGenerator):
        def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
            return [Response(error_type="model_error", error="wrong key") for _ in prompts]

    with monkeypatch.context() as patch:
        patch.setattr(generators, "load", lambda spec, device, gpus: Broken(spec))
        folder = JobFolder(tmp_path, table(400), units={"generate": 150})
        with pytest.raises(
            StoppedError, match="all 150 rows of a piece failed alike on the model 'echo-small': wrong key"
        ):
            folder.run()
    assert folder.run().manifest.counts["ok"] == 400


def test_real_decoders_and_encoder_decoders_answer_their_shards(tmp_path: Path) -> None:
    tiny_decoder(tmp_path / "decoder", chat=True)
    tiny_encoder_decoder(tmp_path / "t5")
    folder = JobFolder(tmp_path, table(24))
    for side, model in (("small", "decoder"), ("large", "t5")):
        folder.settings["models"][side] = {
            "backend": "transformers", "model": str(tmp_path / model), "generation": {"max_new_tokens": 6},
            "price": {"gpu_hour": 3},
        }  # fmt: skip
    outcome = folder.run()
    answers = folder.answers()
    assert outcome.manifest.counts["ok"] == 24
    assert answers["output_tokens"].min() >= 1
    assert answers["output_tokens"].max() <= 6
    for side in ("small", "large"):
        usage = outcome.report.models[side]
        loading = usage.cost - answers.filter(route=side)["cost"].sum()
        assert loading == pytest.approx(Decimal(3) * Decimal(usage.load_seconds) / 3600, rel=Decimal("1e-6"))


def test_the_same_job_gives_the_same_bytes(tmp_path: Path) -> None:
    tiny_decoder(tmp_path / "decoder", chat=False)
    folder = JobFolder(tmp_path, table(24))
    folder.settings["models"]["small"] = {
        "backend": "transformers", "model": str(tmp_path / "decoder"),
        "generation": {"max_new_tokens": 6, "temperature": 1, "seed": 4},
    }  # fmt: skip
    folder.run()
    first = folder.answers()
    folder.run(fresh=True)
    assert folder.answers().equals(first)


def test_validate_checks_without_running(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(20))
    lines = validate(folder.load())
    assert any("20 rows in 1 files" in line for line in lines)
    assert not folder.output.exists()
    folder.settings["models"]["large"] = {"backend": "transformers", "model": "/nowhere/model"}
    with pytest.raises(InputError, match="'/nowhere/model' does not exist"):
        validate(folder.load())


def test_validate_refuses_an_encoder_that_was_not_trained(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, table(5))
    config = json.loads((folder.router / "config.json").read_text())
    (folder.router / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(InputError, match="is no trained classifier; make one with 'batchroute train"):
        validate(folder.load())


@pytest.mark.parametrize("fresh", [False, True])
def test_an_output_that_is_a_file_is_refused_and_left(tmp_path: Path, fresh: bool) -> None:
    folder = JobFolder(tmp_path, table(5))
    folder.output.write_text("mine")
    with pytest.raises(InputError, match="is a file; name a folder"):
        folder.run(fresh=fresh)
    assert folder.output.read_text() == "mine"


def test_specs_reach_the_generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ModelSpec] = []

    def load(model: ModelSpec, device: object, gpus: object) -> EchoGenerator:
        seen.append(model)
        return EchoGenerator(model)

    monkeypatch.setattr(generators, "load", load)
    folder = JobFolder(tmp_path, table(20))
    folder.run("models.large.generation.max_new_tokens=2")
    assert [model.generation.max_new_tokens for model in seen] == [256, 2]
    assert folder.answers().filter(route="large")["output_tokens"].max() == 2


def test_retry_failed_without_the_work_folder_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, device, gpus: _Flaky(spec))
    monkeypatch.setattr(_Flaky, "broken", True)
    folder = JobFolder(tmp_path, table(30))
    folder.run()
    shutil.rmtree(tmp_path / "out.work")
    with pytest.raises(InputError, match=r"--retry-failed needs .*out\.work, which is gone"):
        folder.run(retry_failed=True)
    assert (folder.output / "manifest.json").exists()
