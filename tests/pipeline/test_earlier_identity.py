"""Runs of earlier versions, whose digests of models cover less of the files, keep the identity that they have."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from batchroute import models
from batchroute.commands.label.pipeline import LabelOptions, label
from batchroute.errors import InputError
from batchroute.pipeline import run as job
from batchroute.progress import PlainProgress
from batchroute.router.training.checkpoints import Checkpoints
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, table

WEIGHTS = 8 << 20


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path, table(90))
    (made.router / "more.safetensors").write_bytes(bytes(WEIGHTS))
    return made


def change_the_middle(folder: JobFolder) -> None:
    weights = bytearray(WEIGHTS)
    weights[WEIGHTS // 2] = 1
    (folder.router / "more.safetensors").write_bytes(weights)


def as_earlier(patch: pytest.MonkeyPatch) -> None:
    sampled = models._sampled
    patch.setattr(models, "_sampled", lambda size, version: sampled(size, 1))


def run_ids(folder: JobFolder) -> list[str]:
    return [path.parent.name for path in folder.folder.glob("out.work/*/run.json")]


def test_a_run_that_an_earlier_version_began_is_finished(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        as_earlier(patch)
        patch.setattr(job, "generate", stop)
        with pytest.raises(KeyboardInterrupt):
            folder.run()
    begun = run_ids(folder)
    assert folder.run().report.rows["ok"] == 90
    assert run_ids(folder) == begun
    assert [json.loads((folder.output / "manifest.json").read_text())["run_id"]] == begun


@pytest.mark.parametrize("keep_work", [True, False])
def test_a_run_that_an_earlier_version_committed_is_done(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, keep_work: bool
) -> None:
    folder.settings["output"]["keep_work"] = keep_work
    with monkeypatch.context() as patch:
        as_earlier(patch)
        folder.run()
    assert folder.run().was_done
    committed = json.loads((folder.output / "manifest.json").read_text())["run_id"]
    assert not folder.run(fresh=True).was_done
    assert json.loads((folder.output / "manifest.json").read_text())["run_id"] != committed


def test_weights_that_changed_in_the_middle_are_another_run(folder: JobFolder) -> None:
    folder.run()
    change_the_middle(folder)
    with pytest.raises(InputError, match=r"router\.model was sha256:\w+ and is sha256:\w+"):
        folder.run()


def test_a_labelling_that_an_earlier_version_ended_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(6).write_parquet(tmp_path / "prompts.parquet")
    decoder = tiny_decoder(tmp_path / "model", chat=True)
    (decoder / "more.safetensors").write_bytes(bytes(WEIGHTS))
    side = {"backend": "transformers", "model": str(decoder), "dtype": "float32"}
    given = LabelOptions.model_validate(
        {
            "prompts": str(tmp_path / "prompts.parquet"),
            "output": str(tmp_path / "quality.parquet"),
            "models": {
                "small": {**side, "generation": {"max_new_tokens": 2}},
                "large": {**side, "generation": {"max_new_tokens": 3}},
            },
            "metric": {"name": "chrf"},
            "reference": "team",
            "samples": 1,
        }
    )
    with monkeypatch.context() as patch:
        as_earlier(patch)
        label(given, PlainProgress(io.StringIO()))
    assert label(given, PlainProgress(io.StringIO())).was_done


def test_the_state_of_a_training_is_known_by_either_fingerprint(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "router", "then").prepare()
    earlier, now = Checkpoints(tmp_path / "router", "then"), Checkpoints(tmp_path / "router", "now", ["then"])
    earlier.epoch(0).mkdir()
    earlier.save({"figures": []}, 0)
    assert now.load() is not None
    assert Checkpoints(tmp_path / "router", "now", ["other"]).load() is None
