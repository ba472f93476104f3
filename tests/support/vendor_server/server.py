"""The server of one vendor, in this process or as one of its own."""

from __future__ import annotations

import asyncio
import importlib
import tempfile
from pathlib import Path
from typing import Any

from tests.support.openai_server.api import Api
from tests.support.openai_server.faults import Fault, Faults
from tests.support.openai_server.process import ServerProcess
from tests.support.openai_server.records import Records
from tests.support.openai_server.server import OpenAIServer
from tests.support.openai_server.settings import Settings
from tests.support.openai_server.wire import ApiError, Reply, Request, json_reply
from tests.support.vendor_server.store import Row, Store
from tests.support.vendor_server.vendor import Answer, Vendor

VENDORS = ("anthropic", "gemini", "mistral")


class VendorServer(OpenAIServer):
    """Use it as a context manager; the arguments are those of `OpenAIServer`."""

    def __init__(
        self, vendor: str, state: Path | None = None, port: int = 0, faults_file: Path | None = None, **settings: Any
    ) -> None:
        super().__init__(state, port, faults_file, **settings)
        self.name = vendor
        folder = state or Path(tempfile.mkdtemp(dir=None if self._temporary is None else self._temporary.name))
        self._store = Store(folder / "batches", self._faults, self.records, self.settings)
        module = importlib.import_module(f"tests.support.vendor_server.{vendor}")
        self.vendor: Vendor = module.VENDOR(self.settings, self._store, folder)
        self._api.close()
        self._api = _Api(self.settings, self.vendor, self._store, self._faults, self.records)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.vendor.prefix}"

    def batches(self) -> list[str]:
        return self._store.names()

    def batch(self, name: str) -> dict[str, Any]:
        return self._store.get(name)

    def cancel(self, batch: str) -> dict[str, Any]:
        """As a person does it."""
        return self._store.cancel(batch)

    def finish(self, batch: str, status: str = "completed") -> dict[str, Any]:
        return self._store.finish(batch, status)


class VendorProcess(ServerProcess):
    """Use it as a context manager."""

    module = "tests.support.vendor_server"

    def __init__(self, vendor: str, state: Path, port: int = 0, **settings: Any) -> None:
        super().__init__(state, port, **settings)
        self.name = vendor
        self._settings["vendor"] = vendor

    @property
    def url(self) -> str:
        vendor: Vendor = importlib.import_module(f"tests.support.vendor_server.{self.name}").VENDOR
        return f"http://127.0.0.1:{self.port}{vendor.prefix}"


class _Api(Api):
    def __init__(self, settings: Settings, vendor: Vendor, store: Store, faults: Faults, records: Records) -> None:
        super().__init__(settings, None, None, None, faults, records)  # type: ignore[arg-type]
        self._vendor, self._store = vendor, store
        store.results = self._results

    async def _route(self, request: Request) -> Reply:
        path = request.path.strip("/").split("/")
        if path == ["health"]:
            return json_reply({"status": "ok"})
        if path[:2] == ["control", "finish"]:
            return json_reply(self._store.finish(path[2], request.query.get("status", "completed")))
        try:
            return await self._asked(request, path)
        except ApiError as error:
            return json_reply(self._vendor.error(error), error.status, error.headers)

    async def _asked(self, request: Request, path: list[str]) -> Reply:
        try:
            self._vendor.authorize(request)
            row = self._vendor.chat(request, path)
            found = None if row is not None else self._vendor.operation(request, path)
            if row is None and found is None:
                raise ApiError(404, f"Invalid URL ({request.method} {request.path})")
        except ApiError as error:
            self._records.see(request, None).status = error.status
            raise
        if row is not None:
            fault = self._faults.of_chat(row.message) or Fault("ok")
            self._records.see(request, row.body, fault.kind if fault.kind != "ok" else None)
            return await self._chatted(request, row, fault)
        assert found is not None
        operation, act = found
        how = self._faults.of_http(operation)
        self._records.see(request, None, None if how is None else f"{operation}_{how}")
        return await self._operate(request, operation, act, how)

    async def _chatted(self, request: Request, row: Row, fault: Fault) -> Reply:
        if fault.kind == "hang":
            await request.gone()
            return Reply(499, b"", sending="nothing")
        if (error := fault.error()) is not None:
            raise error
        self._records.serve(row.message)
        if self._settings.delay:
            await asyncio.sleep(self._settings.delay)
        return json_reply(self._vendor.completion(row, self._answer(row, fault)))

    def _results(self, rows: list[Row], status: str) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            answer = Answer() if status != "completed" else self._answer(row, self._faults.of_line(row.message))
            ok = status == "completed" and answer.status == 200
            line = self._vendor.result(row, answer) if status == "completed" else self._vendor.undone(row, status)
            kind = "succeeded" if ok else "errored" if status == "completed" else status
            if line is not None:
                found.append({"custom_id": row.custom_id, "ok": ok, "kind": kind, "line": line})
        return found

    def _answer(self, row: Row, fault: Fault | None) -> Answer:
        """What the model makes of a row: it repeats the user's last words, as far as the limit goes."""
        try:
            self._vendor.check(row)
        except ApiError as error:
            return Answer(status=error.status, words=error.args[0])
        met = None if fault is None else fault.error()
        if met is not None:
            return Answer(status=met.status, words=met.args[0])
        limit, stops = self._vendor.limits(row.body)
        text = f"echo: {row.message}"
        if self._settings.answer is not None:
            given = self._settings.answer(row.body)
            text = text if given is None else given
        for stop in stops:
            text = text.partition(stop)[0]
        words = text.split()
        cut = limit is not None and len(words) > limit
        text = " ".join(words[:limit]) if cut else text
        reason = "refusal" if fault is not None and fault.kind == "refusal" else "length" if cut else "stop"
        thought = "let me think" if self._settings.reasoning_tokens else ""
        written = len(text.split()) + self._settings.reasoning_tokens
        read = len(row.message.split())
        return Answer("" if reason == "refusal" else text, reason, 200, "", thought, read, written, self._cached(read))

    def _cached(self, read: int) -> int:
        return min(self._settings.cached_tokens, read)
