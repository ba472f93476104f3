"""A real S3 server for tests: SeaweedFS, on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import fsspec

from tests.support.s3 import environment_of, filesystem_at

_IDENTITY = {
    "name": "br",
    "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}
_SERVICES = ("master", "volume", "filer", "s3", "admin")


class SeaweedFS:
    """Use it as a context manager; the data are in `folder` and survive `kill`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps({"identities": [_IDENTITY]}))
        self._ports = dict(zip(_SERVICES, free_ports(len(_SERVICES)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What s3fs, polars and pyarrow find the server by."""
        return environment_of(endpoint or self.endpoint)

    def polars_options(self) -> dict[str, str]:
        """For a scan by polars, which keeps a client for each bucket and would ask another test's server."""
        return {"aws_endpoint_url": self.endpoint}

    def filesystem(self) -> fsspec.AbstractFileSystem:
        return filesystem_at(self.endpoint)

    def start(self) -> None:
        command = [
            str(Path(sys.executable).parent / "weed"),
            "mini",
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.config={self._folder / 's3.json'}",
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            # Catalogues on fixed ports, for which servers of several processes would race.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{service}.port={port}" for service, port in self._ports.items()),
        ]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        self._wait()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def __enter__(self) -> SeaweedFS:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _end(self, signum: int) -> None:
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait()
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                # Answering is not enough: the volume that takes the data comes last.
                filesystem = self.filesystem()
                if not filesystem.exists("bucket"):
                    filesystem.mkdir("bucket")
                filesystem.pipe_file("bucket/.ready", b"1")
                return
            except Exception:
                if time.monotonic() > deadline or (self._process is not None and self._process.poll() is not None):
                    raise
                time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    """Ports that are free, and free 10,000 above too, where the server's gRPC goes."""
    found: list[int] = []
    while len(found) < number:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            try:
                high.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            if port not in found:
                found.append(port)
    return found
