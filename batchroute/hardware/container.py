"""What a container may use of its machine: the limits of its control group, of version 2 or of version 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Version 1 writes a number near 2^63 for no limit.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Attributes:
        cores: whole ones and parts of one; None without a limit.
        memory: bytes; None without a limit.
        used: bytes that are taken of `memory`, without the files' cache, which gives way.
    """

    cores: float | None = None
    memory: int | None = None
    used: int = 0


def limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> Limits:
    """The tightest limits of the group of this process and of those above it.

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
    tightest = min((found for found in memory if found is not None), default=(None, 0))
    return Limits(min((found for found in cores if found is not None), default=None), *tightest)


def _groups(membership: Path) -> dict[str, str]:
    """The path of the group of this process for each controller; of version 2 under the empty name."""
    found: dict[str, str] = {}
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _chain(root: Path, group: str) -> Iterator[Path]:
    """The folder of a group and those above it. In a container only `root` may be there, which is then the group."""
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
    gives_way = next((int(value) for name, value in fields if name == cache), 0)
    return most, max(0, (_number(folder / usage) or 0) - gives_way)


def _number(path: Path) -> int | None:
    """None where there is no such file, or no number in it: `max`, or -1 for no limit."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def whole_cores(cores: float) -> int:
    """How many threads these cores carry."""
    return max(1, math.floor(cores))
