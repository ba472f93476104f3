"""The manifest: the file that commits an output."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import platform
from typing import Any

from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.storage.folder import Folder
from batchroute.storage.receipts import FORMAT_VERSION

MANIFEST = "manifest.json"


class DataFile(BaseModel):
    """One file of the output, its path relative to the manifest."""

    model_config = ConfigDict(frozen=True)

    path: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What was committed. Readers take the files named here and no others."""

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    name: str
    run_id: str
    fingerprint: str
    settings: dict[str, Any]
    source: dict[str, Any] = {}
    """Of a run that fetched its input: the source, and its version."""
    input_files: list[dict[str, Any]]
    committed_at: str
    committed_by: str
    rows: int
    counts: dict[str, int]
    cutoff: dict[str, Any]
    files: list[DataFile]
    report: list[str]
    cost: dict[str, Any]
    quality: dict[str, Any] = {}
    """Cost advantage, expected and audited quality drop, and drift; null where a figure is not known."""
    versions: dict[str, str]
    precision: dict[str, str] = {}
    """What `dtype: auto` took, by model."""

    @property
    def serial(self) -> int:
        """The commit's time in milliseconds since 1970; greater when --retry-failed commits the run again."""
        return int(datetime.datetime.fromisoformat(self.committed_at).timestamp() * 1000)

    @property
    def load_id(self) -> str:
        return load_id(self.run_id, self.source)

    def put(self, output: Folder) -> bool:
        """Commit; False when the output is committed already, by this run or another."""
        return output.put_new(MANIFEST, self.model_dump_json(indent=1).encode())


def read(output: Folder) -> Manifest | None:
    """The manifest of an output; None when it is not committed.

    Raises:
        InputError: the manifest is damaged, or of a newer format.
    """
    try:
        tree = json.loads(output.read(MANIFEST))
        if isinstance(tree, dict) and tree.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{output}/{MANIFEST} has format version {tree.get('format_version')}; "
                f"this batchroute reads {FORMAT_VERSION}"
            )
        return Manifest.model_validate(tree)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{output}/{MANIFEST} is damaged: not the JSON of a manifest") from error


def load_id(run_id: str, source: dict[str, Any]) -> str:
    """The id of a run's rows in a table: the run, and the fetch where rows were fetched, since a query that runs again
    may give other rows.
    """
    return f"{run_id}-{source['attempt']}" if source else run_id


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what the results depend on."""
    packages = ("batchroute", "torch", "transformers", "tokenizers", "accelerate", "pyarrow", "polars")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
