"""A proxy between a client and an S3 server that injects the faults of a bad night."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

KINDS = ("slow down", "dropped before", "dropped after", "delayed")
REFUSALS = {"unauthorized": 401, "forbidden": 403}
_DELAY_SECONDS = 0.3
_SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class FaultyProxy:
    """Meets a share of the requests with a fault: a 503, a connection dropped before or after the server has acted, or
    a delay; or, by the kinds of `REFUSALS`, a refusal. `counts` has the requests, also by method, their faults by kind,
    and the bytes of bodies in and out.
    """

    def __init__(self, target: str, rate: float, kinds: Sequence[str] = KINDS, seed: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        chance, lock, counts, host = random.Random(seed), threading.Lock(), self.counts, urlsplit(target).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    fault = chance.choice(kinds) if chance.random() < rate else "none"
                    kind = "LIST" if "list-type" in self.path else self.command
                    counts.update({"requests": 1, kind: 1, fault: 1, "bytes in": len(body)})
                if fault == "slow down":
                    return self.reply(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
                if fault in REFUSALS:
                    body = json.dumps({"error": {"code": REFUSALS[fault], "message": "not for you"}}).encode()
                    return self.reply(REFUSALS[fault], [("Content-Type", "application/json")], body)
                if fault == "dropped before":
                    return self.drop()
                if fault == "delayed":
                    time.sleep(_DELAY_SECONDS)
                status, headers, content = self.forward(body)
                if fault == "dropped after":
                    return self.drop()
                with lock:
                    counts["bytes out"] += len(content)
                return self.reply(status, headers, content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815

            def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(host, timeout=60)
                # The client's own Host header is part of what it signed.
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                headers = answer.getheaders()
                return answer.status, headers, content

            def reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                length = next((value for name, value in headers if name.lower() == "content-length"), None)
                for name, value in headers:
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                head = self.command == "HEAD" and length is not None
                self.send_header("Content-Length", str(length if head else len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def drop(self) -> None:
                self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
