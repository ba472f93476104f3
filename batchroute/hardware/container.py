"""A container's CPU and memory limits, from its control group of version 2 or 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Version 1 writes a number near 2^63 if there is no limit.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Attributes:
        cores: may have a fraction; None without a limit.
        memory: bytes; None without a limit.
        used: bytes of `memory` in use, without the page cache, which the kernel can free.
    """

    cores: float | None = None
    memory: int | None = None
    used: int = 0


def limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> Limits:
    """The tightest limits among this process's control group and its parents.

    Args:
        root: where control groups are mounted.
        membership: `/proc/self/cgroup`.
    """
    groups = _groups(membership)
    cores = [
        *(_cores_of_2(folder) for folder in _chain(root, groups.get("", "/"))),
        *(_cores_of_1(folder) for folder in _chain(root / "cpu", groups.get("cpu", "/"))),
    ]
    memory = [
        *(
            _memory(folder, "memory.max", "memory.current", "inactive_file")
            for folder in _chain(root, groups.get("", "/"))
        ),
        *(
            _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            for folder in _chain(root / "memory", groups.get("memory", "/"))
        ),
    ]
    tightest = min((limit for limit in memory if limit is not None), default=(None, 0))
    return Limits(min((limit for limit in cores if limit is not None), default=None), *tightest)


def _groups(membership: Path) -> dict[str, str]:
    """The path of this process's group for each controller of version 1; under "" for version 2."""
    groups: dict[str, str] = {}
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _chain(root: Path, group: str) -> Iterator[Path]:
    """The folder of a group, then its parents. In a container only `root` may exist, which then is the group."""
    folder = root / group.strip("/")
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _cores_of_2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def _cores_of_1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _memory(folder: Path, limit: str, usage: str, cache: str) -> tuple[int, int] | None:
    most = _number(folder / limit)
    if most is None or most >= _NO_LIMIT:
        return None
    fields = (line.split() for line in _text(folder / "memory.stat").splitlines())
    page_cache = next((int(value) for name, value in fields if name == cache), 0)
    return most, max(0, (_number(folder / usage) or 0) - page_cache)


def _number(path: Path) -> int | None:
    """None if the file is missing or has no number: `max` or -1 mean no limit."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def whole_cores(cores: float) -> int:
    """The number of threads to run on so many cores."""
    return max(1, math.floor(cores))
