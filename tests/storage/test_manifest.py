from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import batchroute
from batchroute.errors import InputError
from batchroute.storage import manifest
from batchroute.storage.local import LocalFolder
from batchroute.storage.manifest import DataFile, Manifest


def a_manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "nightly",
        "run_id": "0123",
        "fingerprint": "0123456789",
        "settings": {"policy": {"threshold": 0.5}},
        "input_files": [{"path": "a.parquet", "size": 1, "mtime_ns": 1763942400123456789, "rows": 3}],
        "committed_at": "2026-11-24T00:00:00+00:00",
        "committed_by": "host:1:0",
        "rows": 3,
        "counts": {"ok": 2, "failed": 1},
        "cutoff": {"score": 0.5, "last_tie": 9223372036854775807},
        "files": [DataFile(path="data/part-00000.parquet", rows=3, bytes=10, sha256="ab")],
        "report": ["report/cost.json"],
        "cost": {"total_cost": str(Decimal("0.000001"))},
        "versions": manifest.versions(),
    }
    return Manifest(**values | changes)


def test_what_is_put_is_read(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "out"))
    assert manifest.read(output) is None
    assert a_manifest().put(output)
    assert manifest.read(output) == a_manifest()


def test_the_first_manifest_stays(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    a_manifest(name="first").put(output)
    assert not a_manifest(name="second").put(output)
    found = manifest.read(output)
    assert found is not None
    assert found.name == "first"


@pytest.mark.parametrize(
    "content", [b"", b'{"format_version": 1, "na', b"[]", b"3", b"\xff\xfe", b'{"format_version": 1}']
)
def test_a_damaged_manifest_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is damaged") as caught:
        manifest.read(LocalFolder(str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused_with_both_versions(tmp_path: Path, version: object) -> None:
    tree = json.loads(a_manifest().model_dump_json()) | {"format_version": version}
    (tmp_path / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=f"has format version {version}; this batchroute reads 1"):
        manifest.read(LocalFolder(str(tmp_path)))


def test_the_versions_name_what_results_depend_on() -> None:
    found = manifest.versions()
    assert found["batchroute"] == batchroute.__version__
    assert {"python", "torch", "transformers", "tokenizers", "pyarrow", "polars"} <= found.keys()
    assert all(version[0].isdigit() for version in found.values())
