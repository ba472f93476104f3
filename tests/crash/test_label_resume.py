"""Labelling that is killed again and again, or ended by SIGTERM, writes the table that a calm attempt writes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import yaml

from batchroute.errors import EXIT_TERMINATED
from tests.crash import killing
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.command import Command
from tests.support.jobs import prompts
from tests.support.waiting import wait_for

ROWS, SAMPLES, KILLS = 384, 2, 6


@pytest.mark.crash
def test_kills_at_random_moments_repeat_no_unit_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killing, "start", _start)
    job = _job(tmp_path)
    work = tmp_path / "t.parquet.work"

    def remove() -> None:
        shutil.rmtree(work)
        for file in tmp_path.glob("t.*"):
            file.unlink()

    damage = killing.run_with_kills(
        job, [str(tmp_path / "t.parquet")], work, KILLS, units=3, seconds=0.05, seed=1, remove=remove
    )
    assert damage.kills == KILLS
    assert damage.redone == []
    assert damage.changed == []
    calm = _start(job, [str(tmp_path / "calm.parquet")]).end()
    assert calm.code == 0, calm.err
    names = ("t.parquet", "calm.parquet")
    killed, whole = (pl.read_parquet(tmp_path / name) for name in names)
    assert killed.equals(whole)
    assert killed["small_quality"].list.len().to_list() == [SAMPLES] * ROWS
    assert killed["prompt"].to_list() == prompts(ROWS)
    assert pl.read_parquet(tmp_path / "t.responses.parquet").equals(
        pl.read_parquet(tmp_path / "calm.responses.parquet")
    )


@pytest.mark.crash
def test_sigterm_ends_with_143_and_the_same_command_goes_on(tmp_path: Path) -> None:
    job, output = _job(tmp_path), tmp_path / "t.parquet"
    attempt = _start(job, [str(output)])
    wait_for(lambda: attempt.code is not None or list(tmp_path.glob("t.parquet.work/*/small/*.json")))
    attempt.terminate()
    ended = attempt.end()
    assert ended.code == EXIT_TERMINATED, ended.err
    assert not output.exists()
    again = _start(job, [str(output)]).end()
    assert again.code == 0, again.err
    assert pl.read_parquet(output).height == ROWS


def _start(job: str, overrides: Sequence[str]) -> Command:
    return Command(
        "label", str(Path(job).with_name("in.parquet")), "--job", job, "--metric", "rouge", "--samples", str(SAMPLES),
        "--keep-responses", "--output", *overrides, "--json-logs",
    )  # fmt: skip


def _job(tmp_path: Path) -> str:
    """A job whose models are slow enough to be killed between two units; a unit is 64 prompts of two samples."""
    texts = prompts(ROWS)
    pl.DataFrame({"prompt": texts, "reference": texts}).write_parquet(tmp_path / "in.parquet")
    tiny_decoder(tmp_path / "decoder", chat=False)
    model = {
        "backend": "transformers", "model": str(tmp_path / "decoder"), "generation": {"max_new_tokens": 4},
        "batch_size": 8,
    }  # fmt: skip
    settings = {
        "input": {"uri": "unused"}, "output": {"uri": "unused"}, "router": {"model": "unused"},
        "policy": {"small_share": "50%"}, "models": {"small": model, "large": {**model, "template": "{prompt} !"}},
    }  # fmt: skip
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)
