"""A second S3 for tests: moto, on a free port of 127.0.0.1. Unlike SeaweedFS it keeps keys with `//` as they are, and
versions of objects.
"""

from __future__ import annotations

import subprocess
import sys
import time
from types import TracebackType

import fsspec

from tests.support.s3 import environment_of, filesystem_at
from tests.support.seaweed import free_ports


class Moto:
    """Use it as a context manager; it holds its data in memory."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """What s3fs, polars and pyarrow find the server by."""
        return environment_of(self.endpoint)

    def filesystem(self) -> fsspec.AbstractFileSystem:
        return filesystem_at(self.endpoint)

    def __enter__(self) -> Moto:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.filesystem().mkdir("bucket")
                self.filesystem().mkdir("versioned")
                self.filesystem().call_s3(
                    "put_bucket_versioning", Bucket="versioned", VersioningConfiguration={"Status": "Enabled"}
                )
                return self
            except Exception:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self._process.kill()
                    raise
                time.sleep(0.2)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
