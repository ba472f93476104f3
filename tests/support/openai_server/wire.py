"""The least of HTTP/1.1 that real clients need, on asyncio: a thread for each connection would slow the client beside
it, and a request that hangs costs nothing here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

_BUFFER = 1 << 20


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader

    async def gone(self) -> None:
        """Waits until the client has closed the connection."""
        while await self.reader.read(_BUFFER):
            pass


@dataclass
class Reply:
    """`sending`: the whole, the first half and then a cut, or nothing but a cut."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    sending: Literal["whole", "half", "nothing"] = "whole"

    def head(self) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {responses.get(self.status, 'Unknown')}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            f"X-Request-Id: req_{uuid.uuid4().hex}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class ApiError(Exception):
    """An answer in OpenAI's form of an error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = "invalid_request_error",
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code, **(more or {})}}
        self.headers: dict[str, str] = {}

    def reply(self) -> Reply:
        return json_reply(self.body, self.status, self.headers)


def json_reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body).encode(), headers or {})


async def listen(port: int, answer: Callable[[Request], Awaitable[Reply]]) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) and await _send(writer, await answer(request)):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client has gone, or the server stops: there is nobody to tell.
            pass
        finally:
            writer.close()

    # asyncio sets TCP_NODELAY itself; the address is reused so that a server that was killed comes back at its port.
    return await asyncio.start_server(
        serve, "127.0.0.1", port, backlog=512, limit=_BUFFER, reuse_address=True, family=socket.AF_INET
    )


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    return Request(method, url.path, dict(parse_qsl(url.query)), headers, body, reader)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    whole = bytearray()
    while size := int((await reader.readline()).partition(b";")[0], 16):
        whole += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return bytes(whole)


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Whether the connection goes on."""
    if reply.sending == "nothing":
        return False
    body = reply.body if reply.sending == "whole" else reply.body[: len(reply.body) // 2]
    writer.write(reply.head() + body)
    await writer.drain()
    return reply.sending == "whole"
