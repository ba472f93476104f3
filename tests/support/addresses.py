"""A web server for tests, with the files of a folder, and a model hub that holds the same files as a data set."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

_DATA_SET, _RESOLVED = "/api/datasets/team/prompts", "/datasets/team/prompts/resolve/main"


class Addresses:
    """Use it as a context manager.

    Attributes:
        token: what has to stand in the header Authorization; nobody is refused without one.
        faults: how many of the next requests lose their connection.
        counts: requests by method.
    """

    def __init__(self, folder: Path, ranges: bool = True, etag: bool = False) -> None:
        self.token, self.faults, self.counts = "", 0, Counter[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.counts[self.command] += 1
                path = unquote(urlsplit(self.path).path)
                if outer.faults:
                    outer.faults -= 1
                    self.close_connection = True
                elif outer.token and self.headers.get("Authorization") != f"Bearer {outer.token}":
                    self.reply(401, b"")
                elif path.startswith("/api/"):
                    self.hub(path)
                else:
                    self.file(folder / path.removeprefix(_RESOLVED).removeprefix("/"))

            do_GET = do_HEAD = answer  # noqa: N815

            def hub(self, path: str) -> None:
                if path == _DATA_SET:
                    return self.json({"id": "team/prompts", "sha": "0" * 40})
                if path != f"{_DATA_SET}/tree/main":
                    missing = "EntryNotFound" if path.startswith(_DATA_SET) else "RepoNotFound"
                    return self.reply(404, b"", {"X-Error-Code": missing})
                return self.json(
                    [
                        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)}
                        for file in sorted(folder.iterdir())
                    ]
                )

            def json(self, content: object) -> None:
                self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

            def file(self, file: Path) -> None:
                if not file.is_file():
                    return self.reply(404, b"")
                content, asked = file.read_bytes(), self.headers.get("Range")
                headers = {"Last-Modified": self.date_time_string(int(file.stat().st_mtime))}
                headers |= {"ETag": f'"{_digest(file)}"'} if etag else {}
                if asked and ranges:
                    first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
                    place = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
                    return self.reply(206, content[first : last + 1], {**headers, "Content-Range": place})
                return self.reply(200, content, headers)

            def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response_only(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Addresses:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
