"""A job that is killed again and again ends with every row once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batchroute.errors import EXIT_TERMINATED
from tests.crash.killing import rows_of, run_with_kills, start, work_of
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, table
from tests.support.waiting import wait_for

KILLS = 10


@pytest.mark.crash
def test_kill_at_random_moments_loses_nothing_and_repeats_no_unit(tmp_path: Path) -> None:
    folder = _slow_job(tmp_path, rows=300)
    work = work_of(folder.output)

    def remove() -> None:
        shutil.rmtree(work)
        shutil.rmtree(folder.output)

    damage = run_with_kills(folder.path, [], work, KILLS, units=7, seconds=0.05, seed=1, remove=remove)
    assert damage.kills == KILLS
    assert damage.redone == []
    assert damage.changed == []
    calm = JobFolder(tmp_path, output={"uri": str(tmp_path / "calm")}, models=folder.settings["models"])
    calm.settings["units"] = folder.settings["units"]
    calm.run()
    same = [name for name in rows_of(folder.output).columns if name != "cost"]  # which is measured time
    assert rows_of(folder.output).select(same).equals(rows_of(tmp_path / "calm").select(same))


@pytest.mark.crash
def test_sigterm_ends_with_143_and_can_be_resumed(tmp_path: Path) -> None:
    folder = _slow_job(tmp_path, rows=300)
    attempt = start(folder.path, [])
    wait_for(lambda: attempt.code is not None or list(work_of(folder.output).glob("*/small/*.json")))
    attempt.terminate()
    ended = attempt.end()
    assert ended.code == EXIT_TERMINATED
    assert "run the same command again" in ended.err
    assert not (folder.output / "manifest.json").exists()
    assert list(tmp_path.rglob(".tmp-*")) == []
    folder.run()
    assert rows_of(folder.output)["id"].to_list() == table(300)["id"].to_list()


def _slow_job(tmp_path: Path, rows: int) -> JobFolder:
    tiny_decoder(tmp_path / "decoder", chat=False)
    model = {
        "backend": "transformers", "model": str(tmp_path / "decoder"), "generation": {"max_new_tokens": 24},
        "price": {"gpu_hour": 1}, "batch_size": 4,
    }  # fmt: skip
    units = {"score": 20, "generate": 10, "merge": 60}
    return JobFolder(
        tmp_path, table(rows), models={"small": model, "large": {**model, "template": "{prompt} !"}}, units=units
    )
