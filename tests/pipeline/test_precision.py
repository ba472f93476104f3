"""The precision of a run: chosen by the first worker that loads a model, and kept whatever the next machine prefers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from batchroute.hardware import devices
from batchroute.pipeline import run as job
from batchroute.progress import PlainProgress
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, table

ROWS = 6


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job whose small model is published in bfloat16 and answers every row."""
    made = JobFolder(tmp_path, table(ROWS))
    model = tiny_decoder(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    made.settings["policy"] = {"threshold": 0}
    made.settings["units"] = {"score": 3, "generate": 3}
    made.settings["models"]["small"] = {
        "backend": "transformers",
        "model": str(model),
        "generation": {"max_new_tokens": 4},
    }
    return made


def on_a_machine(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """This machine, as one whose CPU has these instructions for bfloat16."""
    monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset(flags))
    devices.bfloat16_pays.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> None:
    devices.bfloat16_pays.cache_clear()


def ran(folder: JobFolder, **arguments: bool) -> tuple[str, dict[str, str]]:
    """Runs the job; what it said, and the precision in its manifest."""
    log = io.StringIO()
    job.run(folder.load(), PlainProgress(log), **arguments)
    return log.getvalue(), json.loads((folder.output / "manifest.json").read_text())["precision"]


def stop_after_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchroute.pipeline.shards.pieces import Pieces

    commit = Pieces.commit

    def once(*arguments: object) -> object:
        commit(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Pieces, "commit", once)


def test_amx_takes_bfloat16_and_the_log_and_the_manifest_say_so(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, "amx_bf16")
    said, precision = ran(folder)
    assert "the small model computes in bfloat16 (dtype: auto)" in said
    assert precision == {"small": "bfloat16"}


def test_without_it_float32_is_taken(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch)
    folder.settings["models"]["small"] |= {"backend": "auto", "allow_pickle": True}
    said, precision = ran(folder)
    assert "backend: auto takes transformers for the small model: allow_pickle is set" in said
    assert "the small model computes in float32 (dtype: auto)" in said
    assert precision == {"small": "float32"}


def test_a_dtype_of_the_job_file_is_no_choice(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, "amx_bf16")
    folder.settings["models"]["small"]["dtype"] = "float32"
    said, precision = ran(folder)
    assert "dtype: auto" not in said
    assert precision == {}


@pytest.mark.parametrize(
    ("first", "then", "taken", "faster"),
    [(["amx_bf16"], [], "bfloat16", "float32"), ([], ["amx_bf16"], "float32", "bfloat16")],
)
def test_a_run_goes_on_in_its_precision_on_another_kind_of_machine(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, first: list[str], then: list[str], taken: str, faster: str
) -> None:
    on_a_machine(monkeypatch, *first)
    with monkeypatch.context() as patch:
        stop_after_one_unit(patch)
        with pytest.raises(KeyboardInterrupt):
            ran(folder)
    on_a_machine(monkeypatch, *then)
    said, precision = ran(folder)
    assert f"the small model computes in {taken}, in which this run began; here {faster} would be faster" in said
    assert precision == {"small": taken}


def test_a_run_that_an_earlier_version_began_goes_on_in_float32(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch)
    with monkeypatch.context() as patch:
        stop_after_one_unit(patch)
        with pytest.raises(KeyboardInterrupt):
            ran(folder)
    # That version wrote no choice.
    (choice,) = folder.folder.glob("out.work/*/precision/small.json")
    choice.unlink()
    on_a_machine(monkeypatch, "amx_bf16")
    said, precision = ran(folder)
    assert "computes in float32, in which this run began" in said
    assert precision == {"small": "float32"}
