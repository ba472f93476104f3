"""Cores, memory, disks and packages: this machine's own, and limits that it might have."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from batchroute.commands.doctor import machine, packages
from batchroute.commands.doctor.gpus import Gpus
from batchroute.commands.doctor.machine import Machine
from batchroute.engines.ranks import world
from batchroute.hardware.container import Limits

GIB = 1 << 30


def test_cores_are_those_of_the_quota_where_it_is_less_than_the_machines() -> None:
    assert Machine({}, Limits(cores=0.5)).cores == 0.5
    assert Machine({}, Limits(cores=4096.0)).cores == Machine({}, Limits()).cores == world.cores()


@pytest.mark.parametrize(
    ("threads", "ranks", "mark", "remedy"),
    [(1, 1, "ok", ""), (8, 1, "note", "set OMP_NUM_THREADS=1"), (1, 2, "note", "set OMP_NUM_THREADS=1")],
)
def test_more_threads_than_cores_are_a_note_with_the_number_to_set(
    threads: int, ranks: int, mark: str, remedy: str
) -> None:
    (finding,) = machine.cores(Machine({"OMP_NUM_THREADS": str(threads)}, Limits(cores=1.0)), ranks, threads)
    assert (finding.mark, finding.remedy) == (mark, remedy)
    assert "the container's quota is 1" in finding.text
    assert f"OMP_NUM_THREADS={threads}" in finding.text


def test_memory_is_that_of_the_containers_limit_and_little_of_it_is_a_note() -> None:
    whole = psutil.virtual_memory().total
    finding = machine.memory(Machine({}, Limits(memory=whole // 2, used=whole // 2 - GIB)))
    assert finding.mark == "note"
    assert finding.text.startswith(f"1.0 GiB of {whole / 2 / GIB:.1f} GiB free (the container's limit")
    assert Machine({}, Limits(memory=2 * whole)).memory[1] == whole


def test_little_shared_memory_is_a_problem_only_for_a_model_that_is_spread() -> None:
    assert machine.shared_memory(8 * GIB, spread=True).mark == "ok"
    assert machine.shared_memory(64 << 20).mark == "note"
    finding = machine.shared_memory(64 << 20, spread=True)
    assert (finding.mark, "64 MiB" in finding.text, "--shm-size" in finding.remedy) == ("problem", True, True)


def test_places_on_one_disk_share_a_line_and_need_not_be_there(tmp_path: Path) -> None:
    (finding,) = machine.disks({"models": tmp_path / "a" / "b", "temporary files": tmp_path})
    assert f"models ({tmp_path / 'a' / 'b'}), temporary files ({tmp_path})" in finding.text
    assert not (tmp_path / "a").exists()


def test_versions_tell_the_build_of_torch_and_no_package_is_wrong_here() -> None:
    (finding,) = packages.versions(Gpus(build="CUDA 12.8"))
    assert "(CUDA 12.8), transformers" in finding.text


def test_an_extra_that_is_missing_is_said_with_what_needs_it_and_how_to_install_it() -> None:
    (finding,) = packages.needed({"bigquery": "the input is a query", "s3": "a bucket has the output"})
    assert (finding.mark, finding.text) == ("problem", "the input is a query: adbc-driver-bigquery is not installed")
    assert finding.remedy == "pip install 'batchroute[bigquery]'"
    (finding,) = packages.needed({"s3": "the output"})
    assert finding.mark == "ok"
    assert list(packages.needed({})) == []


def test_extras_are_told_apart_by_what_is_installed() -> None:
    here, _, others = packages.extras().text.partition(" installed; ")
    assert "s3" in here.split(", ")
    assert "bigquery" in others.split(" not ")[0].split(", ")
    assert "dev" not in here.split(", ")
