"""Limits of control groups, in folders as Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.hardware.container import Limits, limits, whole_cores

GIB = 1 << 30


def groups(root: Path, membership: str, files: dict[str, str]) -> Limits:
    (root / "membership").write_text(membership)
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return limits(root / "cgroup", root / "membership")


def test_a_container_of_version_2_has_its_limits_at_the_root(tmp_path: Path) -> None:
    files = {
        "cpu.max": "150000 100000\n",
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{3 * GIB}\n",
        "memory.stat": f"anon 5\ninactive_file {GIB}\n",
    }
    # The page cache, which the kernel can free, does not count as used.
    assert groups(tmp_path, "0::/\n", files) == Limits(1.5, 4 * GIB, 2 * GIB)


def test_the_tightest_limit_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "200000 100000",
        "a/b/cpu.max": "max 100000",
        "a/memory.max": str(2 * GIB),
        "a/memory.current": "7",
        "a/b/memory.max": str(8 * GIB),
        "a/b/memory.current": "5",
    }
    assert groups(tmp_path, "0::/a/b\n", files) == Limits(2.0, 2 * GIB, 7)


@pytest.mark.parametrize("inside", ["docker/1f", ""])
def test_version_1_is_read_on_the_machine_and_inside_a_container(tmp_path: Path, inside: str) -> None:
    # Inside, the group's path is the machine's, and only the group itself is mounted.
    files = {
        f"cpu/{inside}/cpu.cfs_quota_us": "50000",
        f"cpu/{inside}/cpu.cfs_period_us": "100000",
        f"memory/{inside}/memory.limit_in_bytes": str(GIB),
        f"memory/{inside}/memory.usage_in_bytes": "100",
        f"memory/{inside}/memory.stat": "inactive_file 9\ntotal_inactive_file 40\n",
    }
    membership = "4:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n0::/\n"
    assert groups(tmp_path, membership, files) == Limits(0.5, GIB, 60)


def test_no_limit_is_none_in_both_versions(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000",
        "memory.max": "max",
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert groups(tmp_path, "0::/\n", files) == Limits()
    assert limits(tmp_path / "none", tmp_path / "none") == Limits()


def test_a_part_of_a_core_carries_one_thread() -> None:
    assert [whole_cores(cores) for cores in (0.25, 1.0, 3.9, 4.0)] == [1, 1, 3, 4]
