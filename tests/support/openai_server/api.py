"""Who may ask what of the server, and which faults the answers meet."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai.types import Model

from tests.support.openai_server.batches import Batches
from tests.support.openai_server.chat import Chat, last_user_message, parse
from tests.support.openai_server.faults import Fault, Faults
from tests.support.openai_server.files import Files
from tests.support.openai_server.records import Records
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError, Reply, Request, json_reply

_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1>nginx</body></html>"


class Api:
    def __init__(
        self, settings: Settings, chat: Chat, files: Files, batches: Batches, faults: Faults, records: Records
    ) -> None:
        self._settings, self._chat, self._files, self._batches = settings, chat, files, batches
        self._faults, self._records = faults, records
        self._in_flight, self._tokens, self._refilled = 0, 1.0, time.monotonic()
        # Batches are slow to read; chat goes on meanwhile.
        self._slow = ThreadPoolExecutor(1)
        # Exceptions that no fault has asked for.
        self.bugs: list[str] = []

    def close(self) -> None:
        self._slow.shutdown()

    async def answer(self, request: Request) -> Reply:
        try:
            return await self._route(request)
        except ApiError as error:
            return error.reply()
        except Exception:
            self.bugs.append(traceback.format_exc())
            return ApiError(500, traceback.format_exc(), "bug_of_the_test_server").reply()

    async def _route(self, request: Request) -> Reply:
        if request.path == "/health":
            return json_reply({"status": "ok"})
        match request.path.strip("/").split("/"):
            case ["control", "finish", batch]:
                return json_reply(self._batches.finish(batch, request.query.get("status", "completed")))
            case ["v1", "chat", "completions"]:
                return await self._completion(request)
            case ["v1", ("files" | "batches" | "models"), *_]:
                return await self._other(request)
        raise ApiError(404, f"Invalid URL ({request.method} {request.path})")

    def _authorize(self, request: Request) -> None:
        key, given = self._settings.key, request.headers.get("authorization", "")
        if key is not None and given != f"Bearer {key}":
            # As some servers do, it repeats the key that it does not like.
            raise ApiError(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}.", "invalid_api_key")

    async def _completion(self, request: Request) -> Reply:
        try:
            self._authorize(request)
            if request.method != "POST":
                raise ApiError(405, f"Not allowed to {request.method} on {request.path}.", "method_not_supported")
            body = parse(request.body)
            self._chat.check(body)
            self._limit()
        except ApiError as error:
            self._records.see(request, _recorded(request)).status = error.status
            raise
        message = last_user_message(body)
        fault = self._faults.of_chat(message) or Fault("ok")
        seen = self._records.see(request, body, fault.kind if fault.kind != "ok" else None)
        self._in_flight += 1
        self._records.in_flight(self._in_flight)
        try:
            reply = await self._complete(request, body, message, fault)
            seen.status = reply.status
            return reply
        finally:
            self._in_flight -= 1

    def _limit(self) -> None:
        settings = self._settings
        if settings.max_concurrency is not None and self._in_flight >= settings.max_concurrency:
            raise _too_many("Too many concurrent requests.", 0.05)
        rate = settings.requests_per_second
        if rate is None:
            return
        now = time.monotonic()
        self._tokens = min(max(1.0, rate), self._tokens + (now - self._refilled) * rate)
        self._refilled = now
        if self._tokens < 1:
            raise _too_many(f"Rate limit reached: {rate:g} requests a second.", (1 - self._tokens) / rate)
        self._tokens -= 1

    async def _complete(self, request: Request, body: dict[str, Any], message: str, fault: Fault) -> Reply:
        if fault.kind == "hang":
            await request.gone()
            return Reply(499, b"", sending="nothing")
        if (error := fault.error(request.headers.get("authorization", "").removeprefix("Bearer "))) is not None:
            return error.reply()
        if fault.kind == "html":
            return Reply(200, _HTML, content_type="text/html")
        self._records.serve(message)
        delay = self._settings.delay + (fault.seconds if fault.kind == "slow" else 0)
        if delay:
            await asyncio.sleep(delay)
        while message in self._settings.held:
            await asyncio.sleep(0.01)
        reply = json_reply(self._chat.answer(body, fault))
        if fault.kind == "malformed":
            reply.body = reply.body[: len(reply.body) // 2]
        reply.sending = {"cut": "nothing", "cut_in_body": "half"}.get(fault.kind, "whole")  # type: ignore[assignment]
        return reply

    async def _other(self, request: Request) -> Reply:
        body = _recorded(request)
        try:
            self._authorize(request)
            operation, act = self._operation(request)
        except ApiError as error:
            self._records.see(request, body).status = error.status
            raise
        how = self._faults.of_http(operation)
        seen = self._records.see(request, body, None if how is None else f"{operation}_{how}")
        try:
            reply = await self._operate(request, operation, act, how)
        except ApiError as error:
            seen.status = error.status
            raise
        seen.status = reply.status
        return reply

    async def _operate(self, request: Request, operation: str, act: Callable[[], Reply], how: str | None) -> Reply:
        if how == "hang":
            await request.gone()
        if how in ("hang", "before"):
            return Reply(499, b"", sending="nothing")
        status, _, after = (how or "").partition("_")
        error = Fault(status).error() if status.isdigit() else None
        if error is not None and not after:
            raise error
        reply = await asyncio.get_running_loop().run_in_executor(self._slow, act)
        if error is not None:
            raise error
        if how in ("cut", "half"):
            # A download that is cut has begun.
            reply.sending = "half" if how == "half" or operation == "download" else "nothing"
        return reply

    def _operation(self, request: Request) -> tuple[str, Callable[[], Reply]]:
        files, batches = self._files, self._batches
        match request.method, *request.path.strip("/").split("/")[1:]:
            case "GET", "models":
                return "models", self._models
            case "POST", "files":
                return "upload", lambda: json_reply(files.upload(request))
            case "GET", "files", name:
                return "file", lambda: json_reply(files.get(name))
            case "GET", "files", name, "content":
                return "download", lambda: Reply(200, files.content(name), content_type="application/octet-stream")
            case "DELETE", "files", name:
                return "delete", lambda: json_reply(files.delete(name))
            case "POST", "batches":
                return "create", lambda: json_reply(batches.create(parse(request.body)))
            case "GET", "batches":
                return "list", lambda: json_reply(batches.page(request.query))
            case "GET", "batches", name:
                return "poll", lambda: json_reply(batches.get(name, poll=True))
            case "POST", "batches", name, "cancel":
                return "cancel", lambda: json_reply(batches.cancel(name))
        raise ApiError(404, f"Invalid URL ({request.method} {request.path})")

    def _models(self) -> Reply:
        data = [
            Model(id=name, created=0, object="model", owned_by="test").model_dump() for name in self._settings.models
        ]
        return json_reply({"object": "list", "data": data})


def _recorded(request: Request) -> Any:
    """A body for the records; of a file's upload its size."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return {"bytes": len(request.body)} if request.body else None
    try:
        return json.loads(request.body)
    except ValueError:
        return None


def _too_many(text: str, seconds: float) -> ApiError:
    found = ApiError(429, text, "rate_limit_exceeded", kind="requests")
    found.headers = {"Retry-After": f"{max(1, round(seconds))}", "Retry-After-Ms": f"{max(1, round(seconds * 1000))}"}
    return found
