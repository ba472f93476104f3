"""A second S3 for tests: moto, on a free port of 127.0.0.1. Unlike SeaweedFS it keeps keys with `//` as they are, and
versions of objects.
"""

from __future__ import annotations

import sys

import fsspec

from tests.support.emulator import Emulator
from tests.support.s3 import environment_of, filesystem_at
from tests.support.seaweed import free_ports


class Moto(Emulator):
    """Use it as a context manager; it holds its data in memory."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def environment(self) -> dict[str, str]:
        """What s3fs, polars and pyarrow find the server by."""
        return environment_of(self.endpoint)

    def filesystem(self) -> fsspec.AbstractFileSystem:
        return filesystem_at(self.endpoint)

    def __enter__(self) -> Moto:
        self._start([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)], self._prepare)
        return self

    def _prepare(self) -> None:
        self.filesystem().mkdir("bucket")
        self.filesystem().mkdir("versioned")
        self.filesystem().call_s3(
            "put_bucket_versioning", Bucket="versioned", VersioningConfiguration={"Status": "Enabled"}
        )
