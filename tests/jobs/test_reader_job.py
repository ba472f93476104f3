"""Whole jobs with a reader of answers: its reading is a signal, and a confidence where there is no other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batchroute import generators
from batchroute.commands.validate import validate
from batchroute.commands.verify import verify
from batchroute.confidence.calibrate import calibrate_confidence, write
from batchroute.confidence.reader import with_readings
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.pipeline import run as pipeline
from batchroute.pipeline.identity import identify
from batchroute.pipeline.stages import partition
from batchroute.pipeline.tonight.figures import read_tonight
from batchroute.pipeline.tonight.way import Way
from batchroute.prompt import Prompt
from batchroute.router.reading import identity_of
from batchroute.storage.local import LocalFolder
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables import quality_table
from tests.support.jobs import CutProgress, JobFolder, prompts, table
from tests.support.tiny_heads import tiny_reader
from tests.support.tiny_models import tiny_router

ROWS = 90
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_reader(tmp_path_factory.mktemp("reader") / "reader"))


def job_of(folder: Path, reader: str, frame: pl.DataFrame | None = None, **policy: Any) -> JobFolder:
    rules = {"decide": "after", **(policy or {"small_share": "50%"})}
    job = JobFolder(folder, table(ROWS) if frame is None else frame, policy=rules, report={"signals": True})
    del job.settings["router"]
    job.settings["models"]["small"]["confidence"] = {"logprobs": False, "reader": reader}
    return job


def work_of(job: JobFolder) -> Workdir:
    output = LocalFolder(job.output)
    return Workdir(output, run_ids(output)[0])


def test_the_reading_is_the_confidence_where_nothing_else_is_known(tmp_path: Path, reader: str) -> None:
    job = job_of(tmp_path, reader)
    outcome = job.run()
    answers = job.answers()
    assert answers.columns[-5:] == ["confidence", "logprob", "logprob_low", "agreement", "reading"]
    assert answers["confidence"].to_list() == answers["reading"].to_list()
    small = answers["route"] == "small"
    assert int(small.sum()) == ROWS // 2
    assert answers["reading"].filter(small).min() >= answers["reading"].filter(~small).max()
    assert answers["reading"].n_unique() > ROWS // 2
    usage = outcome.report.reader
    assert usage is not None
    assert (usage.model, usage.rows, usage.unscored) == (reader, ROWS, 0)
    assert outcome.night is not None
    assert [stage.units for stage in outcome.night.stages if stage.name == "read"] == [3]
    assert (verify(str(job.output)).wrong, verify(str(job.output)).unchecked) == ([], [])


def test_copies_share_a_reading_and_rows_without_an_answer_have_none(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(EchoGenerator):
        def generate(self, asked: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
            failed = Response(error_type="model_error", error="it broke")
            answers = super().generate(asked, seeds)
            return [
                failed if str(prompt).startswith("apple 0") else answer
                for prompt, answer in zip(asked, answers, strict=True)
            ]

    monkeypatch.setattr(
        generators, "load", lambda spec, *_: (Broken if spec.model == "echo-small" else EchoGenerator)(spec)
    )
    texts = [f"apple {row % 30} stone" for row in range(ROWS)]
    job = job_of(tmp_path, reader, table(ROWS).with_columns(prompt=pl.Series(texts)))
    outcome = job.run()
    answers = job.answers()
    assert outcome.report.reader is not None
    assert outcome.report.reader.rows == 29
    assert answers.group_by("prompt").agg(pl.col("reading").n_unique())["reading"].to_list() == [1] * 30
    failed = answers["prompt"] == "apple 0 stone"
    assert answers["reading"].is_null().to_list() == failed.to_list()
    assert set(answers.filter(failed)["route"]) == {"small→large"}


def test_reading_costs_what_the_router_costs(tmp_path: Path, reader: str) -> None:
    job = job_of(tmp_path, reader)
    job.settings["router"] = {"model": str(job.router), "price": {"input": "2.00", "output": 0}}
    outcome = job.run()
    report = outcome.report
    assert report.reader is not None
    assert report.reader.cost is not None
    assert float(report.reader.cost) == pytest.approx(report.reader.tokens * 2e-6)
    parts = [report.router, report.reader, report.models["small"], report.models["large"], report.deferred.usage]
    assert sum(part.cost for part in parts) == report.total_cost
    routes = pl.read_parquet(job.output / "report" / "cost.parquet")
    assert routes.filter(route="reader").select("model", "rows").rows() == [(reader, ROWS)]


def test_a_run_goes_on_after_the_reading(tmp_path: Path, reader: str) -> None:
    job = job_of(tmp_path, reader)
    with pytest.raises(StoppedError):
        pipeline.run(job.load(), CutProgress("deferred to the large model"))
    receipts = work_of(job).stage("read").receipts()
    assert len(receipts) == 3
    job.run()
    assert work_of(job).stage("read").receipts() == receipts
    assert "loading the reader" not in job.log


def test_tonights_calibration_reads_its_answers(tmp_path: Path, reader: str) -> None:
    tonight = {"rows": 50, "metric": "exact_match", "reference": "large"}
    job = job_of(tmp_path, reader, small_share="30%", calibrate=tonight)
    job.settings["models"]["small"]["generation"] = {"max_new_tokens": 4}
    job.run()
    work = work_of(job)
    assert sum(receipt.rows for receipt in work.stage("calibration_read").receipts().values()) == 50
    concluded = read_tonight(work)
    assert concluded is not None
    assert concluded.model is not None
    assert "reading" in concluded.model.columns
    answers = job.answers()
    assert answers["reading"].null_count() == 0
    assert answers["confidence"].to_list() != answers["reading"].to_list()


def test_nothing_is_read_where_the_policy_decides_before(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, reader, small_share="50%", decide="auto")
    job.settings["router"] = {"model": str(job.router)}
    monkeypatch.setattr(partition, "way_of", lambda *_: Way(way="before"))
    monkeypatch.setattr(pipeline, "_decides_before", lambda _: True)
    monkeypatch.setattr("batchroute.pipeline.stored_confidence.check_limits", lambda _: None)
    monkeypatch.setattr("batchroute.pipeline.opening.check_limits", lambda _: None)
    outcome = job.run()
    assert "loading the reader" not in job.log
    assert outcome.report.reader is not None
    assert outcome.report.reader.rows == 0
    assert job.answers()["reading"].null_count() == ROWS


# A stored calibration


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory, reader: str) -> str:
    """A folder with a confidence of readings."""
    folder = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng(0)
    columns = {
        "prompt": prompts(80, start=500),
        "small_quality": [[quality] for quality in rng.random(80)],
        "large_quality": [[1.0]] * 80,
        "small_responses": [[prompt] for prompt in prompts(80, start=500)],
    }
    metadata = {"small_model": "echo-small", "large_model": "echo-large"}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "t.parquet")
    whole = quality_table.read(str(folder / "t.parquet"), responses=True)
    read, _ = with_readings(whole, None, reader, CPU)
    write(calibrate_confidence(read, None, reader=identity_of(reader)), folder)
    return str(folder)


def test_a_stored_confidence_of_readings_decides(tmp_path: Path, reader: str, calibration: str) -> None:
    job = job_of(tmp_path, reader, small_share="50%", calibration=calibration)
    job.run()
    answers = job.answers()
    assert answers["confidence"].null_count() == 0
    assert answers["confidence"].to_list() != answers["reading"].to_list()


def test_a_confidence_needs_the_reader_that_it_was_calibrated_with(
    tmp_path: Path, reader: str, calibration: str
) -> None:
    job = job_of(tmp_path, reader, small_share="50%", calibration=calibration)
    other = tmp_path / "other"
    shutil.copytree(reader, other)
    (other / "note.txt").write_text("trained again")
    with pytest.raises(InputError, match=r"was calibrated with another reader than models.small.confidence.reader"):
        validate(job.load(f"models.small.confidence.reader={other}"))
    job.settings["models"]["small"]["confidence"] = {"samples": 2}
    with pytest.raises(InputError, match="reads the signal 'reading', which this job does not have"):
        validate(job.load())


# Bad input


def check_that_it_is_part_of_the_run(job: JobFolder, key: str, model: str) -> None:
    """A copy of the model at the key is the same run, until it is trained again."""
    other = job.folder / "other"
    shutil.copytree(model, other)
    assert identify(job.load()).run_id == identify(job.load(f"{key}={other}")).run_id
    (other / "note.txt").write_text("trained again")
    assert identify(job.load()).run_id != identify(job.load(f"{key}={other}")).run_id


def test_another_reader_is_another_run(tmp_path: Path, reader: str) -> None:
    check_that_it_is_part_of_the_run(job_of(tmp_path, reader), "models.small.confidence.reader", reader)


def test_a_reader_of_another_models_answers_is_told(tmp_path: Path, reader: str) -> None:
    job = job_of(tmp_path, str(tiny_reader(tmp_path / "other", "llama")))
    words = "learned from answers of llama, and models.small.model is echo-small: its readings may mislead"
    assert any(words in line for line in validate(job.load()))
    assert not any("learned from" in line for line in validate(job_of(tmp_path, reader).load()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("models.large.confidence.reader=x", r"confidence.reader is a setting of models.small"),
        ("policy.decide=before", r"models.small.confidence.reader reads answers, and the policy decides before there"),
        ("models.small.confidence.reader=nowhere", r"models.small.confidence.reader: there is no reader 'nowhere'"),
        ("models.small.confidence.reader=/no/where", r"confidence.reader: .*directory '/no/where' does not exist"),
        ("models.small.confidence.reader={router}", r"confidence.reader: '.*router' is no reader of answers: it reads"),
        ("router.model={reader}", r"router.model: '.*' reads prompts with answers, and here prompts are read alone"),
    ],
)
def test_a_wrong_reader_is_a_sentence(tmp_path: Path, reader: str, change: str, words: str) -> None:
    job = job_of(tmp_path, reader)
    job.settings["router"] = {"model": str(job.router)}
    with pytest.raises(InputError, match=words):
        validate(job.load(change.format(router=job.router, reader=reader)))


# A reader that is fitted to tonight's rows


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_router(tmp_path_factory.mktemp("encoder") / "encoder", head=False, initializer_range=0.2))


class Silent(EchoGenerator):
    """Gives no log-probabilities, as an endpoint that ignores the request."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._logprobs = False


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "load", lambda spec, *_: Silent(spec))


def fitted_job(folder: Path, encoder: str, **calibrate: Any) -> JobFolder:
    """The small model's answers end after four words, so it loses where prompts have five."""
    texts = [f"quick fox {row} apple" if row % 2 else f"river glass {row} stone number" for row in range(150)]
    tonight = {"rows": 100, "metric": "exact_match", "reference": "large", "reader": encoder, **calibrate}
    job = JobFolder(
        folder,
        table(150).with_columns(prompt=pl.Series(texts)),
        policy={"decide": "after", "small_share": "10%", "calibrate": tonight},
        report={"signals": True},
    )
    del job.settings["router"]
    job.settings["models"]["small"]["generation"] = {"max_new_tokens": 4}
    return job


@pytest.mark.usefixtures("silent")
def test_a_reader_is_fitted_to_tonights_rows(tmp_path: Path, encoder: str) -> None:
    job = fitted_job(tmp_path, encoder)
    outcome = job.run()
    concluded, answers = read_tonight(work_of(job)), job.answers()
    assert concluded is not None
    assert concluded.model is not None
    assert {"reading"} < concluded.model.columns.keys() <= {"reading", "tokens", "cut"}
    assert "a reader is fitted to 100 answers" in job.log
    assert answers["logprob"].null_count() == 150
    assert answers["reading"].null_count() == 0
    # Of rows that it never saw, too, it tells which lose: not a matter of chance among 50.
    long = pl.col("prompt").str.starts_with("river")
    means = answers.group_by(long.alias("long")).agg(pl.col("reading").mean()).sort("long")["reading"]
    assert means[0] > means[1] + 0.3
    kept = answers.filter(route="small")
    assert kept.height == 15
    assert not kept["prompt"].str.starts_with("river").any()
    assert outcome.report.reader is not None
    assert (outcome.report.reader.model, outcome.report.reader.rows) == (encoder, 150)
    assert (verify(str(job.output)).wrong, verify(str(job.output)).unchecked) == ([], [])


@pytest.mark.usefixtures("silent")
def test_a_run_goes_on_after_readings_without_heads(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise StoppedError("cut")

    job = fitted_job(tmp_path, encoder)
    with monkeypatch.context() as patched:
        patched.setattr("batchroute.pipeline.tonight.reader.put_heads", crash)
        with pytest.raises(StoppedError):
            job.run()
    fitted = work_of(job).stage("calibration_read").receipts()
    assert fitted
    with pytest.raises(StoppedError):
        pipeline.run(job.load(), CutProgress("deferred to the large model"))
    job.run()
    assert "a reader is fitted" not in job.log
    assert work_of(job).stage("calibration_read").receipts() == fitted
    columns = ["id", "route", "reading", "confidence"]
    cut = job.answers().select(columns)
    job.run(fresh=True)
    assert cut.equals(job.answers().select(columns))


@pytest.mark.usefixtures("silent")
def test_rows_that_teach_nothing_are_a_sentence(tmp_path: Path, encoder: str) -> None:
    job = fitted_job(tmp_path, encoder)
    job.settings["models"]["small"]["generation"] = {"max_new_tokens": 8}
    with pytest.raises(InputError, match=r"policy.calibrate.reader: both models' qualities differ by the same on all"):
        job.run()


def test_without_a_lesson_other_signals_decide(tmp_path: Path, encoder: str) -> None:
    job = fitted_job(tmp_path, encoder)
    job.settings["models"]["small"]["generation"] = {"max_new_tokens": 8}
    job.run()
    assert "no reader is fitted: both models' qualities differ by the same on all measured rows" in job.log
    answers = job.answers()
    assert answers["reading"].null_count() == 150
    assert answers["confidence"].null_count() == 0


def test_another_encoder_is_another_run(tmp_path: Path, encoder: str) -> None:
    job = fitted_job(tmp_path, encoder)
    check_that_it_is_part_of_the_run(job, "policy.calibrate.reader", encoder)
    assert f"reader   fitted to 100 of tonight's rows, on {encoder}" in validate(job.load())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["policy.decide=before"], r"policy.calibrate.reader reads answers, and the policy decides before there are"),
        (["policy.calibrate.reader=/no/where"], r"policy.calibrate.reader: .*'/no/where' does not exist"),
        (["models.small.confidence.reader=x"], r"policy.calibrate.reader fits a reader to tonight's rows, and models"),
    ],
)
def test_a_wrong_encoder_is_a_sentence(tmp_path: Path, encoder: str, changes: list[str], words: str) -> None:
    job = fitted_job(tmp_path, encoder)
    job.settings["router"] = {"model": str(job.router)}
    with pytest.raises(InputError, match=words):
        validate(job.load(*changes))
