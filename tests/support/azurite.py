"""Azure's storage for tests: the emulator Azurite, on a free port of 127.0.0.1, with its data in memory.

It comes from npm, once, into the cache of the tests; where npm is missing or has no registry, its tests are skipped.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from typing import Any

import fsspec
import pytest

from batchroute.models import cache_dir
from tests.support.emulator import Emulator
from tests.support.seaweed import free_ports

_PACKAGE = "azurite@3.35.0"
_ACCOUNT = "devstoreaccount1"
# Known to everybody: every emulator has it.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def program() -> list[str]:
    """The command that starts the emulator; skips the test where it cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Azurite needs node and npm (apt-get install nodejs npm)")
    folder = cache_dir() / "tests" / _PACKAGE
    script = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        # Several processes of the tests come here at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".whole").exists():
            options = ["--no-audit", "--no-fund", "--omit=optional", "--prefix", str(folder)]
            done = subprocess.run([npm, "install", *options, _PACKAGE], capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"npm cannot install {_PACKAGE}: {done.stderr[-200:]}")
            (folder / ".whole").touch()
    return [node, str(script)]


class Azurite(Emulator):
    """Use it as a context manager; it has the container `bucket`."""

    account = _ACCOUNT

    def __init__(self) -> None:
        self._program = program()
        (port,) = free_ports(1)
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def connection(self, endpoint: str | None = None, key: str = _KEY) -> str:
        place = f"BlobEndpoint={endpoint or self.endpoint}/{_ACCOUNT};"
        return f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={key};{place}"

    @property
    def options(self) -> dict[str, Any]:
        return {"connection_string": self.connection()}

    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection()}

    def filesystem(self) -> fsspec.AbstractFileSystem:
        return fsspec.filesystem("abfs", **self.options, use_listings_cache=False, skip_instance_cache=True)

    def __enter__(self) -> Azurite:
        quiet = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self._port)]
        from azure.storage.blob import BlobServiceClient

        client = BlobServiceClient.from_connection_string(self.connection(), retry_total=0)
        self._start([*self._program, *quiet, *place], lambda: client.create_container("bucket"))
        return self
